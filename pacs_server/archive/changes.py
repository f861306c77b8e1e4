"""The feed of changes for those who act on what happens in the archive: send it on, analyse it, tell somebody.

A consumer has a name and a durable cursor. It gets everything in the order of the commits. What it does within the
transaction that moves its cursor happens exactly once; everything else happens at least once, because after a crash
the same changes come again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from pacs_server.index.database import Database
from pacs_server.index.feed import Change, Consumer, Effect, FeedIndex, Page

# How many changes a batch holds at most.
BATCH: Final = 500
# A consumer looks by itself so often, in seconds: commands of another process on SQLite wake nobody.
LOOK_SECONDS: Final = 10.0


class Batch:
    """The next changes of one consumer; none are left when it is empty."""

    def __init__(self, page: Page, wakeups: int) -> None:
        self.changes: tuple[Change, ...] = page.changes
        self.page = page
        self.wakeups = wakeups
        self.effects: list[Effect] = []
        # Whether the cursor moved: it does not if another process has taken the same changes.
        self.is_taken = False

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    @property
    def epoch(self) -> int:
        """Another number after each rebuild and each restore of the index.

        What a consumer keeps by ids of instances is void in another epoch.
        """
        return self.page.before.epoch

    def then(self, effect: Effect) -> None:
        """Have `effect` called with the transaction that moves the cursor, at the end of the batch.

        It is a function of `index/` for a given transaction, such as the one that adds a task.
        """
        self.effects.append(effect)


class Feed:
    """The feed of one database; may be shared by all threads. Everything raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._index = FeedIndex(database)

    @contextmanager
    def batch(self, consumer: Consumer, limit: int = BATCH) -> Iterator[Batch]:
        """The next changes of a consumer; at the end of the block its cursor moves behind them, with all effects.

        If the block or an effect raises, or the process dies, nothing has happened and the same changes come again.
        No transaction is open during the block.
        """
        wakeups = self._database.wakeups
        page = self._index.read(consumer, limit)
        batch = Batch(page, wakeups)
        yield batch
        if page.behind != page.before:
            batch.is_taken = self._index.advance(page, batch.effects)

    def epoch(self, consumer: Consumer) -> int:
        """The epoch of a consumer's next batch, which may be the first one; see `Batch.epoch`."""
        return self._index.read(consumer, 1).before.epoch

    @property
    def wakeups(self) -> int:
        """How often consumers were woken in this process."""
        return self._database.wakeups

    def wait(self, batch: Batch, seconds: float = LOOK_SECONDS) -> bool:
        """Wait until there may be more than an empty batch had; False if nothing woke this consumer."""
        return self._database.wait(batch.wakeups, seconds)

    def wake(self) -> None:
        """End all waits of this process, for consumers that have to stop."""
        self._database.wake()

    def leave(self, name: str) -> None:
        """Forget a consumer that there is no longer, so that nothing is kept for it."""
        self._index.leave(name)

    def join(self, consumer: Consumer) -> None:
        """Begin to keep changes for a consumer, if that is not done."""
        self._index.read(consumer, 1)

    def touch(self, name: str) -> None:
        """Say that a consumer is still there, although nothing happens."""
        self._index.touch(name)

    def leave_stale(self, prefix: str, before: datetime) -> None:
        """Forget the consumers whose names begin with `prefix` and that were last there before that moment."""
        self._index.leave_stale(prefix, before)

    def gauges(self) -> dict[str, float]:
        """How far the slowest consumer is behind, if there is one."""
        lag = self._index.lag()
        return {} if lag is None else {"pacs_feed_lag": lag}
