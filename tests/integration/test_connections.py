"""Threads that wait for connections, and addresses whose connections come to nothing."""

import contextlib
import threading
from collections.abc import Callable
from functools import partial

import pytest
from servers import AT_REST, CT, EXPLICIT, RawPeer, eventually, proposal, server_threads

from pacs_server.app.server import PacsServer
from pacs_server.net.associate import encode_request
from pacs_server.net.limits import PenaltyQueue
from pacs_server.net.listener import WAITING_THREADS
from pacs_server.net.pdu import encode_abort

Serve = Callable[..., PacsServer]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that were started."""
    names: list[str] = []
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", counted)
    return names


def _associations(pacs: PacsServer, count: int) -> None:
    for _ in range(count):
        with RawPeer.associated(pacs.address) as peer:
            assert peer.echo() == 0
            peer.release()


def test_one_association_after_the_other_needs_no_new_thread(serve: Serve, started: list[str]) -> None:
    pacs = serve()
    before = started.count("listener")
    _associations(pacs, 30)
    assert before == WAITING_THREADS
    assert started.count("listener") == before


def test_peers_of_ipv4_are_known_on_a_socket_for_both(serve: Serve) -> None:
    pacs = serve(host="::")
    with RawPeer.associated(("127.0.0.1", pacs.address[1])):
        # The peer has its answer a moment before the association is counted among those that stand.
        assert eventually(lambda: [each.address for each in pacs._connections.established_now()] == ["127.0.0.1"])


def test_silent_peers_leave_somebody_who_waits_and_all_go_again(serve: Serve) -> None:
    pacs = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(5 * WAITING_THREADS):
            stack.enter_context(RawPeer(pacs.address))
        _associations(pacs, 3)
        assert eventually(lambda: sum(name.startswith("peer-") for name in server_threads()) == 5 * WAITING_THREADS)
    assert eventually(lambda: server_threads() == AT_REST)


def test_without_threads_peers_are_refused_and_later_served(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    pacs = serve()

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            held = [stack.enter_context(RawPeer.associated(pacs.address)) for _ in range(WAITING_THREADS - 1)]
            for _ in range(5):
                with RawPeer(pacs.address) as peer:
                    assert peer.ending() == "closed"
            assert all(peer.echo() == 0 for peer in held)
        _associations(pacs, 1)
    assert b'reason="threads"} 5.0' in pacs.metrics.render()


# ------------------------------------------------------------------------------------ penalties


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long connections had to wait for their turn; they do not really."""
    seconds: list[float] = []
    # So long that the test is there in time.
    monkeypatch.setattr("pacs_server.scp.entity.PenaltyQueue", partial(PenaltyQueue, factor=1e6))
    monkeypatch.setattr("pacs_server.scp.entity.pause", lambda sock, wait: seconds.append(wait))
    return seconds


def _rude(pacs: PacsServer, source: str = "127.0.0.2") -> None:
    with RawPeer(pacs.address, source=source) as peer:
        peer.send(encode_request(proposal((CT, [EXPLICIT]))) + encode_abort())
        peer.ending()


def _idle(pacs: PacsServer) -> bool:
    return eventually(lambda: pacs.status()["associations"] == {"active": 0, "connections": 0})


def test_who_aborts_again_and_again_waits_and_nobody_else(serve: Serve, waits: list[float]) -> None:
    pacs = serve()
    _rude(pacs)
    assert _idle(pacs)
    assert waits == []
    _rude(pacs)
    assert _idle(pacs)
    assert len(waits) == 1
    _associations(pacs, 3)
    assert len(waits) == 1


def test_who_was_served_or_takes_leave_never_waits(serve: Serve, waits: list[float]) -> None:
    pacs = serve()
    for _ in range(5):
        with RawPeer.associated(pacs.address) as peer:
            assert peer.echo() == 0
            peer.send(encode_abort())
        with RawPeer.associated(pacs.address) as peer:
            peer.release()
        assert _idle(pacs)
    assert waits == []
