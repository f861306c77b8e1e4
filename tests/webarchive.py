"""A running server with instances in it, to be asked over HTTP."""

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pydicom
from datasets import parse_data_set

from pacs_server.app.server import PacsServer
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin


class WebArchive:
    """A running server, and how it is asked; `sender` stores what is in it."""

    sender = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)

    def __init__(self, pacs: PacsServer, scratch: Path) -> None:
        assert pacs.web_address is not None
        self.pacs = pacs
        self.scratch = scratch
        self.url = "http://{}:{}/dicom-web".format(*pacs.web_address)
        self.http = httpx.Client()

    def store(self, data: bytes, syntax: str) -> pydicom.Dataset:
        """Store a data set in this transfer syntax."""
        ds = parse_data_set(data, syntax)
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        return self.add(ds)

    def import_file(self, path: Path) -> pydicom.Dataset:
        """Store a file."""
        self.pacs.archive.store.store_file(path, self.sender)
        return pydicom.dcmread(path)

    def add(self, ds: pydicom.Dataset) -> pydicom.Dataset:
        """Store a data set that has file meta information."""
        path = self.scratch / "one.dcm"
        ds.save_as(path, enforce_file_format=True)
        return self.import_file(path)

    def frames(self, ds: pydicom.Dataset, numbers: str, accept: str | None = None, **headers: str) -> httpx.Response:
        """The answer to a request for frames; without `accept` there is no such header."""
        return self.get(f"{instance_url(self.url, ds)}/frames/{numbers}", accept, **headers)

    def get(
        self,
        path: str,
        accept: str | None = None,
        method: str = "GET",
        *,
        params: dict[str, Any] | None = None,
        **headers: str,
    ) -> httpx.Response:
        """The answer to a request for a path below the DICOMweb services, or for a URL.

        Without `accept` there is no such header; _ in the names of other headers stands for -.
        """
        url = path if path.startswith("http") else f"{self.url}/{path}"
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        request = self.http.build_request(method, url, headers=told, params=params)
        if accept is None:
            del request.headers["accept"]
        else:
            request.headers["accept"] = accept
        return self.http.send(request)


def instance_url(base: str, ds: pydicom.Dataset) -> str:
    """Where an instance is."""
    return f"{base}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
