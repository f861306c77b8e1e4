"""Restore a snapshot into an empty archive and an empty database.

Files come first, each compared with its digest and made durable; then all rows in one transaction. Until the end the
archive is marked as unfinished, so that no server starts on it, and a restore that was stopped can continue.
"""

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pacs_server.errors import ObjectNotFound, ObjectUnreadable, StorageUnavailable
from pacs_server.index.copying import has_instances_of, indexed_files, is_empty, restore_snapshot
from pacs_server.index.database import Database
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import ByteSource, pieces
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import DurableFiles
from pacs_server.storage.file_source import FileSource
from pacs_server.upkeep.backup import CopyReport
from pacs_server.upkeep.backup_check import Damaged, DigestCheck, OnProgress, check_bytes, check_instance
from pacs_server.upkeep.backup_directory import CHUNK, SIDE_FILES, BackupDirectory, OtherFile, Snapshot, pieces_of
from pacs_server.upkeep.rate_limit import RateLimit


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """Where a snapshot is restored: an empty database, an empty archive, and the directory for the old audit trail."""

    database: Database
    files: ArchiveFiles
    audit: Path


def restore(
    directory: BackupDirectory, snapshot: Snapshot, target: RestoreTarget, pace: RateLimit, progress: OnProgress
) -> CopyReport:
    """Restore a snapshot, or continue a restore of it.

    Files that are missing from the backup or damaged are in the report, and their rows are restored all the same.
    Raises StorageUnavailable if the target is not empty or in use, SchemaError, IndexUnavailable, StorageFull.
    """
    started = time.monotonic()
    restoration = target.files.restoration
    with target.files.lock.exclusive():
        _begin(directory, snapshot, target)
        # The storage takes an archive without what the spool needs for one whose file system is away.
        target.files.spool.prepare()
        report = _Restore(directory, snapshot, target, pace).run(progress)
        if is_empty(target.database):
            scratch = restoration.scratch / "index.db"
            with disk_errors(f"write below {restoration.scratch}"):
                # A copy, because an older schema is migrated in it.
                shutil.copyfile(directory.database_of(snapshot), scratch)
            restore_snapshot(scratch, target.database)
        elif not has_instances_of(target.database, directory.database_of(snapshot)):
            raise StorageUnavailable("the database is not the one that this restore began with, and it is not empty")
        restoration.finish()
    report.snapshot = snapshot.name
    report.seconds = time.monotonic() - started
    return report


def _begin(directory: BackupDirectory, snapshot: Snapshot, target: RestoreTarget) -> None:
    """Mark the archive as unfinished; refuse one that is not empty, unless this snapshot is being restored to it."""
    restoration, name = target.files.restoration, target.files.name
    unfinished = restoration.unfinished()
    if unfinished is not None:
        if unfinished != snapshot.name:
            raise StorageUnavailable(f"another snapshot is being restored into {name}: empty it first")
        return
    if not restoration.is_archive_empty():
        raise StorageUnavailable(f"{name} is not empty: a restore needs an empty archive")
    if not is_empty(target.database):
        raise StorageUnavailable("the database is not empty: a restore needs an empty one")
    directory.database_of(snapshot)
    restoration.begin(snapshot.name)


class _Restore:
    """The files of one run."""

    def __init__(self, directory: BackupDirectory, snapshot: Snapshot, target: RestoreTarget, pace: RateLimit) -> None:
        self._directory = directory
        self._snapshot = snapshot
        self._target = target
        self._pace = pace
        self._report = CopyReport()

    def run(self, progress: OnProgress) -> CopyReport:
        self._instances(progress)
        self._side_files()
        self._audit()
        return self._report

    def _instances(self, progress: OnProgress) -> None:
        storage, total = self._target.files.storage, self._snapshot.rows["instance"]
        with storage.bulk() as writer:
            for done, file in enumerate(indexed_files(self._directory.database_of(self._snapshot)), 1):
                check, kept = partial(check_instance, file=file), self._directory.object(file.name)
                if self._is_missing(partial(storage.open, file.path), file.size, check):
                    self._write(file.path, kept, check, partial(writer.put, file.path))
                progress(done, total)

    def _side_files(self) -> None:
        storage = self._target.files.side_files
        with storage.bulk() as writer:
            for other in self._directory.other_files(self._snapshot):
                if other.area == SIDE_FILES:
                    self._other(other, partial(storage.open, other.path), partial(writer.put, other.path))

    def _audit(self) -> None:
        root = self._target.audit
        partial_files = root.with_name(f"{root.name}.partial")
        others = [one for one in self._directory.other_files(self._snapshot) if one.area != SIDE_FILES]
        if not others:
            return
        with DurableFiles(partial_files) as writer:
            for other in others:
                place = root / other.path
                if place.parent != root:
                    raise StorageUnavailable("the backup names a path outside the archive")
                self._other(other, partial(FileSource, str(place), other.path), partial(writer.write, place))
        with suppress(OSError):
            partial_files.rmdir()

    def _other(self, other: OtherFile, opened: Callable[[], ByteSource], put: Callable[[Iterable[bytes]], int]) -> None:
        check = partial(check_bytes, expected=other.digest)
        if self._is_missing(opened, other.size, check):
            self._write(other.path, self._directory.file(other.name), check, put)

    def _is_missing(self, opened: Callable[[], ByteSource], size: int, check: DigestCheck) -> bool:
        """Whether a file is not restored already, as a whole."""
        try:
            with opened() as source:
                if source.size != size:
                    return True
                for _ in check(pieces(source, CHUNK)):
                    pass
        except (ObjectNotFound, ObjectUnreadable, Damaged):
            return True
        self._report.there += 1
        return False

    def _write(self, path: str, kept: Path, check: DigestCheck, put: Callable[[Iterable[bytes]], int]) -> None:
        try:
            self._report.written_bytes += put(self._pace.over(check(pieces_of(kept))))
            self._report.written += 1
        except FileNotFoundError:
            self._report.problem(f"{path} is missing from the backup")
        except OSError as error:
            self._report.problem(f"{path} cannot be read from the backup: {error.strerror}")
        except Damaged:
            self._report.problem(f"{path} is damaged in the backup")
