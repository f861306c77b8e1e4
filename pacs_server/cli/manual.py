"""`pacs-server man`: the manual page, made from the commands and their options."""

from collections.abc import Iterator
from typing import Any

import typer

from pacs_server import __version__

app = typer.Typer(rich_markup_mode=None)

_ABOUT = """\
pacs-server is a small DICOM archive: it stores, finds and sends images, keeps a worklist, follows performed
procedure steps and answers requests for storage commitment.
Without a command it runs the server until it is told to stop."""
_EXIT_CODES = {"0": "Done.", "1": "Failed.", "2": "A setting or an argument is wrong.", "130": "Interrupted."}
_ENVIRONMENT = {
    "PACS_SERVER_CONFIG": "The configuration file, where the option --config does not name one.",
    "PACS_SERVER__SECTION__KEY": "The setting section.key, such as PACS_SERVER__SERVER__PORT.",
}
_SIGNALS = {"SIGTERM, SIGINT": "Stop; running operations may end first.", "SIGHUP": "Read the configuration again."}


@app.command()
def man(context: typer.Context) -> None:
    """Print the manual page: `pacs-server man | man -l -`."""
    root = context.find_root()
    typer.echo("\n".join(page(root.command, root.info_name or "pacs-server")))


def page(command: Any, program: str) -> Iterator[str]:
    """The lines of the manual page of a command line, in the language of man(7)."""
    context = _context(command, program)
    yield f'.TH {_text(program).upper()} 1 "" "{_text(f"{program} {__version__}")}" "User Commands"'
    yield from (".SH NAME", _text(f"{program} - {_first(command.help)}"))
    yield from (".SH SYNOPSIS", f".B {_text(program)}", _text("[OPTIONS] [COMMAND] [ARGUMENTS]"))
    yield from (".SH DESCRIPTION", *_paragraph(_ABOUT))
    yield from (".SH OPTIONS", *_parameters(command, context))
    yield ".SH COMMANDS"
    yield from _commands(command, context)
    for title, entries in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _ENVIRONMENT), ("SIGNALS", _SIGNALS)):
        yield f".SH {title}"
        for term, text in entries.items():
            yield from _entry(term, text)


def _commands(group: Any, context: Any) -> Iterator[str]:
    """Every command below a group; one that is a group itself consists of its commands."""
    for name, command in group.commands.items():
        inner = _context(command, name, context)
        if hasattr(command, "commands"):
            yield from _commands(command, inner)
            continue
        words = [inner.command_path, *(piece for piece in command.collect_usage_pieces(inner) if piece)]
        yield f'.SS "{_text(" ".join(words))}"'
        yield from _paragraph(command.help)
        yield from _parameters(command, inner)


def _parameters(command: Any, context: Any) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            yield from _entry(*record)


def _context(command: Any, name: str, parent: Any = None) -> Any:
    return command.context_class(command, info_name=name, parent=parent)


def _entry(term: str, text: str) -> Iterator[str]:
    yield from (".TP", f".B {_text(term)}", *_paragraph(text))


def _paragraph(text: str) -> Iterator[str]:
    return (_text(line.strip()) for line in text.splitlines() if line.strip())


def _first(text: str) -> str:
    """The first sentence, without its full stop, as an entry of `apropos` is."""
    return text.partition(". ")[0].rstrip(".")


def _text(text: str) -> str:
    """`text` so that it means itself in the language of man: no requests, no escapes, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
