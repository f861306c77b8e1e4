"""The trash below `trash/`, on the same file system as the archive: each deletion is a directory with its files.

A file goes into the trash by a second name (a hard link) and loses its first one later; it comes back the same way. So
at every moment the file has at least one of them, and another file that has come to have the first name meanwhile is
told from it by its inode.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from pacs_server.errors import ObjectExists, ObjectNotFound, StorageUnavailable
from pacs_server.kit.private_files import opener
from pacs_server.storage.contract import ByteSource
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.file_source import FileSource
from pacs_server.storage.filesystem.directories import Directories
from pacs_server.storage.filesystem.lock import NO_LOCKS
from pacs_server.storage.keys import TRASH, check_key

_DOCUMENT: Final = "deletion.json"
_DRAFT: Final = "deletion.part"
_TAKEN: Final = ".taken"


class FileSystemTrash:
    """The trash of the archive in `directories`; see `Trash`."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._trash = directories.root / TRASH

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Lock the directory of the trash; see `Trash`."""
        with disk_errors("use the trash"):
            # Without its parents: an archive whose file system is gone does not begin anew without it.
            self._trash.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield _lock(descriptor, wait=wait)
        finally:
            os.close(descriptor)

    def folders(self) -> list[str]:
        """The directories of deletions; see `Trash`."""
        with disk_errors("list the trash"):
            if not self._trash.is_dir():
                return []
            return sorted(entry.name for entry in os.scandir(self._trash) if entry.is_dir(follow_symlinks=False))

    def read(self, folder: str) -> str:
        """The text of a deletion.json; see `Trash`."""
        with disk_errors(f"read {TRASH}/{folder}/{_DOCUMENT}"):
            return (self._folder(folder) / _DOCUMENT).read_text(encoding="utf-8")

    def write(self, folder: str, document: str) -> None:
        """Write a deletion.json; see `Trash`."""
        directory = self._folder(folder)
        with disk_errors(f"write {TRASH}/{folder}/{_DOCUMENT}"):
            self._directories.make(str(directory))
            draft = directory / _DRAFT
            with open(draft, "w", encoding="utf-8", opener=opener) as file:
                file.write(document)
                file.flush()
                if self._directories.fsync:
                    os.fsync(file.fileno())
            os.replace(draft, directory / _DOCUMENT)
            self._directories.sync_up([str(directory)])

    def add(self, folder: str, keys: Iterable[str]) -> None:
        """Give files their second name; see `Trash`."""
        self._link_all([(self._stored(key), self._kept(folder, key)) for key in keys])

    def take_away(self, folder: str, keys: Iterable[str]) -> None:
        """Take the first names away from files that have their second one; see `Trash`."""
        changed: set[str] = set()
        with disk_errors(f"move files into {TRASH}/{folder}"):
            for key in keys:
                stored = self._stored(key)
                if self._take(self._kept(folder, key), stored):
                    changed.add(os.path.dirname(stored))
            for directory in changed:
                with suppress(FileNotFoundError):  # whoever was interrupted has removed it
                    self._directories.sync(directory)
            for directory in changed:
                self._directories.remove_empty(directory)

    def bring_back(self, folder: str, keys: Iterable[str]) -> None:
        """Give files their first names back; see `Trash`."""
        pairs = [(self._kept(folder, key), self._stored(key), key) for key in keys]
        for kept, _, key in pairs:
            if not os.path.lexists(kept):
                raise ObjectNotFound(f"{TRASH}/{folder}/{key} is not there")
        self._link_all([(kept, stored) for kept, stored, _ in pairs])
        for _, _, key in pairs:
            if not self.is_stored(folder, key):
                raise ObjectExists(f"{key} is stored already")

    def open(self, folder: str, key: str) -> ByteSource:
        """Open a file; see `Trash`."""
        return FileSource(self._kept(folder, key), f"{TRASH}/{folder}/{key}")

    def holds(self, folder: str, key: str) -> bool:
        """Whether a file has its second name; see `Trash`."""
        kept = self._kept(folder, key)
        with disk_errors(f"look into {TRASH}/{folder}"), suppress(FileNotFoundError, NotADirectoryError):
            return stat.S_ISREG(os.stat(kept).st_mode)
        return False

    def is_stored(self, folder: str, key: str) -> bool:
        """Whether a file has both names; see `Trash`."""
        with disk_errors(f"look into {TRASH}/{folder}"):
            return _same(self._kept(folder, key), self._stored(key))

    def is_all_stored(self, folder: str) -> bool:
        """Whether all files have both names; see `Trash`."""
        directory = self._folder(folder)
        with disk_errors(f"look into {TRASH}/{folder}"):
            for parent, _, names in os.walk(directory):
                for name in names:
                    key = Path(parent, name).relative_to(directory).as_posix()
                    if key not in (_DOCUMENT, _DRAFT) and not self.is_stored(folder, key):
                        return False
        return True

    def remove(self, folder: str, keys: Iterable[str]) -> None:
        """Take the second names away from files that have their first one; see `Trash`."""
        with disk_errors(f"remove files from {TRASH}/{folder}"):
            for key in keys:
                if self.is_stored(folder, key):
                    os.unlink(self._kept(folder, key))

    def drop(self, folder: str) -> None:
        """Remove a directory; see `Trash`."""
        directory = self._folder(folder)
        with disk_errors(f"remove {TRASH}/{folder}"), suppress(FileNotFoundError):
            for entry in list(os.scandir(directory)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.name != _DOCUMENT:
                    os.unlink(entry.path)
            (directory / _DOCUMENT).unlink(missing_ok=True)
            directory.rmdir()
            self._directories.sync(self._trash)

    # ---------------------------------------------------------------- names

    def _stored(self, key: str) -> str:
        check_key(key)
        return self._directories.path(key)

    def _kept(self, folder: str, key: str) -> str:
        check_key(key)
        return f"{self._folder(folder)}/{key}"

    def _folder(self, folder: str) -> Path:
        if PurePosixPath(folder).name != folder or folder in ("", ".", ".."):
            raise StorageUnavailable(f"{folder!r} is not the name of a folder in the trash")
        return self._trash / folder

    def _take(self, kept: str, stored: str) -> bool:
        """Take a first name away, unless another file has it by now; whether anything was changed.

        Between a look and an unlink another file may get the name. So the file is renamed first and looked at then;
        one that was taken by mistake gets its name back.
        """
        taken = kept + _TAKEN
        if _same(kept, stored):
            os.rename(stored, taken)
        elif not os.path.lexists(taken):
            return False
        if not _same(kept, taken):
            self._directories.make(os.path.dirname(stored))
            os.link(taken, stored)
            self._directories.sync_up([os.path.dirname(stored)])
        os.unlink(taken)
        return True

    def _link_all(self, pairs: list[tuple[str, str]]) -> None:
        with disk_errors("link files"):
            for source, target in pairs:
                try:
                    _link(source, target)
                except FileNotFoundError:
                    if not os.path.lexists(source):
                        continue
                    self._directories.make(os.path.dirname(target))
                    _link(source, target)
            folders = {os.path.dirname(target) for _, target in pairs}
            self._directories.sync_up(folder for folder in folders if os.path.isdir(folder))


def _link(source: str, target: str) -> None:
    with suppress(FileExistsError):
        os.link(source, target)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Network file systems that cannot lock a directory are used without a lock.
        if error.errno not in NO_LOCKS:
            raise StorageUnavailable(f"cannot lock the trash: {error.strerror or error}") from error
    return True
