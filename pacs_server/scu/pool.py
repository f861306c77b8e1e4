"""The pool of associations with remotes: never more than each remote may have, and idle ones kept for a few seconds.

One thread ends the associations that have been idle for too long. It runs only while there are idle ones.
"""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pacs_server.errors import RemoteBusy
from pacs_server.net.association import Association, MessageCut
from pacs_server.net.limits import Bucket, Throttle
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded, ConnectionLost, DeadlineExpired
from pacs_server.scu.faults import broken, not_opened
from pacs_server.scu.link import Requestor
from pacs_server.scu.remote import RemoteAE

log = logging.getLogger(__name__)

T = TypeVar("T")
Roles = Mapping[str, tuple[bool, bool]]

IDLE_SECONDS: Final = 3.0
WAIT_SECONDS: Final = 30.0
# How long a remote may take to answer the release of an association that nobody needs any more.
_RELEASE_SECONDS: Final = 5.0


@dataclass(eq=False, slots=True)
class _Place:
    """One of the associations that a remote may have, once it is open."""

    remote: RemoteAE
    offered: frozenset[tuple[str, tuple[str, ...]]]
    roles: Roles
    association: Association
    name: str
    reused: bool = False
    idle_until: float = 0.0


class PooledLink:
    """A way to one remote, for the thread that made it; its association comes from the pool and goes back to it."""

    def __init__(self, pool: "Pool", remote: RemoteAE, contexts: Sequence[ProposedContext], roles: Roles) -> None:
        self.name = ""
        self._pool = pool
        self._remote = remote
        self._contexts = contexts
        self._roles = roles
        self._place: _Place | None = None

    def exchange(self, operation: Callable[[Association], T]) -> T:
        """Run `operation(association)` and return its result; the association is opened if there is none.

        An association that was idle may be dead without our knowledge: if it breaks at once, the operation is run
        again on a new one. Raises RemoteUnreachable and RemoteBusy if none can be opened, and AssociationEnded if it
        breaks: the next exchange opens another one.
        """
        while True:
            place = self._place or self._opened()
            reused, place.reused = place.reused, False
            try:
                return operation(place.association)
            except AssociationEnded as ended:
                self._place = None
                self._pool.drop(place)
                if not reused or isinstance(ended, DeadlineExpired | MessageCut):
                    raise

    def end(self, *, abort: bool) -> None:
        """Give the association back to the pool, or end it with an A-ABORT."""
        place, self._place = self._place, None
        if place is not None and abort:
            self._pool.drop(place)
        elif place is not None:
            self._pool.keep(place)

    def _opened(self) -> _Place:
        place = self._place = self._pool.take(self._remote, self._contexts, self._roles)
        self.name = place.name
        return place


class Pool:
    """Opens associations, at most `max_associations` of each remote at a time. Thread-safe."""

    def __init__(
        self,
        requestor: Requestor,
        *,
        idle_seconds: float = IDLE_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        opened: Callable[[RemoteAE, Association], None] = lambda remote, association: None,
    ) -> None:
        """`wait_seconds` is how long to wait for one of the associations that a remote may have.

        `opened` is told of each new association; it is quick, and raises nothing.
        """
        self._opened = opened
        self._requestor = requestor
        self._idle_seconds = idle_seconds
        self._wait_seconds = wait_seconds
        self._numbers = itertools.count(1)
        # By the name of the remote: how many associations there are, idle ones and those being opened included.
        self._counts: Counter[str] = Counter()
        self._open_places: set[_Place] = set()
        self._idle: list[_Place] = []
        self._buckets: dict[str, tuple[int, Bucket]] = {}
        self._changed = threading.Condition()
        self._ending: threading.Thread | None = None
        self._stopped = False

    @contextmanager
    def link(
        self, remote: RemoteAE, contexts: Sequence[ProposedContext], roles: Roles | None = None
    ) -> Iterator[PooledLink]:
        """A link for a series of exchanges. An exception ends its association with an A-ABORT."""
        link = PooledLink(self, remote, contexts, roles or {})
        try:
            yield link
        except BaseException:
            link.end(abort=True)
            raise
        link.end(abort=False)

    @contextmanager
    def association(
        self,
        remote: RemoteAE,
        contexts: Sequence[ProposedContext],
        roles: Roles | None = None,
        *,
        wait: float | None = None,
    ) -> Iterator[Association]:
        """A new association for one operation, released afterwards; `wait` may be other than the usual time.

        Raises RemoteUnreachable and RemoteBusy, also if the association breaks in the `with` block.
        """
        place = self._open(remote, contexts, roles or {}, may_reuse=False, wait=wait)
        try:
            yield place.association
        except AssociationEnded as ended:
            self.drop(place)
            raise broken(remote, ended) from ended
        except BaseException:
            self.drop(place)
            raise
        self._release(place)

    def stop(self) -> None:
        """End all associations at once and open no others."""
        self._requestor.kill()
        with self._changed:
            self._stopped = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for place in idle:
            self.drop(place)

    # ---------------------------------------------------------------- for links

    def take(self, remote: RemoteAE, contexts: Sequence[ProposedContext], roles: Roles) -> _Place:
        """An association that proposed these contexts, an idle one or a new one. Raises RemoteError."""
        return self._open(remote, contexts, roles, may_reuse=True)

    def keep(self, place: _Place) -> None:
        """Keep an association that is not used now; it is released if nobody takes it for some seconds."""
        if self._idle_seconds <= 0 or place.association.waiting():
            self._release(place)
            return
        place.idle_until = time.monotonic() + self._idle_seconds
        with self._changed:
            stopped = self._stopped
            if not stopped:
                self._idle.append(place)
                self._changed.notify_all()
                if self._ending is None:
                    thread = threading.Thread(target=self._end_idle, name="pool", daemon=True)
                    # Without another thread in the system this one stays idle until the next one is kept.
                    with suppress(RuntimeError):
                        thread.start()
                        self._ending = thread
        if stopped:
            self.drop(place)

    def drop(self, place: _Place) -> None:
        """End an association with an A-ABORT: it broke, or what runs on it has to end."""
        self._open_places.discard(place)
        self._requestor.close(place.association, abort=True)
        self._free(place.remote)

    # ---------------------------------------------------------------- places

    def _open(
        self,
        remote: RemoteAE,
        contexts: Sequence[ProposedContext],
        roles: Roles,
        *,
        may_reuse: bool,
        wait: float | None = None,
    ) -> _Place:
        offered = frozenset((context.abstract_syntax, context.transfer_syntaxes) for context in contexts)

        def fits(place: _Place) -> bool:
            return may_reuse and place.remote == remote and offered <= place.offered and place.roles == roles

        ends = time.monotonic() + (self._wait_seconds if wait is None else wait)
        while (place := self._reserve(remote, fits, ends)) is not None:
            if fits(place) and not place.association.waiting():
                place.reused = True
                return place
            # It offers something else, or the remote has ended it: its place is free then.
            self._release(place)
        try:
            association = self._requestor.open(remote, contexts, roles)
        except AssociationEnded as ended:
            self._free(remote)
            raise not_opened(remote, ended, others_work=self._works(remote)) from ended
        except BaseException:
            # A place that nobody has would be missing for as long as the server runs.
            self._free(remote)
            raise
        association.throttle = self._throttle(remote, association)
        self._opened(remote, association)
        name = f"{association.calling_ae}@{remote.host}:{remote.port} #{next(self._numbers)}"
        place = _Place(remote, offered, roles, association, name)
        self._open_places.add(place)
        return place

    def _reserve(self, remote: RemoteAE, fits: Callable[[_Place], bool], ends: float) -> _Place | None:
        """Take an idle association out of the pool: one that fits, or else one to be ended first.

        None: there is a free place, and it is taken now. Raises RemoteBusy if there is none until `ends`.
        """
        key = _key(remote)
        with self._changed:
            while not self._stopped:
                idle = [place for place in self._idle if _key(place.remote) == key]
                if idle:
                    # Some remotes take one association at a time, so that none may be idle while another is opened.
                    chosen = next((place for place in idle if fits(place)), idle[0])
                    self._idle.remove(chosen)
                    return chosen
                if self._counts[key] < remote.max_associations:
                    self._counts[key] += 1
                    return None
                if not self._changed.wait(max(0.0, ends - time.monotonic())):
                    raise RemoteBusy(f"{key}: all of its {remote.max_associations} associations are in use")
        raise not_opened(remote, ConnectionLost("the server shuts down"))

    def _works(self, remote: RemoteAE) -> bool:
        """Whether there is an open association with this remote."""
        return any(_key(place.remote) == _key(remote) for place in list(self._open_places))

    def _free(self, remote: RemoteAE) -> None:
        with self._changed:
            self._counts[_key(remote)] -= 1
            self._changed.notify_all()

    def _release(self, place: _Place) -> None:
        """End an association in order, however the remote takes it, and free its place."""
        association = place.association
        seconds = min(association.timeouts.network, _RELEASE_SECONDS)
        association.timeouts = replace(association.timeouts, network=seconds)
        try:
            association.release()
        except AssociationEnded as ended:
            log.info("remote did not release", extra={"remote": place.remote.name, "reason": ended.how})
        finally:
            self._open_places.discard(place)
            self._requestor.close(association, abort=False)
            self._free(place.remote)

    def _end_idle(self) -> None:
        """Release what has been idle for too long, until nothing is idle."""
        while True:
            with self._changed:
                if not self._idle:
                    self._ending = None
                    return
                now = time.monotonic()
                due = [place for place in self._idle if place.idle_until <= now]
                self._idle = [place for place in self._idle if place.idle_until > now]
                if not due:
                    self._changed.wait(min(place.idle_until for place in self._idle) - now)
            for place in due:
                self._release(place)

    def _throttle(self, remote: RemoteAE, association: Association) -> Throttle | None:
        """What holds all associations with a remote together to its rate."""
        if remote.rate is None:
            return None
        with self._changed:
            rate, bucket = self._buckets.get(_key(remote), (0, None))
            if bucket is None or rate != remote.rate:
                bucket = Bucket(remote.rate)
                self._buckets[_key(remote)] = (remote.rate, bucket)
        return Throttle(remote.rate, association.transport.pause, bucket=bucket)


def _key(remote: RemoteAE) -> str:
    return remote.name or remote.ae_title
