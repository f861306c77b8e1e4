"""Backup: the index as it is at one moment, and every file it refers to, while the server runs.

A row is committed after its file is durable. So a copy of the index is taken first and the files after it,
and each row of the copy has its file, unless it was deleted meanwhile: then another copy is taken, and
only the files that came since have to follow.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pacs_server import __version__
from pacs_server.audit import files as audit_files
from pacs_server.errors import StorageUnavailable
from pacs_server.index.copying import IndexedFile, deleted_folders, indexed_files, row_counts, take_snapshot
from pacs_server.index.database import Database
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import DurableFiles
from pacs_server.upkeep.backup_directory import (
    BackupDirectory,
    OtherFile,
    Snapshot,
    digest_of,
    pieces_of,
    write_manifest,
)
from pacs_server.upkeep.rate_limit import RateLimit

# Rows whose file is gone are looked at again in a newer copy of the index, this often in all.
_ROUNDS: Final = 3
# So many problems are told one by one.
MOST_PROBLEMS: Final = 1000
# What was deleted, and what operators changed that no file can tell; both below the archive's directory.
_TRASH: Final = "trash"
_CHANGES: Final = "changes"

# Told the number of instances done and of all there are.
OnProgress = Callable[[int, int], None]
# Takes the pieces of a file and gives them on, and raises Damaged behind the last one.
Check = Callable[[Iterator[bytes]], Iterator[bytes]]
# Told of a file what it is in the archive, where the backup keeps it and how it is checked; whether it is whole now.
Renew = Callable[[str, Path, Check], bool]


class Damaged(Exception):
    """A file is not the one its digest was made of."""


@dataclass(slots=True)
class CopyReport:
    """What was done: files written anew, those that were there already, and what could not be."""

    snapshot: str = ""
    written: int = 0
    written_bytes: int = 0
    there: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def problem(self, text: str) -> None:
        """Keep what is wrong with one file."""
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)


@dataclass(frozen=True, slots=True)
class Source:
    """What is backed up: the index, the archive's directory, the directory of the audit trail if there is one."""

    database: Database
    archive: Path
    audit: Path | None


def back_up(source: Source, directory: BackupDirectory, pace: RateLimit, progress: OnProgress) -> CopyReport:
    """Add a snapshot to a directory of backups; what is there already is not copied again.

    Files that are missing or damaged are in the report, and the rest is backed up. Raises SchemaError,
    IndexUnavailable, StorageFull, StorageUnavailable.
    """
    started = time.monotonic()
    with directory.locked():
        _sweep(directory)
        with DurableFiles(directory.partial) as writer:
            report = _Backup(source, directory, writer, pace, progress).run()
        _sweep(directory)
    report.seconds = time.monotonic() - started
    return report


def checked(pieces: Iterator[bytes], file: IndexedFile) -> Iterator[bytes]:
    """The pieces of an instance's file as they are; raises Damaged behind the last one if it is another file."""
    digest, position = hashlib.sha256(), 0
    for piece in pieces:
        skipped = max(0, file.data_set_offset - position)
        digest.update(memoryview(piece)[skipped:])
        position += len(piece)
        yield piece
    if position != file.size or digest.hexdigest() != file.digest:
        raise Damaged


def verify(
    directory: BackupDirectory, snapshot: Snapshot, progress: OnProgress, renew: Renew = lambda *_: False
) -> list[str]:
    """Read a whole snapshot back and say what is wrong with it; raises StorageUnavailable if the index is.

    `renew` may put right what is wrong.
    """
    report = CopyReport()
    for done, file in enumerate(indexed_files(directory.database_of(snapshot)), 1):
        _verify(report, file.path, directory.object(file.name), partial(checked, file=file), renew)
        progress(done, snapshot.rows["instance"])
    for other in directory.other_files(snapshot):
        _verify(report, other.path, directory.file(other.name), partial(same_bytes, expected=other.digest), renew)
    return report.problems


def verify_and_renew(archive: Path, directory: BackupDirectory, snapshot: Snapshot, progress: OnProgress) -> list[str]:
    """As `verify`, and copy from the archive once more what it still has; raises StorageFull, StorageUnavailable."""
    with directory.locked(), DurableFiles(directory.partial) as writer:

        def renew(path: str, kept: Path, check: Check) -> bool:
            try:
                writer.write(kept, check(pieces_of(archive / path)))
            except (OSError, Damaged):
                return False
            return True

        return verify(directory, snapshot, progress, renew)


def _verify(report: CopyReport, path: str, kept: Path, check: Check, renew: Renew) -> None:
    try:
        for _ in check(pieces_of(kept)):
            pass
    except FileNotFoundError:
        wrong = "missing from the backup"
    except OSError as error:
        wrong = f"cannot be read from the backup: {error.strerror}"
    except Damaged:
        wrong = "damaged in the backup"
    else:
        return
    report.problem(f"{path}: {wrong}" + ("; copied again" if renew(path, kept, check) else ""))


def same_bytes(pieces: Iterator[bytes], expected: str) -> Iterator[bytes]:
    """The pieces of a file as they are; raises Damaged behind the last one if its SHA-256 is not the expected one."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.hexdigest() != expected:
        raise Damaged


def _sweep(directory: BackupDirectory) -> None:
    """Remove what is half written, and what a backup left that did not come to its end."""
    with disk_errors(f"use {directory.index}"):
        finished = {path.stem for path in directory.index.glob("*.json")}
        for leftover in [*directory.partial.iterdir(), *directory.index.iterdir()]:
            if leftover.parent == directory.partial or leftover.stem not in finished:
                leftover.unlink()


class _Backup:
    """One run."""

    def __init__(
        self, source: Source, directory: BackupDirectory, writer: DurableFiles, pace: RateLimit, progress: OnProgress
    ) -> None:
        self._source = source
        self._directory = directory
        self._writer = writer
        self._pace = pace
        self._progress = progress
        self._report = CopyReport()
        self._draft = directory.partial / "index.db"

    def run(self) -> CopyReport:
        known = self._known_files()
        gone = -1
        for _ in range(_ROUNDS):
            before = gone
            name, revision, instances, size, gone = self._round()
            if gone in (0, before):
                break
        files_digest, files = self._others(name, known)
        with disk_errors(f"read {self._draft}"):
            digest = digest_of(self._draft)
            # Once more through the writer, which makes it durable.
            index_size = self._writer.write(self._directory.index / f"{name}.db", pieces_of(self._draft))
        self._writer.flush()
        report, rows = self._report, row_counts(self._draft)
        report.snapshot, report.there = name, instances - report.written
        manifest = Snapshot(
            name, __version__, revision, index_size, digest, files_digest, instances, size, files, rows,
            report.problem_count,
        )  # fmt: skip
        write_manifest(self._writer, self._directory, manifest)
        return report

    def _round(self) -> tuple[str, str, int, int, int]:
        """Copy the index and what it refers to: name, revision, instances, their bytes, how many files are missing."""
        self._report.problems, self._report.problem_count = [], 0
        with disk_errors(f"use {self._draft}"):
            self._draft.unlink(missing_ok=True)
        name, revision = self._directory.new_name(), take_snapshot(self._source.database, self._draft)
        instances, size, gone = self._instances(row_counts(self._draft)["instance"])
        self._writer.flush()
        for folder in deleted_folders(self._draft):
            if not (self._source.archive / _TRASH / folder).is_dir():
                # Brought back, or its time was over; a newer copy of the index knows.
                gone += 1
                self._report.problem(f"{_TRASH}/{folder} is missing")
        return name, revision, instances, size, gone

    def _instances(self, total: int) -> tuple[int, int, int]:
        """Copy what is not there; returns how many instances the backup has, their bytes, and how many are missing."""
        kept = size = missing = 0
        for done, file in enumerate(indexed_files(self._draft), 1):
            target = self._directory.object(file.name)
            try:
                if not _has_size(target, file.size):
                    self._copy(file, target)
                kept, size = kept + 1, size + file.size
            except FileNotFoundError:
                missing += 1
                self._report.problem(f"{file.path} is missing")
            except OSError as error:
                self._report.problem(f"{file.path} cannot be read: {error.strerror}")
            except Damaged:
                self._report.problem(f"{file.path} is damaged")
            self._progress(done, total)
        return kept, size, missing

    def _copy(self, file: IndexedFile, target: Path) -> None:
        pieces = checked(self._pace.over(pieces_of(self._source.archive / file.path)), file)
        self._report.written_bytes += self._writer.write(target, pieces)
        self._report.written += 1

    def _known_files(self) -> dict[tuple[str, str, int, int], OtherFile]:
        """The other files of the newest snapshot: what has the same size and time since is not read again."""
        try:
            files = list(self._directory.other_files(self._directory.snapshot(None)))
        except (StorageUnavailable, FileNotFoundError):
            return {}
        return {(one.area, one.path, one.size, one.modified_ns): one for one in files}

    def _others(self, name: str, known: dict[tuple[str, str, int, int], OtherFile]) -> tuple[str, int]:
        """Copy the other files and list them; returns the digest of the list and how many they are."""
        lines = []
        for area, root, path, size in self._found():
            try:
                lines.append(json.dumps(asdict(self._other(area, root, path, size, known))) + "\n")
            except FileNotFoundError:
                continue  # its time in the trash was over, or its day in the audit trail
            except OSError as error:
                self._report.problem(f"{path} cannot be read: {error.strerror}")
            except Damaged:
                self._report.problem(f"{path} changed while it was copied")
        text = "".join(lines).encode()
        self._writer.write(self._directory.index / f"{name}.files", [text])
        return hashlib.sha256(text).hexdigest(), len(lines)

    def _other(
        self, area: str, root: Path, path: str, size: int, known: dict[tuple[str, str, int, int], OtherFile]
    ) -> OtherFile:
        modified = (root / path).stat().st_mtime_ns
        before = known.get((area, path, size, modified))
        if before is not None and _has_size(self._directory.file(before.name), size):
            return before
        found = OtherFile(area, path, size, modified, digest_of(root / path, size))
        target = self._directory.file(found.name)
        if not _has_size(target, size):
            self._writer.write(target, same_bytes(self._pace.over(pieces_of(root / path, size)), found.digest))
        return found

    def _found(self) -> Iterator[tuple[str, Path, str, int]]:
        """Area, root, path and size of every other file; what is appended to meanwhile is cut at that size."""
        # What was deleted after the copy of the index is in that as an instance.
        trash = sorted(f"{_TRASH}/{folder}" for folder in deleted_folders(self._draft))
        for name in (*trash, _CHANGES):
            for folder, _, files in os.walk(self._source.archive / name):
                for file in sorted(files):
                    path = Path(folder, file)
                    with suppress(FileNotFoundError):
                        relative = path.relative_to(self._source.archive).as_posix()
                        yield "archive", self._source.archive, relative, path.stat().st_size
        if self._source.audit is not None and (self._source.audit / audit_files.HEAD).exists():
            yield from _audit_files(self._source.audit, self._directory.partial)


def _audit_files(directory: Path, copies: Path) -> Iterator[tuple[str, Path, str, int]]:
    """The files of the audit trail without its key, as they are at a moment when nobody writes.

    All of them only grow, but for the head, of which a copy is made.
    """
    with disk_errors(f"read {directory}"):
        descriptor = os.open(directory / audit_files.HEAD, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with audit_files.locked(descriptor, shared=True):
                names = [*audit_files.day_files(directory), audit_files.ANCHORS]
                sizes = {name: (directory / name).stat().st_size for name in names if (directory / name).exists()}
                head = (directory / audit_files.HEAD).read_bytes()
        finally:
            os.close(descriptor)
        (copies / audit_files.HEAD).write_bytes(head)
    for name, size in sizes.items():
        yield "audit", directory, name, size
    yield "audit", copies, audit_files.HEAD, len(head)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False
