"""Rebuild the index from the files alone: replay everything that happened to the archive in the order of time.

The first values of a study stay, a later version takes the place of an earlier one, and a deletion takes away what was
there: so the same events give the same index. When a file was restored is written nowhere: it is indexed again right
after the last deletion that took its instance. Files that cannot be read are reported and left as they are.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pacs_server.archive.stored_file import StoredFile, read_stored
from pacs_server.errors import InvalidInstance, StorageUnavailable
from pacs_server.index.database import Database
from pacs_server.index.decisions import Decision, DecisionIndex
from pacs_server.index.deletion_document import DeletionStatus, Document, decode
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.instances import Arrival, InstanceIndex
from pacs_server.index.marks import MarkIndex
from pacs_server.kit.words import counted
from pacs_server.services.decisions import DecisionJournal
from pacs_server.services.marks import replay as replay_marks
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import ByteSource
from pacs_server.storage.keys import trash_prefix
from pacs_server.storage.trash import Trash
from pacs_server.upkeep.rebuild_events import ArchiveEvents, Arrived, Decided, Deleted

log = logging.getLogger(__name__)

_SHOWN: Final = 20
_READ_TOGETHER: Final = 64
_COMMIT_TOGETHER: Final = 1000

# Told what is being done, how far it is, and of how much; 0 if the total is not known yet.
OnProgress = Callable[[str, int, int], None]
# How a problem calls a file, the key to index it under, and how to open it.
_File = tuple[str, str, Callable[[], ByteSource]]
# A file that was read, or its name and what is wrong with it; None for a file that holds no instance.
_Result = StoredFile | tuple[str, str] | None


@dataclass(slots=True)
class RebuildReport:
    """How a rebuild ended; `problems` holds the first 20 of `problem_count`."""

    files: int = 0
    instances: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = f"{counted(self.instances, 'instance')} from {counted(self.files, 'file')}"
        return f"{found}, {self.problem_count} not indexed"

    def problem(self, path: str, reason: str) -> None:
        """Count and log a file that is not in the index."""
        self.problem_count += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(f"{path}: {reason}")
        log.warning("file not indexed", extra={"path": path, "reason": reason})


def rebuild(files: ArchiveFiles, database: Database, progress: OnProgress, *, jobs: int) -> RebuildReport:
    """Fill a database, empty and at the newest schema, from the files of an archive, which `jobs` threads read.

    Raises StorageUnavailable, IndexUnavailable.
    """
    rebuilt = RebuildReport()
    with (
        TemporaryDirectory(prefix="pacs-server-rebuild-") as folder,
        closing(ArchiveEvents(Path(folder, "events"))) as events,
    ):
        _collect(files, events, rebuilt, progress, jobs)
        _collect_deletions(files.trash, events, rebuilt, jobs)
        decisions = DecisionJournal(files.decisions).read()
        for number, decision in enumerate(decisions):
            events.decided(decision.at, number)
        replay = _Replay(database, files.trash, decisions, events, rebuilt)
        for number, event in enumerate(events.in_order(), 1):
            replay.tell(event)
            progress("indexing", min(number, events.arrivals), events.arrivals)
        replay.flush()
    replay_marks(files.marks, MarkIndex(database))
    rebuilt.instances = InstanceIndex(database).counts().instances
    return rebuilt


def _collect(
    files: ArchiveFiles, events: ArchiveEvents, rebuilt: RebuildReport, progress: OnProgress, jobs: int
) -> None:
    """Read every stored file once, and note when it was received."""
    storage = files.storage
    stored_files = ((key, key, partial(storage.open, key)) for key in storage.list())
    for stored in _read_all(stored_files, rebuilt, jobs):
        events.arrived(stored)
        rebuilt.files += 1
        progress("reading", rebuilt.files, 0)


def _collect_deletions(trash: Trash, events: ArchiveEvents, rebuilt: RebuildReport, jobs: int) -> None:
    """Read the files in the trash too: they were stored once, and their values may have stayed with other instances."""
    for folder in trash.folders():
        try:
            document = decode(trash.read(folder), folder)
        except StorageUnavailable as error:
            rebuilt.problem(trash_prefix(folder).removesuffix("/"), str(error))
            continue
        if trash.is_all_stored(folder):
            # The deletion ended before anything was taken out of the index.
            continue
        keys = (key for key in document.files if trash.holds(folder, key))
        files = ((f"{trash_prefix(folder)}{key}", key, partial(trash.open, folder, key)) for key in keys)
        deleted_at = document.deletion.deleted_at
        for stored in _read_all(files, rebuilt, jobs):
            # Whatever the clocks said: the file was received before it was deleted.
            events.arrived(replace(stored, received_at=min(stored.received_at, deleted_at)), in_trash=True)
        events.deleted(deleted_at, folder)


def _read_all(files: Iterable[_File], rebuilt: RebuildReport, jobs: int) -> Iterator[StoredFile]:
    """Read files in `jobs` threads, a few batches ahead whatever their number; problems are reported."""

    def read(batch: tuple[_File, ...]) -> list[_Result]:
        return [_read(*file) for file in batch]

    with ThreadPoolExecutor(jobs) as readers:
        waiting: deque[Future[list[_Result]]] = deque()
        source = iter(files)
        while batch := tuple(islice(source, _READ_TOGETHER)):
            waiting.append(readers.submit(read, batch))
            if len(waiting) > 2 * jobs:
                yield from _readable(waiting.popleft().result(), rebuilt)
        while waiting:
            yield from _readable(waiting.popleft().result(), rebuilt)


def _read(name: str, key: str, opened: Callable[[], ByteSource]) -> _Result:
    try:
        with opened() as source:
            return read_stored(source, key)
    except InvalidInstance as error:
        # A file of another name that holds no instance is none of ours.
        return (name, str(error)) if key.endswith(".dcm") else None
    except StorageUnavailable as error:
        return name, str(error)


def _readable(results: list[_Result], rebuilt: RebuildReport) -> Iterator[StoredFile]:
    for result in results:
        if isinstance(result, StoredFile):
            yield result
        elif result is not None:
            rebuilt.problem(*result)


class _Replay:
    """Replays events on an index; arrivals without another event between them share a transaction."""

    def __init__(
        self, database: Database, trash: Trash, decisions: list[Decision], events: ArchiveEvents, rebuilt: RebuildReport
    ) -> None:
        self._index = InstanceIndex(database)
        self._deletions = DeletionIndex(database)
        self._decision_index = DecisionIndex(database)
        self._trash = trash
        self._decisions = decisions
        self._events = events
        self._rebuilt = rebuilt
        self._waiting: list[Arrival] = []
        # The keys of files that are still stored and on their way into the trash.
        self._going: set[str] = set()

    def tell(self, event: Arrived | Deleted | Decided) -> None:
        """Apply an event to the index. Raises StorageUnavailable, IndexUnavailable."""
        if isinstance(event, Arrived) and not event.repeated:
            self._waiting.append(_arrival(event.file))
            if len(self._waiting) >= _COMMIT_TOGETHER:
                self.flush()
            return
        self.flush()
        if isinstance(event, Arrived):
            self._again(event.file)
        elif isinstance(event, Deleted):
            self._delete(event.folder)
        else:
            self._decision_index.apply(self._decisions[event.number])

    def flush(self) -> None:
        """Commit the arrivals that wait. Raises IndexUnavailable."""
        waiting, self._waiting = self._waiting, []
        self._add(waiting)

    def _add(self, arrivals: list[Arrival]) -> None:
        for arrival, error in zip(arrivals, self._index.add_many(arrivals) if arrivals else (), strict=True):
            if error is not None:
                self._rebuilt.problem(arrival.instance.path, str(error))

    def _again(self, file: StoredFile) -> None:
        """Index one of several files of an instance: the highest version is current, of two of them the later one."""
        instance = file.instance
        known = self._index.get(instance.uids.sop)
        if known is None:
            self._add([_arrival(file)])
        elif (known.digest, known.transfer_syntax_uid) == (instance.digest, instance.transfer_syntax_uid):
            if known.path != instance.path:
                log.info("the same file twice", extra={"path": instance.path, "other": known.path})
        elif instance.version >= known.version:
            version = max(instance.version, known.version + 1)
            self._index.replace(replace(instance, version=version), file.header, file.origin, file.received_at)

    def _delete(self, folder: str) -> None:
        document = decode(self._trash.read(folder), folder)
        self._deletions.replay(document)
        going = {key for key in document.files if self._trash.is_stored(folder, key)}
        if going:
            # The deletion was interrupted: the next start finishes it.
            self._going |= going
            self._deletions.set_status(folder, DeletionStatus.MOVING)
        self._bring_back(document)

    def _bring_back(self, document: Document) -> None:
        """Index the files of deleted instances that are stored all the same: an earlier deletion of them was restored.

        They are indexed here and not at the end, so that what was received or deleted later finds them.
        """
        taken = document.files_of(document.rows)
        for uid in self._deletions.known(list(taken)):
            # In another series than the one that was deleted: it came there with a file that was restored later.
            self._index.remove(uid)
        for row in document.rows.instances:
            uid = row["sop_instance_uid"]
            files = self._events.stored(uid, document.deletion.deleted_at)
            if len(taken[uid]) < row["version"]:
                # Rows from before schema 0008 do not tell of earlier versions in other series: a deletion left those.
                files = [f for f in files if f.instance.path in taken[uid] or f.instance.version >= row["version"]]
            for file in files:
                if file.instance.path not in self._going:
                    self._again(file)


def _arrival(file: StoredFile) -> Arrival:
    return Arrival(file.instance, file.header, file.origin, file.received_at)
