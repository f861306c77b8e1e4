"""The files of the audit trail: their names, modes and lines, and the lock. Their content is not known here."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Final

from pacs_server.errors import AuditUnavailable

ANCHORS: Final = "anchors.jsonl"
HEAD: Final = "head"
# The lock is held for a few system calls. Only a process that was stopped holds it for as long as this.
_LOCK_SECONDS: Final = 10.0
_BLOCK: Final = 65536
_DAY_FILE: Final = re.compile(r"audit-([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl")

# So many bytes are read at a time from the end of a file.
_BACK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its line break, the name of its file, its number, and the offset of its end."""

    file: str
    number: int
    end: int
    data: bytes


class unavailable:
    """Turns an OSError into AuditUnavailable with the text "the audit trail cannot `what`"."""

    # Not a generator: each record goes through some of these.
    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise AuditUnavailable(f"the audit trail cannot {self._what}: {error.strerror or error}") from error


def day_file(day: date) -> str:
    """The name of the file of a day (UTC)."""
    return f"audit-{day.isoformat()}.jsonl"


def day_of(name: str) -> date:
    """The day of a day file, by its name."""
    return date.fromisoformat(name[6:16])


def day_files(directory: Path) -> list[str]:
    """The names of all day files, the oldest first; raises AuditUnavailable."""
    with unavailable(f"list {directory}"):
        return sorted(name for name in os.listdir(directory) if _is_day_file(name))


def _is_day_file(name: str) -> bool:
    found = _DAY_FILE.fullmatch(name)
    try:
        return found is not None and day_file(date.fromisoformat(found[1])) == name
    except ValueError:
        return False


def lines(directory: Path, name: str, *, start: int = 0, stop: int | None = None) -> Iterator[Line]:
    """The lines of a file between two offsets; the last one may lack its line break. Raises OSError."""
    with (directory / name).open("rb") as file:
        offset, number = file.seek(start), 0
        while stop is None or offset < stop:
            data = file.readline(-1 if stop is None else stop - offset)
            if not data:
                return
            offset, number = offset + len(data), number + 1
            yield Line(name, number, offset, data)


def lines_back(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a file from the last one to the first: offset of the beginning, of the end, text. Raises OSError."""
    with path.open("rb") as file:
        place, rest = file.seek(0, os.SEEK_END), b""
        while place:
            size = min(_BACK, place)
            place = file.seek(place - size)
            block = file.read(size) + rest
            # What stands before the first line break belongs to a line that begins further ahead.
            cut = block.find(b"\n") + 1 if place else 0
            if place and not cut:
                rest = block
                continue
            rest, end = block[:cut], place + len(block)
            pieces = block[cut:].split(b"\n")
            for number, text in enumerate(reversed(pieces)):
                # Only the last line may lack its line break.
                data = text + b"\n" if number else text
                if data:
                    yield end - len(data), end, data
                end -= len(data)


def create(path: Path, flags: int) -> int:
    """Open a file, or create it with mode 0600; its directory is not synced. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        # After a command of root the server must still be able to use its own trail.
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def last_line(path: Path) -> tuple[bytes, int]:
    """The last complete line of a file, empty if there is none, and the offset of its end; raises OSError."""
    with path.open("rb") as file:
        size = start = file.seek(0, os.SEEK_END)
        data = b""
        while start > 0 and data.count(b"\n") < 2:
            start = max(start - _BLOCK, 0)
            file.seek(start)
            data = file.read(size - start)
    end = data.rfind(b"\n") + 1
    return data[data.rfind(b"\n", 0, max(end - 1, 0)) + 1 : end], start + end


class locked:
    """Holds the lock of the trail, which is on the file `head`; raises AuditUnavailable after ten seconds."""

    __slots__ = ("_descriptor", "_kind")

    def __init__(self, descriptor: int, *, shared: bool = False) -> None:
        self._descriptor = descriptor
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    def __enter__(self) -> None:
        with unavailable("be locked"):
            if not _take(self._descriptor, self._kind):
                self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _take(self._descriptor, self._kind):
            if time.monotonic() > deadline:
                raise AuditUnavailable("another process holds the audit trail")
            time.sleep(0.002)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
