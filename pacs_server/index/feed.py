"""The feed of changes: what happened to the archive, in the order of the commits, for consumers with durable cursors.

Arrivals are the rows of `instance`, everything else is the rows of `change`; each has its own numbers. A change comes
behind the instances up to its `after`, so a consumer gets one sequence out of two. Instances that are gone before a
consumer has read them are not shown.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, update

from pacs_server.index.archive_models import change, feed_cursor, new_epoch
from pacs_server.index.changes import ChangeKind, hold_back_changes
from pacs_server.index.database import Database, hold_writer_lock
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.models import instance, series, study

# At most so many rows are removed at a time of those that every consumer has read.
_PRUNED_TOGETHER: Final = 1000

# Something that a consumer does within the transaction that moves its cursor.
Effect = Callable[[Connection], None]


@dataclass(frozen=True, slots=True)
class Consumer:
    """Who reads the feed; the name is that of its cursor.

    A new one begins with all instances that the archive holds, or with what happens from then on.
    """

    name: str
    from_beginning: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to the archive.

    `instance_id` is that of the instance that is there now, for the kinds ARRIVED, REPLACED and RESTORED. UIDs that
    say nothing about a change are empty: a deleted study has no series. `number` is the id of a worklist item, or the
    number of an operator's decision. `detail` is the new status of an item or step, the kind of a
    finding, or what marks say, for people.
    """

    kind: ChangeKind
    at: datetime
    instance_id: int | None = None
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    number: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a consumer has come: up to these numbers it has read everything.

    Each rebuild and each restore of the index begins a new epoch.
    """

    consumer: str
    epoch: int
    instance_id: int
    change_id: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some changes, and the cursor before and behind them."""

    before: Cursor
    behind: Cursor
    changes: tuple[Change, ...]


class FeedIndex:
    """The feed of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, consumer: Consumer, limit: int) -> Page:
        """Read the next changes, `limit` at most, none if no more are left; a consumer without a cursor gets one."""
        while (page := self._read(consumer.name, limit)) is None:
            self._join(consumer)
        return page

    def advance(self, page: Page, effects: Sequence[Effect]) -> bool:
        """Move a cursor behind a page, with all effects; False, and nothing done, if it was moved meanwhile."""
        mine = feed_cursor.c.consumer == page.before.consumer
        with self._database.begin() as connection:
            row = connection.execute(select(*_CURSOR).where(mine).with_for_update()).one_or_none()
            if row is None or Cursor(*row) != page.before:
                return False
            for effect in effects:
                effect(connection)
            values = {"instance_id": page.behind.instance_id, "change_id": page.behind.change_id}
            connection.execute(update(feed_cursor).where(mine).values(**values, moved_at=datetime.now(UTC)))
            if page.behind.change_id != page.before.change_id:
                _prune(connection)
            return True

    def leave(self, name: str) -> None:
        """Forget a consumer that there is no longer: nothing is kept for it any more."""
        self._leave([name])

    def leave_stale(self, prefix: str, before: datetime) -> None:
        """Forget the consumers whose names begin with `prefix` and whose cursors were not moved since that moment."""
        stale = select(feed_cursor.c.consumer).where(
            feed_cursor.c.consumer.startswith(prefix, autoescape=True), feed_cursor.c.moved_at < before
        )
        with self._database.connect() as connection:
            names = connection.scalars(stale).all()
        if names:
            self._leave(names)

    def _leave(self, names: Sequence[str]) -> None:
        theirs = feed_cursor.c.consumer.in_(names)
        with self._database.begin() as connection:
            # The cursors before the writer's lock: whoever moves one may take that lock for the effects.
            connection.execute(select(feed_cursor.c.consumer).where(theirs).with_for_update()).all()
            hold_writer_lock(connection)
            connection.execute(delete(feed_cursor).where(theirs))
            if connection.scalar(select(func.count()).select_from(feed_cursor)) == 0:
                connection.execute(delete(change))
            _prune(connection)

    def touch(self, name: str) -> None:
        """Note that a consumer is still there."""
        with self._database.begin() as connection:
            mine = feed_cursor.c.consumer == name
            connection.execute(update(feed_cursor).where(mine).values(moved_at=datetime.now(UTC)))

    def lag(self) -> int | None:
        """How many instances and changes the slowest consumer has not read, about; None without a consumer."""
        ends = [func.coalesce(select(func.max(table.c.id)).scalar_subquery(), 0) for table in (instance, change)]
        columns = (feed_cursor.c.instance_id, feed_cursor.c.change_id)
        with self._database.connect() as connection:
            rows = connection.execute(select(*columns, *ends)).all()
        behind = [max(0, row[2] - row[0]) + max(0, row[3] - row[1]) for row in rows]
        return max(behind, default=None)

    def _join(self, consumer: Consumer) -> None:
        with self._database.begin() as connection:
            hold_back_changes(connection)
            hold_writer_lock(connection)
            known = select(feed_cursor.c.consumer).where(feed_cursor.c.consumer == consumer.name)
            if connection.execute(known).first() is None:
                last_change = connection.scalar(select(func.max(change.c.id))) or 0
                last_instance = connection.scalar(select(func.max(instance.c.id))) or 0
                values = {
                    "instance_id": 0 if consumer.from_beginning else last_instance,
                    "change_id": last_change,
                    "moved_at": datetime.now(UTC),
                }
                connection.execute(insert(feed_cursor).values(consumer=consumer.name, epoch=new_epoch(), **values))

    def _read(self, name: str, limit: int) -> Page | None:
        """The next page as of one moment; None without a cursor."""
        with self._database.connect() as connection:
            if not self._database.is_sqlite:
                # All statements see the same commits; SQLite does so anyway.
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            row = connection.execute(select(*_CURSOR).where(feed_cursor.c.consumer == name)).one_or_none()
            if row is None:
                return None
            before = behind = Cursor(*row)
            while True:
                found, behind, more = _next(connection, behind, limit)
                # What was replaced or restored and is gone again leaves nothing to show.
                if found or not more:
                    return Page(before, behind, tuple(found))


_CURSOR = [feed_cursor.c[name] for name in Cursor.__dataclass_fields__]
_INSTANCES = (
    select(
        instance.c.id,
        instance.c.received_at,
        study.c.study_instance_uid,
        series.c.series_instance_uid,
        instance.c.sop_instance_uid,
    )
    .join(series, series.c.id == instance.c.series_fk)
    .join(study, study.c.id == series.c.study_fk)
    .order_by(instance.c.id)
)


def _next(connection: Connection, cursor: Cursor, limit: int) -> tuple[list[Change], Cursor, bool]:
    """The next changes behind a cursor, the cursor behind them, and whether there may be more."""
    changes = connection.execute(
        select(change).where(change.c.id > cursor.change_id).order_by(change.c.id).limit(limit)
    ).all()
    instances = connection.execute(_INSTANCES.where(instance.c.id > cursor.instance_id).limit(limit)).all()
    found: list[Change] = []
    instance_id, change_id = cursor.instance_id, cursor.change_id
    for shown, row in in_commit_order(changes, instances, limit):
        if shown is not None and len(found) == limit:
            break
        if shown is not None:
            found.append(shown)
        if shown is not None and shown.instance_id is not None:
            instance_id = row.id
        else:
            change_id = row.id
    behind = replace(cursor, instance_id=instance_id, change_id=change_id)
    return found, behind, limit in (len(changes), len(instances))


def in_commit_order(
    changes: Sequence[Any], instances: Sequence[Any], limit: int
) -> Iterator[tuple[Change | None, Any]]:
    """Rows of both tables in the order of the commits, each behind what it shows; `limit` of each were read at most.

    A row that says which instances were replaced or restored shows nothing itself: they are shown so.
    """
    waiting = deque(instances)
    for row in changes:
        while waiting and waiting[0].id <= row.after:
            arrived = waiting.popleft()
            is_new = row.first_new_id is not None and arrived.id >= row.first_new_id
            yield _arrival(arrived, row if is_new else None), arrived
        if not waiting and len(instances) == limit:
            # More instances may have come before this change.
            return
        yield (_change(row) if row.first_new_id is None else None), row
    if len(changes) < limit:
        # Otherwise a change that is not read yet may say that these were replaced or restored.
        yield from ((_arrival(arrived, None), arrived) for arrived in waiting)


def _arrival(row: Any, why: Any) -> Change:
    """The change that an instance is: an arrival, unless a row of the table of changes says otherwise."""
    kind = ChangeKind.ARRIVED if why is None else ChangeKind(why.kind)
    at = in_utc(row.received_at if why is None else why.at)
    return Change(kind, at, row.id, row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)


def _change(row: Any) -> Change:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    return Change(ChangeKind(row.kind), in_utc(row.at), None, *uids, row.number, row.detail)


def _prune(connection: Connection) -> None:
    """Remove changes that every consumer has read."""
    read_by_all = select(func.min(feed_cursor.c.change_id)).scalar_subquery()
    some = (
        select(change.c.id)
        .where(change.c.id <= read_by_all)
        .order_by(change.c.id)
        .limit(_PRUNED_TOGETHER)
        # Two consumers that remove the same rows do not wait for each other.
        .with_for_update(skip_locked=True)
    )
    connection.execute(delete(change).where(change.c.id.in_(some)))
