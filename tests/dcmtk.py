"""DCMTK's tools as peers: run them from tests, start its servers on free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

INSTALL = "apt-get install dcmtk"
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
# pynetdicom puts an echoscu, a storescp and more of its own next to our Python; those are not meant.
_PATH = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != Path(sys.executable).parent)


def require(tool: str) -> str:
    """The path of a DCMTK tool; without it the test is skipped, or fails where DCMTK must be there."""
    path = shutil.which(tool, path=_PATH)
    if path is not None:
        return path
    reason = f"{tool} is not installed; on Debian and Ubuntu: {INSTALL}"
    if os.environ.get("CI") or os.environ.get("PACS_TEST_REQUIRE_DCMTK"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(tool: str, *args: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, output captured as text; the caller checks `returncode`."""
    command = [require(tool), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Server:
    """A DCMTK server process on `port`, between `with` and the end of it."""

    port: int
    ae_title: str

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def output(self) -> str:
        """What the server has printed so far."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        # Another process may take a free port before the server does: try again on the next.
        for _ in range(10):
            self.port = free_port()
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self.command(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            if self._accepts():
                return self
            self._stop()
        raise RuntimeError(f"{self.command()[0]} does not listen: {self.output()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _accepts(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _stop(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the server and the children it forked, which share a process group of their own."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class StoreSCP(_Server):
    """storescp that writes what it receives into `directory`, with options such as +xa or +B."""

    def __init__(self, directory: Path, *options: str, ae_title: str = "STORESCP") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory.with_name(directory.name + ".storescp.log"))
        self.ae_title = ae_title
        self._options = options

    def command(self) -> list[str]:
        """The command line; one process, which serves one association at a time."""
        storescp = require("storescp")
        return [storescp, *self._options, "-aet", self.ae_title, "-od", str(self.directory), str(self.port)]

    def files(self) -> list[Path]:
        """The received files."""
        return sorted(self.directory.iterdir())


_QR_CONFIG = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{ae_title} {directory} RW (200, 1024mb) ANY
AETable END
"""


class DcmQRSCP(_Server):
    """dcmqrscp with one archive in `directory`; `peers` are (AE title, port) pairs it may move to."""

    def __init__(
        self, directory: Path, *options: str, ae_title: str = "DCMQRSCP", peers: tuple[tuple[str, int], ...] = ()
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory.with_name(directory.name + ".dcmqrscp.cfg")
        super().__init__(directory.with_name(directory.name + ".dcmqrscp.log"))
        self.ae_title = ae_title
        self._options = options
        self._peers = peers

    def command(self) -> list[str]:
        """The command line, after the configuration for the present port is written."""
        hosts = "\n".join(f"peer{n} = ({title}, 127.0.0.1, {port})" for n, (title, port) in enumerate(self._peers))
        text = _QR_CONFIG.format(port=self.port, hosts=hosts, ae_title=self.ae_title, directory=self.directory)
        self._config.write_text(text)
        # Not --single-process: there a peer that connects and says nothing ends the server.
        return [require("dcmqrscp"), "--fork", *self._options, "-c", str(self._config)]
