"""Peers that mean well and do it wrong: those we send to, those we report to, and those who call too often."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import servers
from datasets import make_study, uid
from hostile.payloads import keys, references, step
from hostile.peers import CONTEXT, MPPS, SERVICES, command
from pydicom.dataset import Dataset
from receivers import (
    ABORT,
    TIMEOUT,
    Accept,
    Received,
    Script,
    aborts,
    accept,
    answered,
    bare,
    closes,
    cut,
    in_bytes,
    late,
    never,
    of_another,
    on,
    out_of_order,
    receiving,
    releases,
    resets,
    status,
    twice,
    with_data,
)
from servers import CT, EXPLICIT, IMPLICIT, STUDY_GET, STUDY_MOVE, VERIFICATION, RawPeer, eventually, message, proposal
from strategies import encoded

from pacs_server.app.server import PacsServer
from pacs_server.config import CommitmentConfig
from pacs_server.index.commitment import CommitmentStatus
from pacs_server.net.associate import encode_request
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import Answer, Proposal, UserInformation
from pacs_server.net.pdu import RELEASE_RQ, PDUType

COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"


# ------------------------------------------------------------------------------------ C-MOVE

# Of four instances: the script, the final status, completed, failed and warned, and which failed.
ONE_FAILED = (0xB000, (3, 1, 0), [2])
MOVES: dict[str, tuple[Script, tuple[int, tuple[int, int, int], list[int]]]] = {
    "no room": (on(2, status(0xA700)), ONE_FAILED),
    "duplicate": (on(2, status(0x0111)), ONE_FAILED),
    "warnings": (status(0xB000), (0xB000, (0, 0, 4), [])),
    "one warning": (on(3, status(0xB007)), (0xB000, (3, 0, 1), [])),
    "coerced": (on(3, status(0xB006)), (0xB000, (3, 0, 1), [])),
    "not understood": (on(2, status(0xC123)), ONE_FAILED),
    "cancelled": (on(2, status(0xFE00)), ONE_FAILED),
    "unknown status": (on(2, status(0x1234)), ONE_FAILED),
    "pending": (on(2, status(0xFF00)), ONE_FAILED),
    "no status": (on(2, status(None)), ONE_FAILED),
    "another message's id": (on(2, lambda received: received.answer(skew=7)), ONE_FAILED),
    "bare": (bare, (0, (4, 0, 0), [])),
    "of another instance": (of_another, (0, (4, 0, 0), [])),
    "with a data set": (with_data, (0, (4, 0, 0), [])),
    # That of an echo, to the same message ID.
    "of another kind": (on(2, lambda received: received.answer(command_field=0x8030)), ONE_FAILED),
    "out of order": (on(2, out_of_order), ONE_FAILED),
    "twice": (on(2, twice), (0xB000, (3, 1, 0), [3])),
    "never": (on(2, never), ONE_FAILED),
    "late": (on(2, late), ONE_FAILED),
    "aborts": (on(2, aborts), ONE_FAILED),
    "closes": (on(2, closes), ONE_FAILED),
    "resets": (on(2, resets), ONE_FAILED),
    "releases": (on(2, releases), ONE_FAILED),
    "at the last": (on(4, closes), (0xB000, (3, 1, 0), [4])),
    "at once": (closes, (0xA702, (0, 4, 0), [1, 2, 3, 4])),
    "in bytes": (in_bytes, (0, (4, 0, 0), [])),
}


def move(pacs: PacsServer, instances: Sequence[Dataset]) -> tuple[Command, list[str]]:
    """Move the study to DEST, over an association that still serves then: the final response, and what failed."""
    with RawPeer.associated(pacs.address, (VERIFICATION, [IMPLICIT]), (STUDY_MOVE, [IMPLICIT])) as peer:
        outcome = ask_for_move(peer, instances)
        assert peer.echo() == 0
        peer.release()
    return outcome


def ask_for_move(peer: RawPeer, instances: Sequence[Dataset]) -> tuple[Command, list[str]]:
    request = Command(CommandField.C_MOVE, message_id=9, affected_sop_class_uid=STUDY_MOVE, priority=0)
    request.move_destination = "DEST"
    study = str(instances[0].StudyInstanceUID)
    peer.send(message(3, request, keys("STUDY", {0x0020000D: ("UI", study)})))
    while (reply := peer.read_message()).command.status == 0xFF00:
        # PS3.4 C.4.2.1.4.2: no list of what failed in between, and the counts always add up.
        assert reply.data == b""
        assert sum(number or 0 for number in counts(reply.command)) + left(reply.command) == len(instances)
    # (0008,0058) in Implicit VR, nothing else.
    failed = reply.data[8:].rstrip(b"\0").decode()
    return reply.command, failed.split("\\") if failed else []


def patience_with(name: str) -> float:
    """How long to wait for the answers of a script: as short as can be only where none comes in time."""
    return TIMEOUT if name in ("never", "late") else servers.PATIENT_SECONDS


def left(pending: Command) -> int:
    assert pending.number_of_remaining
    return pending.number_of_remaining


def counts(final: Command) -> tuple[int | None, int | None, int | None]:
    return final.number_of_completed, final.number_of_failed, final.number_of_warning


def uids(instances: Sequence[Dataset]) -> list[str]:
    return [str(ds.SOPInstanceUID) for ds in instances]


@pytest.mark.parametrize("name", MOVES)
def test_a_move_counts_exactly_what_its_destination_did(serve: Callable[..., PacsServer], name: str) -> None:
    script, (final_status, numbers, failed) = MOVES[name]
    with receiving(script, response_timeout=patience_with(name)) as (_, remote):
        pacs = serve(remote_aes=[remote])
        instances = make_study(1, 4)
        assert servers.store(pacs, *instances) == [0] * 4
        began = time.monotonic()
        final, failures = move(pacs, instances)
        assert time.monotonic() - began < 30
    assert (final.status, counts(final)) == (final_status, numbers)
    assert failures == [uids(instances)[number - 1] for number in failed]
    assert final.number_of_remaining is None


# Small instances are under way whole before the destination ends, large ones are not.
CUTS = {"small": (1, range(0, 541, 45)), "large": (1200, (0, 1000, 131_072, 1_500_000))}


@pytest.mark.parametrize("size", CUTS)
@pytest.mark.parametrize("then", [aborts, closes, resets])
def test_a_destination_that_ends_anywhere_in_an_instance(
    serve: Callable[..., PacsServer], then: Script, size: str
) -> None:
    rows, offsets = CUTS[size]
    places: list[int] = []
    with receiving(cut(places, then)) as (_, remote):
        pacs = serve(remote_aes=[remote])
        instances = make_study(1, 4, Rows=rows, Columns=rows, PixelData=bytes(2 * rows * rows))
        assert servers.store(pacs, *instances) == [0] * 4
        for at in offsets:
            places.append(at)
            final, failures = move(pacs, instances)
            assert (final.status, counts(final), failures) == (0xB000, (3, 1, 0), uids(instances)[1:2]), at


@pytest.mark.parametrize("farewell", [b"", ABORT, RELEASE_RQ], ids=["never", "aborts", "releases"])
def test_how_a_destination_takes_its_leave_changes_nothing(serve: Callable[..., PacsServer], farewell: bytes) -> None:
    with receiving(farewell=farewell) as (_, remote):
        pacs = serve(remote_aes=[remote], network_timeout=0.5)
        instances = make_study(1, 2)
        assert servers.store(pacs, *instances) == [0] * 2
        final, failures = move(pacs, instances)
    assert (final.status, counts(final), failures) == (0, (2, 0, 0), [])


@pytest.mark.parametrize("then", [never, closes])
def test_a_move_that_is_cancelled_while_its_destination_fails(serve: Callable[..., PacsServer], then: Script) -> None:
    def cancelling(received: Received) -> None:
        peer.send(message(3, Command(CommandField.C_CANCEL, message_id_being_responded_to=9)))
        then(received)

    with receiving(on(2, cancelling), response_timeout=patience_with(then.__name__)) as (receiver, remote):
        pacs = serve(remote_aes=[remote])
        instances = make_study(1, 4)
        servers.store(pacs, *instances)
        with RawPeer.associated(pacs.address, (VERIFICATION, [IMPLICIT]), (STUDY_MOVE, [IMPLICIT])) as peer:
            final, failed = ask_for_move(peer, instances)
    assert (final.status, counts(final), final.number_of_remaining) == (0xFE00, (1, 1, 0), 2)
    assert failed == uids(instances)[1:2]
    # Nothing was sent any more.
    assert receiver.requests == 2


def nothing(asked: Proposal) -> Answer:
    return Answer(tuple((context.context_id, 3, IMPLICIT) for context in asked.contexts), UserInformation(0, "1.2.3"))


def unproposed(asked: Proposal) -> Answer:
    proposed = [(context.context_id, IMPLICIT in context.transfer_syntaxes) for context in asked.contexts]
    results = tuple((number, 4 if right else 0, IMPLICIT) for number, right in proposed)
    return Answer(results, UserInformation(16384, "1.2.3"))


def implicit_only(asked: Proposal) -> Answer:
    takes = [(context.context_id, IMPLICIT in context.transfer_syntaxes) for context in asked.contexts]
    results = tuple((number, 0 if taken else 4, IMPLICIT) for number, taken in takes)
    return Answer(results, UserInformation(16384, "1.2.3"))


@pytest.mark.parametrize(
    ("accepting", "completed"),
    [(nothing, 0), (unproposed, 0), (implicit_only, 2)],
    ids=["nothing", "unproposed", "implicit only"],
)
def test_a_move_to_who_takes_little(serve: Callable[..., PacsServer], accepting: Accept, completed: int) -> None:
    with receiving(accepting=accepting) as (receiver, remote):
        pacs = serve(remote_aes=[remote])
        instances = make_study(1, 2)
        servers.store(pacs, *instances)
        final, failures = move(pacs, instances)
    assert (final.status, counts(final)) == ((0, (2, 0, 0)) if completed else (0xA702, (0, 2, 0)))
    assert failures == ([] if completed else uids(instances))
    assert len(receiver.data) == completed


@pytest.mark.parametrize("max_pdu", [64, 65, 127, 1001, 0, 2**32 - 1])
def test_a_move_in_pdus_of_any_size(serve: Callable[..., PacsServer], max_pdu: int) -> None:
    with receiving(accepting=lambda asked: accept(asked, max_pdu)) as (receiver, remote):
        pacs = serve(remote_aes=[remote])
        instances = make_study(1, 2)
        servers.store(pacs, *instances)
        final, _ = move(pacs, instances)
    assert (final.status, counts(final)) == (0, (2, 0, 0))
    assert max(receiver.sizes) <= (max_pdu or 2**32)
    # PS3.8 E.2: fragments are of even length.
    assert {size % 2 for size in receiver.sizes} == {0}
    assert receiver.data == {str(ds.SOPInstanceUID): encoded(ds, EXPLICIT) for ds in instances}


# ------------------------------------------------------------------------------------ reports

TAKEN_AT_ONCE = {"well": answered, "warning": status(0xB000), "odd warning": status(0x0116), "in bytes": in_bytes}
TAKEN_LATER = {
    **{
        "no room": status(0xA700),
        "refused": status(0x0110),
        "unknown status": status(0x1234),
        "no status": status(None),
    },
    **{"another message's id": lambda received: received.answer(skew=7), "no status": status(None)},
    **{"never": never, "late": late, "aborts": aborts, "closes": closes, "resets": resets, "releases": releases},
}


@pytest.mark.parametrize("name", [*TAKEN_AT_ONCE, *TAKEN_LATER])
def test_a_report_is_delivered_whatever_becomes_of_its_first_try(tmp_path: Any, name: str) -> None:
    script = TAKEN_AT_ONCE.get(name) or on(1, TAKEN_LATER[name])
    with receiving(script, response_timeout=patience_with(name)) as (receiver, remote):
        base = servers.config(tmp_path, remote_aes=[remote])
        quick = CommitmentConfig(retry_first=0.1, retry_max=0.2, same_association=False)
        with servers.running(base.model_copy(update={"commitment": quick})) as pacs:
            instances = make_study(1, 2)
            servers.store(pacs, *instances)
            request = Command(CommandField.N_ACTION, message_id=1, requested_sop_class_uid=COMMITMENT)
            request.requested_sop_instance_uid, request.action_type_id = COMMITMENT_INSTANCE, 1
            with RawPeer.associated(pacs.address, (COMMITMENT, [EXPLICIT]), calling="DEST") as peer:
                peer.send(message(1, request, references(uids(instances), str(uid()))))
                assert peer.read_message().command.status == 0
                peer.release()
            assert eventually(lambda: _reported(pacs))
            tries = pacs.archive.commitment.summaries(everything=True, limit=2)[0].transaction.attempts
        # Again after one that failed, and never again after one that was taken.
        assert receiver.requests == tries == (1 if name in TAKEN_AT_ONCE else 2)


def _reported(pacs: PacsServer) -> bool:
    found = pacs.archive.commitment.summaries(everything=True, limit=2)
    return [summary.transaction.status for summary in found] == [CommitmentStatus.REPORTED]


# ------------------------------------------------------------------------------------ reconnecting

STORM_SECONDS, STORM_RATE, PLACES = 2.0, 200, 6


class Storm:
    """Peers that associate, and go away as they like, over and over; how often they were accepted and rejected."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._lock = threading.Lock()
        self.ended = {True: 0, False: 0}
        self.stop = threading.Event()

    def reconnect(self, seed: int) -> None:
        choices = random.Random(seed)
        held: list[RawPeer] = []
        while not self.stop.wait(4 / STORM_RATE):
            peer = RawPeer(self._address)
            peer.send(encode_request(proposal((CT, [EXPLICIT]), calling="STORM")))
            accepted = peer.read_pdu()[0] == PDUType.ASSOCIATE_AC
            with self._lock:
                self.ended[accepted] += 1
            held.append(peer)
            # A few stay for a while, so that the places run out.
            if len(held) > 3:
                _leave(held.pop(choices.randrange(len(held))), choices.randrange(3))
        for peer in held:
            _leave(peer, 0)


@pytest.mark.alone
def test_a_storm_of_reconnects_costs_the_others_nothing(serve: Callable[..., PacsServer]) -> None:
    pacs = serve(max_associations=PLACES)
    storm = Storm(pacs.address)
    threads = [threading.Thread(target=storm.reconnect, args=(seed,)) for seed in range(4)]
    with RawPeer.associated(pacs.address) as neighbour:
        for thread in threads:
            thread.start()
        began, times = time.monotonic(), []
        while time.monotonic() - began < STORM_SECONDS:
            at = time.monotonic()
            assert neighbour.echo() == 0
            times.append(time.monotonic() - at)
        storm.stop.set()
        for thread in threads:
            thread.join(servers.PATIENT_SECONDS)
        assert not any(thread.is_alive() for thread in threads)
        assert max(times) < 3
        assert len(times) > 50
        assert min(storm.ended.values()) > 10, storm.ended
        assert eventually(lambda: pacs.status()["associations"]["connections"] == 1)
        assert pacs.status()["associations"]["active"] == 1
        # All places came back, no more and no fewer.
        with contextlib.ExitStack() as stack:
            for _ in range(PLACES - 1):
                stack.enter_context(RawPeer.associated(pacs.address))
            one_more = stack.enter_context(RawPeer(pacs.address))
            one_more.send(encode_request(proposal((CT, [EXPLICIT]))))
            assert one_more.read_pdu()[0] == PDUType.ASSOCIATE_RJ
        assert neighbour.echo(2) == 0


def _leave(peer: RawPeer, how: int) -> None:
    with contextlib.suppress(OSError):
        if how == 1:
            peer.send(ABORT)
        elif how == 2:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


# ------------------------------------------------------------------------------------ C-GET

GET_STATUSES = {
    **{"no room": (0xA700, "failed"), "duplicate": (0x0111, "failed"), "not understood": (0xC000, "failed")},
    **{"cancelled": (0xFE00, "failed"), "pending": (0xFF00, "failed"), "none": (None, "failed")},
    **{"coerced": (0xB006, "warning"), "elements discarded": (0xB007, "warning")},
}


@contextlib.contextmanager
def getting(pacs: PacsServer, instances: Sequence[Dataset]) -> Iterator[RawPeer]:
    """A peer that has asked for a study, and has answered the first instance of it."""
    contexts = ((STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT]), (VERIFICATION, [IMPLICIT]))
    with RawPeer.associated(pacs.address, *contexts, roles={CT: (True, True)}) as peer:
        request = Command(CommandField.C_GET, message_id=9, affected_sop_class_uid=STUDY_GET, priority=0)
        study = str(instances[0].StudyInstanceUID)
        peer.send(message(1, request, keys("STUDY", {0x0020000D: ("UI", study)})))
        next_of(peer).answer()
        yield peer


def next_of(peer: RawPeer) -> Received:
    """The next instance of a C-GET."""
    while (reply := peer.read_message()).command.command_field != CommandField.C_STORE:
        assert reply.command.status == 0xFF00
    return Received(0, peer, reply.context_id, reply.command)


@pytest.mark.parametrize("name", GET_STATUSES)
def test_a_get_counts_exactly_what_its_peer_did(serve: Callable[..., PacsServer], name: str) -> None:
    answer, counted = GET_STATUSES[name]
    pacs = serve()
    instances = make_study(1, 3)
    servers.store(pacs, *instances)
    with getting(pacs, instances) as peer:
        next_of(peer).answer(answer)
        next_of(peer).answer()
        final = peer.read_message()
        peer.release()
    assert final.command.status == 0xB000
    assert counts(final.command) == (2, counted == "failed", counted == "warning")
    assert final.data[8:].rstrip(b"\0").decode() == (uids(instances)[1] if counted == "failed" else "")


GET_ENDS: dict[str, Script] = {
    **{"another message's id": lambda received: received.answer(skew=7), "never": lambda received: None},
    **{"twice": twice, "aborts": aborts, "closes": closes, "resets": resets, "releases": releases},
}


@pytest.mark.parametrize("name", GET_ENDS)
def test_a_get_ends_with_the_association_on_which_it_cannot_go_on(serve: Callable[..., PacsServer], name: str) -> None:
    pacs = serve(idle_timeout=0.5)
    instances = make_study(1, 4)
    servers.store(pacs, *instances)
    with getting(pacs, instances) as peer, contextlib.suppress(EOFError):
        GET_ENDS[name](next_of(peer))
        assert peer.ending() in ("abort 0 0", "abort 2 2")
    assert eventually(lambda: pacs.status()["associations"]["connections"] == 0)
    with RawPeer.associated(pacs.address) as other:
        assert other.echo() == 0


# ------------------------------------------------------------------------------------ nothing in it

# A data set of no bytes, and none at all: the status of each.
EMPTY = {
    "store": (0xC000, 0xC000),
    "find": (0xA900, 0xA900),
    "move": (0xA900, 0xA900),
    "get": (0xA900, 0xA900),
    # Every key is optional there, so that this is a query for all.
    "worklist": (0, 0xA900),
    "mpps": (0x0120, 0x0120),
    "commitment": (0x0115, 0x0115),
}


@pytest.mark.parametrize("service", EMPTY)
def test_data_sets_with_nothing_in_them(serve: Callable[..., PacsServer], service: str) -> None:
    with receiving() as (_, remote):
        pacs = serve(remote_aes=[remote])
        with RawPeer.associated(pacs.address, *((name, [syntax]) for name, syntax in SERVICES.values())) as peer:
            request = command(service, **({"move_destination": "DEST"} if service == "move" else {}))
            for data, expected in zip((b"", None), EMPTY[service], strict=True):
                peer.send(message(CONTEXT[service], request, data))
                assert peer.read_message().command.status == expected
            assert peer.echo() == 0
            peer.release()
    assert pacs.status()["counts"]["instances"] == 0


def test_a_procedure_step_is_set_to_nothing_new(serve: Callable[..., PacsServer]) -> None:
    pacs = serve()
    made = command("mpps", affected_sop_instance_uid="1.2.3.9")
    change = Command(CommandField.N_SET, message_id=1, requested_sop_class_uid=MPPS)
    change.requested_sop_instance_uid = "1.2.3.9"
    with RawPeer.associated(pacs.address, *((name, [syntax]) for name, syntax in SERVICES.values())) as peer:
        statuses = []
        for request, data in ((made, step()), (change, b""), (change, None)):
            peer.send(message(CONTEXT["mpps"], request, data))
            statuses.append(peer.read_message().command.status)
        assert statuses == [0, 0, 0]
        peer.release()
