"""Restore: a snapshot into an empty archive and an empty database.

Files first, each held against its digest, and durable; then all rows in one transaction. Until the end the
archive is marked as unfinished, so that no server starts on it, and a restore that was stopped goes on.
"""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pacs_server.errors import StorageUnavailable
from pacs_server.index.copying import has_instances_of, indexed_files, is_empty, restore_snapshot
from pacs_server.index.database import Database
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import DurableFiles, sync_file_system
from pacs_server.storage.lock import RESTORING, UNFINISHED, alone
from pacs_server.upkeep.backup import Check, CopyReport, Damaged, OnProgress, checked, same_bytes
from pacs_server.upkeep.backup_directory import BackupDirectory, OtherFile, Snapshot, pieces_of
from pacs_server.upkeep.rate_limit import RateLimit

# What an archive without a single object may hold.
_OF_AN_EMPTY_ARCHIVE: Final = {"incoming", "quarantine", "trash", "changes", "lost+found"}


@dataclass(frozen=True, slots=True)
class Target:
    """What is restored into: an empty database, an empty directory, and where an old audit trail is put."""

    database: Database
    archive: Path
    audit: Path


def restore(
    directory: BackupDirectory, snapshot: Snapshot, target: Target, pace: RateLimit, progress: OnProgress
) -> CopyReport:
    """Restore a snapshot, or go on with what is restored of it already.

    Files that are missing from the backup or damaged are in the report, and their rows are restored
    all the same. Raises StorageUnavailable if the target is not empty or in use, SchemaError,
    IndexUnavailable, StorageFull.
    """
    started = time.monotonic()
    work = target.archive / RESTORING
    with alone(target.archive):
        _begin(directory, snapshot, target, work)
        with DurableFiles(work) as writer:
            report = _Restore(directory, target.archive, writer, pace).files(snapshot, target, progress)
        if is_empty(target.database):
            with disk_errors(f"write below {work}"):
                # A copy, since an older schema is migrated in it.
                shutil.copyfile(directory.database_of(snapshot), work / "index.db")
            restore_snapshot(work / "index.db", target.database)
        elif not has_instances_of(target.database, directory.database_of(snapshot)):
            raise StorageUnavailable("the database is not the one that this restore began with, and it is not empty")
        _finish(target.archive, work)
    report.snapshot = snapshot.name
    report.seconds = time.monotonic() - started
    return report


def _begin(directory: BackupDirectory, snapshot: Snapshot, target: Target, work: Path) -> None:
    """Mark the archive as unfinished; refuse one that is not empty, unless this snapshot is being restored to it."""
    with disk_errors(f"use {target.archive}"):
        if work.is_dir() and (work / UNFINISHED).exists():
            if (work / UNFINISHED).read_text(encoding="utf-8") != snapshot.name:
                raise StorageUnavailable(f"another snapshot is being restored into {target.archive}: empty it first")
            return
        if any(_files_in(target.archive)):
            raise StorageUnavailable(f"{target.archive} is not empty: a restore needs an empty archive")
        if not is_empty(target.database):
            raise StorageUnavailable("the database is not empty: a restore needs an empty one")
        directory.database_of(snapshot)
        with DurableFiles(work) as writer:
            writer.write(work / UNFINISHED, [snapshot.name.encode()])


def _files_in(archive: Path) -> Iterator[Path]:
    for entry in archive.iterdir():
        if entry.name in _OF_AN_EMPTY_ARCHIVE and entry.is_dir():
            yield from (path for path in entry.rglob("*") if not path.is_dir())
        elif entry.name != RESTORING:
            yield entry


def _finish(archive: Path, work: Path) -> None:
    """Take the mark away; it goes last."""
    with disk_errors(f"remove {work}"):
        for path in work.iterdir():
            if path.name != UNFINISHED:
                path.unlink()
        (work / UNFINISHED).unlink()
        work.rmdir()
        sync_file_system(archive)


class _Restore:
    """The files of one run."""

    def __init__(self, directory: BackupDirectory, archive: Path, writer: DurableFiles, pace: RateLimit) -> None:
        self._directory = directory
        self._archive = archive
        self._writer = writer
        self._pace = pace
        self._report = CopyReport()

    def files(self, snapshot: Snapshot, target: Target, progress: OnProgress) -> CopyReport:
        total = snapshot.rows["instance"]
        for done, file in enumerate(indexed_files(self._directory.database_of(snapshot)), 1):
            kept, place = self._directory.object(file.name), _jailed(target.archive, file.path)
            self._file(file.path, place, file.size, partial(checked, file=file), kept)
            progress(done, total)
        for other in self._directory.other_files(snapshot):
            root = target.archive if other.area == "archive" else target.audit
            self._other(other, _jailed(root, other.path))
        return self._report

    def _other(self, other: OtherFile, place: Path) -> None:
        kept = self._directory.file(other.name)
        self._file(other.path, place, other.size, partial(same_bytes, expected=other.digest), kept)

    def _file(self, path: str, place: Path, size: int, check: Check, kept: Path) -> None:
        """Put one file in its place unless it is there already, whole."""
        if _is_there(place, size, check):
            self._report.there += 1
            return
        try:
            self._report.written_bytes += self._writer.write(place, self._pace.over(check(pieces_of(kept))))
            self._report.written += 1
        except FileNotFoundError:
            self._report.problem(f"{path} is missing from the backup")
        except OSError as error:
            self._report.problem(f"{path} cannot be read from the backup: {error.strerror}")
        except Damaged:
            self._report.problem(f"{path} is damaged in the backup")


def _is_there(place: Path, size: int, check: Check) -> bool:
    try:
        if place.stat().st_size != size:
            return False
        for _ in check(pieces_of(place)):
            pass
    except (OSError, Damaged):
        return False
    return True


def _jailed(root: Path, path: str) -> Path:
    """`path` below the root; an index that was tampered with leads nowhere else."""
    place = Path(os.path.normpath(root / path))
    if not place.is_relative_to(root) or place == root or place.is_relative_to(root / RESTORING):
        raise StorageUnavailable("the backup names a path outside the archive")
    return place
