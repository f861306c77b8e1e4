"""Objects as files below one directory."""

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pacs_server.errors import InvalidKey, ObjectNotFound, ObjectUnreadable
from pacs_server.storage.contract import Bytes, ByteSource, ObjectInfo, Unlistable
from pacs_server.storage.disk_errors import object_error, storage_errors
from pacs_server.storage.durable_files import DurableFiles
from pacs_server.storage.file_source import FileSource
from pacs_server.storage.filesystem.directories import Directories
from pacs_server.storage.filesystem.spool import FileSystemSpool
from pacs_server.storage.keys import (
    RESERVED,
    RESTORING,
    SIDE_PREFIXES,
    check_key,
    check_side_key,
)

_ABSENT: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class FileSystemStorage:
    """The objects of an archive as files below the root; the folders of `RESERVED` are not among them."""

    def __init__(self, directories: Directories, spool: FileSystemSpool) -> None:
        self._directories = directories
        self._spool = spool

    def put(self, key: str, pieces: Iterable[Bytes]) -> int:
        """Store an object; see `Storage`."""
        target = self._path(key)
        file = self._spool.receive_file()
        try:
            for piece in pieces:
                file.write(piece)
            self._spool.place_at(file, target)
            file.settled()
        finally:
            file.discard()
        return file.size

    def open(self, key: str) -> ByteSource:
        """Open an object; see `Storage`."""
        try:
            return FileSource(self._path(key), key)
        except (ObjectNotFound, ObjectUnreadable):
            # Without its file system the archive has no file at all, which says nothing about this one.
            self._spool.free_bytes()
            raise

    def exists(self, key: str) -> bool:
        """Whether there is a file for a key; see `Storage`."""
        try:
            self.info(key)
        except (ObjectNotFound, InvalidKey):
            return False
        return True

    def info(self, key: str) -> ObjectInfo:
        """The size and the age of a file; see `Storage`."""
        try:
            state = os.stat(self._path(key))
            if stat.S_ISDIR(state.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise object_error("open", key, error) from error
        return ObjectInfo(state.st_size, state.st_mtime_ns)

    def remove(self, key: str) -> None:
        """Remove a file; see `Storage`."""
        target = self._path(key)
        with storage_errors(f"remove {key}"), suppress(*_ABSENT):
            with suppress(*_ABSENT):
                os.unlink(target)
            # Also when the file was gone: whoever removed it may not have done so durably.
            self._directories.sync(os.path.dirname(target))

    def list(self, prefix: str = "", *, after: str = "", unlistable: Unlistable | None = None) -> Iterator[str]:
        """The keys of the files, directory by directory; see `Storage`. Memory: the names in the directories above."""
        folder = prefix[: prefix.rfind("/") + 1]
        if folder:
            try:
                self._path(f"{folder}x")
            except InvalidKey:
                return
        with storage_errors("list the archive"):
            yield from self._list(folder, _Range(_encoded(prefix), _encoded(after)), unlistable)

    def holds_instances(self) -> bool:
        """Whether there is a file of an instance; see `Storage`."""
        with storage_errors(f"look into {self._directories.root}"):
            return next(_instances(self._directories.root, RESERVED), None) is not None

    @contextmanager
    def bulk(self) -> Iterator["FileSystemBulkWriter"]:
        """Write many files that share their syncs; see `Storage`."""
        partial = self._directories.root / RESTORING
        try:
            with DurableFiles(partial) as files:
                yield FileSystemBulkWriter(files, self._path)
        finally:
            with suppress(OSError):  # a restore keeps its mark there
                partial.rmdir()

    def _path(self, key: str) -> str:
        """The path of a key. Raises InvalidKey."""
        check_key(key)
        return self._directories.path(key)

    def _lists(self, name: str) -> bool:
        """Whether a file in the root belongs here, or what a directory holds, whose name ends with a slash."""
        return name.removesuffix("/") not in RESERVED

    def _list(self, folder: str, wanted: "_Range", unlistable: Unlistable | None) -> Iterator[str]:
        try:
            with os.scandir(self._directories.path(folder)) as entries:
                found = [(entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name) for entry in entries]
        except OSError as failure:
            if not folder:
                raise
            error = object_error("list", folder, failure)
            if not isinstance(error, ObjectNotFound):  # removed since it was listed, or never there
                if unlistable is None or not isinstance(error, ObjectUnreadable):
                    raise
                self._spool.free_bytes()  # raises if not this folder is away but the file system
                unlistable(folder, error)
            return
        for name in sorted(found, key=os.fsencode):
            key = folder + name
            if not folder and not self._lists(name):
                continue
            if not name.endswith("/"):
                if wanted.holds(os.fsencode(key)):
                    yield key
            elif wanted.meets(os.fsencode(key)):
                yield from self._list(key, wanted, unlistable)


class FileSystemSideFiles(FileSystemStorage):
    """The files beside the instances that belong into a backup, by their path below the root."""

    def _path(self, key: str) -> str:
        check_side_key(key)
        return self._directories.path(key)

    def _lists(self, name: str) -> bool:
        return name.startswith(SIDE_PREFIXES)


class FileSystemBulkWriter:
    """Writes files in batches; see `BulkWriter`."""

    def __init__(self, files: DurableFiles, path: Callable[[str], str]) -> None:
        self._files = files
        self._path = path

    def put(self, key: str, pieces: Iterable[Bytes]) -> int:
        """Write a file; see `BulkWriter`."""
        return self._files.write(Path(self._path(key)), pieces)


class _Range:
    """The keys that a listing asks for, as bytes."""

    def __init__(self, prefix: bytes, after: bytes) -> None:
        self._prefix = prefix
        self._after = after

    def holds(self, key: bytes) -> bool:
        return key > self._after and key.startswith(self._prefix)

    def meets(self, folder: bytes) -> bool:
        """Whether keys that begin with `folder`, which ends with a slash, may be in the range."""
        if not (folder.startswith(self._prefix) or self._prefix.startswith(folder)):
            return False
        return folder > self._after or self._after.startswith(folder)


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # no file has such a name
        return text.encode("utf-8", "surrogatepass")


def _instances(folder: Path | str, passed_over: Collection[str] = ()) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in passed_over:
                    yield from _instances(entry.path)
            elif entry.name.endswith(".dcm"):
                yield entry.path
