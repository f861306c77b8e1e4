"""The manual page: whole, and well-formed in the language of man."""

import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
import typer

from pacs_server.cli.main import app
from pacs_server.cli.manual import page

Run = Callable[..., tuple[int, str, str]]


def leaves(command, path: str = ""):
    """Every command that is no group, by its words."""
    for name, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from leaves(inner, f"{path}{name} ")
        else:
            yield f"{path}{name}", inner


@pytest.fixture
def printed(run: Run) -> str:
    code, out, error = run("man")
    assert (code, error) == (0, "")
    return out


def test_every_command_and_option_is_there(printed: str) -> None:
    text = printed.replace("\\-", "-")
    sections = text.split('.SS "')[1:]
    for name, command in leaves(typer.main.get_command(app)):
        [section] = [each for each in sections if re.match(rf"pacs-server {name}[ \"]", each)]
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f".B {option}" in section or f", {option}" in section, (name, option)


def test_it_has_the_sections_of_a_manual_page(printed: str) -> None:
    sections = re.findall(r"^\.SH (.+)$", printed, re.MULTILINE)
    assert sections == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"),
        *("EXIT STATUS", "ENVIRONMENT", "SIGNALS"),
    ]
    assert "pacs\\-server \\- A DICOM archive server\n" in printed
    environment = printed.partition(".SH ENVIRONMENT\n")[2].partition(".SH ")[0]
    assert re.findall(r"^\.B (.+)$", environment, re.MULTILINE) == ["PACS_SERVER_CONFIG", "PACS_SERVER__SECTION__KEY"]


def test_texts_are_no_requests() -> None:
    odd = typer.Typer(rich_markup_mode=None)

    @odd.callback()
    def main() -> None:
        """Odd."""

    @odd.command("odd")
    def command(path: str = typer.Option("", help='.so /etc/passwd \\n "quoted"')) -> None:
        """'ie begins with a quote."""

    lines = list(page(typer.main.get_command(odd), "odd"))
    assert "\\&'ie begins with a quote." in lines
    assert any(line.startswith("\\&.so /etc/passwd \\en \\(dqquoted\\(dq") for line in lines)
    assert all(re.match(r"\.(TH|SH|SS|TP|B)\b", line) for line in lines if line.startswith((".", "'")))


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_no_warning(printed: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z"], input=printed, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
