"""Orthanc with its DICOMweb plugin, both as a client and as a remote: STOW-RS, QIDO-RS and WADO-RS."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2 as httpx
import pytest
from datasets import make_ct, make_study, uid
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from servers import CT, EXPLICIT, config, free_port, running
from webclients import part10, store, url_of

from pacs_server.app.server import PacsServer
from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.part10_stream import Bytes
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import InstanceNotFound, RemoteUnreachable
from pacs_server.scu.dicomweb.client import DICOMwebClient
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dicomweb.qido import Search, find, probe
from pacs_server.scu.dicomweb.remote import DICOMwebRemote, SecretHeader
from pacs_server.scu.dicomweb.wado import retrieve
from pacs_server.scu.sending import Outgoing, outgoing

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
def orthanc(directory: Path, pacs: PacsServer, **more: object) -> Iterator[httpx.Client]:
    """An Orthanc that knows the server as `pacs`, by its REST API; `more` are settings of Orthanc."""
    port = free_port()
    settings = {
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "index"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Servers": {"pacs": [url_of(pacs, "/")]}},
    } | more
    file = directory / "orthanc.json"
    file.write_text(json.dumps(settings))
    with (directory / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
                deadline = time.monotonic() + SECONDS
                while time.monotonic() < deadline and process.poll() is None:
                    with suppress(httpx.TransportError):
                        client.get("/system")
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


@pytest.mark.slow
def test_orthanc_is_sent_to_searched_and_read(tmp_path: Path) -> None:
    """What was sent comes back: byte for byte, as Orthanc keeps the files that it gets."""
    study, series = str(uid()), str(uid())
    sent = [make_ct(study, series, InstanceNumber=number, PatientID="SENT") for number in range(1, 5)]
    sent[3].compress(RLELossless)
    kept: dict[str, tuple[str, bytes]] = {}

    def take(sop_class: str, sop: str, syntax: str, data: Iterable[Bytes]) -> None:
        kept[sop] = syntax, b"".join(data)

    with (
        running(config(tmp_path, web=True)) as pacs,
        orthanc(tmp_path, pacs, AuthenticationEnabled=True, RegisteredUsers={"anna": "geheim"}) as client,
    ):
        assert store(pacs, sent).status_code == 200
        url = f"{client.base_url}/dicom-web/"
        with (
            DICOMwebClient.of(DICOMwebRemote("orthanc", url)) as refused,
            pytest.raises(RemoteUnreachable, match="401"),
        ):
            probe(refused)
        clients, remote = DICOMwebClients(), DICOMwebRemote("orthanc", url, SecretHeader.basic("anna", "geheim"))
        files = [pacs.archive.archive.find(str(ds.SOPInstanceUID)) for ds in sent]
        with clients.sender(remote) as sender:
            assert [sender.send(outgoing(pacs.archive.retrieve, file)).status for file in files if file] == [0] * 4
            # A file that Orthanc refuses.
            bad = Outgoing(InstanceUIDs("1.2", "1.3", "1.4"), CT, EXPLICIT, lambda: b"\x08\0\x05\0CS\xff\xff")
            answer = sender.send(bad)
            assert not answer.is_success
            again = sender.send_all([outgoing(pacs.archive.retrieve, file) for file in files if file])
            assert [each.is_success for each in again] == [True] * 4
        with clients.use(remote) as there:
            probe(there)
            found = find(there, Search(Level.IMAGE, {"StudyInstanceUID": study}), page=3)
            assert sorted(text_of(match, "00080018") for match in found) == sorted(
                str(ds.SOPInstanceUID) for ds in sent
            )
            (one,) = find(there, Search(Level.STUDY, {"PatientID": "SE*"}, ["NumberOfStudyRelatedInstances"]))
            assert text_of(one, "00201208") == "4"
            done = retrieve(there, take, study)
            assert (len(done.taken), done.failed, done.broken) == (4, [], "")
            with pytest.raises(InstanceNotFound):
                retrieve(there, take, "1.2.3")
        for file in files:
            assert file is not None
            with pacs.archive.retrieve.open(file) as source:
                assert kept[file.uids.sop] == (file.transfer_syntax_uid, source.read(0, source.size))
