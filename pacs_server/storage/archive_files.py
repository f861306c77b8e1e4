"""Everything that an archive keeps outside its database, as one value, and the contracts of its smaller parts."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pacs_server.storage.contract import Storage
from pacs_server.storage.spool import Quarantine, Spool
from pacs_server.storage.trash import Trash


class DecisionLog(Protocol):
    """Lines that are only ever appended: what people decided, which the stored objects do not tell.

    The caller sees to it that nobody else appends at the same time.
    """

    @property
    def name(self) -> str:
        """How messages call the log."""

    def lines(self) -> list[bytes]:
        """All lines, without their ends. Raises StorageUnavailable."""

    def append(self, number: int, line: bytes) -> bool:
        """Append a line durably as line `number`, counted from 1; False, and nothing is written, if it is not the next.

        Raises StorageFull, StorageUnavailable; then nothing is written.
        """

    def take_back(self, number: int) -> None:
        """Remove line `number` if it is the last one. Raises StorageUnavailable."""

    def sync(self) -> None:
        """Make the lines durable that a process wrote which was killed then. Raises StorageFull, StorageUnavailable."""


class MarkLog(Protocol):
    """Lines that are only ever appended, by anybody at any time: what people and rules say of studies."""

    @property
    def name(self) -> str:
        """How messages call the log."""

    def lines(self) -> Iterator[bytes]:
        """All whole lines, without their ends. Raises StorageUnavailable."""

    def append(self, lines: bytes) -> None:
        """Append whole lines durably, all or none of them. Raises StorageFull, StorageUnavailable."""


class ArchiveLock(Protocol):
    """Who works on an archive: many at a time, or one alone."""

    def shared(self) -> AbstractContextManager[None]:
        """Work on the archive beside others.

        Raises StorageUnavailable if somebody works on it alone, or if a restore into it is unfinished.
        """

    def exclusive(self) -> AbstractContextManager[None]:
        """Work on the archive alone; raises StorageUnavailable while a server or a command works on it."""


class Restoration(Protocol):
    """A restore into the archive: the mark that it is unfinished, so that nobody works on half an archive.

    All methods raise StorageUnavailable.
    """

    @property
    def scratch(self) -> Path:
        """A local directory for files that nobody needs after the restore."""

    def unfinished(self) -> str | None:
        """The snapshot that is being restored; None if none is."""

    def refuse_unfinished(self) -> None:
        """Raise StorageUnavailable if a restore was begun and has not ended."""

    def is_archive_empty(self) -> bool:
        """Whether no file of any kind is in the archive."""

    def begin(self, snapshot: str) -> None:
        """Mark the archive as unfinished, durably."""

    def finish(self) -> None:
        """Remove all that only the restore needed, the mark last."""


@dataclass(frozen=True, slots=True)
class ArchiveFiles:
    """Everything that an archive keeps outside its database.

    `side_files` holds as objects what lies beside the instances and belongs into a backup: the files of the trash under
    `trash_prefix`, and the decisions of people under `DECISIONS_PREFIX` (see `keys`). `name` is how messages call it.
    """

    name: str
    storage: Storage
    spool: Spool
    quarantine: Quarantine
    trash: Trash
    decisions: DecisionLog
    marks: MarkLog
    side_files: Storage
    lock: ArchiveLock
    restoration: Restoration
