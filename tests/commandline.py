"""`pacs-server` run in this process as if it had been typed, which takes a fraction of the time of a new process.

That signals, exit codes and output of a real process are the same is tested in tests/system/test_command_line.py.
"""

import contextlib
import functools
import io
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import typer.main
from processes import clean_environment

from pacs_server.cli import main as cli

# A process makes its commands once; this one would make all of them again for each that it runs.
typer.main.get_command = functools.cache(typer.main.get_command)


class Input(io.TextIOWrapper):
    """Standard input, a terminal or not."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


def call_command(
    *args: object, cwd: Path, typed: bytes = b"", terminal: bool = False, **environment: str
) -> CompletedProcess[str]:
    """Run `pacs-server` with `args` to its end, with `typed` at its standard input; output is captured as text."""
    arguments = ["pacs-server", *map(str, args)]
    stdin = Input(io.BytesIO(typed), encoding="utf-8")
    stdin.terminal = terminal
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: object = 0
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, clean_environment(**environment), clear=True),
        mock.patch.multiple(sys, argv=arguments, stdin=stdin),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    printed, said = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return CompletedProcess(arguments, int(code or 0), printed, said)  # type: ignore[call-overload]
