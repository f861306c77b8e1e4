"""Command lines of the documents held against the programs that they name: commands, options and files that are there.

Nothing is run but `--help` of the programs.
"""

import functools
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dcmtk
import typer.main
from code_blocks import ROOT

from pacs_server.cli.main import app

_OPERATORS = "();<>|&\n"
# Programs of the system, whose options are not looked at here.
_OF_THE_SYSTEM = (
    *("cat", "chown", "cp", "cut", "echo", "export", "grep", "head", "install", "issue", "journalctl", "kill", "ls"),
    *("mkdir", "openssl", "source", "touch", "umask", "useradd"),
)
_OF_DCMTK = ("dcmodify", "echoscu", "findscu", "getscu", "movescu", "storescp", "storescu")


def check(script: str) -> None:
    """Raise AssertionError unless the shell understands a script and everything in it is there."""
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, ""), script
    for words in simple_commands(script):
        if words[0].startswith(".ci/"):
            assert (ROOT / words[0]).is_file(), words[0]
            continue
        program = words[0].rpartition("/")[2]
        assert program in CHECKS, f"nothing checks {program}: {' '.join(words)}"
        CHECKS[program](words[1:])


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a script, also of those inside others, without variables and redirections."""
    script = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", f"{script}\n", flags=re.DOTALL | re.MULTILINE)
    script = re.sub(r"^\w+\(\) {$|^}$", "", script, flags=re.MULTILINE)
    lexer = shlex.shlex(script.replace("\\\n", " "), posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    skip = False
    for token in _without_comments(lexer):
        if set(token) <= {*_OPERATORS}:
            skip = token in ("<", ">", ">>")
            if not skip:
                yield from _found(words)
                words = []
        elif skip:
            skip = False
        else:
            words.append(token)
    yield from _found(words)


def _without_comments(tokens: Iterator[str]) -> Iterator[str]:
    in_comment = False
    for token in tokens:
        in_comment = (in_comment or token.startswith("#")) and "\n" not in token
        if not in_comment:
            yield token


def _found(words: list[str]) -> Iterator[list[str]]:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if words:
        yield words
        for inside in re.findall(r"[$<]\((.*?)\)", " ".join(words[1:])):
            yield from simple_commands(inside)


# ------------------------------------------------------------------------------------ what holds the words of a program


def _pacs_server(words: Sequence[str]) -> None:
    """The command line's own parser takes them."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("pacs-server", list(words))
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            assert command.invoke_without_command, f"{context.command_path}: no command"
            return
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def _make(words: Sequence[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [word for word in words if "=" not in word and word not in targets] == []


def _python(words: Sequence[str]) -> None:
    """A module that is there, and options that stand in its source."""
    assert words[0] == "-m", words
    module = importlib.util.find_spec(words[1])
    assert module is not None, words[1]
    if words[1].startswith("benchmarks."):
        source = Path(str(module.origin)).read_text(encoding="utf-8")
        options = [word.strip("[]") for word in words[2:] if word.strip("[").startswith("--")]
        assert [option for option in options if f'"{option}"' not in source] == [], words


def _pip(words: Sequence[str]) -> None:
    """Extras of this project that are there."""
    assert words[0] in ("install", "freeze"), words
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for word in words for found in re.findall(r"^\.\[(.*)\]$", word) for extra in found.split(",")}
    assert named <= extras.keys()


def _docker(words: Sequence[str]) -> None:
    assert words[:2] == ["compose", "-f"], words
    assert (ROOT / words[2]).is_file(), words[2]


def _systemctl(words: Sequence[str]) -> None:
    units = [word for word in words if not word.startswith("-") and word not in ("daemon-reload", "enable", "reload")]
    assert set(units) <= {"pacs-server"}


def _listed(program: str, *arguments: str) -> Callable[[Sequence[str]], None]:
    """Options that the help of a program lists."""

    def options(words: Sequence[str]) -> None:
        known = _options(program, arguments)
        given = [re.sub(r"=.*", "", word) for word in words if re.match(r"[-+][^\W\d]|--", word)]
        # Letters of curl may be written together.
        single = all(len(word) == 2 for word in known if not word.startswith("--"))
        given = [f"-{letter}" for word in given if single and word[:2] != "--" for letter in word[1:]] + [
            word for word in given if not single or word.startswith("--")
        ]
        assert [word for word in given if word not in known] == [], f"{program} {' '.join(words)}"

    return options


@functools.cache
def _options(program: str, arguments: tuple[str, ...]) -> frozenset[str]:
    beside_python = Path(sys.executable).with_name(program)
    path = dcmtk.require(program) if program in _OF_DCMTK else beside_python if beside_python.exists() else program
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=30, check=False)
    found = re.findall(r"^ *([-+]{1,2}[\w+][\w+-]*)(?:, *(--[\w-]+))?(?:[ ,=].*?  .*? *(--[\w-]+))?", done.stdout, re.M)
    options = frozenset(each for group in found for each in group if each)
    assert len(options) > 5, done.stdout
    return options


def _anything(words: Sequence[str]) -> None:
    """Files of the repository that they name are there."""
    named = [word for word in words if re.match(r"(?:docs|tests|benchmarks|\.ci)/", word)]
    assert [word for word in named if not (ROOT / word).exists()] == []


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "pacs-server": _pacs_server,
    "make": _make,
    "python": _python,
    "python3": _python,
    "pip": _pip,
    "docker": _docker,
    "systemctl": _systemctl,
    "curl": _listed("curl", "--help", "all"),
    "dicomweb_client": _listed("dicomweb_client", "--help"),
    **{name: _listed(name, "--help") for name in _OF_DCMTK},
    **dict.fromkeys(_OF_THE_SYSTEM, _anything),
}
