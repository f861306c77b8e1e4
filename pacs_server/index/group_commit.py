"""Group commit: writers that arrive at the same time share one transaction."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from pacs_server.errors import IndexUnavailable, PacsError
from pacs_server.index.database import WRITER_LOCK, Database, cause_of
from pacs_server.index.prepared import Raw
from pacs_server.index.sqlite import is_full

IN_THE_WAY = "another writer is in the way"
_INTERRUPTED = "the thread that was writing to the index was interrupted"

T = TypeVar("T")
_Write = Callable[[Raw, list[T]], list[PacsError | None]]


class _Pending(Generic[T]):
    """An entry that waits to be committed. Unless it is `done`, it must not be treated as committed."""

    __slots__ = ("done", "entry", "error", "relaxed")

    def __init__(self, entry: T, relaxed: bool) -> None:
        self.entry = entry
        self.relaxed = relaxed
        self.done = False
        self.error: PacsError | None = None

    def finish(self, error: PacsError | None) -> None:
        self.error = error
        self.done = True


class GroupCommit(Generic[T]):
    """Lets writers that arrive together share a transaction, and so its fsync.

    There is no writer thread: whoever finds nobody writing leads, and writes for all that wait.
    `write` writes some entries and returns what is wrong with each; it may be called again with
    fewer of them after a rollback. `hasty` does the same and need not look whether keys are taken: it
    is called first, and `write` if a key is taken. `lock` is as for `Database.begin`; `on_commit`
    hears of every commit: its seconds and its entries.
    """

    def __init__(
        self,
        database: Database,
        write: _Write[T],
        *,
        lock: int,
        hasty: _Write[T] | None = None,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> None:
        self._database = database
        self._write = write
        self._hasty = hasty
        self._lock = lock
        self._on_commit = on_commit
        self._pending: list[_Pending[T]] = []
        self._pending_lock = threading.Lock()
        self._leading = threading.Lock()

    def add(self, entry: T, *, relaxed: bool = False) -> None:
        """Return when the entry is committed; raises IndexUnavailable, or the error that `write` returned for it.

        If all entries of a transaction are `relaxed`, its commit does not wait for the disk.
        """
        mine = _Pending(entry, relaxed)
        with self._pending_lock:
            self._pending.append(mine)
        with self._leading:
            # The thread that led while this one waited has most likely written the entry.
            if not mine.done:
                with self._pending_lock:
                    batch, self._pending = self._pending, []
                self._lead(batch)
        if mine.error is not None:
            raise mine.error
        if not mine.done:
            raise IndexUnavailable(_INTERRUPTED, uncertain=True)

    def make_durable(self, write: Callable[[Connection], object]) -> None:
        """Commit what `write` writes so that it survives a power loss, with every commit before; IndexUnavailable."""
        # On SQLite a writer that waits for another one sleeps longer than it has to.
        with self._leading if self._database.is_sqlite else nullcontext(), self._database.begin() as connection:
            write(connection)

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction that is not shared, while no batch is being written; raises IndexUnavailable."""
        written = False
        try:
            with self._leading, self._database.begin(lock=self._lock) as connection:
                yield connection
                written = True
        except IntegrityError as error:
            raise IndexUnavailable(IN_THE_WAY) from error
        except IndexUnavailable as error:
            error.uncertain = written and not is_full(cause_of(error.__cause__))
            raise

    def _lead(self, batch: list[_Pending[T]]) -> None:
        """Give every entry its outcome."""
        try:
            self._commit_all(batch)
        except IntegrityError:
            # Another program wrote without the lock. Everything is rolled back, and most entries are not at fault.
            self._commit_each(batch)
        except IndexUnavailable as error:
            if isinstance(error.__cause__, DataError):
                self._commit_each(batch)
                return
            for pending in batch:
                pending.finish(IndexUnavailable(str(error), uncertain=error.uncertain))
        finally:
            # The leader raises an interrupt or a fault; the other threads must neither wait nor report success.
            for pending in batch:
                if not pending.done:
                    pending.finish(IndexUnavailable(_INTERRUPTED, uncertain=True))

    def _commit_all(self, batch: list[_Pending[T]]) -> None:
        if self._hasty is not None:
            with suppress(IntegrityError):
                self._commit(batch, self._hasty)
                return
        self._commit(batch, self._write)

    def _commit_each(self, batch: list[_Pending[T]]) -> None:
        for pending in batch:
            try:
                self._commit([pending], self._write)
            except IntegrityError:
                pending.finish(IndexUnavailable(IN_THE_WAY))
            except IndexUnavailable as error:
                pending.finish(IndexUnavailable(str(error), uncertain=error.uncertain))

    def _commit(self, batch: list[_Pending[T]], write_all: _Write[T]) -> None:
        started = time.perf_counter()
        errors: list[PacsError | None] = []

        def write(raw: Raw) -> None:
            # Called again if the connection was lost before it began.
            errors[:] = write_all(raw, [pending.entry for pending in batch])

        try:
            relaxed = all([pending.relaxed for pending in batch])
            if self._lock == WRITER_LOCK:
                self._database.write(write, relaxed=relaxed)
            else:
                with self._database.begin(lock=self._lock, relaxed=relaxed) as connection:
                    write(Raw(connection))
        except IndexUnavailable as error:
            # All rows were written and the COMMIT failed: it is unknown whether the database has committed.
            error.uncertain = bool(errors) and not is_full(cause_of(error.__cause__))
            raise
        for pending, wrong in zip(batch, errors, strict=True):
            pending.finish(wrong)
        if self._on_commit is not None:
            self._on_commit(time.perf_counter() - started, len(batch))
