"""The audit trail as the server and the commands use it: open, write, prune, and read from a position on."""

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from pacs_server.audit.chain import Chain
from pacs_server.audit.events import Event
from pacs_server.audit.files import HEAD, Line, create, day_file, day_files, last_line, locked, unavailable
from pacs_server.audit.reader import Promising, record_in, records_after
from pacs_server.audit.record import BEGIN, Mark, Position, Record, read_mark
from pacs_server.audit.retention import expired, pruning
from pacs_server.audit.signing import KEY_FILE, SigningKey, find_key, make_key
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.errors import AuditUnavailable, ConfigError
from pacs_server.kit.closing import Closing
from pacs_server.kit.private_files import make_directory, sync_directory

_log = logging.getLogger(__name__)
# How long a record that need not be durable at once waits for others to be synced with.
_SYNC_SECONDS: Final = 0.5


def open_trail(settings: AuditConfig) -> "AuditTrail":
    """Open the trail in `settings.directory`, whether or not it is `enabled`; create trail and key if there are none.

    Raises ConfigError if the key cannot be used or is not the one that signed the trail, else AuditUnavailable.
    """
    directory = settings.directory
    with unavailable(f"use audit.directory {directory}"):
        if not directory.is_dir():
            make_directory(directory)
            sync_directory(directory.parent)
        head = create(directory / HEAD, os.O_RDWR)
    try:
        with locked(head), unavailable(f"use audit.directory {directory}"):
            key, last = _prepared(settings, head)
            return AuditTrail(directory, key, head, last.sequence)
    except BaseException:
        os.close(head)
        raise


def _prepared(settings: AuditConfig, head: int) -> tuple[SigningKey, Mark]:
    """The key and the last record of a trail, which is created if there is none.

    Whether the end of the trail is intact is checked by the next write. Raises ConfigError, AuditUnavailable, OSError.
    """
    directory, names = settings.directory, day_files(settings.directory)
    if not names and settings.key is None and not (directory / KEY_FILE).exists():
        make_key(directory)
    key = find_key(directory, settings.key)
    if not names and os.fstat(head).st_size == 0:
        Chain(directory, key, head).write_head(BEGIN)
        os.fsync(head)
        sync_directory(directory)
    for name in reversed(names):
        line, _ = last_line(directory / name)
        if line and (key.fault("record", line) or "").startswith("wrong key"):
            raise ConfigError(f"audit.key: the trail in {directory} was written with another key")
        if line:
            return key, read_mark(line) or BEGIN
    return key, BEGIN


class AuditTrail(Closing):
    """An `Audit` that keeps events in files in `directory`. Any number of threads and processes may write.

    A `write` costs four system calls. A durable one costs a sync too, which threads that wait at the same time share.
    """

    def __init__(self, directory: Path, key: SigningKey, head: int, last: int) -> None:
        self.directory = directory
        self._key = key
        self._chain = Chain(directory, key, head)
        self._appending = threading.Lock()
        self._syncing = threading.Lock()  # taken before the other one, if both are
        self._written = self._synced = last
        self._closed = False
        self._listener: Callable[[], None] | None = None
        self._background: _BackgroundSync | None = None

    @property
    def sequence(self) -> int:
        """The sequence number of the last record that this process knows of, 0 if there is none."""
        return self._written

    def write(self, event: Event, *, durable: bool = True) -> None:
        """Keep an event; see `Audit.write`."""
        self._write(event, durable=durable)

    def prune(self, retention_years: int | None, *, today: date | None = None) -> int:
        """Delete the day files whose retention has ended and return how many; None deletes nothing.

        Before that, a record is written that says what is deleted. Raises AuditUnavailable.
        """
        anchors = expired(self.directory, retention_years, today or datetime.now(UTC).date())
        if not anchors:
            return 0
        self._write(pruning(anchors), durable=True, pruned=anchors[-1].last)
        with unavailable("delete old day files"):
            for anchor in anchors:
                (self.directory / anchor.file).unlink(missing_ok=True)
            sync_directory(self.directory)
        return len(anchors)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each record that this process writes; it must neither block nor raise."""
        self._listener = listener

    def records_after(
        self, position: Position | None, *, promising: Promising | None = None
    ) -> Generator[tuple[Record, Position], None, None]:
        """The records behind a position, or all records if it is None; see `reader.records_after`.

        With `promising` only records whose lines it says that of. Raises AuditUnavailable.
        """
        return records_after(self.directory, self._key, position, promising)

    def record_in(self, line: Line) -> Record | None:
        """The record that a line of the trail holds; None if the key has not signed it."""
        return record_in(line, self._key)

    def records_between(
        self, first: date | None, last: date | None, promising: Promising | None = None
    ) -> Iterator[Record]:
        """The records from a first to a last day (UTC), both included; None is no limit. Raises AuditUnavailable."""
        # A record may be older than the day of its file, but never younger.
        start = None if first is None else Position(day_file(first), 0, 0)
        for record, _ in self.records_after(start, promising=promising):
            day = record.time.date()
            if (first is None or first <= day) and (last is None or day <= last):
                yield record

    def close(self) -> None:
        """Sync the last records and close the files; raises AuditUnavailable if they cannot be synced."""
        if self._background is not None:
            self._background.stop()
        with self._appending:
            closed, self._closed = self._closed, True
        if closed:
            return
        try:
            self.sync()
        finally:
            with self._syncing:
                self._chain.close()

    def sync(self) -> None:
        """Return when all records written so far are durable; raises AuditUnavailable."""
        self._sync_through(self._written)

    def _write(self, event: Event, *, durable: bool, pruned: Mark | None = None) -> None:
        with self._appending:
            if self._closed:
                raise AuditUnavailable("the audit trail is closed")
            sequence = self._written = self._chain.append(event, pruned=pruned)
            if not durable:
                self._sync_soon()
        if durable:
            self._sync_through(sequence)
        if self._listener is not None:
            self._listener()

    def _sync_through(self, sequence: int) -> None:
        """Sync the records up to a sequence number, unless another thread has done so while this one waited."""
        with self._syncing:
            if self._synced >= sequence:
                return
            with self._appending:
                descriptor, mark, retired = self._chain.unsynced()
            with unavailable("be synced"):
                try:
                    os.fdatasync(descriptor)
                    # Not before: after a power loss the head must not name a record that is lost.
                    self._chain.write_head(mark)
                finally:
                    for old in retired:
                        os.close(old)
            self._synced = mark.sequence

    def _sync_soon(self) -> None:
        if self._background is None:
            self._background = _BackgroundSync(self.sync)
            self._background.start()
        self._background.wake()


class _BackgroundSync(threading.Thread):
    """Syncs half a second after it is woken, and sleeps otherwise."""

    def __init__(self, sync: Callable[[], None]) -> None:
        super().__init__(name="audit-sync", daemon=True)
        self._sync = sync
        self._woken = threading.Event()
        self._stopping = threading.Event()

    def wake(self) -> None:
        """Tell the thread that there is something to sync."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread without another sync."""
        self._stopping.set()
        self._woken.set()
        self.join()

    def run(self) -> None:
        """Sync again and again until the thread is stopped."""
        while self._woken.wait():
            # Cleared before anything is looked at: otherwise a call of `stop` just before it would be forgotten.
            self._woken.clear()
            if self._stopping.wait(_SYNC_SECONDS):
                return
            try:
                self._sync()
            except AuditUnavailable as error:
                _log.error("audit trail not synced", extra={"reason": str(error)})
