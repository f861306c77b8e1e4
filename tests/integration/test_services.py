"""The services as pynetdicom asks for them: statuses, counts, bytes."""

import errno
import hashlib
import os
import socket
import time
from pathlib import Path

import pytest
from datasets import data_set_bytes, make_ct, make_study, parse_data_set, pydicom_test_files, uid
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from servers import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    RawPeer,
    associated,
    collecting,
    eventually,
    free_port,
    message,
    store,
    store_request,
)
from strategies import encoded, identifier

from pacs_server.config import RemoteAE
from pacs_server.errors import IndexUnavailable
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import Answer, UserInformation, decode_request, encode_accept
from pacs_server.net.pdu import HEADER, PDUType

COUNTS = ("Completed", "Failed", "Warning")


def _files(pacs):
    return sorted(path for path in Path(pacs.config.storage.directory).rglob("*") if path.is_file())


def _instances(pacs):
    return pacs.status()["counts"]["instances"]


# ------------------------------------------------------------------------------------ C-STORE


@pytest.mark.filterwarnings("ignore::UserWarning")  # some of these files are odd on purpose
def test_what_is_stored_is_kept_byte_for_byte(serve):
    """Every sound file of pydicom, in the transfer syntax it is in."""
    pacs = serve()
    sent = {}
    for path in pydicom_test_files():
        header = dcmread(path, stop_before_pixels=True)
        sop, sop_class = str(header.SOPInstanceUID), str(header.SOPClassUID)
        if sop in sent:
            continue
        syntax, data = data_set_bytes(path)
        with RawPeer.associated(pacs.address, (sop_class, [syntax])) as peer:
            peer.send(message(1, store_request(sop, sop_class=sop_class), data))
            assert peer.read_message().command.status == 0, path
        sent[sop] = (syntax, hashlib.sha256(data).digest())
    kept = [data_set_bytes(path) for path in _files(pacs)]
    assert sorted((syntax, hashlib.sha256(data).digest()) for syntax, data in kept) == sorted(sent.values())
    assert len(sent) > 20


def _send(pacs, sop, data, *, sop_class=CT, syntax=EXPLICIT):
    with RawPeer.associated(pacs.address, (CT, [syntax])) as peer:
        peer.send(message(1, store_request(sop, sop_class=sop_class), data))
        command = peer.read_message().command
        peer.release()
    return command


@pytest.mark.parametrize(
    ("announced", "attributes", "status"),
    [
        ("same", {"StudyInstanceUID": ""}, 0xC000),
        ("same", {"SeriesInstanceUID": None}, 0xC000),
        ("same", {"SOPInstanceUID": "not.a.uid"}, 0xC000),
        ("same", {"SOPInstanceUID": "../../evil"}, 0xC000),
        ("same", {"StudyInstanceUID": "1." + "2" * 70}, 0xC000),
        ("", {}, 0xC000),
        ("1.2.3.4", {}, 0xA900),
        ("same", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.filterwarnings("ignore:The value length")
def test_instances_that_cannot_be_taken(serve, announced, attributes, status):
    pacs = serve()
    ds = make_ct(rows=2, columns=2, **attributes)
    command = _send(pacs, str(ds.SOPInstanceUID) if announced == "same" else announced, encoded(ds, EXPLICIT))
    assert command.status == status
    assert command.error_comment
    assert len(command.error_comment) <= 64
    assert _files(pacs) == []
    assert _instances(pacs) == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 1000, b"\x08\0\x05\0CS\x0a\0ISO_IR 100", bytes(3)],
    ids=["empty", "rubbish", "no-uids", "cut"],
)
def test_data_sets_that_cannot_be_understood(serve, data):
    pacs = serve()
    assert _send(pacs, "1.2.3", data).status == 0xC000
    assert _files(pacs) == []


def test_a_class_that_is_not_the_contexts(serve):
    pacs = serve()
    ds = make_ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert _send(pacs, str(ds.SOPInstanceUID), encoded(ds, EXPLICIT), sop_class=ds.SOPClassUID).status == 0xA900


def test_a_full_disk(serve):
    pacs = serve(storage={"min_free_space": 2**60})
    ds = make_ct()
    command = _send(pacs, str(ds.SOPInstanceUID), encoded(ds, EXPLICIT))
    assert command.status == 0xA700
    assert "free" in command.error_comment


def test_a_disk_that_fills_up_while_it_is_written_to(serve, monkeypatch):
    pacs = serve()
    ds = make_ct(rows=600, columns=600)
    room = iter([b"head", b"piece", b"piece"])

    def write(descriptor, data, write=os.write):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        assert _send(pacs, str(ds.SOPInstanceUID), encoded(ds, EXPLICIT)).status == 0xA700
    assert _files(pacs) == []


def test_an_index_that_is_down(serve, monkeypatch):
    pacs = serve()
    ds = make_ct()

    def add(*_):
        raise IndexUnavailable("the index does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("pacs_server.index.instances.InstanceIndex.add", add)
        assert store(pacs, ds) == [0xA700]
    assert _files(pacs) == []
    assert store(pacs, ds) == [0]


@pytest.mark.parametrize(
    ("policy", "status", "kept"), [("reject", 0x0111, "First"), ("replace", 0, "Second"), ("ignore", 0, "First")]
)
def test_other_bytes_under_a_known_uid_go_by_the_policy(serve, policy, status, kept):
    pacs = serve(storage={"duplicate_policy": policy})
    first = make_ct(StudyDescription="First")
    second = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, StudyDescription="Second")
    assert store(pacs, first, first, second, second if policy != "reject" else first) == [0, 0, status, 0]
    assert _instances(pacs) == 1
    _, got = _get(pacs, identifier("STUDY", StudyInstanceUID=first.StudyInstanceUID))
    assert [parse_data_set(data, EXPLICIT).StudyDescription for _, data in got] == [kept]


# ------------------------------------------------------------------------------------ C-FIND


def test_find_answers_what_was_asked_for(serve):
    pacs = serve()
    one, other = make_ct(PatientName="Ä^B", PatientID="P1"), make_ct(PatientName="Other", PatientID="P2")
    assert store(pacs, one, other) == [0, 0]
    with associated(pacs, STUDY_FIND) as association:
        keys = identifier(
            "STUDY", PatientName="ä*", StudyInstanceUID="", PatientID="", NumberOfStudyRelatedInstances=""
        )
        keys.SpecificCharacterSet = "ISO_IR 100"
        answers = [(int(status.Status), found) for status, found in association.send_c_find(keys, STUDY_FIND)]
    assert [status for status, _ in answers] == [0xFF00, 0]
    assert answers[0][1].StudyInstanceUID == one.StudyInstanceUID
    assert answers[0][1].RetrieveAETitle == "PACS_SERVER"
    assert answers[0][1].NumberOfStudyRelatedInstances == 1
    assert answers[1][1] is None


def test_find_says_when_a_key_is_not_supported(serve):
    pacs = serve()
    assert store(pacs, make_ct()) == [0]
    with associated(pacs, STUDY_FIND) as association:
        keys = identifier("STUDY", StudyInstanceUID="", BurnedInAnnotation="")
        assert [int(status.Status) for status, _ in association.send_c_find(keys, STUDY_FIND)] == [0xFF01, 0]


@pytest.mark.parametrize("keys", [{"level": "GALAXY"}, {"level": "PATIENT"}, {"level": "SERIES"}])
def test_identifiers_that_break_the_model(serve, keys):
    pacs = serve()
    with associated(pacs, STUDY_FIND) as association:
        found = list(association.send_c_find(identifier(**keys, SeriesInstanceUID=""), STUDY_FIND))
        assert [status.Status for status, _ in found] == [0xA900]
        assert association.is_established


def test_find_is_cancelled_between_responses(serve):
    pacs = serve()
    study, series = uid(), uid()
    assert set(store(pacs, *[make_ct(study, series, rows=1, columns=1) for _ in range(80)])) == {0}
    keys = identifier("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID="")
    find = Command(command_field=CommandField.C_FIND, message_id=7, affected_sop_class_uid=STUDY_FIND)
    other, mine = (Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=n) for n in (6, 7))
    with RawPeer.associated(pacs.address, (STUDY_FIND, [IMPLICIT])) as peer:
        peer.send(message(1, find, encoded(keys)) + message(1, other) + message(1, mine))
        statuses = []
        while not statuses or statuses[-1] == 0xFF00:
            statuses.append(peer.read_message().command.status)
        assert statuses[-1] == 0xFE00
        assert 0 < len(statuses) < 40
        peer.send(message(1, find, encoded(keys)))
        assert [peer.read_message().command.status for _ in range(81)] == [0xFF00] * 80 + [0]


# ------------------------------------------------------------------------------------ C-GET


def _get(pacs, keys, *, answers=lambda number: 0, syntaxes=(EXPLICIT, IMPLICIT), role=True):
    """Responses of a C-GET, and the instances that came as (SOP Instance UID, bytes)."""
    got = []

    def handle(event):
        got.append((str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()))
        return answers(len(got))

    roles = [build_role(CT, scp_role=True)] if role else []
    handlers = [(evt.EVT_C_STORE, handle)]
    contexts = (STUDY_GET, (CT, list(syntaxes)))
    with associated(pacs, *contexts, ext_neg=roles, evt_handlers=handlers) as association:
        return list(association.send_c_get(keys, STUDY_GET)), got


def _counts(response):
    return tuple(getattr(response, f"NumberOf{name}Suboperations") for name in COUNTS)


def _failed(responses):
    """The failed SOP instances of the final response, which is the only one that may name them."""
    assert all(identifier is None for _, identifier in responses[:-1])
    value = responses[-1][1].FailedSOPInstanceUIDList
    return [str(value)] if isinstance(value, str) else sorted(map(str, value))


def _study(pacs, size=5):
    """A stored study: its identifier, and its data sets' bytes by SOP Instance UID."""
    instances = make_study(1, size)
    assert set(store(pacs, *instances)) == {0}
    return identifier("STUDY", StudyInstanceUID=instances[0].StudyInstanceUID), {
        str(ds.SOPInstanceUID): encoded(ds, EXPLICIT) for ds in instances
    }


def _stored_file(pacs, sop):
    return next(path for path in _files(pacs) if sop in path.name)


def test_get_brings_the_bytes_that_were_stored(serve):
    pacs = serve()
    keys, data = _study(pacs)
    responses, got = _get(pacs, keys)
    assert dict(got) == data
    assert len(got) == 5
    statuses = [response.Status for response, _ in responses]
    assert statuses == [0xFF00] * 4 + [0]
    assert [response.NumberOfRemainingSuboperations for response, _ in responses[:-1]] == [4, 3, 2, 1]
    assert "NumberOfRemainingSuboperations" not in responses[-1][0]
    assert _counts(responses[-1][0]) == (5, 0, 0)
    assert responses[-1][1] is None


def test_get_of_nothing_is_success(serve):
    responses, got = _get(serve(), identifier("STUDY", StudyInstanceUID="1.2.3"))
    assert [(response.Status, _counts(response)) for response, _ in responses] == [(0, (0, 0, 0))]
    assert got == []


def _unreadable_from(offset, name):
    """An os.pread to which the file of that name has a bad block at `offset`."""

    def pread(descriptor, size, at, pread=os.pread):
        if at + size > offset and name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, at)

    return pread


@pytest.mark.parametrize("damage", ["missing", "cut", "unreadable"])
def test_get_without_one_file_fails_for_that_one(serve, monkeypatch, damage):
    pacs = serve()
    keys, data = _study(pacs)
    lost = sorted(data)[2]
    path = _stored_file(pacs, lost)
    if damage == "unreadable":
        monkeypatch.setattr(os, "pread", _unreadable_from(0, lost))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    responses, got = _get(pacs, keys)
    assert dict(got) == {sop: value for sop, value in data.items() if sop != lost}
    assert (responses[-1][0].Status, _counts(responses[-1][0])) == (0xB000, (4, 1, 0))
    assert _failed(responses) == [lost]


def test_get_without_any_file_is_a_failure(serve):
    pacs = serve()
    keys, data = _study(pacs)
    for sop in data:
        _stored_file(pacs, sop).unlink()
    responses, _ = _get(pacs, keys)
    assert (responses[-1][0].Status, _counts(responses[-1][0])) == (0xA702, (0, 5, 0))
    assert _failed(responses) == sorted(data)


def test_get_counts_what_the_peer_answers(serve):
    pacs = serve()
    keys, _ = _study(pacs)
    responses, got = _get(pacs, keys, answers=lambda number: {2: 0xA700, 3: 0xB000}.get(number, 0))
    assert (responses[-1][0].Status, _counts(responses[-1][0])) == (0xB000, (3, 1, 1))
    assert _failed(responses) == [got[1][0]]


def test_get_without_the_scp_role_fails_for_each(serve):
    pacs = serve()
    keys, data = _study(pacs, 2)
    responses, got = _get(pacs, keys, role=False)
    assert (responses[-1][0].Status, got, _failed(responses)) == (0xA702, [], sorted(data))


def test_get_transcodes_for_a_peer_that_takes_only_implicit(serve):
    pacs = serve()
    keys, data = _study(pacs, 1)
    responses, got = _get(pacs, keys, syntaxes=(IMPLICIT,))
    assert responses[-1][0].Status == 0
    assert encoded(parse_data_set(got[0][1], IMPLICIT), EXPLICIT) == data[got[0][0]]


@pytest.mark.parametrize(("size", "status", "remaining"), [(5, 0xFE00, 4), (1, 0, None)])
def test_get_is_cancelled_between_sub_operations(serve, size, status, remaining):
    """Unless the cancel comes when the last one is done."""
    pacs = serve()
    keys, _ = _study(pacs, size)
    get = Command(command_field=CommandField.C_GET, message_id=9, affected_sop_class_uid=STUDY_GET)
    cancel = Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=9)
    contexts = ((STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT]))
    with RawPeer.associated(pacs.address, *contexts, roles={CT: (True, True)}) as peer:
        peer.send(message(1, get, encoded(keys)))
        sub_operation = peer.read_message()
        assert sub_operation.command.command_field == CommandField.C_STORE
        request = sub_operation.command
        answer = Command(command_field=0x8001, message_id_being_responded_to=request.message_id, status=0)
        peer.send(message(1, cancel) + message(3, answer))
        final = peer.read_message().command
    assert final.status == status
    counts = (final.number_of_remaining, final.number_of_completed, final.number_of_failed, final.number_of_warning)
    assert counts == (remaining, 1, 0, 0)


# ------------------------------------------------------------------------------------ C-MOVE


def _move(pacs, keys, destination="DEST", **options):
    with associated(pacs, STUDY_MOVE, calling="MOVER") as association:
        return list(association.send_c_move(keys, destination, STUDY_MOVE, **options))


def _final(responses):
    return responses[-1][0].Status, _counts(responses[-1][0])


def test_move_brings_the_bytes_that_were_stored_and_says_who_asked(serve):
    with collecting() as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, data = _study(pacs)
        responses = _move(pacs, keys, msg_id=321)
    assert {found.sop_instance_uid: found.data for found in destination.instances} == data
    assert {found.originator for found in destination.instances} == {("MOVER", 321)}
    assert [response.Status for response, _ in responses] == [0xFF00] * 4 + [0]
    assert [response.NumberOfRemainingSuboperations for response, _ in responses[:-1]] == [4, 3, 2, 1]
    assert "NumberOfRemainingSuboperations" not in responses[-1][0]
    assert _final(responses) == (0, (5, 0, 0))
    assert responses[-1][1] is None


def test_move_to_a_destination_that_takes_only_implicit(serve):
    with collecting(syntaxes=[ImplicitVRLittleEndian]) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, data = _study(pacs, 2)
        assert _final(_move(pacs, keys)) == (0, (2, 0, 0))
    for found in destination.instances:
        assert found.transfer_syntax == IMPLICIT
        assert encoded(parse_data_set(found.data, IMPLICIT), EXPLICIT) == data[found.sop_instance_uid]


def test_move_of_nothing_and_to_nobody(serve):
    nobody = RemoteAE(ae_title="NOBODY", host="127.0.0.1", port=free_port(), connect_timeout=1.0)
    nowhere = RemoteAE(ae_title="NOWHERE", host="no..host", port=104)
    pacs = serve(remote_aes=[nobody, nowhere])
    keys, data = _study(pacs, 3)
    assert _final(_move(pacs, identifier("STUDY", StudyInstanceUID="1.2.3"), "NOBODY")) == (0, (0, 0, 0))
    assert [response.Status for response, _ in _move(pacs, keys, "UNKNOWN")] == [0xA801]
    for title in ("NOBODY", "NOWHERE"):
        began = time.monotonic()
        responses = _move(pacs, keys, title)
        assert time.monotonic() - began < 2
        assert _final(responses) == (0xA702, (0, 3, 0))
        assert _failed(responses) == sorted(data)


def test_move_without_one_file_fails_for_that_one(serve):
    with collecting() as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, data = _study(pacs)
        lost = sorted(data)[0]
        _stored_file(pacs, lost).unlink()
        responses = _move(pacs, keys)
    assert len(destination.instances) == 4
    assert _final(responses) == (0xB000, (4, 1, 0))
    assert _failed(responses) == [lost]


def test_move_of_a_file_that_ends_in_a_bad_block_goes_on_with_the_others(serve, monkeypatch):
    with collecting() as destination:
        pacs = serve(remote_aes=[destination.remote])
        instances = make_study(1, 3, Rows=1200, Columns=1200, PixelData=bytes(2 * 1200 * 1200))
        assert store(pacs, *instances) == [0, 0, 0]
        lost = str(instances[1].SOPInstanceUID)
        monkeypatch.setattr(os, "pread", _unreadable_from(2_000_000, lost))
        responses = _move(pacs, identifier("STUDY", StudyInstanceUID=instances[0].StudyInstanceUID))
    assert _final(responses) == (0xB000, (2, 1, 0))
    assert _failed(responses) == [lost]
    assert lost not in {found.sop_instance_uid for found in destination.instances}


def test_move_counts_what_the_destination_answers(serve):
    statuses = {1: 0xA700, 2: 0xB000, 4: 0xB007}
    with collecting(answers=lambda event, number: statuses.get(number, 0)) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, data = _study(pacs)
        responses = _move(pacs, keys)
    assert _final(responses) == (0xB000, (2, 1, 2))
    assert _failed(responses) == sorted(set(data) - {found.sop_instance_uid for found in destination.instances})


def test_move_goes_on_after_the_destination_aborted(serve):
    def answers(event, number):
        if number == 3:
            event.assoc.abort()
        return 0

    with collecting(answers=answers) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, _ = _study(pacs)
        responses = _move(pacs, keys)
    assert _final(responses) == (0xB000, (4, 1, 0))
    assert len(_failed(responses)) == 1


def test_move_to_a_destination_that_rejects(serve):
    with collecting(require_calling=["SOMEBODY"]) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, data = _study(pacs, 2)
        responses = _move(pacs, keys)
    assert _final(responses) == (0xA702, (0, 2, 0))
    assert _failed(responses) == sorted(data)


@pytest.mark.parametrize("accepts", [True, False], ids=["associates", "silent"])
def test_move_to_a_destination_that_never_answers(serve, accepts):
    """Each wait is as short as the settings say; what was not reached is failed, not waited for one by one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        remote = RemoteAE(ae_title="DEST", host="127.0.0.1", port=port, connect_timeout=1.0, response_timeout=0.3)
        pacs = serve(remote_aes=[remote], association_timeout=5.0 if accepts else 0.3)
        keys, data = _study(pacs, 3)
        began = time.monotonic()
        with associated(pacs, STUDY_MOVE) as association:
            responses = association.send_c_move(keys, "DEST", STUDY_MOVE)
            if accepts:
                sock, _ = listener.accept()
                _accept_everything(sock)
            found = list(responses)
        assert time.monotonic() - began < 3
        assert _final(found) == (0xA702, (0, 3, 0))
        assert _failed(found) == sorted(data)
        if accepts:
            sock.close()


def _accept_everything(sock):
    with sock.makefile("rb") as stream:
        kind, length = HEADER.unpack(stream.read(HEADER.size))
        assert kind == PDUType.ASSOCIATE_RQ
        asked = decode_request(stream.read(length))
    results = tuple((context.context_id, 0, context.transfer_syntaxes[0]) for context in asked.contexts)
    sock.sendall(encode_accept(asked, Answer(results, UserInformation(16384, "1.2.3"))))


def test_move_is_cancelled_between_sub_operations(serve):
    move = Command(
        command_field=CommandField.C_MOVE, message_id=9, affected_sop_class_uid=STUDY_MOVE, move_destination="DEST"
    )
    cancel = Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=9)
    cancelled = []

    def answers(event, number):
        if number == 2:
            peer.send(message(1, cancel))
            cancelled.append(number)
        return 0

    with collecting(answers=answers) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, _ = _study(pacs)
        with RawPeer.associated(pacs.address, (STUDY_MOVE, [IMPLICIT])) as peer:
            peer.send(message(1, move, encoded(keys)))
            while (final := peer.read_message().command).status == 0xFF00:
                pass
        assert final.status == 0xFE00
        assert (final.number_of_remaining, final.number_of_completed, final.number_of_failed) == (3, 2, 0)
        assert len(destination.instances) == 2


def test_a_move_whose_requestor_goes_away_stops(serve):
    def answers(event, number):
        if number == 1:
            peer.socket.close()
        return 0

    with collecting(answers=answers) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, _ = _study(pacs, 20)
        move = Command(
            command_field=CommandField.C_MOVE, message_id=9, affected_sop_class_uid=STUDY_MOVE, move_destination="DEST"
        )
        peer = RawPeer.associated(pacs.address, (STUDY_MOVE, [IMPLICIT]))
        peer.send(message(1, move, encoded(keys)))
        assert eventually(lambda: destination.instances and pacs.status()["associations"]["active"] == 0)
        assert len(destination.instances) < 5
