"""Retention: which day files to delete, and the event that records their deletion."""

from collections.abc import Sequence
from datetime import date
from itertools import takewhile
from pathlib import Path

from pacs_server.audit.anchors import Anchor, anchors_in
from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.files import day_files


def expired(directory: Path, retention_years: int | None, today: date) -> list[Anchor]:
    """The anchors of the day files whose retention has ended, the oldest first; raises AuditUnavailable."""
    if retention_years is None or retention_years >= today.year:
        return []
    # There is no 29 February in most years; 28 February keeps one day more.
    day = min(today.day, 28) if today.month == 2 else today.day
    oldest_kept = date(today.year - retention_years, today.month, day)
    files = set(day_files(directory))
    past = takewhile(lambda anchor: anchor.day < oldest_kept, anchors_in(directory))
    return [anchor for anchor in past if anchor.file in files]


def pruning(anchors: Sequence[Anchor]) -> Event:
    """The event that records the deletion of the day files of these anchors."""
    first, last = anchors[0], anchors[-1]
    return Event(
        event_id=EventID.AUDIT_LOG_USED,
        action=Action.DELETE,
        participants=(Participant("pacs-server audit", requestor=True),),
        detail=f"retention: records {first.first} to {last.last.sequence}, {first.day} to {last.day}, "
        f"last MAC {last.last.mac}",
    )
