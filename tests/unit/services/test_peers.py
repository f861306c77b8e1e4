"""The peers seen: what is kept of them, how many, and that nobody waits for it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from servers import eventually

from pacs_server.dicom.caller import Caller, Door
from pacs_server.errors import IndexUnavailable
from pacs_server.index import peers as index_module
from pacs_server.index.database import Database
from pacs_server.index.peers import ACCEPTED, PeerIndex, PeerSeen
from pacs_server.services.peers import PeersSeenService

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def seen(title: str = "CT1", minutes: int = 0, **other: object) -> PeerSeen:
    moment = NOON + timedelta(minutes=minutes)
    peer = PeerSeen(title, "PACS", "10.0.0.7", moment, moment, 1, ACCEPTED, False, "DCMTK_367")
    return replace(peer, **other)  # type: ignore[arg-type]


@pytest.fixture
def index(database_url: str) -> Iterator[PeerIndex]:
    database = Database(database_url)
    database.migrate()
    yield PeerIndex(database)
    database.close()


def test_a_peer_is_one_row_with_what_was_seen_last(index: PeerIndex) -> None:
    index.add([seen(count=2)])
    index.add([seen(minutes=1, outcome="calling_ae_title", tls=True, implementation_version_name="NEW")])
    expected = seen(outcome="calling_ae_title", tls=True, implementation_version_name="NEW", count=3)
    assert index.list() == [replace(expected, last_seen_at=NOON + timedelta(minutes=1))]


def test_titles_and_addresses_make_different_peers(index: PeerIndex) -> None:
    peers = [seen(), seen(minutes=1, called_ae="OTHER"), seen(minutes=2, address="::1"), seen("ct1", 3)]
    index.add(peers)
    assert index.list() == peers[::-1]


def test_only_the_rejected_or_those_of_a_title(index: PeerIndex) -> None:
    index.add([seen("A"), seen("B", 1, outcome="peer_address"), seen("C", 2, outcome="calling_ae_title")])
    assert [peer.calling_ae for peer in index.list(rejected=True)] == ["C", "B"]
    assert [peer.calling_ae for peer in index.list(calling_ae="A")] == ["A"]
    assert index.list(rejected=True, calling_ae="A") == []


def test_the_oldest_go_and_the_rejected_ones_first(index: PeerIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAX_PEERS", 3)
    index.add([seen("OLD"), seen("NEW", 9), *(seen(f"BAD{n}", n, outcome="calling_ae_title") for n in range(1, 6))])
    assert [peer.calling_ae for peer in index.list()] == ["NEW", "BAD5", "OLD"]
    index.add([seen("A", 10), seen("B", 11)])
    assert [peer.calling_ae for peer in index.list()] == ["B", "A", "NEW"]


@pytest.mark.slow
def test_a_thousand_are_kept(index: PeerIndex) -> None:
    index.add([seen(f"T{n}", n) for n in range(1001)])
    kept = index.list()
    assert (len(kept), kept[-1].calling_ae) == (1000, "T1")


def test_what_no_database_takes_is_kept_as_escapes(index: PeerIndex) -> None:
    service = PeersSeenService(index)
    service.saw(
        Caller(Door.DIMSE, "10.0.0.7", "CT\0\x1b[2J", "PA\nCS"), ACCEPTED, implementation_version_name="\x7f" * 1000
    )
    service.write()
    peer = service.list()[0]
    assert (peer.calling_ae, peer.called_ae) == ("CT\\x00\\x1b[2J", "PA\\nCS")
    assert len(peer.implementation_version_name) == 64


class FakeIndex:
    """Keeps what is added; `entered` says that a write has begun, and `go` lets it go on."""

    def __init__(self, *, fails: int = 0) -> None:
        self.batches: list[Sequence[PeerSeen]] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.fails = fails

    def add(self, peers: Sequence[PeerSeen]) -> None:
        self.entered.set()
        assert self.go.wait(30)
        self.batches.append(peers)
        if len(self.batches) <= self.fails:
            raise IndexUnavailable("away")


Saw = Callable[..., None]


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[PeersSeenService, Saw]]]:
    """A running service, stopped at the end, and a short `saw`."""
    services: list[PeersSeenService] = []

    def start(index: FakeIndex, **options: float) -> tuple[PeersSeenService, Saw]:
        service = PeersSeenService(index, **options)  # type: ignore[arg-type]
        services.append(service)
        service.start()

        def saw(title: str, outcome: str = ACCEPTED) -> None:
            service.saw(Caller(Door.DIMSE, "10.0.0.7", title, "PACS"), outcome, implementation_version_name="")

        return service, saw

    yield start
    for service in services:
        service.stop()


def told(batch: Sequence[PeerSeen]) -> list[tuple[str, int, str]]:
    return [(peer.calling_ae, peer.count, peer.outcome) for peer in batch]


def test_the_first_is_written_at_once_and_the_others_together_later(start) -> None:
    index = FakeIndex()
    service, saw = start(index, interval=3600.0)
    saw("A")
    assert eventually(lambda: index.batches)
    for outcome in ("peer_address", ACCEPTED, "tls_required"):
        saw("A", outcome)
    saw("B")
    assert not eventually(lambda: len(index.batches) > 1, seconds=0.2)
    service.stop()
    assert list(map(told, index.batches)) == [[("A", 1, ACCEPTED)], [("A", 3, "tls_required"), ("B", 1, ACCEPTED)]]


def test_it_is_written_again_after_the_interval(start) -> None:
    index = FakeIndex()
    _, saw = start(index, interval=0.01)
    for count in range(1, 4):
        saw("A")
        assert eventually(lambda count=count: len(index.batches) >= count)


def test_a_database_that_hangs_delays_nobody_and_is_not_waited_for_at_the_end(start, monkeypatch) -> None:
    monkeypatch.setattr("pacs_server.services.peers._LAST_WRITE_SECONDS", 0.05)
    index = FakeIndex()
    index.go.clear()
    service, saw = start(index)
    saw("A")
    assert index.entered.wait(30)
    saw("B")
    service.stop()
    assert service._thread.is_alive()
    index.go.set()
    service._thread.join(30)
    assert list(map(told, index.batches)) == [[("A", 1, ACCEPTED)], [("B", 1, ACCEPTED)]]


def test_a_failed_write_costs_only_what_was_in_it(start, caplog) -> None:
    index = FakeIndex(fails=1)
    _, saw = start(index, interval=0.01)
    saw("A")
    assert eventually(lambda: len(index.batches) == 1)
    saw("B")
    assert eventually(lambda: len(index.batches) == 2)
    assert told(index.batches[1]) == [("B", 1, ACCEPTED)]
    assert "peers seen not written" in caplog.messages


def test_a_flood_of_titles_takes_bounded_memory(start) -> None:
    index = FakeIndex()
    index.go.clear()
    service, saw = start(index)
    saw("FIRST")
    assert index.entered.wait(30)
    for number in range(3000):
        saw(f"T{number}")
    saw("T1")
    index.go.set()
    service.stop()
    assert len(index.batches[1]) == 1000
    assert ("T1", 2, ACCEPTED) in told(index.batches[1])
