"""Objects in memory, for tests of what stands on a storage."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pacs_server.errors import ObjectExists, ObjectNotFound, PacsError
from pacs_server.storage.contract import BulkWriter, Bytes, ByteSource, ObjectInfo, Unlistable
from pacs_server.storage.keys import check_key


class MemorySource:
    """An open object in memory."""

    descriptor = None

    def __init__(self, data: bytes, modified_ns: int) -> None:
        self._data = data
        self.size = len(data)
        self.modified_ns = modified_ns

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on."""
        return self._data[offset : offset + max(length, 0)]

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class MemoryBulkWriter:
    """Stores objects, over those that are there."""

    _replace: Callable[[str, bytes], None]

    def put(self, key: str, pieces: Iterable[Bytes]) -> int:
        """Store an object; see `BulkWriter`."""
        data = b"".join(pieces)
        self._replace(key, data)
        return len(data)


class MemoryStorage:
    """Objects in a dictionary; `fail_with` makes the next ones fail."""

    def __init__(self, check: Callable[[str], None] = check_key) -> None:
        self.files: dict[str, bytes] = {}
        self.fail_with: PacsError | None = None
        self._times: dict[str, int] = {}
        self._check = check
        self._lock = threading.Lock()

    def put(self, key: str, pieces: Iterable[Bytes]) -> int:
        """Store an object; see `Storage`."""
        self._check(key)
        data = bytes(bytearray().join(pieces))  # never the object that was given: another one is another file
        self.put_bytes(key, data)
        return len(data)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store this very `bytes` object; raises as `put`."""
        self._check(key)
        if self.fail_with is not None:
            raise self.fail_with
        with self._lock:
            if key in self.files:
                raise ObjectExists(f"{key} is stored already")
            self._set(key, data)

    def replace(self, key: str, data: bytes) -> None:
        """Store this very `bytes` object, over one that is there. Raises InvalidKey."""
        self._check(key)
        with self._lock:
            self._set(key, data)

    def open(self, key: str) -> ByteSource:
        """Open an object; see `Storage`."""
        self._check(key)
        data = self.files.get(key)
        if data is None:
            raise ObjectNotFound(f"cannot open {key}: no such file")
        return MemorySource(data, self._times.get(key, 0))

    def exists(self, key: str) -> bool:
        """Whether an object is stored; see `Storage`."""
        return key in self.files

    def info(self, key: str) -> ObjectInfo:
        """The size and the age of an object; see `Storage`."""
        source = self.open(key)
        return ObjectInfo(source.size, source.modified_ns)

    def remove(self, key: str) -> None:
        """Remove an object; see `Storage`."""
        self._check(key)
        with self._lock:
            self.files.pop(key, None)

    def list(self, prefix: str = "", *, after: str = "", unlistable: Unlistable | None = None) -> Iterator[str]:
        """The keys; see `Storage`."""
        begin = _encoded(after)
        keys = [key for key in self.files if key.startswith(prefix) and _encoded(key) > begin]
        yield from sorted(keys, key=_encoded)

    def holds_instances(self) -> bool:
        """Whether a key ends with .dcm; see `Storage`."""
        return any(key.endswith(".dcm") for key in self.files)

    @contextmanager
    def bulk(self) -> Iterator[BulkWriter]:
        """Store many objects; see `Storage`."""
        yield MemoryBulkWriter(self.replace)

    def _set(self, key: str, data: bytes) -> None:
        self.files[key], self._times[key] = data, time.time_ns()


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
