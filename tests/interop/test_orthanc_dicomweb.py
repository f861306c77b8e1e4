"""Orthanc with its DICOMweb plugin as a client: it sends by STOW-RS, queries by QIDO-RS and retrieves by WADO-RS."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2 as httpx
import pytest
from datasets import make_study
from pydicom.dataset import Dataset
from servers import config, free_port, running
from webclients import part10, store, url_of

from pacs_server.app.server import PacsServer

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SECONDS = 30.0

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("Orthanc") is None or not PLUGIN.exists(),
        reason="needs Orthanc with DICOMweb; on Debian and Ubuntu: apt-get install orthanc orthanc-dicomweb",
    ),
]


@contextmanager
def orthanc(directory: Path, pacs: PacsServer) -> Iterator[httpx.Client]:
    """An Orthanc that knows the server as `pacs`, by its REST API."""
    port = free_port()
    settings = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "index"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Servers": {"pacs": [url_of(pacs, "/")]}},
    }
    file = directory / "orthanc.json"
    file.write_text(json.dumps(settings))
    with (directory / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
                deadline = time.monotonic() + SECONDS
                while time.monotonic() < deadline and process.poll() is None:
                    with suppress(httpx.TransportError):
                        client.get("/system").raise_for_status()
                        break
                    time.sleep(0.05)
                yield client
        finally:
            process.terminate()
            process.wait(SECONDS)


def stored(pacs: PacsServer, study: list[Dataset]) -> bool:
    return all(pacs.archive.archive.find(str(ds.SOPInstanceUID)) is not None for ds in study)


@pytest.mark.slow
def test_orthanc_sends_queries_and_retrieves(tmp_path: Path) -> None:
    sent, fetched = make_study(2, 3, PatientID="SENT"), make_study(1, 2, PatientID="FETCHED")
    with running(config(tmp_path, web=True)) as pacs, orthanc(tmp_path, pacs) as client:
        ids = [client.post("/instances", content=part10(ds)).raise_for_status().json()["ID"] for ds in sent]
        answer = client.post("/dicom-web/servers/pacs/stow", json={"Resources": ids, "Synchronous": True})
        answer.raise_for_status()
        assert stored(pacs, sent)

        assert store(pacs, fetched).status_code == 200
        found = client.post(
            "/dicom-web/servers/pacs/qido", json={"Uri": "/studies", "Arguments": {"PatientID": "FETCHED"}}
        )
        assert [match["0020000D"]["Value"] for match in found.raise_for_status().json()] == [
            str(fetched[0].StudyInstanceUID)
        ]
        resources = {"Resources": [{"Study": str(fetched[0].StudyInstanceUID)}], "Synchronous": True}
        client.post("/dicom-web/servers/pacs/retrieve", json=resources).raise_for_status()
        assert len(client.get("/instances").json()) == len(sent) + len(fetched)
