"""The growing end of the audit trail: where it is, how a record gets there, a new day, and repair.

One thread at a time may use a `Chain`; other processes may write to the same trail, which the lock on
`head` and a look at the file's size take care of.
"""

import os
import socket
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from pacs_server.audit.anchors import Anchor, append_anchor, last_anchor
from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant
from pacs_server.audit.files import (
    create,
    day_file,
    day_files,
    day_of,
    last_line,
    lines,
    locked,
    unavailable,
)
from pacs_server.audit.keys import Key, fields_of
from pacs_server.audit.record import BEGIN, Mark, Record, read_mark
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.private_files import sync_directory

# A day file that was closed may only be read; so who has it open still sees that its day is over.
_CLOSED: Final = 0o400
_WRITABLE: Final = 0o200


class Chain:
    """The end of the trail in `directory`; `head` is a descriptor of the file `head`, which it closes.

    `head` holds the last record that was synced, so that a trail that lost its newest records is noticed.
    """

    def __init__(self, directory: Path, key: Key, head: int) -> None:
        self._directory = directory
        self._key = key
        self._head = head
        self._host = socket.gethostname()
        self._process = os.getpid()
        self._file = -1
        self._day = date.min
        self._size = -1
        self._last = BEGIN
        # The descriptor that was last handed out to be synced, and those that may still be in the hands of a sync.
        self._handed_out = -1
        self._retired: list[int] = []
        # What is to be said before the next record; it stays until it is written.
        self._notes: list[Event] = []

    def append(self, event: Event, *, pruned: Mark | None = None) -> int:
        """Write an event behind the last record and return its sequence number; not synced.

        Costs four system calls. Raises AuditUnavailable; then the next call looks at the end anew.
        """
        with locked(self._head):
            now = _now()
            with unavailable("be read or written"):
                if not self._is_at_end(now.date()):
                    self._find_end(now.date())
            data, last = b"", self._last
            for one in (*self._notes, event):
                through = pruned if one is event else None
                record = Record(last.sequence + 1, now, self._host, self._process, one, last.mac, through)
                line, mac = self._key.sign("record", record.fields())
                data, last = data + line, Mark(record.sequence, mac)
            self._write(data)
            self._last, self._notes = last, []
        return last.sequence

    def unsynced(self) -> tuple[int, Mark, list[int]]:
        """What to sync: a descriptor, the last record in it, and descriptors to close after that."""
        retired, self._retired = self._retired, []
        self._handed_out = self._file
        return self._file, self._last, retired

    def write_head(self, mark: Mark) -> None:
        """Note the last record that was synced; raises OSError."""
        # Fixed width, so that a shorter number leaves nothing of a longer one.
        line, _ = self._key.sign("head", {"head": f"{mark.sequence:020}", "last": mark.mac})
        os.pwrite(self._head, line, 0)

    def close(self) -> None:
        """Close the descriptors."""
        for descriptor in (*self._retired, self._file, self._head):
            if descriptor >= 0:
                os.close(descriptor)
        self._retired, self._file, self._head = [], -1, -1

    # --- writing ---

    def _write(self, data: bytes) -> None:
        size, self._size = self._size, -1
        with unavailable("be written"):
            written = os.write(self._file, data)
        if written < len(data):
            # If this fails too, whoever writes next finds the torn line.
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise AuditUnavailable("the audit trail cannot be written: no room for a whole record")
        self._size = size + written

    def _is_at_end(self, today: date) -> bool:
        """Whether the next record belongs right behind what this process wrote last."""
        if self._file < 0 or self._size < 0 or today > self._day:
            return False
        state = os.fstat(self._file)
        # Grown by another process, deleted, or closed since another process saw the next day.
        return state.st_size == self._size and state.st_nlink > 0 and bool(state.st_mode & _WRITABLE)

    # --- finding the end ---

    def _find_end(self, today: date) -> None:
        """Open the file to append to and find the last record; raises OSError."""
        self._retire()
        anchor = last_anchor(self._directory, self._key)
        tail = anchor.last if anchor else BEGIN
        names = day_files(self._directory)
        self._day = day_of(names[-1]) if names else date.min
        if anchor and anchor.day >= self._day:
            self._day = anchor.day
        elif names:
            tail = self._open(names[-1], tail)
        self._last = max(tail, self._read_head(tail), self._last, key=lambda mark: mark.sequence)
        if self._last.sequence > tail.sequence:
            self._note(f"records {tail.sequence + 1} to {self._last.sequence} are missing", Outcome.SERIOUS_FAILURE)
        if self._file < 0 or today > self._day:
            self._begin_day(today, anchor)

    def _retire(self) -> None:
        """Append to the open file no more: it is closed, by the next sync if one may be at it."""
        if self._file >= 0 and self._file == self._handed_out:
            self._retired.append(self._file)
        elif self._file >= 0:
            # At once: on a full disk there is no next sync.
            os.close(self._file)
        self._file = -1

    def _open(self, name: str, before: Mark) -> Mark:
        """Open a day file to append to, without the torn line at its end; its last record, or `before`."""
        path = self._directory / name
        line, end = last_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        torn = os.fstat(self._file).st_size - end
        if torn > 0:
            os.ftruncate(self._file, end)
            detail = f"{torn} bytes of an unfinished record were cut off {name}"
            self._note(detail, Outcome.MINOR_FAILURE)
        if not line:
            sync_directory(self._directory)  # whoever made the file may not have come to it
        self._size = end
        if line and self._key.fault("record", line) is not None:
            self._note(f"the last record in {name} was changed", Outcome.SERIOUS_FAILURE)
            good = [one.data for one in lines(self._directory, name) if self._key.fault("record", one.data) is None]
            line = good[-1] if good else b""
        return read_mark(line) or before

    def _read_head(self, tail: Mark) -> Mark:
        line = os.pread(self._head, 4096, 0)
        if self._key.fault("head", line) is None:
            fields = fields_of(line)
            return Mark(int(fields["head"]), fields["last"])
        if line or tail != BEGIN:
            self._note("the file head was missing or changed", Outcome.SERIOUS_FAILURE)
        return BEGIN

    # --- days ---

    def _begin_day(self, today: date, anchor: Anchor | None) -> None:
        """Close the last day file with an anchor and begin the next one; raises OSError."""
        first = anchor.last.sequence + 1 if anchor else 1
        if self._file >= 0 and self._last.sequence >= first:
            os.fdatasync(self._file)
            anchor = Anchor(self._day, first, self._last)
            append_anchor(self._directory, self._key, anchor)
            os.fchmod(self._file, _CLOSED)
        if anchor is not None:
            ended = f"{anchor.day} ended with record {anchor.last.sequence}, MAC {anchor.last.mac}"
            self._note(ended, Outcome.SUCCESS)
        self._retire()
        # The clock may have been set back; days never are.
        self._day = today if today > self._day else self._day + timedelta(days=1)
        flags = os.O_WRONLY | os.O_APPEND | os.O_EXCL
        self._file, self._size = create(self._directory / day_file(self._day), flags), -1
        sync_directory(self._directory)
        self._size = 0

    def _note(self, detail: str, outcome: Outcome) -> None:
        """Say something of the trail itself before the next record (PS3.15 A.5.3.11, Security Alert)."""
        participants = (Participant("pacs-server audit"),)
        kind = EventType.AUDIT_RECORDING_STARTED
        note = Event(EventID.SECURITY_ALERT, Action.EXECUTE, participants, outcome, kind, detail=detail)
        if note not in self._notes:
            self._notes.append(note)


def _now() -> datetime:
    return datetime.now(UTC)
