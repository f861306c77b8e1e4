"""A SQLite database that loses power: which of its commits are there afterwards, by which of them were synced.

A commit that is not relaxed is on the disk, and with it all before, if it has written anything at all. Of later ones a
power loss leaves some: none, or the first few, or all of them.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from pacs_server.index.database import Database

Kept = Callable[[int], int]
T = TypeVar("T")


class Commits:
    """What the file of a database may be after a power loss; what is there at first is on the disk."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._states = [self._now()]

    def all_is_synced(self) -> None:
        """What is there now is on the disk."""
        self._states = [self._now()]

    def committed(self, *, relaxed: bool) -> None:
        """Something was committed."""
        now = self._now()
        # SQLite writes nothing to its log for a transaction that changed nothing, and so syncs nothing.
        if now == self._states[-1]:
            return
        self._states = [*self._states, now] if relaxed else [now]

    def lose_power(self, kept: Kept = lambda _: 0) -> None:
        """Leave what is on the disk, and so many of the later commits as `kept` says of their number.

        Nobody has the database open.
        """
        state = self._states[kept(len(self._states) - 1)]
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self.file}{suffix}").unlink()
        # The same file, as a database knows its own.
        with open(self.file, "r+b") as file:
            file.truncate()
            file.write(state)
        self._states = [state]

    def _now(self) -> bytes:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            return connection.serialize()


class RecordingDatabase(Database):
    """A database whose commits are written down; `after_commit` is called after each."""

    def __init__(self, commits: Commits) -> None:
        super().__init__(f"sqlite:///{commits.file}", fsync=False)
        self._commits = commits
        self.after_commit: Callable[[], Any] = lambda: None

    @contextmanager
    def begin(self, *, lock: int | None = None, relaxed: bool = False) -> Iterator[Connection]:
        """See `Database`."""
        with super().begin(lock=lock, relaxed=relaxed) as connection:
            yield connection
        self._commits.committed(relaxed=relaxed)
        self.after_commit()

    def write(self, work: Callable[[Connection], T], *, relaxed: bool = False) -> T:
        """See `Database`."""
        result = super().write(work, relaxed=relaxed)
        self._commits.committed(relaxed=relaxed)
        self.after_commit()
        return result
