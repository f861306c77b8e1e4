"""Peers that have several requests outstanding, as the asynchronous operations window allows (PS3.7 D.3.3.3)."""

import threading
from contextlib import suppress
from typing import Any

import pytest
from datasets import make_ct
from rawpeer import Instance
from servers import (
    AT_REST,
    CT,
    EXPLICIT,
    IMPLICIT,
    PATIENT_SECONDS,
    STUDY_FIND,
    VERIFICATION,
    RawPeer,
    echo_request,
    eventually,
    message,
    proposal,
    server_threads,
    store,
    store_request,
    stored_files,
)

from pacs_server.net.message import Command, CommandField
from pacs_server.net.pdu import RELEASE_RQ, PDUType, encode_abort
from pacs_server.net.transport import Transport
from pacs_server.scp.contexts import WINDOW
from pacs_server.scp.store import StorageSCP

CONTEXTS = ((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT]))


def _peer(pacs: Any, *contexts: Any, asked: tuple[int, int] | None = (0, 0)) -> tuple[RawPeer, Any]:
    """A peer that asks for a window, and the one that it was granted."""
    peer = RawPeer(pacs.address)
    answer = peer.associate(proposal(*(contexts or CONTEXTS), async_operations=asked))
    return peer, answer.user.async_operations


def _instances(count: int) -> list[Instance]:
    ds = make_ct(rows=4, columns=4)
    instances = []
    for number in range(count):
        ds.SOPInstanceUID = f"{ds.StudyInstanceUID}.{number}"
        instances.append(Instance.of(ds))
    return instances


def _request(instance: Instance, message_id: int) -> bytes:
    return message(3, store_request(instance.sop_instance_uid, message_id), instance.data)


def _requests(instances: list[Instance]) -> bytes:
    return b"".join(_request(instance, number) for number, instance in enumerate(instances, 1))


def _answers(peer: RawPeer, count: int) -> list[tuple[int | None, int | None, str | None]]:
    commands = [peer.read_message().command for _ in range(count)]
    return [(each.message_id_being_responded_to, each.status, each.affected_sop_instance_uid) for each in commands]


def _successes(instances: list[Instance]) -> list[tuple[int, int, str]]:
    return [(number, 0, instance.sop_instance_uid) for number, instance in enumerate(instances, 1)]


@pytest.mark.parametrize("times", [1, 4])
def test_requests_ahead_are_answered_in_order_even_more_than_were_granted(serve, times):
    pacs = serve()
    instances = _instances(times * WINDOW)
    peer, granted = _peer(pacs)
    with peer:
        assert granted == (WINDOW, 1)
        peer.send(_requests(instances))
        assert _answers(peer, len(instances)) == _successes(instances)
        peer.release()
    assert sorted(path.stem for path in stored_files(pacs)) == sorted(each.sop_instance_uid for each in instances)


def test_one_that_fails_does_not_harm_those_around_it(serve):
    pacs = serve()
    first, second, third = _instances(3)
    peer, _ = _peer(pacs)
    with peer:
        bad = message(3, store_request(second.sop_instance_uid, 2), b"junk")
        peer.send(_request(first, 1) + bad + message(1, echo_request(7)) + _request(third, 3))
        answers = _answers(peer, 4)
    assert [number for number, _, _ in answers] == [1, 2, 7, 3]
    assert [status for _, status, _ in answers] == [0, 0xC000, 0, 0]


@pytest.mark.parametrize(
    ("contexts", "asked", "granted"),
    [
        (CONTEXTS, None, None),
        (CONTEXTS, (1, 1), (1, 1)),
        (CONTEXTS, (5, 3), (5, 1)),
        ((*CONTEXTS, (STUDY_FIND, [IMPLICIT])), (0, 0), (1, 1)),
    ],
)
def test_more_than_one_is_granted_if_it_is_asked_for_and_nothing_but_storage_is_accepted(
    serve, contexts, asked, granted
):
    peer, found = _peer(serve(), *contexts, asked=asked)
    with peer:
        assert found == granted
        assert peer.echo() == 0
        peer.release()


def test_answers_are_not_held_back(serve, monkeypatch):
    """The first answer comes while the second request is worked on."""
    arrived, go_on = threading.Event(), threading.Event()
    answer = StorageSCP.__call__
    number = iter((1, 2))

    def slow(self: StorageSCP, association: Any, asked: Any) -> Any:
        if next(number) == 2:
            arrived.set()
            assert go_on.wait(60)
        return answer(self, association, asked)

    monkeypatch.setattr(StorageSCP, "__call__", slow)
    instances = _instances(2)
    peer, _ = _peer(serve())
    with peer:
        peer.send(_requests(instances))
        assert _answers(peer, 1) == _successes(instances)[:1]
        assert arrived.wait(60)
        go_on.set()
        assert _answers(peer, 1) == _successes(instances)[1:]


def test_what_is_sent_beyond_all_bounds_waits_at_the_peer(serve, monkeypatch):
    """The server reads no request before the last one is answered, so TCP holds the peer back."""
    go_on = threading.Event()
    answer = StorageSCP.__call__
    monkeypatch.setattr(StorageSCP, "__call__", lambda *args: go_on.wait(60) and answer(*args))
    ds = make_ct(rows=256, columns=256)
    request = _request(Instance.of(ds), 1)
    peer, _ = _peer(serve())
    with peer:
        sent = _send_until_held_back(peer, request, 500)
        go_on.set()
        assert 0 < sent < 500
        assert _answers(peer, sent) == [(1, 0, ds.SOPInstanceUID)] * sent


def _send_until_held_back(peer: RawPeer, request: bytes, most: int) -> int:
    """How many whole requests went out before the connection took no more; half of another one may have."""
    peer.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < most:
            peer.send(request)
            sent += 1
    peer.socket.settimeout(PATIENT_SECONDS)
    return sent


def test_a_release_waits_for_the_answers(serve):
    pacs = serve()
    instances = _instances(8)
    peer, _ = _peer(pacs)
    with peer:
        peer.send(_requests(instances) + RELEASE_RQ)
        assert _answers(peer, 8) == _successes(instances)
        assert peer.read_pdu()[0] == PDUType.RELEASE_RP
        assert peer.ending() == "closed"


@pytest.mark.parametrize("how", ["abort", "half a request", "nothing more"])
def test_a_peer_that_goes_away_before_the_answers_leaves_whole_instances_or_none(serve, how):
    """The fixture finds that no thread and no half received file is left."""
    pacs = serve()
    instances = _instances(12)
    peer, _ = _peer(pacs)
    last = {"abort": encode_abort(), "half a request": _request(instances[11], 12)[:-20], "nothing more": b""}
    with peer:
        peer.send(_requests(instances[:11]) + last[how])
    assert eventually(lambda: server_threads() == AT_REST)
    names = {path.stem for path in stored_files(pacs)}
    assert names <= {each.sop_instance_uid for each in instances[:11]}
    assert pacs.status()["counts"]["instances"] == len(names)
    assert store(pacs, make_ct()) == [0]


def test_requests_ahead_that_the_window_allows_do_not_wait_for_others(serve, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(Transport, "pause", lambda self, seconds: pauses.append(seconds))
    pacs = serve()
    instances = _instances(30)
    peer, _ = _peer(pacs)
    with peer:
        peer.send(_requests(instances))
        assert _answers(peer, 30) == _successes(instances)
        assert pauses == []
        # What costs the peer nothing and the server not much less than a stored instance is no reason for a window.
        peer.send(message(1, echo_request()) * 30)
        assert [status for _, status, _ in _answers(peer, 30)] == [0] * 30
    assert pauses == [0.002] * 2


def test_requests_ahead_without_a_window_wait_for_others(serve, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(Transport, "pause", lambda self, seconds: pauses.append(seconds))
    instances = _instances(30)
    peer, granted = _peer(serve(), asked=None)
    with peer:
        assert granted is None
        peer.send(_requests(instances))
        assert _answers(peer, 30) == _successes(instances)
    assert pauses
    assert set(pauses) == {0.002}


def test_a_cancel_among_them_cancels_nothing(serve):
    instances = _instances(2)
    cancel = message(3, Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=2))
    peer, _ = _peer(serve())
    with peer:
        peer.send(_requests(instances) + cancel + message(1, echo_request(3)))
        assert _answers(peer, 2) == _successes(instances)
        assert peer.read_message().command.status == 0
