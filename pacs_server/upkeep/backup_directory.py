"""A directory of backups: snapshots of the index, and each file that they refer to once.

    index/TIME.db      the index at that moment, a SQLite database
    index/TIME.files   the other files of that moment, one JSON object a line
    index/TIME.json    the manifest; a snapshot without one does not count
    objects/ab/...     instances, by the digest of their data set
    files/ab/...       other files, by their digest
    partial/           what is being written
    lock               held by whoever writes here

Nothing in it is ever changed, so an older snapshot stays whole whatever happens to a newer one.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pacs_server.errors import ConfigError, StorageUnavailable
from pacs_server.kit.private_files import make_directory
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import DurableFiles

CHUNK: Final = 1024 * 1024
# The areas of files: instances, other files of the archive (`ArchiveFiles.side_files`), and files of the audit trail.
INSTANCES: Final = "instance"
SIDE_FILES: Final = "archive"
AUDIT: Final = "audit"
_NAME: Final = re.compile(r"[0-9a-f]{64}-[0-9]+(-[0-9a-f]{8})?")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A manifest: what one backup holds. Sizes are in bytes, digests are SHA-256 in hexadecimal.

    `rows` counts the rows of each table, `problems` the files that were missing or damaged when the backup was made.
    """

    name: str
    version: str
    revision: str
    index_size: int
    index_digest: str
    files_digest: str
    instances: int
    instance_bytes: int
    files: int
    rows: Mapping[str, int]
    problems: int


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file that is no instance of the index: `area` is archive or audit, `path` is the path in that area."""

    area: str
    path: str
    size: int
    modified_ns: int
    digest: str

    @property
    def name(self) -> str:
        """The name under which the backup keeps the file."""
        return f"{self.digest}-{self.size}"


class BackupDirectory:
    """The snapshots and files below `root`."""

    def __init__(self, root: Path) -> None:
        """Raises ConfigError for a path that a database cannot lie in."""
        if "?" in str(root):
            raise ConfigError(f"{root}: the path may not hold a question mark")
        self.root = root.absolute()
        self.index = self.root / "index"
        self.partial = self.root / "partial"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directories, and write to them alone. Raises StorageUnavailable while somebody else writes."""
        with disk_errors(f"use {self.root}"):
            for folder in (self.index, self.partial, self.root / "objects", self.root / "files"):
                make_directory(folder)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with disk_errors(f"lock {self.root}"):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise StorageUnavailable(f"another backup to {self.root} is running") from error
            yield
        finally:
            os.close(descriptor)

    def require(self) -> None:
        """Raise StorageUnavailable if the directory holds no backup at all."""
        with disk_errors(f"read {self.index}"):
            if not self.index.is_dir():
                raise StorageUnavailable(f"there is no backup in {self.root}")

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, the oldest first. Raises StorageUnavailable for no backup at all, or a damaged manifest."""
        self.require()
        with disk_errors(f"read {self.index}"):
            return [_read_manifest(path) for path in sorted(self.index.iterdir()) if path.suffix == ".json"]

    def snapshot(self, name: str | None) -> Snapshot:
        """The snapshot of a name, or the newest one. Raises StorageUnavailable if there is none."""
        found = [one for one in self.snapshots() if name in (None, one.name)]
        if not found:
            raise StorageUnavailable(f"there is no snapshot {name or ''} in {self.root}".replace("  ", " "))
        return found[-1]

    def new_name(self) -> str:
        """The name of a new snapshot: the time in UTC."""
        return f"{datetime.now(UTC):%Y-%m-%dT%H%M%S.%fZ}"

    def object(self, name: str) -> Path:
        """Where the file of an instance is kept. Raises StorageUnavailable for what is no name of a file."""
        return self._kept("objects", name)

    def file(self, name: str) -> Path:
        """Where any other file is kept; raises as `object`."""
        return self._kept("files", name)

    def database_of(self, snapshot: Snapshot) -> Path:
        """The index of a snapshot. Raises StorageUnavailable unless it has the digest of the manifest."""
        return self._checked(self.index / f"{snapshot.name}.db", snapshot.index_digest)

    def other_files(self, snapshot: Snapshot) -> Iterator[OtherFile]:
        """The other files of a snapshot. Raises StorageUnavailable unless their list has the digest of the manifest."""
        path = self._checked(self.index / f"{snapshot.name}.files", snapshot.files_digest)
        with disk_errors(f"read {path}"), path.open(encoding="utf-8") as lines:
            for line in lines:
                yield OtherFile(**json.loads(line))

    def _kept(self, kind: str, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StorageUnavailable(f"{name!r} is not the name of a file in a backup")
        return self.root / kind / name[:2] / name

    def _checked(self, path: Path, digest: str) -> Path:
        with disk_errors(f"read {path}"):
            found = digest_of(path)
        if found != digest:
            raise StorageUnavailable(f"{path} is damaged: its digest is not that of the manifest")
        return path


def write_manifest(writer: DurableFiles, directory: BackupDirectory, snapshot: Snapshot) -> None:
    """Write the manifest of a snapshot, whose files have to be durable. Raises StorageFull, StorageUnavailable."""
    text = json.dumps(asdict(snapshot), indent=2) + "\n"
    writer.write(directory.index / f"{snapshot.name}.json", [text.encode()])
    writer.flush()


def pieces_of(path: Path, size: int | None = None) -> Iterator[bytes]:
    """Read a file, or its first `size` bytes, in pieces. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        left = size
        while left is None or left > 0:
            piece = file.read(CHUNK if left is None else min(CHUNK, left))
            if not piece:
                return
            left = None if left is None else left - len(piece)
            yield piece


def digest_of(path: Path, size: int | None = None) -> str:
    """The SHA-256 of a file, or of its first `size` bytes. Raises OSError."""
    digest = hashlib.sha256()
    for piece in pieces_of(path, size):
        digest.update(piece)
    return digest.hexdigest()


def _read_manifest(path: Path) -> Snapshot:
    try:
        return Snapshot(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise StorageUnavailable(f"{path} is damaged: it is not a manifest of this version") from error
