"""Instances that only their slots keep until the next checkpoint, and the checkpoints.

An instance that is stored in a slot is safe once the slot is synced: recovery finds it there. Its final name and its
row are made at once, and a checkpoint makes them durable for many instances together, in this order: names synced -> a
row committed so that the disk has it, and with it every row before -> the rows looked up -> slots retired, which is
synced too. If any of it fails, nothing is retired, and nothing more is stored before a checkpoint succeeds. After an
error of the disk itself no sync of what was there before can be trusted: then the slots stay until the next start, when
recovery looks at them, and every name and row is synced by itself from then on.

A database server that is killed may lose rows that no checkpoint has made durable. Each new connection is asked for
them, and what is missing is written again before anybody gets an answer from it.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from pacs_server.archive.sealed import Sealed, sealed
from pacs_server.errors import IndexUnavailable, StorageFull, StorageUnavailable
from pacs_server.index.database import is_input_output
from pacs_server.index.instances import Arrival, InstanceIndex
from pacs_server.storage.spool import IncomingFile, Spool

log = logging.getLogger(__name__)

# A checkpoint comes after so many instances or so many seconds, whichever comes first.
_AFTER_INSTANCES: Final = 256
_AFTER_SECONDS: Final = 0.25
# Who stores does it itself if nobody else does, or does not keep up.
_MOST_INSTANCES: Final = 1024
# After a failure a checkpoint is tried again so many seconds later at the earliest, and while another process stores
# in the archive it is looked so often whether it still does.
_PAUSE_SECONDS: Final = 1.0


class _Kept(NamedTuple):
    """An instance that its slot keeps."""

    file: IncomingFile
    arrival: Arrival

    @property
    def uid(self) -> str:
        return self.arrival.instance.uids.sop


class Checkpoints:
    """The checkpoints of one process; shared by all threads."""

    def __init__(self, spool: Spool, index: InstanceIndex, counted: Callable[[str], None] | None = None) -> None:
        """`counted` is told the outcome of each checkpoint: done, failed."""
        self._counted = counted or (lambda outcome: None)
        self._spool = spool
        self._index = index
        self._kept: list[_Kept] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._taking = threading.Lock()
        self._restoring = threading.Lock()
        self._connections = 0
        self._doubts = 0
        self._relaxes: bool | None = None
        self._shared = False
        self._distrusts = False
        self._looked = 0.0
        self._failed: tuple[StorageUnavailable | StorageFull | IndexUnavailable, float] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        index.when_connected(self._connected)

    # ---------------------------------------------------------------- while instances are stored

    def relaxed(self) -> bool:
        """Whether the names and rows of new instances may wait for the next checkpoint.

        Raises IndexUnavailable, StorageUnavailable.
        """
        if not self._spool.slots:
            return False
        if self._relaxes is None:
            relaxes = self._index.relaxes
            if not relaxes:
                log.info("without the database's write-ahead log every name and row is synced by itself")
            self._look_for_others()
            self._relaxes = relaxes
        elif self._shared and time.monotonic() - self._looked >= _PAUSE_SECONDS:
            # Nothing is kept meanwhile, so no checkpoint looks.
            self._look_for_others()
        return self._relaxes and not self._shared and not self._distrusts

    def ensure_possible(self) -> None:
        """If the last checkpoint failed, or a row is in doubt, take one.

        Raises StorageFull, StorageUnavailable, IndexUnavailable.
        """
        if self._failed is None and not self._doubts:
            return
        self._refuse()
        # Who waits for another one that tries again is told the same, and does not try once more.
        with self._taken(self._refuse):
            self._take_kept()

    def _refuse(self) -> None:
        """Raise the error of a checkpoint that has just failed."""
        failed = self._failed
        if failed is not None:
            error, at = failed
            if time.monotonic() - at < _PAUSE_SECONDS:
                raise type(error)(str(error)) from error

    def doubt(self) -> None:
        """A row may have been committed that nothing makes durable, since its sender is refused.

        Whoever sends the instance again is not told that it is stored before a checkpoint has succeeded.
        """
        with self._changed:
            self._doubts += 1

    @property
    def connections(self) -> int:
        """How many connections to a database server there were; read it before a row is committed, for `keep`."""
        return self._connections

    def keep(self, file: IncomingFile, arrival: Arrival, connections: int) -> None:
        """Have the next checkpoint make the name and the row of an instance durable; the row has been committed.

        Raises IndexUnavailable if the row was lost again and cannot be written; then recovery will find the slot.
        """
        kept = _Kept(file, arrival)
        with self._lock:  # costs less than to enter the condition
            if self._distrusts:
                return
            self._kept.append(kept)
            number = len(self._kept)
            if number in (1, _AFTER_INSTANCES):
                self._changed.notify_all()
            lost = self._connections != connections
        if lost:
            # The database may have been killed after the commit, and nobody knew yet that the row was to be there.
            self._ensure_rows([kept], {kept.uid})
        if not file.is_listed():
            # Somebody has deleted another instance of the UID, or this one already.
            self.take()
        if number >= _MOST_INSTANCES:
            with suppress(StorageFull, StorageUnavailable, IndexUnavailable):  # told to whoever stores next
                self.take()

    # ---------------------------------------------------------------- how it is

    @property
    def waiting(self) -> int:
        """How many instances only their slots keep until the next checkpoint."""
        return len(self._kept)

    def problem(self) -> str | None:
        """Why what waits for a checkpoint gets none, so that nothing more is stored; None if it does."""
        failed = self._failed
        return f"no checkpoint succeeds: {failed[0]}" if failed is not None and self._kept else None

    @property
    def hindrance(self) -> str | None:
        """Why names and rows do not wait for checkpoints, as far as is known; None if they do."""
        if not self._spool.slots:
            return "the file system of the archive has no hard links"
        if self._relaxes is False:
            return "the database has no write-ahead log"
        if self._distrusts:
            return "the disk has failed to sync: restart the server"
        return "another process stores in this archive" if self._shared else None

    # ---------------------------------------------------------------- the checkpoint

    def take(self) -> None:
        """Make durable what was stored here, and retire its slots.

        Raises StorageFull, StorageUnavailable, IndexUnavailable; then nothing was retired.
        """
        with self._taken():
            self._take_kept()

    def _take_kept(self) -> None:
        if self._kept or self._doubts:
            self._take([], {})

    def take_everywhere(self) -> None:
        """Do so for what all processes have stored whose rows are there, dead ones too, whether anything is kept here.

        What is in doubt here counts too. After this no slot holds an instance whose row was there before. Raises as
        `take`.
        """
        if self._distrusts:
            raise StorageUnavailable("the disk has failed to sync: restart the server before this is done")
        placed = sealed(self._spool.placed())
        with self._taken():
            # A row that is there now is durable after the commit that follows; one that comes later may not be.
            paths = self._index.known([each.uid for each in placed])
            self._take([each for each in placed if each.is_done(paths.get(each.uid))], paths)

    def _take(self, done: Sequence[Sealed], paths: Mapping[str, str]) -> None:
        """Take a checkpoint of what is kept here and of what all processes have `done`, whose rows have these paths."""
        with self._changed:
            kept, doubts = self._kept[:], self._doubts
        self._spool.sync_names({*paths.values(), *(each.arrival.instance.path for each in kept)})
        self._index.make_durable()
        # The database server may have been killed before that, and have lost what was found before.
        self._ensure_rows(kept, {each.uid for each in kept} | {each.uid for each in done})
        self._spool.retire([*(each.file for each in kept), *(each.leftover for each in done)])
        with self._changed:
            del self._kept[: len(kept)]
            self._doubts -= doubts
        self._counted("done")
        self._look_for_others()

    def _ensure_rows(self, kept: Sequence[_Kept], uids: Set[str]) -> None:
        """See that all rows are there, except those of what was kept and deleted since; raises IndexUnavailable."""
        lost = uids - self._index.known(list(uids)).keys()
        if not lost:
            return
        self._write_again(kept)
        lost -= self._index.known(list(lost)).keys()
        if lost - {each.uid for each in kept if not each.file.is_listed()}:
            raise IndexUnavailable("the index has lost rows")

    def make_rows_durable(self) -> None:
        """Have every row that is committed survive a power loss. Raises IndexUnavailable."""
        self._index.make_durable()

    @contextmanager
    def _taken(self, before: Callable[[], None] = lambda: None) -> Iterator[None]:
        with self._taking:
            before()
            try:
                yield
            except (StorageFull, StorageUnavailable, IndexUnavailable) as error:
                if _is_of_the_disk(error):
                    self._distrust(str(error))
                elif self._failed is None:
                    log.error("checkpoint failed, nothing is stored until one succeeds", extra={"reason": str(error)})
                self._failed = error, time.monotonic()
                self._counted("failed")
                raise
            if self._failed is not None:
                log.warning("checkpoint succeeded again")
            self._failed = None

    def _distrust(self, reason: str) -> None:
        """Leave to recovery what was stored until now."""
        with self._changed:
            self._distrusts = True
            self._kept.clear()
        log.error(
            "the disk failed to sync: restart the server soon; until then every name and row is synced by itself",
            extra={"reason": reason},
        )

    def _look_for_others(self) -> None:
        """Notice another process that answers queries from the same database server.

        If the database is killed, it would answer without the rows that this process has to write again.
        """
        if not self._index.is_embedded:
            self._looked = time.monotonic()
            try:
                shared = self._spool.is_shared()
            except StorageUnavailable:
                shared = True
            if shared and not self._shared:
                log.info("another process stores in this archive, so every name and row is synced by itself")
            elif self._shared and not shared:
                log.info("no other process stores in this archive any more")
            self._shared = shared

    # ---------------------------------------------------------------- rows that a database server has lost

    def _connected(self, finds_all: Callable[[list[str]], bool]) -> None:
        """Have a new connection find every instance that is kept."""
        with self._changed:
            self._connections += 1
            kept = self._kept[:]
        uids = [each.uid for each in kept]
        if kept and not finds_all(uids):
            with self._restoring:  # when several threads connect at once, the first one does it for all
                if not finds_all(uids):
                    self._write_again(kept)

    def _write_again(self, kept: Sequence[_Kept]) -> None:
        """Write the rows that the index does not have, durably; raises IndexUnavailable."""
        # Whoever deletes an instance has retired its slot before.
        written = self._index.restore(lambda: [each.arrival for each in kept if each.file.is_listed()])
        if written:
            log.warning("rows that the database had lost were written again", extra={"instances": written})

    # ---------------------------------------------------------------- the thread

    def start(self) -> None:
        """Take checkpoints from now on. Raises IndexUnavailable, StorageUnavailable."""
        self.relaxed()  # the log tells at the start what is not possible here
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more, except the last one; what that cannot do, recovery does at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with suppress(StorageFull, StorageUnavailable, IndexUnavailable):  # it has been logged
            self.take()

    def _run(self) -> None:
        while self._wait():
            try:
                self.take()
            except (StorageFull, StorageUnavailable, IndexUnavailable):
                self._pause()
            except Exception:
                # Without this thread what is stored would wait for others to take the checkpoint.
                log.exception("checkpoint failed unexpectedly")
                self._pause()

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, _PAUSE_SECONDS)

    def _wait(self) -> bool:
        """Wait until a checkpoint is due; False if no more are to be taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._kept or self._stopping)
            self._changed.wait_for(lambda: len(self._kept) >= _AFTER_INSTANCES or self._stopping, _AFTER_SECONDS)
            return not self._stopping


def _is_of_the_disk(error: Exception) -> bool:
    """Whether the kernel could not write: it may take the data for written from then on."""
    cause = error.__cause__
    return (isinstance(cause, OSError) and cause.errno == errno.EIO) or is_input_output(cause)
