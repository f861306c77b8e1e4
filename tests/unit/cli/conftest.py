"""The command line, run in this process as if it had been typed beside an empty archive on default paths."""

import io
import os
import sys
from pathlib import Path

import archives
import pytest
import schema
from commandline import Input

from pacs_server.cli import main as cli


class CommandLine:
    """Runs `pacs-server` with the arguments that it is called with."""

    def __init__(self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self._capture, self._patch = capture, patch

    def __call__(self, *arguments: object, typed: bytes = b"") -> tuple[int, str, str]:
        """Exit code, standard output and standard error; `typed` is what comes from standard input."""
        self._patch.setattr(sys, "argv", ["pacs-server", *map(str, arguments)])
        self._patch.setattr(sys, "stdin", Input(io.BytesIO(typed), encoding="utf-8"))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = self._capture.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    def lines(self, *arguments: object) -> tuple[int, list[str], str]:
        """Exit code, the lines of standard output, and standard error."""
        code, out, err = self(*arguments)
        return code, out.splitlines(), err

    def at_a_terminal(self) -> None:
        """From now on standard input is a terminal."""
        self._patch.setattr(Input, "terminal", True)


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PACS_SERVER_")]:
        monkeypatch.delenv(name)
    schema.prepare(tmp_path / "pacs.db")
    archives.make_empty(tmp_path / "archive")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line; modules have a `run` of their own that begins with the command they are about."""
    return CommandLine(capsys, monkeypatch)
