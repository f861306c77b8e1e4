"""STOW-RS stores as C-STORE does, part by part (PS3.18 10.5)."""

import copy
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import httpx2 as httpx
import pytest
import webclients
from datasets import data_set_bytes, make_ct, make_study, pydicom_test_files, uid
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from servers import config, eventually, get, running
from webclients import RELATED, part10, post, related, store, url_of, values

from pacs_server.app.server import PacsServer
from pacs_server.dicom.native_xml_input import read_native_xml
from pacs_server.dicom.part10 import decode_head
from pacs_server.errors import StorageUnavailable

FAILED, STORED, OTHERS = "00081198", "00081199", "0008119A"
REASON, WARNING, RETRIEVE_URL, INSTANCE = "00081197", "00081196", "00081190", "00081155"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsServer]:
    with running(config(tmp_path_factory.mktemp("stow"), web=True, storage={"fsync": "slots"})) as server:
        yield server


def known(pacs: PacsServer, ds: Dataset) -> bool:
    return pacs.archive.archive.find(str(ds.SOPInstanceUID)) is not None


def kept(pacs: PacsServer, sop_instance_uid: str) -> tuple[str, bytes]:
    """Transfer syntax and data set of a stored instance."""
    instance = pacs.archive.archive.find(sop_instance_uid)
    assert instance is not None
    with pacs.archive.archive.open(instance) as source:
        return instance.transfer_syntax_uid, source.read(instance.data_set_offset, source.size)


def test_dicomweb_client_stores(pacs: PacsServer) -> None:
    study = make_study(2, 2)
    answer = DICOMwebClient(url_of(pacs)).store_instances(study, study[0].StudyInstanceUID)
    assert answer.RetrieveURL == url_of(pacs, f"/studies/{study[0].StudyInstanceUID}")
    assert {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence} == {
        ds.SOPInstanceUID for ds in study
    }
    assert "FailedSOPSequence" not in answer
    first = answer.ReferencedSOPSequence[0]
    assert first.ReferencedSOPClassUID == study[0].SOPClassUID
    assert decode_head(httpx.get(first.RetrieveURL, headers={"Accept": "application/dicom"}).content) is not None
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study[0].StudyInstanceUID
    _, got = get(pacs, keys)
    assert len(got) == 4


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of these files are odd on purpose
def test_what_is_stored_is_kept_byte_for_byte(pacs: PacsServer) -> None:
    """Every sound file of pydicom, in the transfer syntax it is in."""
    sent: dict[str, Path] = {}
    for path in pydicom_test_files():
        sent.setdefault(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID), path)
    answer = post(pacs, related(path.read_bytes() for path in sent.values()))
    assert answer.status_code == 202  # some of them have other UIDs in their head
    assert set(values(answer.json(), STORED, WARNING)) == {0xB000}
    assert not {FAILED, OTHERS} & answer.json().keys()
    assert values(answer.json(), STORED, INSTANCE) == list(sent)
    assert values(answer.json(), RETRIEVE_URL) == []  # not one study
    for sop_instance_uid, path in sent.items():
        assert kept(pacs, sop_instance_uid) == data_set_bytes(path), path


def test_one_file_without_multipart(pacs: PacsServer) -> None:
    ds = make_ct()
    answer = post(pacs, part10(ds), headers={"Content-Type": "application/dicom"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert values(answer.json(), STORED, INSTANCE) == [ds.SOPInstanceUID]
    assert values(answer.json(), RETRIEVE_URL) == [url_of(pacs, f"/studies/{ds.StudyInstanceUID}")]


def test_the_head_of_the_client_is_not_kept(pacs: PacsServer) -> None:
    ds = make_ct()
    ds.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    assert store(pacs, [ds]).status_code == 200
    instance = pacs.archive.archive.find(str(ds.SOPInstanceUID))
    assert instance is not None
    with pacs.archive.archive.open(instance) as source:
        head = decode_head(source.read(0, 4096))
    assert head is not None
    assert (head.source_ae, head.provenance.calling_ae, head.provenance.peer) == ("", "", "127.0.0.1")


def test_a_data_set_without_a_head_in_the_transfer_syntax_of_its_part(pacs: PacsServer) -> None:
    ds = make_ct()
    data = part10(ds)
    bare = data[decode_head(data).data_set_offset :]
    headers = "Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert post(pacs, related([bare], headers)).status_code == 200
    assert pacs.archive.archive.find(str(ds.SOPInstanceUID)).transfer_syntax_uid == "1.2.840.10008.1.2.1"


def test_a_broken_part_fails_alone(pacs: PacsServer) -> None:
    good, half, foreign = make_study(1, 3)
    foreign.StudyInstanceUID = uid()
    parts = [part10(good), part10(half)[:-100], b"GIF89a" * 100, part10(foreign), b""]
    answer = post(pacs, related(parts), f"/studies/{good.StudyInstanceUID}")
    assert answer.status_code == 202
    module = answer.json()
    assert values(module, STORED, INSTANCE) == [good.SOPInstanceUID]
    assert values(module, FAILED, INSTANCE) == [half.SOPInstanceUID, foreign.SOPInstanceUID]
    assert values(module, FAILED, REASON) == [0xC000, 0xA900]
    assert values(module, OTHERS, REASON) == [0xC000, 0xC000]
    assert [known(pacs, ds) for ds in (good, half, foreign)] == [True, False, False]


def test_an_answer_in_xml(pacs: PacsServer) -> None:
    ds = make_ct()
    answer = post(pacs, related([part10(ds), b"x"]), headers={"Accept": "application/dicom+xml"})
    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/dicom+xml")
    module = read_native_xml(answer.content)
    assert values(module, STORED, INSTANCE) == [ds.SOPInstanceUID]
    assert values(module, OTHERS, REASON) == [0xC000]


def test_nothing_that_can_be_stored(pacs: PacsServer) -> None:
    ds = make_ct()
    answer = store(pacs, [ds], f"/studies/{uid()}")
    assert answer.status_code == 409
    assert values(answer.json(), FAILED, REASON) == [0xA900]
    assert values(answer.json(), RETRIEVE_URL) == []
    assert STORED not in answer.json()
    assert not known(pacs, ds)


def test_faulty_headers_and_other_media_types_fail_alone(pacs: PacsServer) -> None:
    ds = make_ct()
    body = related([b"x"], "no header", end=False) + related([b"x"], "Content-Type: text/plain", end=False)
    answer = post(pacs, body + related([part10(ds)], "X: y\r\n z"))
    assert answer.status_code == 202
    assert values(answer.json(), OTHERS, REASON) == [0xC000, 0xC000]
    assert known(pacs, ds)


@pytest.mark.parametrize(
    ("policy", "status", "tag", "sequence"), [("reject", 409, REASON, FAILED), ("ignore", 202, WARNING, STORED)]
)
def test_duplicates(
    pacs: PacsServer, monkeypatch: pytest.MonkeyPatch, policy: str, status: int, tag: str, sequence: str
) -> None:
    monkeypatch.setattr(pacs.archive.archive, "duplicate_policy", policy)
    ds = make_ct()
    other = copy.deepcopy(ds)
    other.PatientComments = "other"
    assert store(pacs, [ds, ds]).status_code == 200
    answer = store(pacs, [other])
    assert answer.status_code == status
    assert values(answer.json(), sequence, tag) == [0x0111]
    assert b"other" not in kept(pacs, str(ds.SOPInstanceUID))[1]


def test_the_head_names_another_instance(pacs: PacsServer) -> None:
    ds = make_ct()
    data = bytearray(part10(ds))
    at = data.index(str(ds.SOPInstanceUID).encode())
    data[at : at + len(ds.SOPInstanceUID)] = b"1.2.3".ljust(len(ds.SOPInstanceUID), b"\0")
    answer = post(pacs, related([bytes(data)]))
    assert answer.status_code == 202
    assert values(answer.json(), STORED, INSTANCE) == [ds.SOPInstanceUID]
    assert values(answer.json(), STORED, WARNING) == [0xB000]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "multipart/related; type=application/dicom"}, 400),
        ({"Content-Type": f"multipart/related; boundary={'x' * 257}"}, 400),
        ({"Content-Type": f'multipart/related; type="image/png"; boundary="{webclients.BOUNDARY}"'}, 415),
        ({"Content-Type": "multipart/form-data; boundary=b"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Accept": "text/html"}, 406),
    ],
)
def test_requests_that_are_refused_as_a_whole(pacs: PacsServer, headers: dict[str, str], status: int) -> None:
    ds = make_ct()
    answer = post(pacs, related([part10(ds)]), headers=headers)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert not known(pacs, ds)


@pytest.mark.parametrize("body", [b"", b"no boundary", related([]), related([], end=False)])
def test_bodies_without_parts(pacs: PacsServer, body: bytes) -> None:
    assert post(pacs, body).status_code == 400


def test_the_study_of_the_url_has_to_be_a_uid(pacs: PacsServer) -> None:
    assert store(pacs, [make_ct()], "/studies/..%2f..").status_code in (400, 404)
    assert store(pacs, [make_ct()], "/studies/x").status_code == 400


def test_a_body_without_its_last_boundary(pacs: PacsServer) -> None:
    first, second = make_study(1, 2)
    answer = post(pacs, related([part10(first), part10(second)], end=False)[:-300])
    assert answer.status_code == 202
    assert values(answer.json(), STORED, INSTANCE) == [first.SOPInstanceUID]
    assert values(answer.json(), OTHERS, REASON) == [0xC000]
    assert not known(pacs, second)


def test_whole_parts_are_stored_when_the_client_goes_away(pacs: PacsServer) -> None:
    first, second = make_study(1, 2)
    body = related([part10(first), part10(second)])
    begun(pacs, body, len(body) - 300).close()
    assert eventually(lambda: known(pacs, first))
    assert not known(pacs, second)


def test_uploads_that_stall_keep_nobody_waiting(pacs: PacsServer) -> None:
    """More of them than there are threads for everything else, each far enough that a thread waits for the rest."""
    stalled = [make_ct(rows=512, columns=512) for _ in range(45)]
    bodies = [related([part10(ds)]) for ds in stalled]
    with ExitStack() as stack:
        clients = [stack.enter_context(begun(pacs, body, 400_000)) for body in bodies]
        ds = make_ct()
        assert store(pacs, [ds]).status_code == 200
        found = httpx.get(url_of(pacs, f"/studies/{ds.StudyInstanceUID}/metadata"), timeout=10)
        assert found.status_code == 200
        for client, body in zip(clients, bodies, strict=True):
            client.sendall(body[400_000:])
        for client in clients:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert all(known(pacs, ds) for ds in stalled)


def begun(pacs: PacsServer, body: bytes, size: int) -> socket.socket:
    """A connection on which so many bytes of a Store transaction were sent."""
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {RELATED}\r\n"
    assert pacs.web_address is not None
    client = socket.create_connection(pacs.web_address, timeout=30)
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:size])
    return client


def test_a_body_in_chunks_and_100_continue(pacs: PacsServer) -> None:
    ds = make_ct(rows=512, columns=512)
    body = related([part10(ds)])
    answer = post(pacs, (body[at : at + 7001] for at in range(0, len(body), 7001)), headers={"Expect": "100-continue"})
    assert answer.status_code == 200
    assert known(pacs, ds)


def test_no_room(pacs: PacsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs.archive.files.spool, "min_free_space", 2**60)
    answer = store(pacs, make_study(1, 2))
    assert answer.status_code == 507
    assert values(answer.json(), FAILED, REASON) == [0xA700, 0xA700]


def test_storage_that_is_away_may_be_back_soon(pacs: PacsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs.archive.files.spool, "receive", Mock(side_effect=StorageUnavailable("away")))
    answer = store(pacs, make_study(1, 1))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_an_instance_is_one_sync(pacs: PacsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is synced by itself, as with C-STORE in slots, and once the record that the study begins to arrive.

    Checkpoints sync directories and the index, in a thread of their own.
    """
    first, *rest = make_study(1, 21)
    assert store(pacs, make_study(1, 1)).status_code == 200
    synced: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (synced.append(threading.get_ident()), sync(descriptor)))
    for sent, syncs in (([first], 2), (rest, len(rest))):
        synced.clear()
        assert store(pacs, sent).status_code == 200
        assert Counter(synced).most_common(1)[0][1] == syncs


def test_the_audit_trail_knows_what_came_and_what_did_not(pacs: PacsServer) -> None:
    ds = make_ct(PatientID="AUDITED")
    post(pacs, related([part10(ds), b"rubbish"]))
    records = [path.read_text() for path in pacs.config.audit.directory.iterdir() if path.is_file()]
    told = [line for text in records for line in text.splitlines() if str(ds.StudyInstanceUID) in line]
    assert len(told) == 2
    assert all("AUDITED" in line for line in told)
    assert "1 stored, 1 failed" in told[1]
