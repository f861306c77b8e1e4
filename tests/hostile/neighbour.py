"""A well-behaved peer in a process of its own: echoes and stores, one after the other, and says how it fares."""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Self

from datasets import UID_PREFIX
from hostile.payloads import ct
from servers import CT, EXPLICIT, IMPLICIT, VERIFICATION, RawPeer, message, proposal, store_request

# What is there for others to ask for; what the neighbour stores while it works goes elsewhere.
STUDY = f"{UID_PREFIX}7.1"
_OWN_STUDY = f"{UID_PREFIX}7.2"
_INSTANCES = 20
_ECHOES_PER_STORE = 9
_SECONDS = 60.0


@dataclass(frozen=True)
class Report:
    """What the neighbour did while it was at work; times in seconds."""

    operations: int
    stored: int
    seconds: float
    slowest: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


class Neighbour:
    """Works between `begin` and `end`, otherwise keeps still with its association open.

    `pause` is how long it rests between operations, in seconds.
    """

    def __init__(self, address: tuple[str, int], pause: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._working = context.Event()
        self._process = context.Process(target=_live, args=(address, pause, theirs, self._working), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._receive()
        return self

    def __exit__(self, *_: object) -> None:
        self._working.clear()
        self._pipe.send(None)
        self._process.join(_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def begin(self) -> None:
        """Go to work."""
        self._working.set()
        self._pipe.send("work")

    def end(self) -> Report:
        """Stop working and report. Fails if an operation was not answered with success."""
        self._working.clear()
        return self._receive()

    def _receive(self) -> Report:
        assert self._pipe.poll(_SECONDS), "the neighbour hangs"
        said = self._pipe.recv()
        assert isinstance(said, Report), said
        return said


def _live(address: tuple[str, int], pause: float, pipe: Connection, working: Event) -> None:
    try:
        with RawPeer(address, _SECONDS) as peer:
            peer.associate(proposal((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT]), calling="NEIGHBOUR"))
            for number in range(_INSTANCES):
                _store(peer, f"{STUDY}.{number}", STUDY)
            pipe.send(Report(0, _INSTANCES, 0.0, 0.0))
            number = 0
            while pipe.recv() is not None:
                report = _work(peer, working, pause, number)
                number += report.stored
                pipe.send(report)
            peer.release()
    except Exception as error:
        pipe.send(f"the neighbour was harmed: {type(error).__name__}: {error}")
        raise


def _work(peer: RawPeer, working: Event, pause: float, number: int) -> Report:
    operations = stored = 0
    slowest, began = 0.0, time.monotonic()
    while working.is_set():
        start = time.monotonic()
        if operations % (_ECHOES_PER_STORE + 1) == _ECHOES_PER_STORE:
            stored += 1
            _store(peer, f"{_OWN_STUDY}.{number + stored}", _OWN_STUDY)
        else:
            assert peer.echo() == 0
        operations += 1
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(pause)
    return Report(operations, stored, time.monotonic() - began, slowest)


def _store(peer: RawPeer, uid: str, study: str) -> None:
    peer.send(message(3, store_request(uid), ct(uid, study, f"{study}.0")))
    status = peer.read_message().command.status
    assert status == 0, f"a store was answered with {status:#06x}"
