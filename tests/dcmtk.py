"""DCMTK's tools as peers: run them from tests, start its servers on free ports."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.server_process import ServerProcess, find

INSTALL = "apt-get install dcmtk"


def require(tool: str) -> str:
    """The path of a DCMTK tool; without it the test is skipped, or fails where DCMTK must be there."""
    if (path := find(tool)) is not None:
        return path
    reason = f"{tool} is not installed; on Debian and Ubuntu: {INSTALL}"
    if os.environ.get("CI") or os.environ.get("PACS_TEST_REQUIRE_DCMTK"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(tool: str, *args: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, output captured as text; the caller checks `returncode`."""
    command = [require(tool), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)


class StoreSCP(ServerProcess):
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
MaxAssociations = {most}
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{ae_title} {directory} RW (200, 1024mb) ANY
AETable END
"""


class DcmQRSCP(ServerProcess):
    """dcmqrscp with one archive in `directory`; `peers` are (AE title, port) pairs it may move to.

    It takes `most` associations at once, and rejects others.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        ae_title: str = "DCMQRSCP",
        peers: tuple[tuple[str, int], ...] = (),
        most: int = 16,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory.with_name(directory.name + ".dcmqrscp.cfg")
        super().__init__(directory.with_name(directory.name + ".dcmqrscp.log"))
        self.ae_title = ae_title
        self._options = options
        self._peers = peers
        self._most = most

    def command(self) -> list[str]:
        """The command line, after the configuration for the present port is written."""
        hosts = "\n".join(f"peer{n} = ({title}, 127.0.0.1, {port})" for n, (title, port) in enumerate(self._peers))
        text = _QR_CONFIG.format(
            port=self.port, hosts=hosts, ae_title=self.ae_title, directory=self.directory, most=self._most
        )
        self._config.write_text(text)
        # Not --single-process: there a peer that connects and says nothing ends the server.
        return [require("dcmqrscp"), "--fork", *self._options, "-c", str(self._config)]
