"""How far the audit trail was sent, and how far it is believed to have arrived, over restarts."""

import json
import logging
import os
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from pacs_server.audit.record import Position

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Mark:
    """Up to here was sent, over a second that began at `begin` and ended at `end`."""

    begin: float
    end: float
    position: Position


class Progress:
    """What was sent, and what of it is believed to have arrived; the latter is kept in a file.

    Times are of a monotonic clock, in seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._believed = self.sent = self._load()
        self._marks: deque[_Mark] = deque()

    def add(self, position: Position, now: float) -> None:
        """Everything up to `position` has been sent."""
        self.sent = position
        if self._marks and now - self._marks[-1].begin < 1.0:
            self._marks[-1].end, self._marks[-1].position = now, position
        else:
            self._marks.append(_Mark(now, now, position))

    def believe(self, before: float) -> bool:
        """What was sent before that time has arrived; whether there was anything."""
        believed = None
        while self._marks and self._marks[0].end <= before:
            believed = self._marks.popleft().position
        if believed is None:
            return False
        self._believed = believed
        self._save(believed)
        return True

    def fall_back(self) -> None:
        """What is not believed to have arrived counts as not sent."""
        self._marks.clear()
        self.sent = self._believed

    @property
    def oldest(self) -> float | None:
        """When the oldest of what is in doubt was sent."""
        return self._marks[0].end if self._marks else None

    def _load(self) -> Position | None:
        try:
            fields = json.loads(self._path.read_bytes())
            position = Position(str(fields["file"]), int(fields["offset"]), int(fields["sequence"]))
            fits = self._fits(position)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.error("audit position lost", extra={"file": str(self._path), "reason": repr(error)})
            return None
        if not fits:
            # The trail was put back from a copy, or lost its end: the whole day again.
            log.error("audit position lost", extra={"file": str(self._path), "reason": "the trail is another one"})
            return Position(position.file, 0, 0)
        return position

    def _fits(self, position: Position) -> bool:
        """Whether a line ends there; a file that is gone was pruned. Raises OSError."""
        try:
            with self._path.with_name(position.file).open("rb") as file:
                file.seek(max(position.offset - 1, 0))
                return position.offset == 0 or file.read(1) == b"\n"
        except FileNotFoundError:
            return True

    def _save(self, position: Position) -> None:
        """Replace the file; if that fails a restart sends more than it has to."""
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(asdict(position)).encode())
                file.flush()
                os.fsync(handle)
            part.replace(self._path)
        except OSError as error:
            log.warning("audit position not kept", extra={"file": str(self._path), "reason": str(error)})
