"""The journal of marks: a file of lines that only grows, each durable before the index has what it says."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pacs_server.kit.private_files import make_directory, sync_directory
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.keys import DECISIONS

_FILE: Final = "marks.jsonl"


class FileMarkLog:
    """The journal below the directory of an archive; see `MarkLog`."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self._path = root / DECISIONS / _FILE
        self._fsync = fsync

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self._path)

    def lines(self) -> Iterator[bytes]:
        """The whole lines in their order; a line without its end was not written whole, and does not count."""
        with disk_errors(f"read {self._path}"):
            try:
                with self._path.open("rb") as file:
                    yield from (line[:-1] for line in file if line.endswith(b"\n"))
            except FileNotFoundError:
                return

    def append(self, lines: bytes) -> None:
        """Write whole lines at the end; see `MarkLog`."""
        with disk_errors(f"write {self._path}"):
            make_directory(self._path.parent)
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                # A crash may have left a part of a line: it ends here, and is passed over.
                cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, b"\n" + lines if cut else lines)
                if self._fsync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if self._fsync and size == 0:
                sync_directory(self._path.parent)
                sync_directory(self._path.parent.parent)
