"""The servers that are asked over HTTP: this one, and Orthanc with its DICOMweb plugin, filled with the same images."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.client import Address, open_and_release
from benchmarks.peers import _ENVIRONMENT, BEFORE
from benchmarks.server_process import ServerProcess, find, free_port
from benchmarks.wire import ClientError

_PLUGIN: Final = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LABELS: Final = {"pacs-server": "pacs-server", "orthanc": "Orthanc", BEFORE: "pacs-server, before"}


class WebPeer(ServerProcess):
    """A server with its DICOM port and its HTTP port, between `with` and the end of it."""

    environment = _ENVIRONMENT

    def __init__(self, key: str, directory: Path, python: str = sys.executable) -> None:
        super().__init__(directory / f"{key}.log")
        self.key = key
        self.web_port = 0
        self._directory = directory / key
        self._python = python

    @property
    def address(self) -> Address:
        """Where it takes associations."""
        title = "ORTHANC" if self.key == "orthanc" else "PACS_SERVER"
        return Address(title, self.port, process=self.pid)

    def command(self) -> list[str]:
        """The command line, in a directory of its own for each port that is tried."""
        self.web_port = free_port()
        self.cwd = self._directory / str(self.port)
        self.cwd.mkdir(parents=True)
        settings = self._of_orthanc() if self.key == "orthanc" else self._of_ours()
        file = self.cwd / "settings.json"
        file.write_text(json.dumps(settings, indent=1))  # JSON is YAML
        return (
            ["Orthanc", str(file)]
            if self.key == "orthanc"
            else [self._python, "-m", "pacs_server", "--config", str(file)]
        )

    def connect(self) -> None:
        """Raise OSError unless the server takes associations."""
        try:
            open_and_release(self.address)
        except ClientError as error:
            raise OSError(str(error)) from error

    def _of_ours(self) -> dict[str, object]:
        assert self.cwd is not None
        return {
            "server": {"host": "127.0.0.1", "port": self.port},
            "storage": {"directory": str(self.cwd / "archive")},
            "database": {"path": str(self.cwd / "pacs.db")},
            "audit": {"directory": str(self.cwd / "audit")},
            "monitoring": {"metrics_port": 0},
            "web": {"port": self.web_port},
        }

    def _of_orthanc(self) -> dict[str, object]:
        assert self.cwd is not None
        return {
            "Name": "bench",
            "StorageDirectory": str(self.cwd / "storage"),
            "IndexDirectory": str(self.cwd / "index"),
            "Plugins": [str(_PLUGIN)],
            "HttpServerEnabled": True,
            "HttpPort": self.web_port,
            "KeepAlive": True,
            "TcpNoDelay": True,
            "AuthenticationEnabled": False,
            "DicomAet": "ORTHANC",
            "DicomPort": self.port,
            "DicomAlwaysAllowStore": True,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }


def available(keys: Iterable[str], before: Path | None, directory: Path) -> list[WebPeer]:
    """The peers of these keys that this machine has, and the server of another checkout."""
    has_orthanc = find("Orthanc") is not None and _PLUGIN.exists()
    peers = [WebPeer(key, directory) for key in keys if key != "orthanc" or has_orthanc]
    if before is not None:
        peers.append(WebPeer(BEFORE, directory, str(before.resolve() / ".venv" / "bin" / "python")))
    return peers
