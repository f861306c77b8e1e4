"""Audit trails that keep their events in memory and can fail, and what the doors see of them."""

import threading
from dataclasses import dataclass, field
from typing import Self

from pacs_server.audit.events import Event, EventID, NoAudit
from pacs_server.audit.recorder import Recorder
from pacs_server.errors import AuditUnavailable


@dataclass
class Kept:
    """An audit trail in memory; `full` makes it fail as a full disk does, `durable` counts the syncs."""

    events: list[Event] = field(default_factory=list)
    durable: int = 0
    full: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, event: Event, *, durable: bool = True) -> None:
        with self.lock:
            if self.full:
                raise AuditUnavailable("the audit trail cannot be written: no space left on device")
            self.events.append(event)
            self.durable += durable

    def prune(self, retention_years: int | None) -> int:
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def of(self, *kinds: EventID) -> list[Event]:
        """The events of these kinds, in order."""
        with self.lock:
            return [event for event in self.events if event.event_id in kinds]


def recorder_of(trail: Kept) -> Recorder:
    """What the doors see of a trail."""
    return Recorder(trail, lambda: "PACS")


def silent() -> Recorder:
    """One that keeps nothing."""
    return Recorder(NoAudit(), lambda: "PACS")
