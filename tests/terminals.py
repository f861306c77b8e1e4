"""A standard stream that says that it is a terminal, and commands that run at a real one."""

import io
import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal(io.StringIO):
    """A stream that is a terminal, as far as a program can ask."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def run_at_terminal(
    command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], columns: int = 80, seconds: float = 60
) -> tuple[int, str]:
    """Run a command whose standard streams are a terminal of its own; returns its exit code and what that shows."""
    ours, theirs = pty.openpty()
    try:
        environ = {**environ, "TERM": "xterm", "COLUMNS": str(columns)}
        process = subprocess.Popen(command, cwd=cwd, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    finally:
        os.close(theirs)
    try:
        shown = _until_its_end(ours, seconds)
        return process.wait(seconds), shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _until_its_end(terminal: int, seconds: float) -> str:
    """What is written to a terminal until nobody holds it open any more; raises TimeoutError."""
    shown, deadline = b"", time.monotonic() + seconds
    while select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux calls the end an error
            piece = b""
        if not piece:
            return shown.decode()
        shown += piece
    raise TimeoutError(f"no end in {seconds:g} s: {shown!r}")
