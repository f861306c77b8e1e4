"""The directories of an archive: where the file of a key is, and names that survive a power loss."""

import ctypes
import errno
import os
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pacs_server.kit.private_files import sync_directory

# Of how many directories it is remembered that their names are durable.
_REMEMBERED: Final = 10_000
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_NOT_KNOWN: Final = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_libc = ctypes.CDLL(None, use_errno=True)
_renaming = threading.Lock()


class Directories:
    """The directories below `root`; without `fsync` nothing is made durable, for test benches."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self.root = Path(os.path.abspath(root))
        self.fsync = fsync
        # Strings: what is done for each instance is done ten times as fast as with Path.
        self._prefix = os.path.join(self.root, "")
        # Directories whose names are durable, up to the root.
        self._durable: set[str] = set()

    def path(self, key: str) -> str:
        """Where the file of a key is, which was checked to be one."""
        return self._prefix + key

    def key(self, path: str) -> str:
        """The key of a file below the root."""
        return path.removeprefix(self._prefix)

    def make(self, folder: str) -> None:
        """Make a directory with its parents, whose names are not durable yet; raises OSError."""
        above = os.path.dirname(folder)
        if not os.path.isdir(above):
            self.make(above)
        # Before the directory is there, so that nobody who finds it takes it for the one that was removed.
        self._durable.discard(folder)
        Path(folder).mkdir(mode=0o700, exist_ok=True)

    def remove_empty(self, folder: str) -> None:
        """Remove a directory and those above it that are empty, but never the root."""
        with suppress(OSError):  # most often the directory is not empty
            while len(folder) >= len(self._prefix):
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def sync(self, folder: Path | str) -> None:
        """Make the names in a directory durable; raises OSError."""
        if self.fsync:
            sync_directory(folder)

    def sync_above(self, folder: str) -> None:
        """Make the name of a directory durable, and the names of those above it up to the root; raises OSError.

        Whoever made them may not have done so: another thread, or a process that was killed. So each name is synced
        once in the life of this process, whoever made the directory.
        """
        if folder in self._durable or len(folder) < len(self._prefix):
            return
        above = os.path.dirname(folder)
        self.sync(above)
        self.sync_above(above)
        if len(self._durable) >= _REMEMBERED:
            self._durable.clear()
        self._durable.add(folder)

    def sync_all(self, folders: Collection[str]) -> None:
        """Make the names in directories durable, and their own names up to the root; raises OSError."""
        for folder in folders:
            with suppress(FileNotFoundError):  # what was in it was deleted meanwhile
                self.sync(folder)
                self.sync_above(folder)

    def sync_up(self, folders: Iterable[str]) -> None:
        """Make the names in directories durable, and their own names up to the root; raises OSError."""
        every: set[str] = set()
        waiting = list(folders)
        while waiting:
            folder = waiting.pop()
            if folder not in every and len(folder) >= len(self._prefix) - 1:
                every.add(folder)
                waiting.append(os.path.dirname(folder))
        for folder in every:
            self.sync(folder)


def rename_new(source: str, target: str) -> None:
    """Rename a file, and raise FileExistsError if the new name is taken, also by somebody at the same instant.

    Where the file system cannot do so in one step, only the threads of this process are kept apart. Raises OSError.
    """
    rename = getattr(_libc, "renameat2", None)
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_KNOWN:
            raise OSError(number, os.strerror(number), target)
    with _renaming:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
