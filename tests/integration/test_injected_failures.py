"""Rules by which a temporary server fails: what clients see of each, and that the server goes on."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from datasets import encoded, make_ct, make_study
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from servers import EXPLICIT, STUDY_FIND, RawPeer, echo_request, message, proposal, store_request

from pacs_server.net.associate import encode_request
from pacs_server.net.pdu import PDUType
from pacs_server.testing import TemporaryPacs, temporary_pacs
from pacs_server.testing.faults import Request

SECONDS = 10.0
HELD = make_study(1, 5, PatientID="HELD")
STUDY = str(HELD[0].StudyInstanceUID)
FIND, GET, MOVE = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)


@pytest.fixture(scope="module")
def server() -> Iterator[TemporaryPacs]:
    with temporary_pacs(studies=[HELD, make_study(1, 1, PatientID="OTHER")], tls=True) as made:
        yield made


@pytest.fixture
def pacs(server: TemporaryPacs) -> Iterator[TemporaryPacs]:
    """The server without rules, which serves as before when the test is over."""
    yield server
    server.faults.clear()
    server.destination.faults.clear()
    with RawPeer.associated(server.address) as peer:
        assert peer.echo() == 0
        peer.release()


def associated(pacs: TemporaryPacs, *sop_classes: str, title: str = "CT1", **options: Any) -> Any:
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = SECONDS
    for sop_class in sop_classes:
        ae.add_requested_context(sop_class)
    return ae.associate(pacs.host, options.pop("port", pacs.port), ae_title=pacs.ae_title, **options)


def asked(pacs: TemporaryPacs, sop_class: str, **keys: str) -> list[Dataset]:
    """The responses to a C-FIND or C-MOVE at the level of studies."""
    association, identifier = associated(pacs, sop_class), Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    if sop_class == FIND:
        answers = association.send_c_find(identifier, sop_class)
    else:
        answers = association.send_c_move(identifier, "DESTINATION", sop_class)
    statuses = [status for status, _ in answers]
    association.release()
    return statuses


def echoed(pacs: TemporaryPacs, times: int, title: str = "CT1") -> list[int | None]:
    association = associated(pacs, Verification, title=title)
    statuses = [association.send_c_echo().get("Status") for _ in range(times)]
    association.release()
    return statuses


def test_a_status_for_some_operations_of_some_peers(pacs: TemporaryPacs) -> None:
    rule = pacs.faults.status("C-ECHO", 0x0122, skip=1, times=2, calling_ae="CT1")
    assert echoed(pacs, 2, "CT2") == [0, 0]
    assert echoed(pacs, 5) == [0, 0x0122, 0x0122, 0, 0]
    assert rule.hits == 2
    with pacs.faults.status("C-ECHO", 0x0211, when=lambda request: request.called_ae == "PACS"):
        assert echoed(pacs, 1) == [0x0211]
    assert echoed(pacs, 1) == [0]


def test_a_refused_instance_is_not_stored_and_one_with_a_warning_is(pacs: TemporaryPacs) -> None:
    refused, coerced = make_ct(), make_ct()
    pacs.faults.status("C-STORE", 0xA700, comment="no room", when=lambda asked: about(asked, refused))
    pacs.faults.status("C-STORE", 0xB000, when=lambda asked: about(asked, coerced))
    association = associated(pacs, CTImageStorage)
    answers = [association.send_c_store(each) for each in (refused, coerced)]
    association.release()
    assert [(each.Status, each.get("ErrorComment")) for each in answers] == [(0xA700, "no room"), (0xB000, None)]
    assert pacs.received[-1].SOPInstanceUID == coerced.SOPInstanceUID
    assert refused.SOPInstanceUID not in [each.SOPInstanceUID for each in pacs.received]
    assert [str(each) for each in pacs.operations[-2:]] == ["C-STORE 0xA700", "C-STORE 0xB000"]


def about(request: Request, instance: Dataset) -> bool:
    return request.sop_instance_uid == instance.SOPInstanceUID and request.sop_class_uid == CTImageStorage


def test_a_search_that_fails_after_some_matches(pacs: TemporaryPacs) -> None:
    assert [each.Status for each in asked(pacs, FIND)][-1] == 0
    pacs.faults.status("C-FIND", 0xC001, after_matches=1)
    assert [each.Status for each in asked(pacs, FIND)] == [0xFF00, 0xC001]
    pacs.faults.clear()
    pacs.faults.status("C-FIND", 0xA700)
    assert [each.Status for each in asked(pacs, FIND)] == [0xA700]


def test_wrong_counts(pacs: TemporaryPacs) -> None:
    pacs.faults.counts("C-MOVE", completed=-2, failed=7, remaining=1)
    *pending, final = asked(pacs, MOVE, StudyInstanceUID=STUDY)
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0, 3, 7)
    assert {each.Status for each in pending} == {0xFF00}
    assert pending[0].NumberOfRemainingSuboperations > 1
    pacs.faults.counts("C-GET", warning=1)
    with RawPeer.associated(pacs.address, (GET, [EXPLICIT])) as peer:
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "1.2.3"
        command = store_request("", sop_class=GET)
        command.command_field, command.affected_sop_instance_uid = 0x0010, None
        peer.send(message(1, command, encoded(identifier)))
        assert peer.read_message().command.number_of_warning == 1


def test_a_destination_that_refuses(pacs: TemporaryPacs) -> None:
    pacs.destination.faults.status("C-STORE", 0xA700, times=2)
    final = asked(pacs, MOVE, StudyInstanceUID=STUDY)[-1]
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xB000, 2)
    pacs.destination.faults.reject()
    assert asked(pacs, MOVE, StudyInstanceUID=STUDY)[-1].Status == 0xA702


def test_a_late_answer(pacs: TemporaryPacs) -> None:
    pacs.faults.delay("C-ECHO", 0.2)
    began = time.monotonic()
    assert echoed(pacs, 1) == [0]
    assert time.monotonic() - began >= 0.2
    pacs.faults.delay("A-ASSOCIATE", 60.0)
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((STUDY_FIND, [EXPLICIT]))))
        peer.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            peer.read_pdu()


@pytest.mark.parametrize(("result", "source", "reason"), [(1, 1, 3), (1, 1, 7), (2, 3, 2), (1, 2, 2), (9, 8, 7)])
def test_rejected_for_any_reason(pacs: TemporaryPacs, result: int, source: int, reason: int) -> None:
    pacs.faults.reject(result=result, source=source, reason=reason, calling_ae="RAW")
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((STUDY_FIND, [EXPLICIT]))))
        assert peer.read_pdu() == (PDUType.ASSOCIATE_RJ, bytes((0, result, source, reason)))
    pacs.wait_for(lambda: pacs.associations[-1].outcome == "rule")


def test_aborted(pacs: TemporaryPacs) -> None:
    pacs.faults.abort("C-ECHO", times=1)
    pacs.faults.abort("C-ECHO", source=2, reason=6)
    for ending in ("abort 0 0", "abort 2 6"):
        with RawPeer.associated(pacs.address) as peer:
            peer.send(message(1, echo_request()))
            assert peer.ending() == ending
    pacs.faults.abort("A-ASSOCIATE", reason=1)
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((STUDY_FIND, [EXPLICIT]))))
        assert peer.ending() == "abort 2 1"


def received_until_the_end(sock: socket.socket) -> bytes:
    found = b""
    while piece := sock.recv(65536):
        found += piece
    return found


def test_dropped_after_bytes_and_pdus(pacs: TemporaryPacs) -> None:
    for after in ({}, {"after_bytes": 7}, {"after_pdus": 1}):
        pacs.faults.clear()
        pacs.faults.drop("C-ECHO", **after)
        with RawPeer.associated(pacs.address) as peer:
            peer.send(message(1, echo_request(1)) + message(1, echo_request(2)))
            got = received_until_the_end(peer.socket)
            # The command of the answer is one PDU.
            assert len(got) == {"": 0, "after_bytes": 7}.get("".join(after), len(got))
            assert ("after_pdus" in after) == (len(got) > 7)
    pacs.wait_for(lambda: pacs.associations[-1].outcome == "cut by a rule")


def test_dropped_while_it_receives_or_from_the_beginning(pacs: TemporaryPacs) -> None:
    instance = make_ct()
    uid = str(instance.SOPInstanceUID)
    for after in ({"after_bytes": 100}, {"after_pdus": 2}):
        pacs.faults.drop("C-STORE", received=True, times=1, **after)
        with RawPeer.associated(pacs.address, (CTImageStorage, [EXPLICIT])) as peer:
            peer.send(message(1, store_request(uid, sop_class=CTImageStorage), encoded(instance), max_pdu=64))
            assert peer.ending() == "closed"
    assert uid not in [each.SOPInstanceUID for each in pacs.received]
    pacs.faults.clear()
    pacs.faults.drop(after_bytes=10, times=1)
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((STUDY_FIND, [EXPLICIT]))))
        assert len(received_until_the_end(peer.socket)) == 10
    pacs.faults.drop("C-ECHO", reset=True)
    with RawPeer.associated(pacs.address) as peer:
        peer.send(message(1, echo_request()))
        with pytest.raises(ConnectionResetError):
            peer.socket.recv(1)


def test_dropped_with_tls(pacs: TemporaryPacs) -> None:
    assert pacs.certificates is not None
    pacs.faults.drop("C-ECHO", after_bytes=5)
    context = pacs.certificates.client_context()
    context.check_hostname = False
    assert pacs.tls_port is not None
    with socket.create_connection((pacs.host, pacs.tls_port), SECONDS) as sock, context.wrap_socket(sock) as secure:
        secure.sendall(encode_request(proposal((Verification, [EXPLICIT]))))
        secure.recv(65536)
        secure.sendall(message(1, echo_request()))
        assert len(received_until_the_end(secure)) == 5


def test_http_answers(pacs: TemporaryPacs) -> None:
    assert pacs.certificates is not None
    with httpx.Client(base_url=pacs.url, verify=pacs.certificates.client_context()) as client:
        pacs.faults.http_status(503, "/dicom-web/studies*", method="GET", body="later", headers={"Retry-After": "1"})
        answer = client.get("/dicom-web/studies")
        assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "later", "1")
        assert client.get("/dicom-web/series").status_code == 200
        assert client.post("/dicom-web/studies").status_code == 415
        pacs.faults.clear()
        pacs.faults.http_delay(0.2, "*/studies", times=1)
        began = time.monotonic()
        whole = client.get("/dicom-web/studies").content
        assert time.monotonic() - began >= 0.2
        pacs.faults.http_slow(len(whole) * 4, "*/studies")
        began = time.monotonic()
        assert client.get("/dicom-web/studies").content == whole
        assert time.monotonic() - began >= 0.2
        pacs.faults.clear()
        pacs.faults.http_cut(50)
        with client.stream("GET", "/dicom-web/studies") as cut:
            assert int(cut.headers["content-length"]) == len(whole)
            with pytest.raises(httpx.RemoteProtocolError):
                cut.read()
            assert cut.num_bytes_downloaded == 50
        pacs.faults.clear()
        pacs.faults.http_cut(len(whole) + 1)
        assert client.get("/dicom-web/studies").content == whole
