"""The end of the audit trail, where records are appended: find it, repair it, and begin a new file each day.

Only one thread at a time may use a `Chain`. Other processes may write to the same trail: the lock on the file `head`
keeps them apart, and the size of the day file shows whether another process has written.
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
from pacs_server.audit.record import BEGIN, Mark, Record, read_mark
from pacs_server.audit.signing import SigningKey, fields_of
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.private_files import sync_directory

# The mode of a day file that was closed. It shows processes that still have the file open that its day is over.
_CLOSED: Final = 0o400
_WRITABLE: Final = 0o200


class Chain:
    """The end of the trail in `directory`; `head` is a descriptor of the file `head`, which the chain closes.

    The file `head` names the last record that was synced, so that the loss of the newest records is noticed.
    """

    def __init__(self, directory: Path, key: SigningKey, head: int) -> None:
        self._directory = directory
        self._key = key
        self._head = head
        self._host = socket.gethostname()
        self._process = os.getpid()
        self._file = -1
        self._day = date.min
        self._size = -1
        self._last = BEGIN
        # The descriptor that a sync has asked for last, and older ones that the next sync closes.
        self._handed_out = -1
        self._retired: list[int] = []
        # Events about the trail itself, which are written before the next record.
        self._notes: list[Event] = []

    def append(self, event: Event, *, pruned: Mark | None = None) -> int:
        """Write an event behind the last record and return its sequence number; the record is not synced.

        Costs four system calls. Raises AuditUnavailable; then the next call looks for the end of the trail again.
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
                line, mac = self._key.sign_text("record", record.text())
                data, last = data + line, Mark(record.sequence, mac)
            self._write(data)
            self._last, self._notes = last, []
        return last.sequence

    def unsynced(self) -> tuple[int, Mark, list[int]]:
        """The descriptor to sync, the last record in its file, and descriptors to close afterwards."""
        retired, self._retired = self._retired, []
        self._handed_out = self._file
        return self._file, self._last, retired

    def write_head(self, mark: Mark) -> None:
        """Write into `head` which record was synced last; raises OSError."""
        # Of fixed width, so that a short line leaves nothing of a longer one behind.
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
            # If this fails too, the next write finds the incomplete line.
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise AuditUnavailable("the audit trail cannot be written: no room for a whole record")
        self._size = size + written

    def _is_at_end(self, today: date) -> bool:
        """Whether the record that this process wrote last is still the last one of the trail, and of today."""
        if self._file < 0 or self._size < 0 or today > self._day:
            return False
        state = os.fstat(self._file)
        # Otherwise another process has written to the file, deleted it, or closed it because the day was over.
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
        """Close the open file, or leave that to the next sync if a sync may be using the file."""
        if self._file >= 0 and self._file == self._handed_out:
            self._retired.append(self._file)
        elif self._file >= 0:
            # Not by the next sync: on a full disk there is none.
            os.close(self._file)
        self._file = -1

    def _open(self, name: str, before: Mark) -> Mark:
        """Open a day file, cut off an incomplete line at its end, and return its last record, or else `before`."""
        path = self._directory / name
        line, end = last_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        torn = os.fstat(self._file).st_size - end
        if torn > 0:
            os.ftruncate(self._file, end)
            detail = f"{torn} bytes of an unfinished record were cut off {name}"
            self._note(detail, Outcome.MINOR_FAILURE)
        if not line:
            # The process that created the file may have been killed before it synced the directory.
            sync_directory(self._directory)
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
        """Close the last day file with an anchor and create the next one; raises OSError."""
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
        # If the clock was set back, the trail goes on with the next day all the same.
        self._day = today if today > self._day else self._day + timedelta(days=1)
        flags = os.O_WRONLY | os.O_APPEND | os.O_EXCL
        self._file, self._size = create(self._directory / day_file(self._day), flags), -1
        sync_directory(self._directory)
        self._size = 0

    def _note(self, detail: str, outcome: Outcome) -> None:
        """Have an event about the trail itself written before the next record (PS3.15 A.5.3.11, Security Alert)."""
        participants = (Participant("pacs-server audit"),)
        kind = EventType.AUDIT_RECORDING_STARTED
        note = Event(EventID.SECURITY_ALERT, Action.EXECUTE, participants, outcome, kind, detail=detail)
        if note not in self._notes:
            self._notes.append(note)


def _now() -> datetime:
    return datetime.now(UTC)
