"""The cursor of the forwarder: which records were sent and which of them are confirmed. It outlives restarts."""

import json
import logging
import os
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from pacs_server.audit.record import Position

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Unconfirmed:
    """The records up to `position`, sent within a second that began at `begin` and ended at `end`."""

    begin: float
    end: float
    position: Position


class ForwardCursor:
    """The positions of the last record that was sent and of the last one that is confirmed.

    The confirmed position is kept in a file. Times are those of a monotonic clock, in seconds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._confirmed = self.sent = self._load()
        self._unconfirmed: deque[_Unconfirmed] = deque()

    def advance(self, position: Position, now: float) -> None:
        """Note that all records up to `position` have been sent."""
        self.sent = position
        if self._unconfirmed and now - self._unconfirmed[-1].begin < 1.0:
            self._unconfirmed[-1].end, self._unconfirmed[-1].position = now, position
        else:
            self._unconfirmed.append(_Unconfirmed(now, now, position))

    def confirm(self, before: float) -> bool:
        """Confirm the records that were sent before that time; return whether there were any."""
        confirmed = None
        while self._unconfirmed and self._unconfirmed[0].end <= before:
            confirmed = self._unconfirmed.popleft().position
        if confirmed is None:
            return False
        self._confirmed = confirmed
        self._save(confirmed)
        return True

    def rewind(self) -> None:
        """Go back to the last confirmed record: the unconfirmed ones will be sent again."""
        self._unconfirmed.clear()
        self.sent = self._confirmed

    @property
    def oldest_unconfirmed(self) -> float | None:
        """When the oldest unconfirmed records were sent, None if all are confirmed."""
        return self._unconfirmed[0].end if self._unconfirmed else None

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
            # The trail was restored from a copy, or its end was lost: send the whole day again.
            log.error("audit position lost", extra={"file": str(self._path), "reason": "the trail is another one"})
            return Position(position.file, 0, 0)
        return position

    def _fits(self, position: Position) -> bool:
        """Whether a line of the trail ends at the position; a missing file was pruned. Raises OSError."""
        try:
            with self._path.with_name(position.file).open("rb") as file:
                file.seek(max(position.offset - 1, 0))
                return position.offset == 0 or file.read(1) == b"\n"
        except FileNotFoundError:
            return True

    def _save(self, position: Position) -> None:
        """Replace the file. If that fails, some records are sent once more after a restart."""
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
