"""Write many files that share their syncs: each file is there whole or not at all."""

import ctypes
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pacs_server.kit.private_files import make_directory
from pacs_server.storage.contract import Bytes
from pacs_server.storage.disk_errors import disk_errors

# So many files, or files of so many bytes, share their syncs, whichever comes first.
_BATCH_FILES: Final = 1024
_BATCH_BYTES: Final = 256 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


class DurableFiles:
    """Writes files in batches: under temporary names in `partial`, then synced, renamed, and synced again.

    At the end of the `with` block all files are durable. When an exception ends the block, the files of the last batch
    are not there. `partial` has to be on the file system of the files.
    """

    def __init__(self, partial: Path) -> None:
        self._partial = partial
        self._number = 0
        self._size = 0
        self._written: deque[tuple[Path, Path]] = deque()

    def __enter__(self) -> Self:
        with disk_errors(f"use {self._partial}"):
            make_directory(self._partial)
            for leftover in self._partial.glob("*.part"):
                leftover.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            for temporary, _ in self._written:
                with suppress(OSError):
                    temporary.unlink()
            self._written.clear()

    def write(self, target: Path, pieces: Iterable[Bytes]) -> int:
        """Write a file, over one that is there, and return its size; the file is durable after `flush`.

        An exception of `pieces` passes through, and there is no file. Raises StorageFull, StorageUnavailable.
        """
        self._number += 1
        temporary = self._partial / f"{self._number}.part"
        with disk_errors(f"write {target}"):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._written.append((temporary, target))
        try:
            size = sum(_write(descriptor, piece, target) for piece in pieces)
        except BaseException:
            self._written.pop()
            temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        self._size += size
        if len(self._written) >= _BATCH_FILES or self._size >= _BATCH_BYTES:
            self.flush()
        return size

    def flush(self) -> None:
        """Make the files durable that were written so far. Raises StorageFull, StorageUnavailable."""
        if not self._written:
            return
        with disk_errors(f"write below {self._partial.parent}"):
            sync_file_system(self._partial)
            while self._written:
                # The first one first: of two files with the same name the later one stays.
                temporary, target = self._written[0]
                make_directory(target.parent)
                os.rename(temporary, target)
                self._written.popleft()
            sync_file_system(self._partial)
            self._size = 0


def _write(descriptor: int, piece: Bytes, target: Path) -> int:
    rest = memoryview(piece)
    with disk_errors(f"write {target}"):
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    return len(piece)


def sync_file_system(folder: Path) -> None:
    """Make everything durable on the file system of a directory, names included; raises OSError.

    This takes as long for a thousand new files as for a few: synced one by one, each file would wait for the journal of
    the file system. Linux reports data that could not be written from 5.8 on.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
