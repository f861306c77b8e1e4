"""The recorder, to which all code writes events: it knows whether the trail can be written, and limits alerts."""

import logging
import os
import pwd
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pacs_server.audit.events import Action, Audit, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.errors import AuditUnavailable

log = logging.getLogger(__name__)

# The time in which there is at most one alert for each peer and kind, and one log line about a trail that cannot be
# written.
_SECONDS: Final = 60.0
# How many peers and kinds are told apart, and how many kinds of one peer. What is beyond that shares one entry for each
# peer and type of event, and beyond twice that number one for all: a flood neither fills the memory nor hides others.
_MOST_KINDS: Final = 1000
_MOST_OF_PEER: Final = 100
# Entries whose minute is over are looked for so often at most, in seconds.
_SWEEP: Final = 1.0

_Key = tuple[str, object]


@dataclass(slots=True)
class _Alerts:
    """The alerts of one kind from one peer: when the last one was written, and what was left out since then."""

    written: float
    left_out: int = 0
    last: Event | None = None


class Recorder:
    """Writes events to the trail; may be shared by all threads."""

    def __init__(
        self, trail: Audit, ae_title: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ae_title` gives the name of this application in events about itself."""
        self._trail = trail
        self._ae_title = ae_title
        self._clock = clock
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._lost = 0
        self._complained = float("-inf")
        self._alerts: dict[_Key, _Alerts] = {}
        self._of_peer: Counter[str] = Counter()
        self._swept = float("-inf")

    def write(self, event: Event, *, durable: bool = True) -> None:
        """Keep an event as `Audit.write` does. Raises AuditUnavailable."""
        try:
            self._trail.write(event, durable=durable)
        except AuditUnavailable as error:
            self._failed(str(error))
            raise
        self._reason = None

    def note(self, event: Event, *, durable: bool = False) -> None:
        """Keep an event about something that can no longer be refused; a lost event is counted and reported later."""
        try:
            self.write(event, durable=durable)
        except AuditUnavailable:
            with self._lock:
                self._lost += 1

    def ensure_writable(self) -> None:
        """Raise AuditUnavailable if the last event was lost and the trail still fails; costs nothing otherwise."""
        if self._reason is None:
            return
        lost = self._lost
        self.write(self._about_itself(EventType.AUDIT_RECORDING_STARTED, f"works again, {lost} events were lost"))
        with self._lock:
            self._lost -= lost

    def problem(self) -> str | None:
        """Why the trail cannot be written, None if it can. If it failed before, this tries again."""
        try:
            self.ensure_writable()
        except AuditUnavailable as error:
            return str(error)
        return None

    def alert(self, event: Event, *, peer: str, kind: str) -> None:
        """Keep an event that a peer can cause at will, but only one a minute for each peer and kind.

        The next event of that peer and kind says how many were left out.
        """
        with self._lock:
            due = self._due(event, peer, kind)
        for each in due:
            self.note(each)

    def begin(self) -> None:
        """Record that recording and application have started. Raises AuditUnavailable."""
        self.write(self._about_itself(EventType.AUDIT_RECORDING_STARTED), durable=False)
        self.write(self._application(EventType.APPLICATION_START))

    def end(self) -> None:
        """Record the alerts that were left out, and that application and recording stop."""
        with self._lock:
            left_out = self._forget(float("inf"))
        for event in left_out:
            self.note(event)
        self.note(self._application(EventType.APPLICATION_STOP))
        self.note(self._about_itself(EventType.AUDIT_RECORDING_STOPPED), durable=True)

    def own(self, role: Role | None = Role.APPLICATION) -> Participant:
        """This application as a participant."""
        title = self._ae_title()
        return Participant(title, title, role=role)

    def configured(self, detail: str, *, security: bool, ok: bool = True) -> None:
        """Record a change of the configuration, or one that was refused."""
        kind = EventType.SECURITY_CONFIGURATION if security else EventType.SOFTWARE_CONFIGURATION
        event = self._about_itself(kind, detail)
        self.note(event if ok else replace(event, outcome=Outcome.MINOR_FAILURE), durable=True)

    def _application(self, kind: EventType) -> Event:
        # PS3.15 A.5.3.1: the application is a participant under this role.
        return Event(EventID.APPLICATION_ACTIVITY, Action.EXECUTE, (self.own(),), event_type=kind)

    def _about_itself(self, kind: EventType, detail: str = "") -> Event:
        return Event(EventID.SECURITY_ALERT, Action.EXECUTE, (self.own(),), event_type=kind, detail=detail)

    def _failed(self, reason: str) -> None:
        now = self._clock()
        with self._lock:
            self._reason = reason
            silent = now - self._complained < _SECONDS
            if not silent:
                self._complained = now
        if not silent:
            log.error("audit trail cannot be written, operations are refused", extra={"reason": reason})

    def _due(self, event: Event, peer: str, kind: str) -> list[Event]:
        """The events to write now that the alert `event` has come."""
        now = self._clock()
        told: list[Event] = []
        key: _Key = (peer, kind)
        if key not in self._alerts and self._is_full(peer):
            if now - self._swept >= _SWEEP:
                told = self._forget(now)
                self._swept = now
            if self._is_full(peer):
                key = self._shared(event, peer)
        known = self._alerts.get(key)
        if known is not None and now - known.written < _SECONDS:
            known.left_out += 1
            known.last = event
            return told
        if known is None:
            self._of_peer[key[0]] += 1
        self._alerts[key] = _Alerts(now)
        return [*told, _with_count(event, known.left_out if known is not None else 0)]

    def _is_full(self, peer: str) -> bool:
        return len(self._alerts) >= _MOST_KINDS or self._of_peer[peer] >= _MOST_OF_PEER

    def _shared(self, event: Event, peer: str) -> _Key:
        """The entry of a peer's events for which there is no room of their own."""
        key = (peer, (event.event_id, event.event_type, event.outcome))
        return key if key in self._alerts or len(self._alerts) < 2 * _MOST_KINDS else ("", "")

    def _forget(self, now: float) -> list[Event]:
        """Remove the peers and kinds whose minute is over; return the events that say how many alerts were left out."""
        over = {key: alerts for key, alerts in self._alerts.items() if now - alerts.written >= _SECONDS}
        for key in over:
            del self._alerts[key]
            self._of_peer[key[0]] -= 1
        self._of_peer = +self._of_peer
        return [_with_count(a.last, a.left_out - 1) for a in over.values() if a.last is not None]


def local_user() -> Participant:
    """The user who runs this process, by the name that the operating system gives."""
    # The environment is not trusted, except for the name of the user who ran sudo.
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # In a container the user may be a number without a name.
        name = str(os.getuid())
    sudo = os.environ.get("SUDO_USER", "")
    return Participant(f"{name} (sudo {sudo})" if sudo and os.getuid() == 0 else name, requestor=True)


def _with_count(event: Event, left_out: int) -> Event:
    if not left_out:
        return event
    return replace(event, detail=f"{event.detail}; {left_out} more like it were left out".removeprefix("; "))
