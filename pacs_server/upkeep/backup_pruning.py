"""Remove old snapshots from a directory of backups, and the files to which no other snapshot refers."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pacs_server.index.copying import indexed_files
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import sync_file_system
from pacs_server.upkeep.backup_directory import BackupDirectory, Snapshot


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What was removed; `bytes` is the size of the removed files."""

    snapshots: int
    files: int
    bytes: int


def prune(directory: BackupDirectory, keep: int) -> PruneResult:
    """Keep the newest `keep` snapshots. Manifests are removed before files, so that a stop at any moment harms nothing.

    Raises StorageUnavailable, also if a snapshot that is to be kept cannot be read: then no file is removed.
    """
    directory.require()  # the lock would make it
    with directory.locked():
        snapshots = directory.snapshots()
        gone, kept = snapshots[:-keep], snapshots[-keep:]
        # On disk, because an archive may have more files than memory has room for their names.
        with closing(sqlite3.connect("")) as names:
            names.execute("CREATE TABLE wanted (name TEXT PRIMARY KEY) WITHOUT ROWID")
            for snapshot in kept:
                names.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", _names(directory, snapshot))
            with disk_errors(f"remove from {directory.root}"):
                for snapshot in gone:
                    _remove(directory, snapshot)
                sync_file_system(directory.index)
                removed = [_sweep(directory.root / kind, names) for kind in ("objects", "files")]
    return PruneResult(len(gone), sum(count for count, _ in removed), sum(size for _, size in removed))


def _names(directory: BackupDirectory, snapshot: Snapshot) -> Iterator[tuple[str]]:
    yield from ((file.name,) for file in indexed_files(directory.database_of(snapshot)))
    yield from ((other.name,) for other in directory.other_files(snapshot))


def _remove(directory: BackupDirectory, snapshot: Snapshot) -> None:
    """Remove a snapshot, its manifest first: without the manifest the rest does not count."""
    for suffix in (".json", ".files", ".db"):
        (directory.index / f"{snapshot.name}{suffix}").unlink(missing_ok=True)


def _sweep(root: Path, names: sqlite3.Connection) -> tuple[int, int]:
    """Remove the files that no snapshot refers to; returns their number and their size in bytes."""
    count = size = 0
    for path in (path for folder in root.iterdir() for path in folder.iterdir()):
        if names.execute("SELECT 1 FROM wanted WHERE name = ?", (path.name,)).fetchone() is None:
            size += path.stat().st_size
            path.unlink()
            count += 1
    return count, size
