"""The last backup as the archive itself remembers it: `pacs-server backup` writes it into the index at its end.

A backup holds the note of the backup before it, so a restored archive names that one. A rebuilt index knows of none.
"""

import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pacs_server.index.state import StateIndex

if TYPE_CHECKING:
    from pacs_server.upkeep.backup import CopyReport
    from pacs_server.upkeep.backup_directory import Snapshot

_KEY: Final = "backup.last"
# An archive that was ever backed up should be backed up again before a backup is as old as that.
CAUTION_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class LastBackup:
    """A backup that came to its end.

    `ended` is a Unix time. `problems` counts the files that were missing or damaged, and `verified` says whether the
    backup was read back.
    """

    ended: float
    snapshot: str
    directory: str
    instances: int
    bytes: int
    problems: int
    verified: bool

    def fields(self) -> dict[str, Any]:
        """The section of the status page."""
        ended = datetime.fromtimestamp(self.ended, UTC)
        return {
            **asdict(self),
            "ended": ended.isoformat(timespec="seconds"),
            "is_old": time.time() - self.ended > CAUTION_DAYS * 86_400,
        }


def note_backup(
    state: StateIndex, snapshot: "Snapshot", report: "CopyReport", directory: str, *, verified: bool
) -> None:
    """Remember a backup that has just ended. Raises IndexUnavailable."""
    size = snapshot.instances, snapshot.instance_bytes
    made = LastBackup(time.time(), snapshot.name, directory, *size, report.problem_count, verified)
    state.put({_KEY: json.dumps(asdict(made))})


def last_backup(state: StateIndex) -> LastBackup | None:
    """The last backup; None if this archive knows of none. Raises IndexUnavailable."""
    kept = state.get(_KEY)
    try:
        return None if kept is None else LastBackup(**json.loads(kept))
    except (ValueError, TypeError):
        # A later version wrote it, which may tell more.
        return None
