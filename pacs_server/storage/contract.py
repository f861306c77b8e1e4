"""**The** contract of a storage: objects under keys, never changed, durable once they are stored.

`filesystem` keeps objects as files below one directory, `memory` keeps them for tests. What only the disk of the
machine that receives has (files on their way in, quarantine, trash by link, locks) is in `spool` and `archive_files`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pacs_server.errors import ObjectUnreadable

Bytes = bytes | bytearray | memoryview
# Told the prefix of the objects that cannot be listed, with a slash at its end, and why.
Unlistable = Callable[[str, ObjectUnreadable], None]


class Readable(Protocol):
    """Bytes that can be read from any offset."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on; fewer, or none, where the bytes end. Raises StorageUnavailable."""


def pieces(source: Readable, size: int, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Read a source from `start` to `end`, or to where its bytes end, in pieces of `size`; raises as `read`."""
    while piece := source.read(start, size if end is None else min(size, end - start)):
        yield piece
        start += len(piece)


class ByteSource(Readable, Protocol):
    """A stored object that is open to be read, by several threads at once if need be; its user closes it."""

    @property
    def modified_ns(self) -> int:
        """When the object was stored, in nanoseconds since 1970."""

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the open file that holds the object, for calls of the kernel; None if no file holds it."""

    def close(self) -> None:
        """Close the object; nothing can be read any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The size of a stored object in bytes, and when it was stored, in nanoseconds since 1970."""

    size: int
    modified_ns: int


class BulkWriter(Protocol):
    """Stores many objects that share the cost of being made durable."""

    def put(self, key: str, pieces: Iterable[Bytes]) -> int:
        """Store an object and return its size; raises as `Storage.put`, if need be only when the block ends.

        Unlike there, an object that is stored under the key already is replaced.
        """


class Storage(Protocol):
    """Objects by key; may be shared by all threads and by several processes.

    `keys.check_key` says what a key is. Anything else raises InvalidKey, which only `exists` and `list` never do.
    An error other than ObjectNotFound, ObjectUnreadable, InvalidKey and ObjectExists says that the storage as a whole
    does not answer: then nothing is known of the object.
    """

    def put(self, key: str, pieces: Iterable[Bytes]) -> int:
        """Store an object and return its size; when this returns, the object survives a power loss.

        Nothing is ever overwritten: of all that put one key at the same time one wins, and the others get
        ObjectExists. Raises StorageFull and StorageUnavailable; what `pieces` raises passes through. After an error
        nothing is stored.
        """

    def open(self, key: str) -> ByteSource:
        """Open an object to read. Raises ObjectNotFound, ObjectUnreadable, StorageUnavailable."""

    def exists(self, key: str) -> bool:
        """Whether an object is stored under `key`; False for what is no key.

        Raises ObjectUnreadable, StorageUnavailable if nobody can tell.
        """

    def info(self, key: str) -> ObjectInfo:
        """The size and the age of an object. Raises ObjectNotFound, ObjectUnreadable, StorageUnavailable."""

    def remove(self, key: str) -> None:
        """Remove an object durably; one that is not there is no error. Raises StorageUnavailable."""

    def list(self, prefix: str = "", *, after: str = "", unlistable: Unlistable | None = None) -> Iterator[str]:
        """The keys that begin with `prefix` and come after `after`, in the order of their bytes.

        Memory does not grow with the number of keys. Objects that are stored or removed meanwhile may be listed or
        not. If a part of the storage cannot be listed, `unlistable` is told and the rest is listed. Raises
        StorageUnavailable: without `unlistable`, and if nothing at all can be listed.
        """

    def holds_instances(self) -> bool:
        """Whether there is at least one key that ends with .dcm; ends at the first. Raises StorageUnavailable."""

    def bulk(self) -> AbstractContextManager[BulkWriter]:
        """Store many objects: all of them survive a power loss when the block ends.

        When the block is left by an exception, some of the objects are there, each of them whole.
        """
