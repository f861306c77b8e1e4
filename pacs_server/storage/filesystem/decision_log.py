"""The decisions of people in a file of lines: each line is durable before the index has what it says."""

import errno
import os
from pathlib import Path
from typing import Final

from pacs_server.kit.private_files import make_directory, sync_directory
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.keys import DECISIONS

_FILE: Final = "changes.jsonl"


class FileDecisionLog:
    """The log below the directory of an archive; see `DecisionLog`."""

    def __init__(self, root: Path) -> None:
        self._path = root / DECISIONS / _FILE

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self._path)

    def lines(self) -> list[bytes]:
        """The whole lines; a line without its end was not written whole, and does not count."""
        with disk_errors(f"read {self._path}"):
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return []
        return data.split(b"\n")[:-1]

    def append(self, number: int, line: bytes) -> bool:
        """Write a line at the end; see `DecisionLog`."""
        lines = self.lines()
        if len(lines) + 1 != number:
            return False
        with disk_errors(f"write {self._path}"):
            make_directory(self._path.parent)
            self._write_at(sum(len(one) + 1 for one in lines), line + b"\n")
        return True

    def take_back(self, number: int) -> None:
        """Cut the last line off; see `DecisionLog`."""
        lines = self.lines()
        if len(lines) == number:
            with disk_errors(f"write {self._path}"):
                self._write_at(sum(len(one) + 1 for one in lines[:-1]), b"")

    def sync(self) -> None:
        """Sync the file and its name; see `DecisionLog`."""
        with disk_errors(f"sync {self._path}"):
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._sync(descriptor)
            finally:
                os.close(descriptor)

    def _write_at(self, end: int, data: bytes) -> None:
        """Write `data` in the place of what is behind `end`, durably, or leave nothing there; raises OSError."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A crash may have left a part of a line, of which nobody was told.
            os.ftruncate(descriptor, end)
            try:
                written = os.pwrite(descriptor, data, end)
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._sync(descriptor)
            except OSError:
                # The next start would carry a whole line out, and nobody would know why.
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        sync_directory(self._path.parent)
        sync_directory(self._path.parent.parent)
