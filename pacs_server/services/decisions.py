"""The journal of what operators decided about whose studies are: a line for each, durable before the index has it.

The files keep what was sent, so only this tells an index that is made anew what was decided since.
"""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pacs_server.errors import StorageUnavailable
from pacs_server.index.decisions import Decision
from pacs_server.kit.private_files import make_directory, sync_directory
from pacs_server.storage.disk_errors import disk_errors

_FOLDER: Final = "changes"
_NAME: Final = "changes.jsonl"


class DecisionJournal:
    """The journal below the directory of an archive."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / _FOLDER / _NAME

    def read(self) -> list[Decision]:
        """All changes in their order. Raises StorageUnavailable if they cannot be read or are not in order."""
        return [self._decision(number, line) for number, line in enumerate(self._lines(), 1)]

    def append(self, decision: Decision) -> bool:
        """Write a change down durably; False, and nothing is written, if its number is taken.

        The caller sees to it that nobody else appends meanwhile. Raises StorageFull, StorageUnavailable.
        """
        lines = self._lines()
        if len(lines) + 1 != decision.number:
            return False
        end = sum(len(line) + 1 for line in lines)
        values = asdict(decision) | {"at": decision.at.isoformat()}
        data = json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with disk_errors(f"write {self.path}"):
            make_directory(self.path.parent)
            _write_at(self.path, end, data)
        return True

    def take_back(self, decision: Decision) -> None:
        """Take out the last change, if it is this one. Raises StorageUnavailable."""
        lines = self._lines()
        if len(lines) == decision.number:
            with disk_errors(f"write {self.path}"):
                _write_at(self.path, sum(len(line) + 1 for line in lines[:-1]), b"")

    def sync(self) -> None:
        """Make durable what is written down; who wrote it may have been killed before. As `append` raises."""
        with disk_errors(f"sync {self.path}"):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _sync(descriptor, self.path)
            finally:
                os.close(descriptor)

    def _lines(self) -> list[bytes]:
        """The whole lines; one without its end was not written whole, and does not count."""
        with disk_errors(f"read {self.path}"):
            try:
                data = self.path.read_bytes()
            except FileNotFoundError:
                return []
        return data.split(b"\n")[:-1]

    def _decision(self, number: int, line: bytes) -> Decision:
        try:
            decision = _decision(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise StorageUnavailable(f"{self.path} line {number} is not a change") from error
        if decision.number != number:
            raise StorageUnavailable(f"{self.path} line {number} is change {decision.number}")
        return decision


def _sync(descriptor: int, path: Path) -> None:
    """Make an open file durable, with its name and that of its folder."""
    os.fsync(descriptor)
    sync_directory(path.parent)
    sync_directory(path.parent.parent)


def _write_at(path: Path, end: int, data: bytes) -> None:
    """Put `data` in the place of what is behind `end`, durably, or leave nothing there; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # What a crash left of a line that nobody was told of.
        os.ftruncate(descriptor, end)
        try:
            written = os.pwrite(descriptor, data, end)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _sync(descriptor, path)
        except OSError:
            # A whole line would be made true at the next start, and nobody would know why.
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _decision(values: Mapping[str, Any]) -> Decision:
    read = {**values, "at": datetime.fromisoformat(values["at"]), "studies": tuple(values["studies"])}
    return Decision(**read)
