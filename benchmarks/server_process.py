"""Another server as a child process on a free port of this machine, for the benchmarks and for the tests."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

# pynetdicom puts an echoscu, a storescp and more of its own next to our Python; those are not meant.
PATH = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != Path(sys.executable).parent)
_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_PORTS = 10
# Linux hands out 32768 to 60999.
_NOT_HANDED_OUT = range(15_000, 32_000)


def find(program: str) -> str | None:
    """The path of a program that is not pynetdicom's, None if it is not installed."""
    return shutil.which(program, path=PATH)


def free_port() -> int:
    """A TCP port on which nobody listened a moment ago.

    It is none of those that the system hands out by itself, so that nobody gets it before it is used.
    """
    for port in random.SystemRandom().sample(_NOT_HANDED_OUT, _PORTS * 10):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("there is no free port")


class ServerProcess:
    """A server that listens on `port` between `with` and the end of it; what it prints goes into `log`."""

    port: int
    cwd: Path | None = None
    environment: Mapping[str, str] | None = None

    def __init__(self, log: Path) -> None:
        self._log = log

    def command(self) -> list[str]:
        """The command line, after what configuration the server needs for `port` is written."""
        raise NotImplementedError

    def connect(self) -> None:
        """Raise OSError unless the server takes connections."""
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()

    @property
    def pid(self) -> int:
        """The process, which leads a process group of its own."""
        return self._process.pid

    def output(self) -> str:
        """What the server has printed so far."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        # Another process may take a free port before the server does: try again on the next.
        for _ in range(_PORTS):
            self.port = free_port()
            command = self.command()
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.cwd,
                    env=self.environment,
                    start_new_session=True,
                )
            if self._listens():
                return self
            self._stop()
        raise RuntimeError(f"{command[0]} does not listen: {self.output()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _listens(self) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.connect()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _stop(self) -> None:
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the server and the children it forked, which share its process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
