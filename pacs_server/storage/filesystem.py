"""Instances as files below one directory, received in `incoming/` on the same file system.

Order of a placement, which the promise of durability rests on: file synced -> linked under its
final name -> directory synced (and the directories above it that are new). Whoever calls then
commits the index row. `fsync=False` leaves the syncs out, for test benches.
"""

import errno
import itertools
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pacs_server.errors import PacsError, StorageFull, StorageUnavailable
from pacs_server.private_files import make_directory
from pacs_server.storage.base import Bytes, IncomingFile

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise _storage_error(what, error) from error


def _storage_error(what: str, error: OSError) -> PacsError:
    if error.errno in _FULL:
        return StorageFull("no space left on the storage")
    return StorageUnavailable(f"cannot {what}: {error.strerror or error}")


class FileSystemIncoming:
    """A file in `incoming/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._placed = False
        with _translated("create a file"):
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data: Bytes) -> None:
        """Append `data`."""
        written = 0
        with _translated("write a file"):
            while written < len(data):
                # A disk that fills up writes less than it was given before it says so.
                written += os.write(self.descriptor, memoryview(data)[written:] if written else data)
        self.size += len(data)

    def read(self, size: int) -> bytes:
        """The first `size` bytes."""
        with _translated("read a file back"):
            return os.pread(self.descriptor, size, 0)

    def placed(self) -> None:
        """Forget the temporary name: the file has its final one."""
        self._placed = True
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def discard(self) -> None:
        """Remove the file unless it was placed."""
        with suppress(OSError):
            self.close()
        if not self._placed:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


class FileSystemStorage:
    """Files below `root`; below `min_free_space` bytes of free space nothing is taken in."""

    def __init__(self, root: Path, *, min_free_space: int, fsync: bool = True) -> None:
        self.root = root
        self.min_free_space = min_free_space
        self._fsync = fsync
        self._incoming = root / "incoming"
        # The host is in the name since nodes may share the storage.
        self._prefix = f"{socket.gethostname()}-{os.getpid()}-"
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Create the directories and sweep what earlier processes of this host left half received.

        Nothing in `incoming/` was ever answered with success. Raises StorageUnavailable.
        """
        with _translated(f"create {self._incoming}"):
            make_directory(self._incoming)
            for leftover in self._incoming.iterdir():
                if self._is_orphan(leftover.name):
                    leftover.unlink(missing_ok=True)

    def incoming(self) -> IncomingFile:
        """Begin a file; see `Storage`."""
        free = self.free_bytes()
        if free < self.min_free_space:
            raise StorageFull(f"{free} bytes free, storage.min_free_space is {self.min_free_space}")
        return FileSystemIncoming(self._incoming / f"{self._prefix}{next(self._numbers)}.part")

    def place(self, file: IncomingFile, path: str, *, replace: bool = False) -> None:
        """Make a file durable under `path`; see `Storage`."""
        if not isinstance(file, FileSystemIncoming):
            raise TypeError("a file of another storage")
        target = self._jailed(path)
        with _translated("place a file"):
            if self._fsync:
                os.fdatasync(file.descriptor)
            try:
                self._link(file.path, target, replace=replace)
            except FileNotFoundError:
                self._make_directory(target.parent)
                self._link(file.path, target, replace=replace)
            file.placed()
            try:
                self._sync_directory(target.parent)
            except OSError:
                # Whether the name would outlive a power loss is unknown: as good as not placed.
                target.unlink(missing_ok=True)
                raise

    def open(self, path: str) -> BinaryIO:
        """Open a file to read; see `Storage`."""
        with _translated(f"open {path}"):
            return self._jailed(path).open("rb", buffering=0)

    def exists(self, path: str) -> bool:
        """Whether a file lies at `path`."""
        return self._jailed(path).is_file()

    def remove(self, path: str) -> None:
        """Remove a file; see `Storage`."""
        target = self._jailed(path)
        with _translated(f"remove {path}"):
            target.unlink(missing_ok=True)
            self._sync_directory(target.parent)

    def free_bytes(self) -> int:
        """Free space that an unprivileged process may use, in bytes."""
        with _translated("ask for free space"):
            state = os.statvfs(self._incoming)
        return state.f_bavail * state.f_frsize

    def total_bytes(self) -> int:
        """Size of the file system, in bytes."""
        with _translated("ask for the size of the storage"):
            return shutil.disk_usage(self._incoming).total

    def _jailed(self, path: str) -> Path:
        """`path` below the root; the paths module made it of UIDs, and this proves it once more."""
        target = Path(os.path.normpath(self.root / path))
        if not target.is_relative_to(self.root) or target == self.root:
            raise StorageUnavailable("a path outside the archive was refused")
        return target

    def _link(self, source: Path, target: Path, *, replace: bool) -> None:
        if replace:
            os.replace(source, target)
            return
        try:
            # Unlike rename, link never overwrites what is there.
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.exists():
                raise FileExistsError(errno.EEXIST, "file exists", str(target)) from error
            os.rename(source, target)
            return
        os.unlink(source)

    def _make_directory(self, folder: Path) -> None:
        """Make a directory with its parents, each durable in the one above."""
        missing = [folder]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            self._sync_directory(directory.parent)

    def _sync_directory(self, folder: Path) -> None:
        if not self._fsync:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _is_orphan(self, name: str) -> bool:
        """Whether a temporary file belongs to no running process of this host."""
        host, pid, _ = [*name.rsplit("-", 2), "", ""][:3]
        if host != socket.gethostname() or not pid.isdigit():
            return False
        return int(pid) == os.getpid() or not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
