"""Everything that an archive keeps outside its database, in memory: the double of `archive_directory`.

Two names are of one file here if they have the same `bytes` object, as hard links have the same inode.
"""

import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pacs_server.errors import InvalidKey, StorageFull, StorageUnavailable
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import Bytes, ByteSource
from pacs_server.storage.keys import DECISIONS_PREFIX, TRASH, check_key, check_side_key, trash_prefix
from pacs_server.storage.memory import MemorySource, MemoryStorage
from pacs_server.storage.spool import IncomingFile, Leftover, Stamp

_DOCUMENT: Final = "deletion.json"
_DECISIONS: Final = f"{DECISIONS_PREFIX}changes.jsonl"
_MARKS: Final = f"{DECISIONS_PREFIX}marks.jsonl"


class MemoryIncoming:
    """A file that is being received, in memory; `key` is where it was placed."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.on_its_way = True
        self.key: str | None = None
        self.placed: bytes | None = None

    @property
    def size(self) -> int:
        """How many bytes were received."""
        return len(self.data)

    def write(self, data: Bytes) -> None:
        """Append `data`."""
        self.data += data

    def stamped(self, offset: int, data: bytes) -> bytes:
        """What was received, with `data` in place of the bytes at `offset`."""
        return bytes(self.data[:offset] + data + self.data[offset + len(data) :])

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on."""
        return bytes(self.data[offset : offset + max(length, 0)])

    def is_listed(self) -> bool:
        """Whether the file is on its way."""
        return self.on_its_way

    def settled(self) -> None:
        """Forget that the file is on its way."""
        self.on_its_way = False

    def discard(self) -> None:
        """Forget that the file is on its way, unless it was placed."""
        self.on_its_way = self.on_its_way and self.placed is not None


class MemorySpool:
    """Receives files in memory; `crash` has what is on its way left over."""

    slots = False

    def __init__(self, storage: MemoryStorage, quarantine: "MemoryQuarantine", *, min_free_space: int) -> None:
        self.min_free_space = min_free_space
        self.free = 1 << 40
        self._storage = storage
        self._quarantine = quarantine
        self._receiving: list[MemoryIncoming] = []
        self._left: list[MemoryIncoming] = []

    def prepare(self) -> None:
        """Nothing has to be made."""

    def close(self) -> None:
        """What is on its way is a leftover now."""
        self.crash()

    def crash(self) -> None:
        """Leave what is on its way to recovery, as a process does that dies."""
        self._left += [file for file in self._receiving if file.on_its_way]
        self._receiving = []

    def receive(self) -> IncomingFile:
        if self.free < self.min_free_space:
            raise StorageFull(f"{self.free} bytes free, storage.min_free_space is {self.min_free_space}")
        file = MemoryIncoming()
        self._receiving = [*(one for one in self._receiving if one.on_its_way), file]
        return file

    def place(self, file: IncomingFile, key: str, stamp: Stamp | None = None, *, name_later: bool = False) -> None:
        own = _own(file)
        data = own.stamped(stamp.offset, stamp.whole) if stamp is not None else bytes(own.data)
        self._storage.put_bytes(key, data)
        own.placed, own.key = data, key

    def take_back(self, file: IncomingFile, key: str, stamp: Stamp | None = None) -> None:
        self._storage.remove(key)
        own = _own(file)
        own.placed, own.key = None, None

    def restamp(self, file: IncomingFile, stamp: Stamp) -> None:
        own = _own(file)
        assert own.key is not None
        own.placed = own.stamped(stamp.offset, stamp.whole)
        self._storage.replace(own.key, own.placed)

    def sync_names(self, keys: Collection[str]) -> None:
        """Nothing survives anything here."""

    def retire(self, entries: Iterable[IncomingFile | Leftover]) -> None:
        for entry in entries:
            if isinstance(entry, MemoryLeftover):
                entry.remove()
            else:
                _own(entry).settled()

    def placed(self) -> Iterator[Leftover]:
        return iter(())

    def is_shared(self) -> bool:
        return False

    def is_in_flight(self, key: str) -> bool:
        check_key(key)
        files = (*self._receiving, *self._left)
        return any(file.on_its_way and file.placed is not None and file.key == key for file in files)

    @contextmanager
    def leftovers(self) -> Iterator[list[Leftover]]:
        yield [
            MemoryLeftover(file, self._storage, self._quarantine, partial(self._left.remove, file))
            for file in self._left
        ]

    def put_back(self, leftover: Leftover, key: str) -> None:
        assert isinstance(leftover, MemoryLeftover)
        with leftover.open() as file:
            self._storage.put_bytes(key, file.read(0, file.size))

    def make_durable(self, key: str) -> None:
        """Nothing survives anything here."""
        check_key(key)

    def count(self) -> int:
        return sum(file.on_its_way for file in (*self._receiving, *self._left))

    def free_bytes(self) -> int:
        """What a test says is free."""
        return self.free

    def total_bytes(self) -> int:
        """More than enough."""
        return 1 << 40

    def problem(self) -> str | None:
        """Nothing is wrong."""
        return None


class MemoryLeftover:
    """A file that was on its way when the process died."""

    name = "incoming/memory.part"

    def __init__(
        self, file: MemoryIncoming, storage: MemoryStorage, quarantine: "MemoryQuarantine", forget: Callable[[], None]
    ) -> None:
        self.size = file.size
        self.placed = file.placed is not None
        # As a file system with hard links, this spool does not tell.
        self.key: str | None = None
        self._data = bytes(file.data) if file.placed is None else file.placed
        self._storage = storage
        self._quarantine = quarantine
        self._forget = forget

    def open(self) -> ByteSource:
        return MemorySource(self._data, 0)

    def is_stored_as(self, key: str) -> bool:
        return self._storage.files.get(key) is self._data

    def quarantine(self, reason: str) -> str:
        return self._quarantine.keep(self.name, self._data, reason)

    def remove(self) -> None:
        """Forget the file."""
        self._forget()


@dataclass
class MemoryQuarantine:
    """Files with their reasons."""

    storage: MemoryStorage
    files: list[tuple[str, bytes, str]] = field(default_factory=list)

    def add(self, key: str, reason: str) -> str:
        with self.storage.open(key) as source:
            data = source.read(0, source.size)
        self.storage.remove(key)
        return self.keep(key, data, reason)

    def keep(self, name: str, data: bytes, reason: str) -> str:
        """Keep a file."""
        self.files.append((name, data, reason))
        return f"quarantine/{len(self.files)}"

    def sync(self) -> None:
        """Nothing survives anything here."""

    def count(self) -> int:
        return len(self.files)


class MemoryTrash:
    """Deletions among the side files."""

    def __init__(self, storage: MemoryStorage, side_files: MemoryStorage) -> None:
        self._storage = storage
        self._side_files = side_files
        self._lock = threading.Lock()

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        got = self._lock.acquire(blocking=wait)
        try:
            yield got
        finally:
            if got:
                self._lock.release()

    def folders(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self._side_files.list(f"{TRASH}/")})

    def read(self, folder: str) -> str:
        with self.open(folder, _DOCUMENT) as source:
            return source.read(0, source.size).decode()

    def write(self, folder: str, document: str) -> None:
        self._side_files.replace(_in(folder, _DOCUMENT), document.encode())

    def add(self, folder: str, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            data = self._storage.files.get(key)
            if data is not None and not self.holds(folder, key):
                self._side_files.put_bytes(_in(folder, key), data)

    def take_away(self, folder: str, keys: Iterable[str]) -> None:
        for key in keys:
            if self.is_stored(folder, key):
                self._storage.remove(key)

    def bring_back(self, folder: str, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            with self.open(folder, key):
                data = self._side_files.files[_in(folder, key)]
            if not self.is_stored(folder, key):
                self._storage.put_bytes(key, data)

    def open(self, folder: str, key: str) -> ByteSource:
        return self._side_files.open(_in(folder, key))

    def holds(self, folder: str, key: str) -> bool:
        return self._side_files.exists(_in(folder, key))

    def is_stored(self, folder: str, key: str) -> bool:
        data = self._side_files.files.get(_in(folder, key))
        return data is not None and self._storage.files.get(key) is data

    def is_all_stored(self, folder: str) -> bool:
        return all(self.is_stored(folder, key) for key in self._keys(folder) if key != _DOCUMENT)

    def remove(self, folder: str, keys: Iterable[str]) -> None:
        for key in keys:
            if self.is_stored(folder, key):
                self._side_files.remove(_in(folder, key))

    def drop(self, folder: str) -> None:
        for key in self._keys(folder):
            self._side_files.remove(_in(folder, key))

    def _keys(self, folder: str) -> list[str]:
        return [key.removeprefix(trash_prefix(folder)) for key in self._side_files.list(trash_prefix(folder))]


class MemoryDecisionLog:
    """Lines among the side files."""

    name = "the decisions"

    def __init__(self, side_files: MemoryStorage) -> None:
        self._side_files = side_files

    def lines(self) -> list[bytes]:
        return self._side_files.files.get(_DECISIONS, b"").split(b"\n")[:-1]

    def append(self, number: int, line: bytes) -> bool:
        lines = self.lines()
        if len(lines) + 1 != number:
            return False
        self._write([*lines, line])
        return True

    def take_back(self, number: int) -> None:
        lines = self.lines()
        if len(lines) == number:
            self._write(lines[:-1])

    def sync(self) -> None:
        """Nothing survives anything here."""

    def _write(self, lines: Iterable[bytes]) -> None:
        self._side_files.replace(_DECISIONS, b"".join(line + b"\n" for line in lines))


class MemoryMarkLog:
    """Lines among the side files."""

    name = "the marks"

    def __init__(self, side_files: MemoryStorage) -> None:
        self._side_files = side_files

    def lines(self) -> Iterator[bytes]:
        yield from self._side_files.files.get(_MARKS, b"").split(b"\n")[:-1]

    def append(self, lines: bytes) -> None:
        self._side_files.replace(_MARKS, self._side_files.files.get(_MARKS, b"") + lines)


class MemoryRestoration:
    """The mark of a restore."""

    def __init__(self, *storages: MemoryStorage) -> None:
        self._storages = storages
        self._snapshot: str | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def scratch(self) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="pacs-server-restore-")
        return Path(self._directory.name)

    def unfinished(self) -> str | None:
        return self._snapshot

    def refuse_unfinished(self) -> None:
        if self._snapshot is not None:
            raise StorageUnavailable("a restore into memory is unfinished")

    def is_archive_empty(self) -> bool:
        return not any(storage.files for storage in self._storages)

    def begin(self, snapshot: str) -> None:
        self._snapshot = snapshot

    def finish(self) -> None:
        if self._directory is not None:
            self._directory.cleanup()
        self._directory = self._snapshot = None


class MemoryLock:
    """Who works on the archive, in this process only."""

    def __init__(self, restoration: MemoryRestoration) -> None:
        self._restoration = restoration
        self._users = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        if self._alone:
            raise StorageUnavailable("a restore into memory is running, or its index is being made anew")
        self._restoration.refuse_unfinished()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        if self._alone or self._users:
            raise StorageUnavailable("memory is in use: stop the server")
        self._alone = True
        try:
            yield
        finally:
            self._alone = False


def memory_archive(*, min_free_space: int = 0) -> ArchiveFiles:
    """The files of an empty archive in memory."""
    storage, side_files = MemoryStorage(), MemoryStorage(check_side_key)
    quarantine = MemoryQuarantine(storage)
    restoration = MemoryRestoration(storage, side_files)
    return ArchiveFiles(
        name="memory",
        storage=storage,
        spool=MemorySpool(storage, quarantine, min_free_space=min_free_space),
        quarantine=quarantine,
        trash=MemoryTrash(storage, side_files),
        decisions=MemoryDecisionLog(side_files),
        marks=MemoryMarkLog(side_files),
        side_files=side_files,
        lock=MemoryLock(restoration),
        restoration=restoration,
    )


def _in(folder: str, key: str) -> str:
    if "/" in folder or folder in ("", ".", ".."):
        raise InvalidKey(f"{folder!r} is not the name of a folder in the trash")
    return f"{trash_prefix(folder)}{key}"


def _own(file: IncomingFile) -> MemoryIncoming:
    if not isinstance(file, MemoryIncoming):
        raise TypeError("a file of another storage")
    return file
