"""Who works on the files of an archive: many at a time, or one alone.

The lock is on the directory of the archive itself, so it leaves nothing behind. Network file systems that cannot lock a
directory are used without a lock.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pacs_server.errors import StorageUnavailable
from pacs_server.kit.private_files import make_directory
from pacs_server.storage.filesystem.restoration import FileSystemRestoration

NO_LOCKS: Final = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FileSystemLock:
    """The lock on the directory `root`; see `ArchiveLock`."""

    def __init__(self, root: Path, restoration: FileSystemRestoration) -> None:
        self._root = root
        self._restoration = restoration

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work on the archive beside others; see `ArchiveLock`."""
        refusal = f"a restore into {self._root} is running, or its index is being made anew"
        with self._held(fcntl.LOCK_SH, refusal):
            self._restoration.refuse_unfinished()
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Work on the archive alone; see `ArchiveLock`."""
        with self._held(fcntl.LOCK_EX, f"{self._root} is in use: stop the server"):
            yield

    @contextmanager
    def _held(self, kind: int, refusal: str) -> Iterator[None]:
        try:
            make_directory(self._root, durable=True)
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageUnavailable(
                f"storage.directory: cannot use {self._root}: {error.strerror or error}"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageUnavailable(refusal) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise StorageUnavailable(f"cannot lock {self._root}: {error.strerror or error}") from error
            yield
        finally:
            os.close(descriptor)
