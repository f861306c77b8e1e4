"""C-GET and C-MOVE: bytes, counts and lists of what failed."""

import errno
import os
import socket
import time

import pytest
from datasets import make_study, parse_data_set
from pydicom.uid import ImplicitVRLittleEndian, JPEGLosslessSV1
from servers import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_GET,
    STUDY_MOVE,
    RawPeer,
    associated,
    collecting,
    eventually,
    free_port,
    get,
    message,
    store,
    stored_files,
)
from strategies import encoded, identifier

from pacs_server.config import RemoteAEConfig
from pacs_server.net.associate import decode_request, encode_accept
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import Answer, UserInformation
from pacs_server.net.pdu import HEADER, PDUType
from pacs_server.net.transport import Transport
from pacs_server.scu.link import Requestor

COUNTS = ("Completed", "Failed", "Warning")


# ------------------------------------------------------------------------------------ C-GET


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
    return next(path for path in stored_files(pacs) if sop in path.name)


def test_get_brings_the_bytes_that_were_stored(serve):
    pacs = serve()
    keys, data = _study(pacs)
    responses, got = get(pacs, keys)
    assert dict(got) == data
    assert len(got) == 5
    statuses = [response.Status for response, _ in responses]
    assert statuses == [0xFF00] * 4 + [0]
    assert [response.NumberOfRemainingSuboperations for response, _ in responses[:-1]] == [4, 3, 2, 1]
    assert "NumberOfRemainingSuboperations" not in responses[-1][0]
    assert _counts(responses[-1][0]) == (5, 0, 0)
    assert responses[-1][1] is None


def test_pending_responses_of_a_get_cost_no_writes(serve, monkeypatch):
    pacs = serve()
    keys, data = _study(pacs)
    written = []
    send = Transport.send

    def counted(transport, buffers, timeout):
        written.append(b"".join(buffers))
        send(transport, buffers, timeout)

    monkeypatch.setattr(Transport, "send", counted)
    responses, got = get(pacs, keys)
    assert (len(responses), len(got)) == (5, 5)
    # P-DATA: the instances, each but the first behind a pending response, and the final response.
    assert len([write for write in written if write[0] == 4]) == len(data) + 1


def test_get_of_nothing_is_success(serve):
    responses, got = get(serve(), identifier("STUDY", StudyInstanceUID="1.2.3"))
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
    responses, got = get(pacs, keys)
    assert dict(got) == {sop: value for sop, value in data.items() if sop != lost}
    assert (responses[-1][0].Status, _counts(responses[-1][0])) == (0xB000, (4, 1, 0))
    assert _failed(responses) == [lost]


def test_get_without_any_file_is_a_failure(serve):
    pacs = serve()
    keys, data = _study(pacs)
    for sop in data:
        _stored_file(pacs, sop).unlink()
    responses, _ = get(pacs, keys)
    assert (responses[-1][0].Status, _counts(responses[-1][0])) == (0xA702, (0, 5, 0))
    assert _failed(responses) == sorted(data)


def test_get_counts_what_the_peer_answers(serve):
    pacs = serve()
    keys, _ = _study(pacs)
    responses, got = get(pacs, keys, answers=lambda number: {2: 0xA700, 3: 0xB000}.get(number, 0))
    assert (responses[-1][0].Status, _counts(responses[-1][0])) == (0xB000, (3, 1, 1))
    assert _failed(responses) == [got[1][0]]


def test_get_without_the_scp_role_fails_for_each(serve):
    pacs = serve()
    keys, data = _study(pacs, 2)
    responses, got = get(pacs, keys, role=False)
    assert (responses[-1][0].Status, got, _failed(responses)) == (0xA702, [], sorted(data))
    request = Command(command_field=CommandField.C_GET, message_id=9, affected_sop_class_uid=STUDY_GET)
    with RawPeer.associated(pacs.address, (STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT])) as peer:
        peer.send(message(1, request, encoded(keys)))
        answers = [peer.read_message().command for _ in range(2)]
    # Not one C-STORE request goes out.
    assert [(answer.command_field, answer.status) for answer in answers] == [(0x8010, 0xFF00), (0x8010, 0xA702)]


def test_get_transcodes_for_a_peer_that_takes_only_implicit(serve):
    pacs = serve()
    keys, data = _study(pacs, 1)
    responses, got = get(pacs, keys, syntaxes=(IMPLICIT,))
    assert responses[-1][0].Status == 0
    assert encoded(parse_data_set(got[0][1], IMPLICIT), EXPLICIT) == data[got[0][0]]


def test_get_for_a_peer_that_takes_only_what_cannot_be_made_says_so(serve, caplog):
    pacs = serve()
    keys, data = _study(pacs, 1)
    responses, got = get(pacs, keys, syntaxes=(JPEGLosslessSV1,))
    assert (responses[-1][0].Status, got, _failed(responses)) == (0xA702, [], sorted(data))
    [line] = [vars(record) for record in caplog.records if record.message == "instance not sent"]
    assert line["reason"] == (
        "it is stored in Explicit VR Little Endian, and the receiver takes its SOP class only in "
        f"{JPEGLosslessSV1.name}"
    )


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


def test_a_move_of_one_instance_has_a_pending_response_too(serve):
    """GDCM, requester and destination in one, answers the release of the sub-operations only after one."""
    with collecting() as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, _ = _study(pacs, 1)
        responses = _move(pacs, keys)
    assert [response.Status for response, _ in responses] == [0xFF00, 0]
    assert responses[0][0].NumberOfRemainingSuboperations == 0
    assert [_counts(response) for response, _ in responses] == [(1, 0, 0), (1, 0, 0)]


def test_move_to_a_destination_that_takes_only_implicit(serve):
    with collecting(syntaxes=[ImplicitVRLittleEndian]) as destination:
        pacs = serve(remote_aes=[destination.remote])
        keys, data = _study(pacs, 2)
        assert _final(_move(pacs, keys)) == (0, (2, 0, 0))
    for found in destination.instances:
        assert found.transfer_syntax == IMPLICIT
        assert encoded(parse_data_set(found.data, IMPLICIT), EXPLICIT) == data[found.sop_instance_uid]


def test_move_of_nothing_and_to_nobody(serve):
    nobody = RemoteAEConfig(ae_title="NOBODY", host="127.0.0.1", port=free_port(), connect_timeout=60.0)
    nowhere = RemoteAEConfig(ae_title="NOWHERE", host="no..host", port=104)
    pacs = serve(remote_aes=[nobody, nowhere])
    keys, data = _study(pacs, 3)
    assert _final(_move(pacs, identifier("STUDY", StudyInstanceUID="1.2.3"), "NOBODY")) == (0, (0, 0, 0))
    assert [response.Status for response, _ in _move(pacs, keys, "UNKNOWN")] == [0xA801]
    for title in ("NOBODY", "NOWHERE"):
        began = time.monotonic()
        responses = _move(pacs, keys, title)
        assert time.monotonic() - began < 30
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
        remote = RemoteAEConfig(ae_title="DEST", host="127.0.0.1", port=port, connect_timeout=1.0, response_timeout=0.3)
        pacs = serve(remote_aes=[remote], association_timeout=5.0 if accepts else 0.3)
        keys, data = _study(pacs, 3)
        began = time.monotonic()
        with associated(pacs, STUDY_MOVE) as association:
            responses = association.send_c_move(keys, "DEST", STUDY_MOVE)
            if accepts:
                sock, _ = listener.accept()
                _accept_everything(sock)
            found = list(responses)
        assert time.monotonic() - began < 10
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


def test_a_move_to_a_silent_destination_does_not_delay_the_shutdown(serve, monkeypatch):
    """Its peer gets an A-ABORT, and no response that counts instances as failed because the server ends."""
    kill = Requestor.kill

    def kill_and_wait(requestor):
        kill(requestor)
        # Time for the C-MOVE to tell its peer, if it still could.
        time.sleep(0.2)

    monkeypatch.setattr(Requestor, "kill", kill_and_wait)
    move = Command(
        command_field=CommandField.C_MOVE, message_id=9, affected_sop_class_uid=STUDY_MOVE, move_destination="DEST"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        remote = RemoteAEConfig(
            ae_title="DEST", host="127.0.0.1", port=listener.getsockname()[1], response_timeout=60.0
        )
        pacs = serve(remote_aes=[remote], shutdown_timeout=0.3)
        keys, _ = _study(pacs, 2)
        with RawPeer.associated(pacs.address, (STUDY_MOVE, [IMPLICIT])) as peer:
            peer.send(message(1, move, encoded(keys)))
            sock, _ = listener.accept()
            with sock:
                _accept_everything(sock)
                assert sock.recv(1)
                began = time.monotonic()
                pacs.stop()
                assert time.monotonic() - began < 30
            assert peer.read_pdu()[0] == PDUType.ABORT
