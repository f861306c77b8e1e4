"""The index from the files alone: everything that happened to the archive, told again in the order of time.

The first values of a study stay, a later version takes an earlier one's place, a deletion takes away what
was there: so the same events give the same index. Files that cannot be read are reported and left as they are.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pacs_server.archive.stored_file import StoredFile, read_stored
from pacs_server.errors import InvalidInstance, StorageUnavailable
from pacs_server.index.database import Database
from pacs_server.index.decisions import Decision, DecisionIndex
from pacs_server.index.deletion_document import DeletionStatus, decode
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.instances import Arrival, InstanceIndex
from pacs_server.services.patients import read_decisions
from pacs_server.storage.filesystem import FileSystemStorage
from pacs_server.storage.trash import Trash
from pacs_server.upkeep.rebuild_events import Arrived, Changed, Deleted, Events

log = logging.getLogger(__name__)

_SHOWN: Final = 20
_READ_TOGETHER: Final = 64
_COMMIT_TOGETHER: Final = 1000

# What is being done, how far it is, and of how much: 0 when nobody knows yet.
OnProgress = Callable[[str, int, int], None]
# A file that was read, or where it is and what is wrong with it; None if it is nobody's.
_Result = StoredFile | tuple[str, str] | None


@dataclass(slots=True)
class RebuildReport:
    """What a rebuild came to; `problems` holds the first 20 of `problem_count`."""

    files: int = 0
    instances: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.instances} instances from {self.files} files, {self.problem_count} not indexed"

    def problem(self, path: str, reason: str) -> None:
        """Count and log a file that is not in the index."""
        self.problem_count += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(f"{path}: {reason}")
        log.warning("file not indexed", extra={"path": path, "reason": reason})


def rebuild(storage: FileSystemStorage, database: Database, progress: OnProgress, *, jobs: int) -> RebuildReport:
    """Fill a database, empty and at the newest schema, from the files of `storage`, read by `jobs` threads.

    Raises StorageUnavailable, IndexUnavailable.
    """
    rebuilt = RebuildReport()
    with TemporaryDirectory(prefix="pacs-server-rebuild-") as folder, closing(Events(Path(folder, "events"))) as events:
        trash = Trash(storage.root, fsync=False)
        _collect(storage, events, rebuilt, progress, jobs)
        _collect_deletions(storage, trash, events, rebuilt, jobs)
        decisions = read_decisions(storage.root)
        for number, decision in enumerate(decisions):
            events.changed(decision.at, number)
        replay = _Replay(database, trash, decisions, events, rebuilt)
        for number, event in enumerate(events.in_order(), 1):
            replay.tell(event)
            progress("indexing", min(number, events.arrivals), events.arrivals)
        replay.flush()
        replay.bring_back()
    rebuilt.instances = InstanceIndex(database).counts().instances
    return rebuilt


def _collect(
    storage: FileSystemStorage, events: Events, rebuilt: RebuildReport, progress: OnProgress, jobs: int
) -> None:
    """Read every file once, and note when it came."""
    files = ((path, path) for path in storage.walk())
    for stored in _read_all(storage, files, rebuilt, jobs):
        events.arrived(stored)
        rebuilt.files += 1
        progress("reading", rebuilt.files, 0)


def _read_all(
    storage: FileSystemStorage, files: Iterable[tuple[str, str]], rebuilt: RebuildReport, jobs: int
) -> Iterator[StoredFile]:
    """Read files, each given by where it is and by the path to index it under."""

    def read(batch: tuple[tuple[str, str], ...]) -> list[_Result]:
        return [_read(storage, place, path) for place, path in batch]

    with ThreadPoolExecutor(jobs) as readers:
        # A few batches ahead, whatever the number of files.
        waiting: deque[Future[list[_Result]]] = deque()
        source = iter(files)
        while batch := tuple(islice(source, _READ_TOGETHER)):
            waiting.append(readers.submit(read, batch))
            if len(waiting) > 2 * jobs:
                yield from _sound(waiting.popleft().result(), rebuilt)
        while waiting:
            yield from _sound(waiting.popleft().result(), rebuilt)


def _read(storage: FileSystemStorage, place: str, path: str) -> _Result:
    try:
        with storage.open(place) as source:
            return read_stored(source, path)
    except InvalidInstance as error:
        # Under another name it is no file of ours, unless there is an instance in it.
        return (place, str(error)) if path.endswith(".dcm") else None
    except StorageUnavailable as error:
        return place, str(error)


def _sound(results: list[_Result], rebuilt: RebuildReport) -> Iterator[StoredFile]:
    for result in results:
        if isinstance(result, StoredFile):
            yield result
        elif result is not None:
            rebuilt.problem(*result)


def _collect_deletions(
    storage: FileSystemStorage, trash: Trash, events: Events, rebuilt: RebuildReport, jobs: int
) -> None:
    """What was deleted was there before, and its values may have stayed with what was not."""
    for folder in trash.folders():
        try:
            document = decode(trash.read(folder), folder)
        except StorageUnavailable as error:
            rebuilt.problem(f"trash/{folder}", str(error))
            continue
        if trash.in_place(folder):
            # It ended before anything was taken out of the index.
            continue
        files = ((f"trash/{folder}/{path}", path) for path in document.files if trash.holds(folder, path))
        for stored in _read_all(storage, files, rebuilt, jobs):
            events.arrived(stored, in_trash=True)
        events.deleted(document.deletion.deleted_at, folder)


class _Replay:
    """Tells events to an index; what follows one upon another goes into one transaction."""

    def __init__(
        self, database: Database, trash: Trash, decisions: list[Decision], events: Events, rebuilt: RebuildReport
    ) -> None:
        self._index = InstanceIndex(database)
        self._deletions = DeletionIndex(database)
        self._identities = DecisionIndex(database)
        self._trash = trash
        self._decisions = decisions
        self._events = events
        self._rebuilt = rebuilt
        self._waiting: list[Arrival] = []
        # Files that lie where they were, and are on their way into the trash.
        self._going: set[str] = set()

    def tell(self, event: Arrived | Deleted | Changed) -> None:
        """Do to the index what was done then. Raises StorageUnavailable, IndexUnavailable."""
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
            self._identities.apply(self._decisions[event.number])

    def flush(self) -> None:
        """Commit what waits. Raises IndexUnavailable."""
        waiting, self._waiting = self._waiting, []
        self._add(waiting)

    def bring_back(self) -> None:
        """Index what was restored after a deletion that took another one of the same UID. Raises IndexUnavailable."""
        for uid, files in self._events.restored():
            if self._index.get(uid) is None:
                for file in files:
                    if file.instance.path not in self._going:
                        self._again(file)

    def _add(self, arrivals: list[Arrival]) -> None:
        for arrival, error in zip(arrivals, self._index.add_many(arrivals) if arrivals else (), strict=True):
            if error is not None:
                self._rebuilt.problem(arrival.instance.path, str(error))

    def _again(self, file: StoredFile) -> None:
        """One of several files of an instance: the one of the highest version is current, the later one of two."""
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
        self._events.taken_out(document)
        going = {path for path in document.files if self._trash.at_first_name(folder, path)}
        if going:
            # It was interrupted: the next start brings it to its end.
            self._going |= going
            self._deletions.set_status(folder, DeletionStatus.MOVING)


def _arrival(file: StoredFile) -> Arrival:
    return Arrival(file.instance, file.header, file.origin, file.received_at)
