"""What happens in the archive, told to listeners while it happens.

Listeners are pages and scripts that come and go. While there are any, one thread reads the feed of changes with a
cursor that is forgotten afterwards, keeps the last events, and hands them to every listener. A listener that comes back
with the id of its last event gets what it missed, as long as that is kept.
"""

import logging
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pacs_server.archive.changes import Feed
from pacs_server.errors import PacsError, ResourceLimitation
from pacs_server.index.changes import ChangeKind
from pacs_server.index.feed import Change, Consumer

log = logging.getLogger(__name__)

MOST_LISTENERS: Final = 50
# How many of them one caller may be.
MOST_OF_ONE: Final = 5
# How many of the last events are kept.
KEPT: Final = 1000
# The cursors of the events begin with this; one that nobody has moved for so long is forgotten.
PREFIX: Final = "events-"
_FORGET_AFTER: Final = timedelta(hours=1)
# How often the thread moves its cursor even if nothing happens.
_TOUCH: Final = timedelta(minutes=10)
# The least time between two reads, so that storing is not held up by events; and how long to wait after a failure.
_PACE_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 5.0
# How many changes are read together: with the pause between, ten thousand a second.
_TOGETHER: Final = 5000
# How long reading goes on without a listener: browsers come back after a few seconds.
_LINGER_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 5.0
ARRIVALS: Final = (ChangeKind.ARRIVED, ChangeKind.REPLACED, ChangeKind.RESTORED)


@dataclass(frozen=True, slots=True)
class ArchiveEvent:
    """Something that happened; arrivals in one series that came together are one event, with their number.

    `number` is the id of a worklist item, or the number of an operator's decision. `detail` is the new status of an
    item or a step, the kind of a finding, or what marks say of a study, for people.
    """

    id: str
    kind: ChangeKind
    at: datetime
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    instances: int
    number: int | None
    detail: str


Deliver = Callable[[Sequence[ArchiveEvent] | None], None]
"""Takes events to a listener, called from another thread; None says that there are no more. It must not block."""


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A listener. `missed` is what happened since its last event, None if that is not known any more.

    `caller` is the same for all listeners of one caller.
    """

    deliver: Deliver
    caller: Hashable
    missed: Sequence[ArchiveEvent] | None = field(default=())


class EventHub:
    """Hands what happens to listeners; a part of a running server."""

    def __init__(self, feed: Feed, *, pace: float = _PACE_SECONDS, linger: float = _LINGER_SECONDS) -> None:
        self._feed = feed
        self._pace = pace
        self._linger = linger
        # Only one thread at a time makes a cursor, which may take a while.
        self._starting = threading.Lock()
        self._changed = threading.Condition()
        self._listeners: set[Listener] = set()
        self._kept: deque[ArchiveEvent] = deque(maxlen=KEPT)
        self._thread: threading.Thread | None = None
        self._stopping = False

    def listen(self, deliver: Deliver, caller: Hashable, last_id: str | None = None) -> Listener:
        """Begin to deliver events to a caller; what came after the event `last_id` was missed.

        Everything that happens from now on is delivered. Raises ResourceLimitation, IndexUnavailable.
        """
        with self._starting:
            with self._changed:
                if self._thread is not None or self._stopping:
                    return self._add(deliver, caller, last_id)
            # The cursor has to be there before anything can be said to be delivered.
            consumer = Consumer(f"{PREFIX}{socket.gethostname()[:64]}-{secrets.token_hex(4)}")
            self._feed.join(consumer)
            with self._changed:
                return self._begin(consumer, deliver, caller, last_id)

    def _add(self, deliver: Deliver, caller: Hashable, last_id: str | None) -> Listener:
        if sum(each.caller == caller for each in self._listeners) >= MOST_OF_ONE:
            raise ResourceLimitation(
                f"you listen to events {MOST_OF_ONE} times already, from this address: end one, or try again later"
            )
        if self._stopping or len(self._listeners) >= MOST_LISTENERS:
            raise ResourceLimitation("too many listen to events already; try again later")
        listener = Listener(deliver, caller, () if last_id is None else self._since(last_id))
        self._listeners.add(listener)
        self._changed.notify_all()
        return listener

    def _begin(self, consumer: Consumer, deliver: Deliver, caller: Hashable, last_id: str | None) -> Listener:
        """Start the thread, with its first listener."""
        # Ids of events before are not known any more: what happened while nobody listened is not known either.
        self._kept.clear()
        listener = self._add(deliver, caller, last_id)
        thread = threading.Thread(target=self._run, args=(consumer,), name="events", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._listeners.discard(listener)
            raise ResourceLimitation("there can be no more threads") from error
        self._thread = thread
        return listener

    def leave(self, listener: Listener) -> None:
        """Deliver nothing more to a listener."""
        with self._changed:
            self._listeners.discard(listener)
            self._changed.notify_all()

    def stop(self) -> None:
        """End all listeners and the thread."""
        with self._changed:
            self._stopping = True
            listeners, thread = list(self._listeners), self._thread
            self._listeners.clear()
            self._changed.notify_all()
        for listener in listeners:
            listener.deliver(None)
        self._feed.wake()
        if thread is not None:
            thread.join(_STOP_SECONDS)

    def tidy(self) -> None:
        """Forget the cursors that processes left which ended without a stop."""
        try:
            self._feed.leave_stale(PREFIX, datetime.now(UTC) - _FORGET_AFTER)
        except PacsError as error:
            log.warning("old cursors of events not removed", extra={"reason": str(error)})

    def _since(self, last_id: str) -> Sequence[ArchiveEvent] | None:
        """The kept events behind that one; None if it is not kept any more."""
        ids = [event.id for event in self._kept]
        return tuple(self._kept)[ids.index(last_id) + 1 :] if last_id in ids else None

    def _run(self, consumer: Consumer) -> None:
        touched = datetime.now(UTC)
        while self._is_wanted():
            try:
                with self._feed.batch(consumer, _TOGETHER) as batch:
                    found = _named(events_of(batch))
                self._publish(found)
                if not batch.changes and datetime.now(UTC) - touched > _TOUCH:
                    self._feed.touch(consumer.name)
                    touched = datetime.now(UTC)
                if not batch.changes:
                    self._feed.wait(batch)
            except PacsError as error:
                log.warning("events cannot be read", extra={"reason": str(error)})
                self._pause(_RETRY_SECONDS)
            self._pause(self._pace)
        try:
            self._feed.leave(consumer.name)
        except PacsError as error:
            log.warning("cursor of events not removed", extra={"reason": str(error)})

    def _is_wanted(self) -> bool:
        """Whether there is a listener, or comes one soon; without one the thread is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._listeners or self._stopping, self._linger)
            if self._listeners and not self._stopping:
                return True
            self._thread = None
            return False

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)

    def _publish(self, events: Sequence[ArchiveEvent]) -> None:
        if not events:
            return
        with self._changed:
            self._kept.extend(events)
            listeners = list(self._listeners)
        for listener in listeners:
            listener.deliver(events)


def events_of(changes: Iterable[Change]) -> list[ArchiveEvent]:
    """The events that changes are: arrivals in one series are one event, at the place of the first of them."""
    found: dict[object, ArchiveEvent] = {}
    for number, change in enumerate(changes):
        arrives = change.kind in ARRIVALS
        key = (change.kind, change.study_instance_uid, change.series_instance_uid) if arrives else number
        known = found.get(key)
        if known is not None:
            found[key] = replace(known, instances=known.instances + 1, at=change.at, sop_instance_uid="")
            continue
        found[key] = ArchiveEvent(
            "", change.kind, change.at, change.study_instance_uid, change.series_instance_uid,
            change.sop_instance_uid, int(arrives), change.number, change.detail,
        )  # fmt: skip
    return list(found.values())


def _named(events: Iterable[ArchiveEvent]) -> list[ArchiveEvent]:
    """The events with ids that do not tell how many events there are, because a listener may not hear of all."""
    return [replace(event, id=secrets.token_hex(8)) for event in events]
