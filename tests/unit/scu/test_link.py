"""Links: opened when needed, opened again after a break, given up, released, aborted, killed."""

import socket
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from servers import eventually

from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Association, Timeouts
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded, ConnectionLost, DeadlineExpired
from pacs_server.scu import link as module
from pacs_server.scu.link import GiveUp, Link, Requestor, after_silence, without_success
from pacs_server.scu.remote import RemoteAE

REMOTE = RemoteAE("DEST", "dest", 104, 1.0, 2.0)
TERMS = Terms(16384, 5.0, Timeouts(5.0, 5.0), "1.2.3", "TEST")


class Opened:
    """An association that notes how it ended."""

    def __init__(self, number: int, on_release: AssociationEnded | None) -> None:
        self.number = number
        self.ends: list[str] = []
        self.throttle: object = None
        self.transport = SimpleNamespace(
            kill=lambda: self.ends.append("killed"), close=lambda: self.ends.append("closed")
        )
        self._on_release = on_release

    def release(self) -> None:
        self.ends.append("released")
        if self._on_release is not None:
            raise self._on_release

    def abort(self) -> None:
        self.ends.append("aborted")


class Network:
    """Stands for `connect`: opens associations until it is down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[Opened] = []
        self.asked: list[tuple[Any, ...]] = []
        self.down: AssociationEnded | None = None
        self.on_release: AssociationEnded | None = None
        self.while_opening = lambda: None
        self.requestor = Requestor({"DEST": REMOTE}.get, lambda: "PACS", lambda: TERMS)
        monkeypatch.setattr(module, "connect", self._connect)

    def _connect(self, *asked: object, opening: object) -> Opened:
        self.asked.append(asked)
        if self.down is not None:
            raise self.down
        self.while_opening()
        self.opened.append(Opened(len(self.opened) + 1, self.on_release))
        return self.opened[-1]

    def link(self, give_up: GiveUp = without_success) -> Link:
        return Link(self.requestor, REMOTE, [], give_up=give_up)

    def ends(self) -> list[list[str]]:
        return [association.ends for association in self.opened]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


def fine(association: Any) -> int:
    return association.number


def breaks(ended: AssociationEnded) -> Any:
    def operation(association: Association) -> None:
        raise ended

    return operation


LOST, SILENT = ConnectionLost("connection closed by the peer"), DeadlineExpired("idle for 2 s")


def test_it_opens_for_the_first_exchange_and_releases_at_the_end(network: Network) -> None:
    with network.link() as link:
        assert not network.asked
        assert [link.exchange(fine), link.exchange(fine)] == [1, 1]
    assert network.ends() == [["released", "closed"]]
    assert network.asked == [(REMOTE, "PACS", [], TERMS, None)]


def test_nothing_to_send_opens_nothing(network: Network) -> None:
    with network.link():
        pass
    assert not network.asked


def test_roles_and_throttle_hold_for_each_association(network: Network) -> None:
    throttle: Any = object()
    with Link(network.requestor, REMOTE, [], roles={"1.2": (False, True)}, throttle=throttle) as link:
        link.exchange(fine)
        with pytest.raises(ConnectionLost):
            link.exchange(breaks(LOST))
        link.exchange(fine)
    assert [asked[-1] for asked in network.asked] == [{"1.2": (False, True)}] * 2
    assert [association.throttle for association in network.opened] == [throttle, throttle]


@pytest.mark.parametrize(
    ("give_up", "before", "ended", "given_up"),
    [
        (without_success, 1, LOST, False),
        (without_success, 1, SILENT, False),
        (without_success, 0, LOST, True),
        (without_success, 0, SILENT, True),
        (after_silence, 0, LOST, False),
        (after_silence, 1, LOST, False),
        (after_silence, 0, SILENT, True),
        (after_silence, 1, SILENT, True),
    ],
)
def test_a_break_costs_one_exchange_or_the_remote_ae_is_given_up(
    network: Network, give_up: GiveUp, before: int, ended: AssociationEnded, given_up: bool
) -> None:
    with network.link(give_up) as link:
        for _ in range(before):
            link.exchange(fine)
        with pytest.raises(type(ended)):
            link.exchange(breaks(ended))
        assert link.given_up is given_up
        assert network.ends() == [["aborted", "closed"]]
        if not given_up:
            assert link.exchange(fine) == 2
    assert all(ends[-1] == "closed" for ends in network.ends())


def test_successes_count_for_their_own_association_only(network: Network) -> None:
    with network.link() as link:
        link.exchange(fine)
        for given_up in (False, True):
            with pytest.raises(ConnectionLost):
                link.exchange(breaks(LOST))
            assert link.given_up is given_up


@pytest.mark.parametrize("give_up", [without_success, after_silence])
def test_a_remote_ae_that_cannot_be_reached_is_given_up(network: Network, give_up: GiveUp) -> None:
    network.down = LOST
    with network.link(give_up) as link:
        with pytest.raises(ConnectionLost):
            link.exchange(fine)
        assert link.given_up


def test_an_exception_in_the_block_aborts(network: Network) -> None:
    def at_fault(link: Link) -> None:
        with link:
            link.exchange(fine)
            raise ValueError("at fault")

    with pytest.raises(ValueError, match="at fault"):
        at_fault(network.link())
    assert network.ends() == [["aborted", "closed"]]


def test_an_operation_that_fails_by_itself_leaves_the_association(network: Network) -> None:
    with network.link() as link:
        with pytest.raises(ValueError, match="at fault"):
            link.exchange(breaks(ValueError("at fault")))  # type: ignore[arg-type]
        assert link.exchange(fine) == 1
    assert network.ends() == [["released", "closed"]]


@pytest.mark.parametrize(
    ("aborts", "ends"), [(False, ["released", "closed"]), (True, ["released", "aborted", "closed"])]
)
def test_a_failed_release_changes_nothing(network: Network, aborts: bool, ends: list[str]) -> None:
    network.on_release = SILENT
    with Link(network.requestor, REMOTE, [], abort_unreleased=aborts) as link:
        link.exchange(fine)
    assert network.ends() == [ends]


def test_kill_ends_what_is_open_and_opens_nothing_more(network: Network) -> None:
    def killed_meanwhile(association: Association) -> None:
        network.requestor.kill()
        raise LOST

    with network.link() as ended, network.link() as link:
        ended.exchange(fine)
        with pytest.raises(ConnectionLost):
            ended.exchange(breaks(LOST))
        with pytest.raises(ConnectionLost):
            link.exchange(killed_meanwhile)
        with pytest.raises(ConnectionLost, match="the server shuts down"):
            link.exchange(fine)
    # The first one was closed before.
    assert network.ends() == [["aborted", "closed"], ["killed", "aborted", "closed"]]


def test_what_opens_during_the_kill_is_killed_too(network: Network) -> None:
    network.while_opening = network.requestor.kill
    with network.link() as link:
        link.exchange(fine)
    assert network.ends() == [["killed", "released", "closed"]]


def test_the_requestor_knows_its_remote_aes(network: Network) -> None:
    known: Sequence[RemoteAE | None] = [network.requestor.remote(title) for title in ("DEST", "OTHER")]
    assert known == [REMOTE, None]


def test_a_remote_that_does_not_answer_the_proposal_holds_no_shutdown_up() -> None:
    """It takes the connection and says nothing."""
    requestor, ended = Requestor({}.get, lambda: "PACS", lambda: TERMS), list[AssociationEnded]()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = RemoteAE("DEST", "127.0.0.1", silent.getsockname()[1], 1.0, 60.0)

        def ask() -> None:
            try:
                requestor.open(remote, [ProposedContext(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",))])
            except AssociationEnded as error:
                ended.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        with silent.accept()[0]:
            assert eventually(lambda: bool(requestor._opening))
            requestor.kill()
            asking.join(2.0)
            assert [type(each) for each in ended] == [ConnectionLost], "before the five seconds of the time-out"
    assert not requestor._opening
