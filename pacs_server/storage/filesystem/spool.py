"""Files are received in `incoming/`, on the same file system as the archive, and placed by a hard link.

Order of a placement, which the promise of durability rests on: file synced -> linked under its final name -> directory
synced, and the directories above it that are new. The caller then commits the index row and calls `settled`, which
removes the name in `incoming/`.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacs_server.errors import ObjectExists, StorageFull, StorageUnavailable
from pacs_server.kit.private_files import make_directory
from pacs_server.storage.contract import ByteSource
from pacs_server.storage.disk_errors import storage_error, storage_errors
from pacs_server.storage.file_source import FileSource
from pacs_server.storage.filesystem.directories import Directories, rename_new
from pacs_server.storage.filesystem.incoming_file import FileSystemIncoming, moved_note
from pacs_server.storage.filesystem.incoming_journal import FILE, MOVED, IncomingJournal
from pacs_server.storage.filesystem.quarantine import FileSystemQuarantine
from pacs_server.storage.keys import INCOMING, check_key
from pacs_server.storage.spool import IncomingFile, Leftover

# The first object of a study needs its file, and up to five directories above it.
_FILES_OF_A_STUDY: Final = 6
_NO_TMPFILE: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FileSystemSpool:
    """Files in `incoming/`; below `min_free_space` bytes of free space nothing is received."""

    def __init__(self, directories: Directories, quarantine: FileSystemQuarantine, *, min_free_space: int) -> None:
        self.min_free_space = min_free_space
        self._directories = directories
        self._quarantine = quarantine
        self._incoming = directories.root / INCOMING
        self._journal = IncomingJournal(self._incoming, fsync=directories.fsync)

    def prepare(self) -> None:
        """Make `incoming/`; see `Spool`."""
        with storage_errors(f"create {self._incoming}"):
            make_directory(self._incoming, durable=self._directories.fsync)

    def close(self) -> None:
        """Give up what is on its way; see `Spool`."""
        with suppress(OSError):
            self._journal.close()

    # ---------------------------------------------------------------- one file

    def receive(self) -> IncomingFile:
        """Begin a file; see `Spool`."""
        return self.receive_file()

    def receive_file(self) -> FileSystemIncoming:
        """Begin a file in `incoming/`; raises as `receive`."""
        free = self.free_bytes()
        if free < self.min_free_space:
            raise StorageFull(f"{free} bytes free, storage.min_free_space is {self.min_free_space}")
        with storage_errors("create a file"):
            entry = self._journal.entry()
        return FileSystemIncoming(entry)

    def place(self, file: IncomingFile, key: str) -> None:
        """Store a file under `key`; see `Spool`."""
        check_key(key)
        self.place_at(_own(file), self._directories.path(key))

    def place_at(self, file: FileSystemIncoming, target: str) -> None:
        """Store a file at a path below the root; raises as `place`."""
        with storage_errors("place a file"):
            if self._directories.fsync:
                os.fdatasync(file.descriptor)
            folder = os.path.dirname(target)
            try:
                self._link(file, target)
            except FileNotFoundError:
                self._directories.make(folder)
                self._link(file, target)
            file.placed = True
            try:
                self._directories.sync(folder)
                self._directories.sync_above(folder)
            except OSError:
                # Nobody knows whether the name would survive a power loss: it counts as not placed.
                _unlink(file, target)
                raise

    def take_back(self, file: IncomingFile, key: str) -> None:
        """Undo a placement; see `Spool`."""
        check_key(key)
        target = self._directories.path(key)
        with storage_errors(f"take back {key}"):
            _unlink(_own(file), target)
            self._directories.sync(os.path.dirname(target))

    def make_durable(self, key: str) -> None:
        """Sync a file and the names on the way to it; see `Spool`."""
        check_key(key)
        if not self._directories.fsync:
            return
        path = self._directories.path(key)
        with storage_errors(f"sync {key}"):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            folder = os.path.dirname(path)
            self._directories.sync(folder)
            self._directories.sync_above(folder)

    # ---------------------------------------------------------------- all that are on their way

    def is_in_flight(self, key: str) -> bool:
        """Whether a file is placed and not settled; see `Spool`."""
        check_key(key)
        with storage_errors("list what comes in"):
            for entry in self._journal.entries():
                with suppress(FileNotFoundError):
                    if entry.suffix == MOVED and entry.read_text(errors="replace") == key:
                        return True
                    if entry.suffix != MOVED and os.path.samefile(entry, self._directories.path(key)):
                        return True
        return False

    def leftovers(self) -> Iterator[Leftover]:
        """What dead processes left in `incoming/`; see `Spool`."""
        with storage_errors("list what comes in"):
            for entry in self._journal.abandoned():
                state = entry.stat()
                if entry.suffix != MOVED:
                    yield self._leftover(entry, state.st_size, placed=state.st_nlink > 1)
                elif entry.with_suffix(FILE).exists():
                    entry.unlink()  # the file was not moved in the end
                else:
                    yield self._leftover(entry, 0, placed=True, key=entry.read_text(errors="replace"))

    def _leftover(self, entry: Path, size: int, *, placed: bool, key: str | None = None) -> "FileSystemLeftover":
        return FileSystemLeftover(f"{INCOMING}/{entry.name}", size, placed, key, self._directories, self._quarantine)

    def count(self) -> int:
        """How many files are in `incoming/`; see `Spool`."""
        with storage_errors("list what comes in"), os.scandir(self._incoming) as entries:
            return sum(not entry.name.endswith(".lock") for entry in entries)

    # ---------------------------------------------------------------- room

    def free_bytes(self) -> int:
        """Free space that an unprivileged process may use; see `Spool`."""
        with storage_errors("ask for free space"):
            state = os.statvfs(self._incoming)
        return state.f_bavail * state.f_frsize

    def total_bytes(self) -> int:
        """The size of the file system; see `Spool`."""
        with storage_errors("ask for the size of the storage"):
            return shutil.disk_usage(self._incoming).total

    def problem(self) -> str | None:
        """Why nothing can be received; see `Spool`."""
        try:
            with storage_errors("ask for free space"):
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
        try:
            # ext4 that turned read-only by itself does not always say so to statvfs (not on Linux 6.18).
            os.close(os.open(self._incoming, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            return None if error.errno in _NO_TMPFILE else str(storage_error("create a file", error))
        return None

    def _link(self, file: FileSystemIncoming, target: str) -> None:
        """Give the file its final name too; on a file system without hard links move it there."""
        try:
            # Unlike rename, link never overwrites.
            os.link(file.path, target)
        except FileExistsError as error:
            raise _taken(self._directories.key(target)) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._move(file, target)

    def _move(self, file: FileSystemIncoming, target: str) -> None:
        key, note = self._directories.key(target), moved_note(file.path)
        if os.path.exists(target):
            raise _taken(key)
        file.moved = True
        note.write_text(key)
        try:
            rename_new(file.path, target)
        except FileExistsError as error:
            note.unlink()
            file.moved = False
            raise _taken(key) from error


@dataclass(frozen=True, slots=True)
class FileSystemLeftover:
    """An entry that a dead process left in `incoming/`; `placed` if its file has another name too, or was moved."""

    name: str
    size: int
    placed: bool
    key: str | None
    _directories: Directories
    _quarantine: FileSystemQuarantine

    def open(self) -> ByteSource:
        """Open the file; see `Leftover`."""
        place = self._place()
        return FileSource(self._directories.path(place), place)

    def is_stored_as(self, key: str) -> bool:
        """Whether the file of a key is this file; see `Leftover`."""
        try:
            return os.path.samefile(self._directories.path(self._place()), self._directories.path(key))
        except OSError:
            return False

    def quarantine(self, reason: str) -> str:
        """Move the file into quarantine; see `Leftover`."""
        return self._quarantine.add_file(self._place(), reason)

    def remove(self) -> None:
        """Remove the entry; see `Leftover`."""
        path = self._directories.path(self.name)
        with storage_errors(f"remove {self.name}"):
            with suppress(FileNotFoundError):
                os.unlink(path)
            self._directories.sync(os.path.dirname(path))

    def _place(self) -> str:
        """Where the file is, below the root."""
        if self.key is None:
            return self.name
        # A crash may have left half a key in the note.
        check_key(self.key)
        return self.key


def _unlink(file: FileSystemIncoming, target: str) -> None:
    """Take the final name away again."""
    if file.moved:
        os.rename(target, file.path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(target)
    file.placed = False


def _taken(key: str) -> ObjectExists:
    return ObjectExists(f"{key} is stored already")


def _own(file: IncomingFile) -> FileSystemIncoming:
    if not isinstance(file, FileSystemIncoming):
        raise TypeError("a file of another storage")
    return file
