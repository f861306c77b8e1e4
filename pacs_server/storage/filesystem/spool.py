"""Files are received in `incoming/`, on the same file system as the archive, and placed by a hard link.

Order of a placement, which the promise of durability rests on: file stamped as whole and synced -> linked under its
final name -> directory synced, and the directories above it that are new. The caller then commits the index row and
calls `settled`, which removes the name in `incoming/`. In slots, whose names are durable beforehand, the file is safe
once it is synced: the directories and the row follow for many files at once, and then `retire` removes the names.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Final

from pacs_server.errors import ObjectExists, StorageFull, StorageUnavailable
from pacs_server.kit.private_files import make_directory
from pacs_server.storage.disk_errors import storage_error, storage_errors
from pacs_server.storage.filesystem.directories import Directories, rename_new
from pacs_server.storage.filesystem.incoming_file import FileSystemIncoming, moved_note
from pacs_server.storage.filesystem.incoming_journal import FILE, MOVED, IncomingJournal
from pacs_server.storage.filesystem.leftover import FileSystemLeftover, own_leftover
from pacs_server.storage.filesystem.quarantine import FileSystemQuarantine
from pacs_server.storage.filesystem.slots import Slots
from pacs_server.storage.keys import INCOMING, check_key
from pacs_server.storage.spool import IncomingFile, Leftover, Stamp

log = logging.getLogger(__name__)

# The first object of a study needs its file, and up to five directories above it.
_FILES_OF_A_STUDY: Final = 6
_NO_TMPFILE: Final = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FileSystemSpool:
    """Files in `incoming/`; below `min_free_space` bytes of free space nothing is received."""

    def __init__(
        self, directories: Directories, quarantine: FileSystemQuarantine, *, min_free_space: int, slots: bool = False
    ) -> None:
        self.min_free_space = min_free_space
        self._wants_slots = slots
        self._directories = directories
        self._quarantine = quarantine
        self._incoming = directories.root / INCOMING
        self._incoming_path = str(self._incoming)
        self._journal = IncomingJournal(self._incoming, fsync=directories.fsync)
        self._slots = Slots(self._journal)

    def prepare(self) -> None:
        """Make `incoming/`; see `Spool`."""
        with storage_errors(f"create {self._incoming}"):
            make_directory(self._incoming, durable=self._directories.fsync)

    @cached_property
    def slots(self) -> bool:
        """Whether files are received in slots; see `Spool`. Tries whether the file system has hard links."""
        if not self._wants_slots:
            return False
        has_links = self._has_links()
        if not has_links:
            log.info("without hard links there are no slots: every name and row is synced by itself")
        return has_links

    def _has_links(self) -> bool:
        """Try whether the file system has hard links, without which a slot would lose its name when it is placed."""
        probe, second = self._journal.passing_entries(2)
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.link(probe, second)
        except OSError:
            return False
        finally:
            for entry in (second, probe):
                with suppress(OSError):
                    os.unlink(entry)
        return True

    def close(self) -> None:
        """Give up what is on its way; see `Spool`."""
        self._slots.close()
        with suppress(OSError):
            self._journal.close()

    # ---------------------------------------------------------------- one file

    def receive(self) -> IncomingFile:
        """Begin a file; see `Spool`."""
        return self.receive_file()

    def receive_file(self) -> FileSystemIncoming:
        """Begin a file in `incoming/`; raises as `receive`."""
        # What is done for each instance has no context managers, which cost more than most of it.
        try:
            state = os.statvfs(self._incoming_path)
        except OSError as error:
            raise storage_error("ask for free space", error) from error
        free = state.f_bavail * state.f_frsize
        if free < self.min_free_space:
            raise StorageFull(f"{free} bytes free, storage.min_free_space is {self.min_free_space}")
        try:
            if self.slots:
                return FileSystemIncoming(*self._slots.take())
            entry = self._journal.entry()
            return FileSystemIncoming(entry, os.open(entry, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise storage_error("create a file", error) from error

    def place(self, file: IncomingFile, key: str, stamp: Stamp | None = None, *, name_later: bool = False) -> None:
        """Store a file under `key`; see `Spool`."""
        check_key(key)
        self.place_at(_own(file), self._directories.path(key), stamp, name_later=name_later)

    def place_at(
        self, file: FileSystemIncoming, target: str, stamp: Stamp | None = None, *, name_later: bool = False
    ) -> None:
        """Store a file at a path below the root; raises as `place`."""
        try:
            if os.path.lexists(target):  # that costs less than to sync in vain, and to take the stamp back
                raise _taken(self._directories.key(target))
            if stamp is not None:
                file.overwrite(stamp.offset, stamp.whole)
            try:
                self._place(file, target, name_later=name_later)
            except (OSError, ObjectExists):
                self._blank(file, stamp)
                raise
        except OSError as error:
            raise storage_error("place a file", error) from error

    def _place(self, file: FileSystemIncoming, target: str, *, name_later: bool) -> None:
        if self._directories.fsync:
            os.fdatasync(file.descriptor)
        folder = target.rpartition("/")[0]
        try:
            self._link(file, target)
        except FileNotFoundError:
            self._directories.make(folder)
            self._link(file, target)
        file.placed = True
        if name_later:
            return
        try:
            self._directories.sync(folder)
            self._directories.sync_above(folder)
        except OSError:
            # Nobody knows whether the name would survive a power loss: it counts as not placed.
            _unlink(file, target)
            raise

    def take_back(self, file: IncomingFile, key: str, stamp: Stamp | None = None) -> None:
        """Undo a placement; see `Spool`."""
        check_key(key)
        own, target = _own(file), self._directories.path(key)
        with storage_errors(f"take back {key}"):
            self._blank(own, stamp)
            _unlink(own, target)
            self._directories.sync(os.path.dirname(target))

    def _blank(self, file: FileSystemIncoming, stamp: Stamp | None) -> None:
        """Take a stamp back durably: after a crash nobody may take the file for one that was acknowledged."""
        if stamp is not None:
            self._restamp(file, stamp.offset, stamp.blank)

    def restamp(self, file: IncomingFile, stamp: Stamp) -> None:
        """Write another stamp; see `Spool`."""
        with storage_errors("stamp a file"):
            self._restamp(_own(file), stamp.offset, stamp.whole)

    def _restamp(self, file: FileSystemIncoming, offset: int, data: bytes) -> None:
        file.overwrite(offset, data)
        if self._directories.fsync:
            os.fdatasync(file.descriptor)

    def sync_names(self, keys: Collection[str]) -> None:
        """Sync the directories of files; see `Spool`."""
        folders = {os.path.dirname(self._directories.path(key)) for key in keys}
        with storage_errors("sync what was stored"):
            self._directories.sync_all(folders)

    def retire(self, entries: Iterable[IncomingFile | Leftover]) -> None:
        """Remove names in `incoming/`, and make new ones; see `Spool`."""
        paths = [
            entry.path if isinstance(entry, FileSystemIncoming) else self._directories.path(own_leftover(entry).name)
            for entry in entries
        ]

        with storage_errors("retire what was stored"):
            self._slots.retire(paths)

    def put_back(self, leftover: Leftover, key: str) -> None:
        """Link a leftover to a key; see `Spool`."""
        check_key(key)
        source, target = self._directories.path(own_leftover(leftover).name), self._directories.path(key)
        with storage_errors("place a file"):
            try:
                self._directories.make(os.path.dirname(target))
                os.link(source, target)
            except FileExistsError as error:
                raise _taken(key) from error

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

    @contextmanager
    def leftovers(self) -> Iterator[list[Leftover]]:
        """What dead processes left in `incoming/`; see `Spool`."""
        with ExitStack() as stack:
            with storage_errors("list what comes in"):
                entries = stack.enter_context(self._journal.abandoned())
                left = [leftover for entry in entries for leftover in self._left(entry)]
            yield left

    def placed(self) -> Iterator[Leftover]:
        """What lies in `incoming/` and in the storage; see `Spool`."""
        with storage_errors("list what comes in"):
            for entry in self._journal.entries():
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    if entry.suffix == FILE and state.st_nlink > 1:
                        yield self._leftover(entry, state.st_size, placed=True)

    def is_shared(self) -> bool:
        """Whether another process receives files; see `Spool`."""
        with storage_errors("list what comes in"):
            return self._journal.is_shared()

    def _left(self, entry: Path) -> Iterator[Leftover]:
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
        with storage_errors("list what comes in"):
            return sum(1 for entry in self._journal.entries() if _is_in_use(entry))

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
            if error.errno not in _NO_LINKS or self.slots:
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


def _is_in_use(entry: Path) -> bool:
    """Whether an entry is more than an empty slot."""
    try:
        return entry.stat().st_size > 0
    except FileNotFoundError:
        return False


def _own(file: IncomingFile) -> FileSystemIncoming:
    if not isinstance(file, FileSystemIncoming):
        raise TypeError("a file of another storage")
    return file
