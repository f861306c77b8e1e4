"""The rows of the table of changes: what happened to the archive other than the arrival of instances.

A change is recorded in the transaction of its cause, while that holds the writer's lock. So the rows are numbered in
the order of the commits, and `after` says between which arrivals a change belongs. While there is no consumer of the
feed nothing is recorded, and nobody waits for the writers of instances because of the feed: a consumer that comes later
starts behind what has happened before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select

from pacs_server.index.archive_models import change, feed_cursor
from pacs_server.index.database import hold_writer_lock, holds_writer_lock
from pacs_server.index.models import instance


class ChangeKind(StrEnum):
    """What happened."""

    # An instance is there: it is new, or another version of it was there, or it came back from the trash.
    ARRIVED = "ARRIVED"
    REPLACED = "REPLACED"
    RESTORED = "RESTORED"
    # A study, series or instance is gone from its place: into the trash, or its replacement is in another place.
    DELETED = "DELETED"
    # An operator gave a study to another patient: with all studies of its patient, or alone.
    MERGED = "MERGED"
    REASSIGNED = "REASSIGNED"
    # A worklist item, or a performed procedure step, is new or was changed.
    WORKLIST = "WORKLIST"
    STEP = "STEP"
    # A stored instance turned out to be damaged or missing, or to be in order again.
    FINDING = "FINDING"
    # A study got or lost a label, or its reader or reading state is another one.
    MARKED = "MARKED"


@dataclass(frozen=True, slots=True)
class NewChange:
    """A change to record; the fields are the columns of the table."""

    kind: ChangeKind
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    number: int | None = None
    detail: str = ""
    first_new_id: int | None = None


# A new consumer of the feed holds this lock alone. Others share it from their look for consumers to their commit, so
# that no consumer comes in between. Nobody who holds the writer's lock waits for this one. Any number, the same
# everywhere: "PACSCNSM".
_CONSUMERS_LOCK = 0x50414353_434E534D
_HIGHEST = select(func.coalesce(func.max(instance.c.id), 0))
_GIVEN: dict[str, Any] = {
    column.name: bindparam(column.name, type_=column.type) for column in change.c if column.name not in ("id", "after")
}
_RECORD = insert(change).from_select(
    [*_GIVEN, "after"],
    select(*_GIVEN.values(), _HIGHEST.scalar_subquery()).where(select(feed_cursor.c.consumer).exists()),
)


def record(connection: Connection, changes: Sequence[NewChange]) -> None:
    """Record changes for the consumers of the feed, if there are any.

    The caller's transaction then holds the writer's lock until it ends.
    """
    if changes and _may_have_consumers(connection):
        hold_writer_lock(connection)
        now = datetime.now(UTC)
        connection.execute(_RECORD, [asdict(each) | {"at": now} for each in changes])


def hold_back_changes(connection: Connection) -> None:
    """Wait for the transactions that found no consumer of the feed, and make others wait until this one ends.

    Whoever adds a consumer calls this before the transaction takes the writer's lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_CONSUMERS_LOCK)))


def _may_have_consumers(connection: Connection) -> bool:
    """Whether the feed may have a consumer; if not, none comes before the transaction ends."""
    if connection.dialect.name != "postgresql" or holds_writer_lock(connection):
        # A consumer that comes has to wait for this transaction anyway.
        return True
    connection.execute(select(func.pg_advisory_xact_lock_shared(_CONSUMERS_LOCK)))
    # This has to be another statement: one that waited for the lock would not see what was committed meanwhile.
    return connection.scalar(select(feed_cursor.c.consumer).limit(1)) is not None


@contextmanager
def not_arriving(connection: Connection, kind: ChangeKind) -> Iterator[None]:
    """Say of the instances that are inserted within that they did not arrive: they were replaced or restored."""
    hold_writer_lock(connection)
    first = int(connection.scalar(_HIGHEST) or 0) + 1
    yield
    record(connection, [NewChange(kind, first_new_id=first)])
