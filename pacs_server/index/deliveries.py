"""Deliveries: which instances are to go to which remotes, and what these answered.

A delivery is added in the transaction of its cause, together with the task that sends it (`add_forward_task`). Several
tasks of a study may follow each other, because images come late; a delivery is sent by whichever task of its remote,
rule and study runs next. When that task is dead or cancelled, so are the deliveries that it leaves, until somebody
retries it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index import outgoing_models
from pacs_server.index.database import Database
from pacs_server.index.feed import Effect
from pacs_server.index.instances import StoredInstance
from pacs_server.index.matching import name_of
from pacs_server.index.models import instance, series, study
from pacs_server.index.outgoing_models import delivery as table
from pacs_server.index.prepared import Prepared
from pacs_server.index.task_models import IS_LIVE
from pacs_server.index.task_models import task as task_table
from pacs_server.index.task_values import NewTask, Priority, Task, TaskState, task_of
from pacs_server.index.tasks import add_task, set_progress
from pacs_server.kit.words import counted

CHANGED_RULE: Final = "changed:"
"""What the rule of deliveries begins with that a person has sent changed."""

FORWARD: Final = "forward"
"""The kind of tasks that send deliveries."""

_IS_WAITING = text(outgoing_models.IS_WAITING)
_HAS_TASK = text(outgoing_models.HAS_TASK)
# So many instances are looked up at a time.
_CHUNK: Final = 500
_STORED: Final = [
    name_of(column)
    for column in (
        study.c.study_instance_uid, series.c.series_instance_uid, instance.c.sop_instance_uid,
        instance.c.sop_class_uid, instance.c.transfer_syntax_uid, instance.c.path, instance.c.data_set_offset,
        instance.c.size, instance.c.digest, instance.c.version,
    )
]  # fmt: skip
_WAITING: Final = f"""
    SELECT delivery.id, delivery.instance_id, delivery.sop_instance_uid, delivery.attempts, {", ".join(_STORED)}
    FROM delivery
    LEFT JOIN instance ON instance.sop_instance_uid = delivery.sop_instance_uid
    LEFT JOIN series ON series.id = instance.series_fk
    LEFT JOIN study ON study.id = series.study_fk
    WHERE delivery.{outgoing_models.IS_WAITING} AND delivery.remote = ? AND delivery.rule = ?
    AND delivery.study_instance_uid = ? ORDER BY delivery.attempts, delivery.id LIMIT ?"""  # noqa: S608 - no values


class DeliveryState(StrEnum):
    """Where a delivery stands. A dead one was given up; it waits for somebody to retry or cancel its task."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An instance that is to go to a remote, because of a rule or, if that is '', because a person wants it."""

    remote: str
    rule: str
    instance_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    caused_by: str = ""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What a forward task is about: one study, remote and rule, and what holds for everything that it sends.

    `changes` and `origin` are for the sender: how data sets are changed on the way out, and the AE titles and remotes
    through which they came. `caused_by` names the rule or the person.
    """

    remote: str
    rule: str
    study_instance_uid: str
    caused_by: str
    priority: Priority = Priority.MEDIUM
    changes: tuple[Mapping[str, Any], ...] = ()
    origin: tuple[str, ...] = ()

    @property
    def dedupe_key(self) -> str:
        """At most one task of a study, remote and rule waits or runs."""
        return f"{FORWARD}:{self.remote}:{self.rule}:{self.study_instance_uid}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that waits, and where its instance is stored now; None if it was deleted."""

    id: int
    instance_id: int
    sop_instance_uid: str
    attempts: int
    stored: StoredInstance | None


@dataclass(frozen=True, slots=True)
class Note:
    """What became of an attempt at a delivery: the state that it leaves it in, and what `answered_by` answered."""

    delivery: int
    state: DeliveryState
    at: datetime
    detail: str = ""
    status: int | None = None
    answered_by: str = ""
    association: str = ""
    task_id: int | None = None


@dataclass(frozen=True, slots=True)
class Retargeting:
    """That another remote gets what is to be sent: which one, who says so, when, and the deadline of its tasks."""

    target: str
    caused_by: str
    now: datetime
    deadline: datetime | None


# What is over may be sent once more, if a person wants it.
_OVER: Final = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED)

# ------------------------------------------------------------------------------------ adding


def add_deliveries(
    connection: Connection,
    rows: Sequence[NewDelivery],
    now: datetime,
    *,
    again: Collection[DeliveryState] = (),
) -> int:
    """Insert deliveries in the caller's transaction; return how many are new.

    What is there already for the same remote, rule and instance stays as it is, so that a cause may come twice. With
    `again`, those that are in one of these states wait once more, and count as new.
    """
    if not rows:
        return 0
    values = [{**_values(row), "created": now} for row in rows]
    return _insert(connection.dialect.name, tuple(again)).run_many(connection, values)


@cache
def _insert(dialect: str, again: tuple[DeliveryState, ...]) -> Prepared:
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    waiting: Any = literal_column(f"'{DeliveryState.WAITING}'")
    names = (*NewDelivery.__dataclass_fields__, "created")
    insert = insert.values({**{name: bindparam(name) for name in names}, "state": waiting})
    unique = ["remote", "rule", "instance_id"]
    if not again:
        return Prepared(insert.on_conflict_do_nothing(index_elements=unique))
    anew = {name: insert.excluded[name] for name in ("caused_by", "created")}
    texts: Any = dict.fromkeys(("answered_by", "detail", "association"), literal_column("''"))
    nothing = {"attempts": literal_column("0"), **dict.fromkeys(("answered_at", "status", "task_id"), null())}
    over = " OR ".join(f"delivery.state = '{each}'" for each in again)
    values = {"state": waiting, **anew, **texts, **nothing}
    return Prepared(insert.on_conflict_do_update(index_elements=unique, set_=values, where=text(over)))


def add_forward_task(connection: Connection, forwarding: Forwarding, now: datetime, deadline: datetime | None) -> int:
    """Add the task that sends what waits for a remote, rule and study, in the caller's transaction; its number.

    If that task waits already, it is that one's number; if it runs, it runs once more afterwards.
    """
    payload = {
        "study": forwarding.study_instance_uid,
        "rule": forwarding.rule,
        "changes": list(forwarding.changes),
        "origin": list(forwarding.origin),
        "caused_by": forwarding.caused_by,
    }
    new = NewTask(
        FORWARD, forwarding.caused_by, forwarding.remote, payload, forwarding.priority,
        deadline=deadline, dedupe_key=forwarding.dedupe_key,
    )  # fmt: skip
    return add_task(connection, new, now)


def planned(rows: Sequence[NewDelivery], forwarding: Forwarding, now: datetime, deadline: datetime | None) -> Effect:
    """The effect that adds deliveries, and their task if any of them is new."""

    def add(connection: Connection) -> None:
        if add_deliveries(connection, rows, now):
            add_forward_task(connection, forwarding, now, deadline)

    return add


def forwarding_of(task: Task) -> Forwarding:
    """What a forward task is about."""
    payload = task.payload
    return Forwarding(
        task.target, payload["rule"], payload["study"], payload["caused_by"], task.priority,
        tuple(payload["changes"]), tuple(payload["origin"]),
    )  # fmt: skip


_FIELDS: Final = tuple(NewDelivery.__dataclass_fields__)
_fields: Final = attrgetter(*_FIELDS)


def _values(row: NewDelivery) -> dict[str, Any]:
    return dict(zip(_FIELDS, _fields(row), strict=True))


# ------------------------------------------------------------------------------------ following the task


def follow(connection: Connection, task: Task, retried: bool) -> None:
    """Repeat for the deliveries of a task what has become of it, in the transaction that changes the task."""
    rows = and_(
        table.c.remote == task.target,
        table.c.rule == task.payload["rule"],
        table.c.study_instance_uid == task.payload["study"],
    )
    given_up = and_(_HAS_TASK, table.c.task_id == task.id)
    if task.state == TaskState.DEAD:
        _end(connection, and_(rows, _IS_WAITING), DeliveryState.DEAD, task)
    elif task.state == TaskState.CANCELLED:
        # The deliveries that wait may be those of another task, when this one had been dead for a while.
        waiting = () if _has_twin(connection, task) else (_IS_WAITING,)
        open_ = and_(rows, or_(*waiting, and_(given_up, table.c.state == DeliveryState.DEAD)))
        _end(connection, open_, DeliveryState.CANCELLED, task)
    elif task.state == TaskState.READY and retried:
        closed = table.c.state.in_((DeliveryState.DEAD, DeliveryState.CANCELLED))
        values = {"state": DeliveryState.WAITING, "attempts": 0, "task_id": None}
        connection.execute(update(table).where(given_up, closed).values(**values))


def _end(connection: Connection, which: ColumnElement[bool], state: DeliveryState, task: Task) -> None:
    reason = "cancelled" if state == DeliveryState.CANCELLED else task.last_error
    detail = case((table.c.detail == "", literal(reason)), else_=table.c.detail)
    connection.execute(update(table).where(which).values(state=state, detail=detail, task_id=task.id))


def _retarget(connection: Connection, task: Task, change: Retargeting) -> int | None:
    """Move the open deliveries of a task to another remote; the number of the task there, None if there are none."""
    forwarding = forwarding_of(task)
    open_ = and_(
        table.c.remote == task.target,
        table.c.rule == forwarding.rule,
        table.c.study_instance_uid == forwarding.study_instance_uid,
        table.c.state.in_((DeliveryState.WAITING, DeliveryState.DEAD)),
    )
    rows = connection.execute(select(table).where(open_).order_by(table.c.id)).all()
    names = ("rule", "instance_id", "study_instance_uid", "series_instance_uid", "sop_instance_uid")
    moved = [
        NewDelivery(change.target, caused_by=change.caused_by, **{name: getattr(row, name) for name in names})
        for row in rows
    ]
    ended = {"state": DeliveryState.CANCELLED, "detail": f"sent to {change.target} instead", "task_id": None}
    connection.execute(update(table).where(open_).values(**ended))
    if not add_deliveries(connection, moved, change.now, again=(DeliveryState.DEAD, DeliveryState.CANCELLED)):
        return None
    new = replace(forwarding, remote=change.target, caused_by=change.caused_by)
    return add_forward_task(connection, new, change.now, change.deadline)


def _has_twin(connection: Connection, task: Task) -> bool:
    twin = select(task_table.c.id).where(text(IS_LIVE), task_table.c.dedupe_key == task.dedupe_key)
    return connection.scalar(twin.where(task_table.c.id != task.id).limit(1)) is not None


# ------------------------------------------------------------------------------------ sending


class DeliveryIndex:
    """The deliveries of one database, as those who send see them; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, wanted: Sequence[tuple[Forwarding, Sequence[NewDelivery]]], now: datetime, deadline: datetime | None
    ) -> list[int]:
        """Commit deliveries that a person wants, also of what was sent before, with their tasks; the tasks' numbers."""
        with self._database.begin() as connection:
            for _, rows in wanted:
                add_deliveries(connection, rows, now, again=_OVER)
            return [add_forward_task(connection, forwarding, now, deadline) for forwarding, _ in wanted]

    def retarget(self, source: str, change: Retargeting, study: str | None = None) -> list[int]:
        """Have another remote get what waits for `source` or was given up, of one study or all; the new tasks' numbers.

        The tasks of `source` are cancelled. What the other remote got by the same rule it does not get again.
        """
        open_ = (TaskState.READY, TaskState.RUNNING, TaskState.DEAD)
        mine = select(task_table).where(
            task_table.c.kind == FORWARD, task_table.c.target == source, task_table.c.state.in_(open_)
        )
        with self._database.begin() as connection:
            tasks = [task_of(row) for row in connection.execute(mine.order_by(task_table.c.id).with_for_update())]
            moved = [task for task in tasks if study in (None, task.payload["study"])]
            keys = {task.dedupe_key: task for task in moved}
            numbers = [number for task in keys.values() if (number := _retarget(connection, task, change)) is not None]
            over = {
                "state": TaskState.CANCELLED,
                "finished": change.now,
                "owner": "",
                "claimed_until": None,
                "again": False,
            }
            ids = [task.id for task in moved]
            connection.execute(update(task_table).where(task_table.c.id.in_(ids)).values(**over))
            return numbers

    def waiting(self, forwarding: Forwarding, limit: int) -> list[Waiting]:
        """The next deliveries of a task, those with the fewest attempts first."""
        values: Any = (forwarding.remote, forwarding.rule, forwarding.study_instance_uid, limit)
        with self._database.rows(_WAITING, values, few=True) as rows:
            return [Waiting(row[0], row[1], row[2], row[3], _stored(row[4:])) for row in rows]

    def note(self, notes: Sequence[Note], task: Task, progress: Mapping[str, int]) -> None:
        """Keep what became of attempts at deliveries, and how far their task has come, in one transaction."""
        with self._database.begin() as connection:
            if notes:
                _write(connection, notes)
            set_progress(connection, task, progress)

    def given_up(self, task: int) -> str | None:
        """How many deliveries a task has given up, and why the last one, as a sentence; None if it has not."""
        mine = and_(_HAS_TASK, table.c.task_id == task, table.c.state == DeliveryState.DEAD)
        last = select(table.c.detail).where(mine).order_by(table.c.answered_at.desc(), table.c.id.desc()).limit(1)
        with self._database.connect() as connection:
            count = connection.scalar(select(func.count()).where(mine)) or 0
            return f"{counted(count, 'instance')} given up: {connection.scalar(last)}" if count else None

    def cancel(self, deliveries: Collection[int], reason: str) -> None:
        """Cancel deliveries for which there is nothing to send."""
        if not deliveries:
            return
        values = {"state": DeliveryState.CANCELLED, "detail": reason}
        with self._database.begin() as connection:
            connection.execute(update(table).where(table.c.id.in_(deliveries), _IS_WAITING).values(**values))

    def ids(self, sop_instance_uids: Sequence[str]) -> Iterator[tuple[str, int]]:
        """The ids of instances by SOP Instance UID."""
        for start in range(0, len(sop_instance_uids), _CHUNK):
            some = sop_instance_uids[start : start + _CHUNK]
            places = ", ".join("?" * len(some))
            query = f"SELECT sop_instance_uid, id FROM instance WHERE sop_instance_uid IN ({places})"  # noqa: S608
            with self._database.rows(query, some, few=True) as rows:
                yield from rows


def _write(connection: Connection, notes: Sequence[Note]) -> None:
    """Keep notes in one statement: a thread that runs one for each takes the interpreter from whoever sends."""
    kind = table.c.answered_at.type.dialect_impl(connection.dialect)
    convert: Any = kind.bind_processor(connection.dialect) or (lambda moment: moment)
    values: list[Any] = []
    for note in notes:
        taken = note.state == DeliveryState.DELIVERED
        values += (note.delivery, str(note.state), taken, convert(note.at), note.detail, note.status)
        values += (note.answered_by, note.association, note.task_id)
    sql = _noting(len(notes))
    connection.exec_driver_sql(sql if connection.dialect.name == "sqlite" else sql.replace("?", "%s"), tuple(values))


@lru_cache(64)
def _noting(count: int) -> str:
    row = f"({', '.join('?' * 9)})"
    # A database server takes a column without values for texts. What a remote has, it has, whatever somebody decided
    # while it was on its way.
    return f"""
        WITH noted (id, state, taken, answered_at, detail, status, answered_by, association, task_id)
        AS (VALUES {", ".join([row] * count)})
        UPDATE delivery SET state = noted.state, attempts = delivery.attempts + 1, answered_at = noted.answered_at,
        detail = noted.detail, status = CAST(noted.status AS integer), answered_by = noted.answered_by,
        association = noted.association, task_id = CAST(noted.task_id AS bigint)
        FROM noted WHERE delivery.id = noted.id
        AND (delivery.state = 'waiting' OR (noted.taken AND delivery.state <> 'delivered'))"""  # noqa: S608


def _stored(row: Sequence[Any]) -> StoredInstance | None:
    if row[0] is None:
        return None
    return StoredInstance(InstanceUIDs(*row[:3]), *row[3:])
