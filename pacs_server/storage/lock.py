"""Who works on an archive's files: many at a time, or one alone; and whether a restore into it is unfinished.

The lock is on the directory itself, so it leaves nothing behind. Network file systems that cannot lock a
directory are used without it.
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

# The directory that a restore works in, and the file in it that says that the archive is not whole yet.
RESTORING: Final = "restore"
UNFINISHED: Final = "snapshot"
_NO_LOCKS: Final = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Work on the archive beside others; raises StorageUnavailable if one has it alone, or a restore is unfinished."""
    with _held(root, fcntl.LOCK_SH, f"a restore into {root} is running, or its index is being made anew"):
        refuse_unfinished(root)
        yield


def refuse_unfinished(root: Path) -> None:
    """Raise StorageUnavailable if a restore into the archive was begun and has not ended."""
    if (root / RESTORING / UNFINISHED).exists():
        raise StorageUnavailable(
            f"a restore into {root} is unfinished: run `pacs-server restore` again, or empty the directory"
        )


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Work on the archive alone; raises StorageUnavailable while a server or a command works on it."""
    with _held(root, fcntl.LOCK_EX, f"{root} is in use: stop the server"):
        yield


@contextmanager
def _held(root: Path, kind: int, refusal: str) -> Iterator[None]:
    try:
        make_directory(root, durable=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageUnavailable(f"cannot use {root}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageUnavailable(refusal) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise StorageUnavailable(f"cannot lock {root}: {error.strerror or error}") from error
        yield
    finally:
        os.close(descriptor)
