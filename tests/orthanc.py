"""Orthanc as a peer."""

import json
from pathlib import Path

from benchmarks.server_process import ServerProcess


class Orthanc(ServerProcess):
    """An Orthanc that anybody may send to and ask."""

    ae_title = "ORTHANC"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        super().__init__(directory / "orthanc.log")

    def command(self) -> list[str]:
        """The command line, after the configuration for the present port is written."""
        settings = {
            "StorageDirectory": str(self._directory / "storage"),
            "IndexDirectory": str(self._directory / "index"),
            "HttpServerEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
        }
        file = self._directory / "orthanc.json"
        file.write_text(json.dumps(settings))
        return ["Orthanc", str(file)]
