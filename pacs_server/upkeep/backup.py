"""Back up an archive while the server runs: a copy of the index, then every file to which it refers.

A row is committed after its file is durable. So the index is copied first and the files after it, and each row of the
copy has its file, unless the instance was deleted meanwhile: then the index is copied once more, and only the files
that came since have to follow.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pacs_server import __version__
from pacs_server.audit import files as audit_files
from pacs_server.errors import InvalidKey, ObjectNotFound, ObjectUnreadable, StorageUnavailable
from pacs_server.index.copying import IndexedFile, deleted_folders, indexed_files, row_counts, take_snapshot
from pacs_server.index.database import Database
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import ByteSource, pieces
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import DurableFiles
from pacs_server.storage.file_source import FileSource
from pacs_server.storage.keys import DECISIONS_PREFIX, trash_prefix
from pacs_server.upkeep.backup_check import Damaged, OnProgress, check_bytes, check_instance
from pacs_server.upkeep.backup_directory import (
    AUDIT,
    CHUNK,
    SIDE_FILES,
    BackupDirectory,
    OtherFile,
    Snapshot,
    digest_of,
    pieces_of,
    write_manifest,
)
from pacs_server.upkeep.rate_limit import RateLimit

# How often the index is copied if files to which it refers are gone.
_ROUNDS: Final = 3
# So many problems are told one by one.
MOST_PROBLEMS: Final = 1000


@dataclass(slots=True)
class CopyReport:
    """What a backup or a restore did: files that were written, files that were there already, and problems."""

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
class BackupSource:
    """What is backed up: the index, the files of the archive, and the directory of the audit trail if there is one."""

    database: Database
    files: ArchiveFiles
    audit: Path | None


def back_up(source: BackupSource, directory: BackupDirectory, pace: RateLimit, progress: OnProgress) -> CopyReport:
    """Add a snapshot to a directory of backups; files that it has already are not copied again.

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


def _sweep(directory: BackupDirectory) -> None:
    """Remove half written files, and the files of a backup that did not come to its end."""
    with disk_errors(f"use {directory.index}"):
        finished = {path.stem for path in directory.index.glob("*.json")}
        for leftover in [*directory.partial.iterdir(), *directory.index.iterdir()]:
            if leftover.parent == directory.partial or leftover.stem not in finished:
                leftover.unlink()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file besides the instances that belongs into the backup; what is appended to it meanwhile is cut at `size`."""

    area: str
    path: str
    size: int
    modified_ns: int
    open: Callable[[], ByteSource]


# What of a candidate is the same as long as nobody changed the file.
_Unchanged = tuple[str, str, int, int]


class _Backup:
    """One run."""

    def __init__(
        self,
        source: BackupSource,
        directory: BackupDirectory,
        writer: DurableFiles,
        pace: RateLimit,
        progress: OnProgress,
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
        files_digest, files = self._copy_others(name, known)
        with disk_errors(f"read {self._draft}"):
            digest = digest_of(self._draft)
            # The draft is copied through the writer, which makes the copy durable.
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
        """Copy the index and the instances: name, revision, instances, their bytes, how many files are missing."""
        self._report.problems, self._report.problem_count = [], 0
        with disk_errors(f"use {self._draft}"):
            self._draft.unlink(missing_ok=True)
        name, revision = self._directory.new_name(), take_snapshot(self._source.database, self._draft)
        instances, size, gone = self._copy_instances(row_counts(self._draft)["instance"])
        self._writer.flush()
        in_trash = set(self._source.files.trash.folders())
        for folder in deleted_folders(self._draft):
            if folder not in in_trash:
                # The deletion was restored or purged; a newer copy of the index knows.
                gone += 1
                self._report.problem(f"{trash_prefix(folder).removesuffix('/')} is missing")
        return name, revision, instances, size, gone

    def _copy_instances(self, total: int) -> tuple[int, int, int]:
        """Copy instances; returns how many the backup has, their bytes, and how many are missing in the archive."""
        kept = size = missing = 0
        for done, file in enumerate(indexed_files(self._draft), 1):
            target = self._directory.object(file.name)
            try:
                if not _has_size(target, file.size):
                    self._copy_instance(file, target)
                kept, size = kept + 1, size + file.size
            except ObjectNotFound:
                missing += 1
                self._report.problem(f"{file.path} is missing")
            except (ObjectUnreadable, InvalidKey) as error:
                self._report.problem(_unreadable(file.path, error))
            except Damaged:
                self._report.problem(f"{file.path} is damaged")
            self._progress(done, total)
        return kept, size, missing

    def _copy_instance(self, file: IndexedFile, target: Path) -> None:
        with self._source.files.storage.open(file.path) as source:
            checked = check_instance(self._pace.over(pieces(source, CHUNK)), file)
            self._report.written_bytes += self._writer.write(target, checked)
        self._report.written += 1

    # ---------------------------------------------------------------- other files

    def _known_files(self) -> dict[_Unchanged, OtherFile]:
        """The other files of the newest snapshot; a file with the same size and time is not read again."""
        try:
            files = list(self._directory.other_files(self._directory.snapshot(None)))
        except (StorageUnavailable, FileNotFoundError):
            return {}
        return {(one.area, one.path, one.size, one.modified_ns): one for one in files}

    def _copy_others(self, name: str, known: dict[_Unchanged, OtherFile]) -> tuple[str, int]:
        """Copy the other files and list them; returns the digest of the list, and their number."""
        lines = []
        for found in self._candidates():
            try:
                lines.append(json.dumps(asdict(self._copy_other(found, known))) + "\n")
            except ObjectNotFound:
                continue  # purged from the trash, or pruned from the audit trail
            except (ObjectUnreadable, InvalidKey) as error:
                self._report.problem(_unreadable(found.path, error))
            except Damaged:
                self._report.problem(f"{found.path} changed while it was copied")
        text = "".join(lines).encode()
        self._writer.write(self._directory.index / f"{name}.files", [text])
        return hashlib.sha256(text).hexdigest(), len(lines)

    def _copy_other(self, found: _Candidate, known: dict[_Unchanged, OtherFile]) -> OtherFile:
        before = known.get((found.area, found.path, found.size, found.modified_ns))
        if before is not None and _has_size(self._directory.file(before.name), found.size):
            return before
        with found.open() as source:
            digest = hashlib.sha256()
            for piece in pieces(source, CHUNK, end=found.size):
                digest.update(piece)
            other = OtherFile(found.area, found.path, found.size, found.modified_ns, digest.hexdigest())
            target = self._directory.file(other.name)
            if not _has_size(target, found.size):
                read = self._pace.over(pieces(source, CHUNK, end=found.size))
                self._writer.write(target, check_bytes(read, other.digest))
        return other

    def _candidates(self) -> Iterator[_Candidate]:
        """The files of deletions that the copy of the index knows, the decisions, and the audit trail.

        An instance that was deleted after the index was copied is in the backup as an instance.
        """
        storage = self._source.files.side_files
        prefixes = [trash_prefix(folder) for folder in sorted(deleted_folders(self._draft))]
        for prefix in (*prefixes, DECISIONS_PREFIX):
            for key in storage.list(prefix, unlistable=self._unlistable):
                try:
                    info = storage.info(key)
                except ObjectNotFound:
                    continue
                except ObjectUnreadable as error:
                    self._report.problem(_unreadable(key, error))
                    continue
                yield _Candidate(SIDE_FILES, key, info.size, info.modified_ns, partial(storage.open, key))
        if self._source.audit is not None and (self._source.audit / audit_files.HEAD).exists():
            yield from _audit_files(self._source.audit, self._directory.partial)

    def _unlistable(self, prefix: str, error: ObjectUnreadable) -> None:
        self._report.problem(f"{prefix} cannot be listed: {error.reason}")


def _audit_files(directory: Path, copies: Path) -> Iterator[_Candidate]:
    """The files of the audit trail without its key, as they are at a moment when nobody writes.

    All of them only grow, except for the head, which is copied at that moment.
    """
    with disk_errors(f"read {directory}"):
        descriptor = os.open(directory / audit_files.HEAD, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with audit_files.locked(descriptor, shared=True):
                names = [*audit_files.day_files(directory), audit_files.ANCHORS]
                paths = [path for name in names if (path := directory / name).exists()]
                states = [(path, path.stat()) for path in paths]
                head = (directory / audit_files.HEAD).read_bytes()
        finally:
            os.close(descriptor)
        copy = copies / audit_files.HEAD
        copy.write_bytes(head)
        states.append((copy, copy.stat()))
    for path, state in states:
        opened = partial(FileSource, str(path), path.name)
        yield _Candidate(AUDIT, path.name, state.st_size, state.st_mtime_ns, opened)


def _has_size(path: Path, size: int) -> bool:
    with disk_errors(f"read {path}"):
        try:
            return path.stat().st_size == size
        except FileNotFoundError:
            return False


def _unreadable(path: str, error: ObjectUnreadable | InvalidKey) -> str:
    return f"{path} cannot be read: {error.reason if isinstance(error, ObjectUnreadable) else error}"
