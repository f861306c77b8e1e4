"""Instances as files below one directory, received in `incoming/` on the same file system.

Order of a placement, which the promise of durability rests on: file synced -> linked under its
final name -> directory synced (and the directories above it that are new). Whoever calls then
commits the index row and says `settled`, which removes the name in `incoming/`. A placement never
overwrites anything. `fsync=False` leaves the syncs out, for test benches.
"""

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacs_server.errors import InvalidKey, ObjectNotFound, StorageFull, StorageUnavailable
from pacs_server.kit.private_files import make_directory, sync_directory
from pacs_server.storage.contract import ByteSource, IncomingFile
from pacs_server.storage.disk_errors import storage_error, translated
from pacs_server.storage.file_source import FileSource
from pacs_server.storage.incoming import FileSystemIncoming, moved_note
from pacs_server.storage.incoming_journal import FILE, MOVED, IncomingJournal
from pacs_server.storage.lock import RESTORING

_QUARANTINE: Final = "quarantine"
# The server's own folders at the top of the archive, and the file system's; what lies there is no stored instance.
RESERVED: Final = frozenset({"incoming", _QUARANTINE, "trash", "changes", RESTORING, "lost+found"})
_REASON: Final = ".reason"
_NAME_MAX: Final = 200
# Of how many directories it is known that their names are durable.
_REMEMBERED: Final = 10_000
# What the first object of a study takes: its file, and up to five directories above it.
_FILES_OF_A_STUDY: Final = 6
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def holds_instances(root: Path) -> bool:
    """Whether there is a file of an instance below `root`; one is enough, so nothing is read further than to it.

    Raises StorageUnavailable.
    """
    with translated(f"look into {root}"):
        return next(_instances(root, RESERVED), None) is not None


def _instances(folder: Path | str, passed_over: Collection[str] = ()) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in passed_over:
                    yield from _instances(entry.path)
            elif entry.name.endswith(".dcm"):
                yield entry.path


@dataclass(frozen=True, slots=True)
class Leftover:
    """An entry that a dead process left in `incoming/`.

    `path` is relative to the root, `size` in bytes; `linked` says whether the file has another name
    too, `moved_to` where it was to be moved on a file system without hard links.
    """

    path: str
    size: int
    linked: bool
    moved_to: str | None = None


class FileSystemStorage:
    """Files below `root`; below `min_free_space` bytes of free space nothing is taken in."""

    def __init__(self, root: Path, *, min_free_space: int, fsync: bool = True) -> None:
        self.root = root
        self.min_free_space = min_free_space
        self._fsync = fsync
        self._incoming = root / "incoming"
        # Strings: what is done for each instance is done ten times as fast as with Path.
        self._prefix = os.path.join(os.path.abspath(root), "")
        self._journal = IncomingJournal(self._incoming, fsync=fsync)
        # Directories whose names are durable, up to the root.
        self._durable: set[str] = set()

    def prepare(self) -> None:
        """Create the directories. Raises StorageUnavailable."""
        with translated(f"create {self._incoming}"):
            make_directory(self._incoming, durable=self._fsync)

    def close(self) -> None:
        """Nothing more comes in from here; the storage may be used again."""
        with suppress(OSError):
            self._journal.close()

    def incoming(self) -> IncomingFile:
        """Begin a file; see `Storage`."""
        free = self.free_bytes()
        if free < self.min_free_space:
            raise StorageFull(f"{free} bytes free, storage.min_free_space is {self.min_free_space}")
        with translated("create a file"):
            entry = self._journal.entry()
        return FileSystemIncoming(entry)

    def place(self, file: IncomingFile, path: str) -> None:
        """Make a file durable under `path`; see `Storage`."""
        target, file = self._jailed(path), _own(file)
        with translated("place a file"):
            if self._fsync:
                os.fdatasync(file.descriptor)
            folder = os.path.dirname(target)
            try:
                self._link(file, target)
            except FileNotFoundError:
                self._make_directory(folder)
                self._link(file, target)
            file.placed = True
            try:
                self._sync_directory(folder)
                self._sync_above(folder)
            except OSError:
                # Whether the name would outlive a power loss is unknown: as good as not placed.
                self._unlink(file, target)
                raise

    def take_back(self, file: IncomingFile, path: str) -> None:
        """Undo a placement; see `Storage`."""
        target, file = self._jailed(path), _own(file)
        with translated(f"take back {path}"):
            self._unlink(file, target)
            self._sync_directory(os.path.dirname(target))

    def open(self, path: str) -> ByteSource:
        """Open an object to read; see `Storage`."""
        try:
            return FileSource(self._jailed(path), path)
        except ObjectNotFound:
            # Without its file system the archive has no file at all, which says nothing of this one.
            self.free_bytes()
            raise

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path`; nothing of the archive lies outside its root."""
        try:
            return os.path.isfile(self._jailed(path))
        except StorageUnavailable:
            return False

    def remove(self, path: str) -> None:
        """Remove a file; see `Storage`."""
        target = self._jailed(path)
        with translated(f"remove {path}"):
            with suppress(FileNotFoundError):
                os.unlink(target)
            self._sync_directory(os.path.dirname(target))

    def walk(self, unreadable: Callable[[str, OSError], None] | None = None) -> Iterator[str]:
        """The paths of all files of the archive, in the order of the paths as strings of bytes.

        A directory that cannot be listed is passed over if `unreadable` is told of it, its path ending with a slash.
        Memory: the names in the directories on the way. Raises StorageUnavailable.
        """
        with translated("list the archive"):
            yield from self._walk("", unreadable)

    def listable(self, folder: str) -> bool:
        """Whether a directory can be listed, or is not there any more."""
        try:
            with suppress(FileNotFoundError):
                os.listdir(self._jailed(folder))
        except OSError:
            return False
        return True

    def same(self, path: str, other: str) -> bool:
        """Whether both paths are names of one file."""
        try:
            return os.path.samefile(self._jailed(path), self._jailed(other))
        except OSError:
            return False

    def in_flight(self, path: str) -> bool:
        """Whether somebody has placed the file at `path` and not settled it; looks at `incoming/` only.

        Raises StorageUnavailable.
        """
        with translated("list what comes in"):
            for entry in self._journal.entries():
                with suppress(FileNotFoundError):
                    if entry.suffix == MOVED and entry.read_text(errors="replace") == path:
                        return True
                    if entry.suffix != MOVED and os.path.samefile(entry, self._jailed(path)):
                        return True
        return False

    def abandoned(self) -> Iterator[Leftover]:
        """What dead processes left in `incoming/`, nobody else's meanwhile. Raises StorageUnavailable."""
        with translated("list what comes in"):
            for entry in self._journal.abandoned():
                path = entry.relative_to(self.root).as_posix()
                state = entry.stat()
                if entry.suffix != MOVED:
                    yield Leftover(path, state.st_size, linked=state.st_nlink > 1)
                elif entry.with_suffix(FILE).exists():
                    entry.unlink()  # it was not moved in the end
                else:
                    yield Leftover(path, 0, linked=False, moved_to=entry.read_text(errors="replace"))

    def sync_name(self, path: str) -> None:
        """Make the name of a file durable, which may have been linked and not synced. Raises StorageUnavailable."""
        with translated(f"sync {path}"):
            folder = os.path.dirname(self._jailed(path))
            self._sync_directory(folder)
            self._sync_above(folder)

    def quarantine(self, path: str, reason: str) -> str:
        """Move a file into `quarantine/`, with the reason in a text file beside it; returns its new path.

        Raises StorageUnavailable and StorageFull.
        """
        source, folder = Path(self._jailed(path)), self.root / _QUARANTINE
        with translated(f"move {path} to quarantine"):
            source.stat()
            make_directory(folder)
            # Who makes the reason has the name.
            target, descriptor = _reserve(folder, path.removeprefix("incoming/").replace("/", "_")[-_NAME_MAX:])
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(f"{path}: {reason}\n")
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            # The reason is there, and the folder, before the file is: after the rename nobody looks again.
            self._sync_directory(folder)
            self._sync_above(self._prefix + _QUARANTINE)
            os.rename(source, target)
            self._sync_directory(folder)
            self._sync_directory(source.parent)
        return target.relative_to(self.root).as_posix()

    def sync_quarantine(self) -> None:
        """Make durable what was moved to quarantine by a process that was killed then. Raises StorageUnavailable."""
        with translated("sync the quarantine"), suppress(FileNotFoundError):
            self._sync_directory(self.root / _QUARANTINE)

    def quarantined(self) -> int:
        """How many files are in quarantine. Raises StorageUnavailable."""
        try:
            with translated("list the quarantine"), os.scandir(self.root / _QUARANTINE) as entries:
                return sum(not entry.name.endswith(_REASON) for entry in entries)
        except StorageUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return 0
            raise

    def free_bytes(self) -> int:
        """Free space that an unprivileged process may use, in bytes."""
        with translated("ask for free space"):
            state = os.statvfs(self._incoming)
        return state.f_bavail * state.f_frsize

    def total_bytes(self) -> int:
        """Size of the file system, in bytes."""
        with translated("ask for the size of the storage"):
            return shutil.disk_usage(self._incoming).total

    def problem(self) -> str | None:
        """Why nothing can be taken in, as far as the file system tells; None if it says nothing."""
        try:
            with translated("ask for free space"):
                state = os.statvfs(self._incoming)
        except StorageUnavailable as error:
            return str(error)
        free = state.f_bavail * state.f_frsize
        if state.f_flag & os.ST_RDONLY:
            return "the storage is mounted read-only"
        if state.f_files and state.f_favail < _FILES_OF_A_STUDY:
            return "the storage has no room for more files (inodes)"
        if free < max(self.min_free_space, 1):
            return f"{free} bytes free, storage.min_free_space is {self.min_free_space}"
        return self._makes_no_file()

    def _makes_no_file(self) -> str | None:
        """Why no file can be made; None if one can, and where such a file without a name is not known."""
        try:
            # ext4 that turned read-only by itself does not always say so to statvfs (not on Linux 6.18).
            os.close(os.open(self._incoming, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            return None if error.errno in _NO_TMPFILE else str(storage_error("create a file", error))
        return None

    def _walk(self, folder: str, unreadable: Callable[[str, OSError], None] | None) -> Iterator[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                found = [(entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name) for entry in entries]
        except FileNotFoundError:  # removed since it was listed
            return
        except OSError as error:
            if unreadable is None or not folder:
                raise
            unreadable(folder, error)
            return
        for name in sorted(found, key=os.fsencode):
            if not name.endswith("/"):
                yield folder + name
            elif folder or name[:-1] not in RESERVED:
                yield from self._walk(folder + name, unreadable)

    def _jailed(self, path: str) -> str:
        """`path` below the root; the paths module made it of UIDs, and this proves it once more."""
        target = os.path.normpath(os.path.join(self._prefix, path))
        if not target.startswith(self._prefix):
            raise InvalidKey("a path outside the archive was refused")
        return target

    def _link(self, file: FileSystemIncoming, target: str) -> None:
        """Give the file its final name too; on a file system without hard links move it there."""
        try:
            # Unlike rename, link never overwrites what is there.
            os.link(file.path, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.exists(target):
                raise FileExistsError(errno.EEXIST, "file exists", target) from error
            file.moved = True
            moved_note(file.path).write_text(target.removeprefix(self._prefix))
            os.rename(file.path, target)

    def _unlink(self, file: FileSystemIncoming, target: str) -> None:
        """Take the final name away again."""
        if file.moved:
            os.rename(target, file.path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(target)
        file.placed = False

    def _make_directory(self, folder: str) -> None:
        """Make a directory with its parents; their names are not durable yet."""
        above = os.path.dirname(folder)
        if not os.path.isdir(above):
            self._make_directory(above)
        # Before it is there, so that nobody who finds it takes it for the one that was removed.
        self._durable.discard(folder)
        Path(folder).mkdir(mode=0o700, exist_ok=True)

    def _sync_above(self, folder: str) -> None:
        """Make the name of a directory durable, and those above it up to the root.

        Whoever made them may not have come to it: another thread, or a process that was killed. So each is synced
        once in the life of this process, whoever made it.
        """
        if folder in self._durable or len(folder) < len(self._prefix):
            return
        above = os.path.dirname(folder)
        self._sync_directory(above)
        self._sync_above(above)
        if len(self._durable) >= _REMEMBERED:
            self._durable.clear()
        self._durable.add(folder)

    def _sync_directory(self, folder: Path | str) -> None:
        if self._fsync:
            sync_directory(folder)


def _own(file: IncomingFile) -> FileSystemIncoming:
    if not isinstance(file, FileSystemIncoming):
        raise TypeError("a file of another storage")
    return file


def _reserve(folder: Path, name: str) -> tuple[Path, int]:
    """A name in `folder` that is free, and its new text file with the reason, open to write."""
    for number in itertools.count(1):
        target = folder / (name if number == 1 else f"{name}.{number}")
        with suppress(FileExistsError):
            reason = target.with_name(target.name + _REASON)
            return target, os.open(reason, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    raise AssertionError("unreachable")
