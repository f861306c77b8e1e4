"""Errors of the operating system as errors of the archive."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pacs_server.errors import InvalidKey, ObjectNotFound, ObjectUnreadable, PacsError, StorageFull, StorageUnavailable

# The process or the machine lacks something; the file that was to be opened may be in order.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
# There is no such file, or a directory in its place.
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class storage_errors:
    """Turns an OSError of the block into StorageFull or StorageUnavailable, in words that a peer may read."""

    # A generator with @contextmanager would be shorter, and cost three times as much at each write.
    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise storage_error(self._what, error) from error


def storage_error(what: str, error: OSError) -> PacsError:
    """The error of a storage that cannot do `what`, in words that a peer may read."""
    if error.errno == errno.ENOSPC:
        return StorageFull("no space left on the storage")
    if error.errno == errno.EDQUOT:
        return StorageFull("the quota of the storage is used up")
    return StorageUnavailable(f"cannot {what}: {error.strerror or error}")


def object_error(verb: str, key: str, error: OSError) -> StorageUnavailable:
    """The error of an object that the operating system does not let us open or read; `verb` says which of the two."""
    reason = error.strerror or str(error)
    text = f"cannot {verb} {key}: {reason}"
    if error.errno in _ABSENT:
        return ObjectNotFound(text)
    if error.errno == errno.ENAMETOOLONG:
        return InvalidKey(text)
    return StorageUnavailable(text) if error.errno in _SHORTAGES else ObjectUnreadable(text, reason=reason)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn an OSError of the block into StorageFull or StorageUnavailable, in words for an operator."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"cannot {what}: no space left") from error
        raise StorageUnavailable(f"cannot {what}: {error.strerror or error}") from error
