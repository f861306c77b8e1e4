"""Studies of remotes in SQL: what polling and prefetching have found there, and how far it has been fetched."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Row,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.dicom.worklist import SHOWN
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.fetching_models import polling_state, prefetch_prior
from pacs_server.index.fetching_models import remote_study as table
from pacs_server.index.models import instance, series, study
from pacs_server.index.outgoing_models import delivery
from pacs_server.index.task_models import task
from pacs_server.index.task_values import PATIENCE, NewTask, Priority, Task, TaskState
from pacs_server.index.tasks import add_task
from pacs_server.index.workflow_models import worklist_item

# What the remote says of a study, and what follows from it.
_TOLD: Final = ("seen_at", "patient_id", "study_date", "modalities")
_COUNTS: Final = ("remote_series", "remote_instances")
_DECIDED: Final = ("state", "changed_at", "turn", "last_error", "priority", "found_by", "is_routed")
# Studies whose fetch has failed and that wait for another attempt hold no place, unless there are more of them than so
# many times the places: then the remote fails at everything, and would be asked for all that it has.
_FAILING_PER_PLACE: Final = 10
_CANCELLED: Final = "somebody has cancelled it"
# How the reason ends why a study was given up that a remote does not have any more.
NOTHING_OF_THAT: Final = "has nothing of that"
_PLACES_LOCK: Final = 0x50414353_504C4143  # any number, the same in every process: "PACSPLAC"


class RemoteStudyState(StrEnum):
    """How far a study of a remote has come. A failed one was given up; a dropped one was here as cache."""

    FOUND = "found"
    FETCHING = "fetching"
    COMPLETE = "complete"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class RemoteStudy:
    """A study of a remote as it stands; the table says what each field means."""

    remote: str
    study_instance_uid: str
    source_ae: str
    state: RemoteStudyState
    priority: Priority
    found_by: str
    found_at: datetime
    seen_at: datetime
    changed_at: datetime
    is_routed: bool = False
    is_cache: bool = False
    patient_id: str = ""
    study_date: str = ""
    modalities: str = ""
    remote_series: int | None = None
    remote_instances: int | None = None
    listed_instances: int | None = None
    completed_at: datetime | None = None
    deadline: datetime | None = None
    task_id: int | None = None
    last_error: str = ""
    id: int = 0


@dataclass(frozen=True, slots=True)
class PollingState:
    """How an entry of the polling stands; the table says what each field means."""

    name: str
    asked_at: datetime | None = None
    answered_at: datetime | None = None
    matches: int = 0
    found: int = 0
    failures: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class RemoteStudyFilter:
    """Which studies of remotes to list; None lets all through."""

    remote: str | None = None
    state: RemoteStudyState | None = None
    study_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Cached:
    """A study that is here as cache: when the last of it came, when it is needed, instances and bytes.

    One that `is_needed` waits to be sent, or is an earlier study for an examination that is planned.
    """

    id: int
    remote: str
    study_instance_uid: str
    fetched_at: datetime
    deadline: datetime | None
    instances: int
    bytes: int
    is_needed: bool = False


class RemoteStudyIndex:
    """The studies of remotes in one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = (sqlite if database.is_sqlite else postgresql).insert

    # ---------------------------------------------------------------- deciding what to fetch

    def known(self, remote: str, uids: Collection[str]) -> dict[str, RemoteStudy]:
        """Those of these studies that are known to be at a remote."""
        wanted = select(table).where(table.c.remote == remote, table.c.study_instance_uid.in_(uids))
        with self._database.connect() as connection:
            return {row.study_instance_uid: _remote_study(row) for row in connection.execute(wanted)}

    def here(self, uids: Collection[str]) -> dict[str, int]:
        """How many instances of these studies are here; those of which nothing is here are left out."""
        counts = select(study.c.study_instance_uid, func.sum(study.c.number_of_study_related_instances)).where(
            study.c.study_instance_uid.in_(uids)
        )
        with self._database.connect() as connection:
            return {uid: int(count) for uid, count in connection.execute(counts.group_by(study.c.study_instance_uid))}

    def put(self, studies: Sequence[RemoteStudy]) -> None:
        """Keep what a remote says of studies, and what was decided unless they have changed since it was."""
        new: Any = self._insert(table)
        found, fetching, failed = RemoteStudyState.FOUND, RemoteStudyState.FETCHING, RemoteStudyState.FAILED
        before, after = table.c.state, new.excluded.state
        # A task may have asked before the study grew, so what was said before it began is what the next time is
        # compared with; it may also have ended since.
        busy = or_(before == fetching, after == fetching)
        takes = or_(
            and_(before != found, before != fetching, or_(after == found, after == failed)),
            and_(before == found, or_(after == failed, and_(after == found, new.excluded.turn < table.c.turn))),
        )
        counts = {name: case((busy, table.c[name]), else_=new.excluded[name]) for name in _COUNTS}
        decided = {name: case((takes, new.excluded[name]), else_=table.c[name]) for name in _DECIDED}
        told = {name: new.excluded[name] for name in _TOLD}
        told["deadline"] = func.coalesce(new.excluded.deadline, table.c.deadline)
        # What one of two wants to stay does, whoever was first.
        told["is_cache"] = and_(table.c.is_cache, new.excluded.is_cache)
        upsert = new.on_conflict_do_update(
            index_elements=["remote", "study_instance_uid"], set_={**told, **counts, **decided}
        )
        if studies:
            with self._database.begin() as connection:
                # In one order, so that no two that write the same rows wait for each other.
                ordered = sorted(studies, key=lambda each: each.study_instance_uid)
                connection.execute(upsert, [_values(each) for each in ordered])

    def take_back(self, remote: str, now: datetime) -> int:
        """Have studies found again whose task is not there any more, as after a restore; how many there were."""
        live = select(task.c.id).where(task.c.id == table.c.task_id, task.c.state.in_(("ready", "running")))
        lost = and_(table.c.remote == remote, table.c.state == RemoteStudyState.FETCHING, ~live.exists())
        with self._database.connect() as connection:
            if connection.scalar(select(table.c.id).where(lost).limit(1)) is None:
                return 0
        with self._database.begin() as connection:
            again = update(table).where(lost).values(state=RemoteStudyState.FOUND, changed_at=now, task_id=None)
            return connection.execute(again).rowcount

    def try_again(self, remote: str, since: tuple[datetime, datetime], now: datetime) -> int:
        """Have studies found again that failed before the first of these moments; how many there were.

        Left out are those that the remote has not named since the second moment or has nothing of, those of several
        patients, those that somebody has cancelled, and those for an appointment, for which the prefetching asks.
        """
        failed_before, seen_since = since
        failed = and_(
            table.c.remote == remote, table.c.state == RemoteStudyState.FAILED,
            table.c.changed_at < failed_before, table.c.seen_at > seen_since,
            table.c.deadline.is_(None), table.c.last_error != _CANCELLED,
            ~table.c.patient_id.contains("\\", autoescape=True), ~table.c.last_error.endswith(NOTHING_OF_THAT),
        )  # fmt: skip
        with self._database.connect() as connection:
            if connection.scalar(select(table.c.id).where(failed).limit(1)) is None:
                return 0
        moments = {each: literal(now + wait, DateTime(timezone=True)) for each, wait in PATIENCE.items()}
        turn = case(moments, value=table.c.priority)
        again = {"state": RemoteStudyState.FOUND, "changed_at": now, "turn": turn, "task_id": None}
        with self._database.begin() as connection:
            return connection.execute(update(table).where(failed).values(**again)).rowcount

    def waiting(self, remote: str, limit: int) -> list[RemoteStudy]:
        """The found studies of a remote that are to be fetched next: the more urgent and the older ones first."""
        wanted = (
            select(table)
            .where(table.c.state == RemoteStudyState.FOUND, table.c.remote == remote)
            .order_by(table.c.turn, table.c.id)
            .limit(limit)
        )
        with self._database.connect() as connection:
            return [_remote_study(row) for row in connection.execute(wanted)]

    def room(self, remote: str, places: int) -> int:
        """How many more studies of a remote may be begun, if so many may be fetched at a time."""
        with self._database.connect() as connection:
            return _room(connection, remote, places)

    def begin(self, found: RemoteStudy, new: NewTask, now: datetime, places: int) -> bool:
        """Add the task that fetches a found study, in one transaction.

        If somebody has ordered the study already, that task fetches it, and is not given up any more.

        False if somebody else has begun it, or has taken the last of the `places` of the remote.
        """
        mine = and_(table.c.id == found.id, table.c.state == RemoteStudyState.FOUND)
        with self._database.begin(lock=_PLACES_LOCK) as connection:
            if _room(connection, found.remote, places) <= 0:
                return False
            begun = update(table).where(mine).values(state=RemoteStudyState.FETCHING, changed_at=now, last_error="")
            if connection.execute(begun).rowcount != 1:
                return False
            key = add_task(connection, new, now)
            connection.execute(update(task).where(task.c.id == key).values(deadline=new.deadline))
            connection.execute(update(table).where(table.c.id == found.id).values(task_id=key))
        return True

    # ---------------------------------------------------------------- what may be dropped again

    def cached(self, today: str, only: int | None = None) -> list[Cached]:
        """The studies that are here as cache and as nothing else, those fetched first first; `only` the one of this id.

        Left out are those of which something came otherwise. Needed are those that wait to be sent, or that are earlier
        studies for an examination that is planned today (YYYYMMDD) or later.
        """
        pushed = or_(instance.c.calling_ae != table.c.source_ae, instance.c.move_originator == "")
        others = func.sum(case((pushed, 1), else_=0))
        # A remote without counts is asked again and again what it has of a complete study; that makes it no younger.
        fetched_at = func.max(instance.c.received_at)
        rows = (
            select(
                *(table.c.id, table.c.remote, table.c.study_instance_uid, fetched_at, table.c.deadline),
                *(func.count(), func.sum(instance.c.size), case((_needed(today), 1), else_=0)),
            )
            .select_from(
                table.join(study, study.c.study_instance_uid == table.c.study_instance_uid)
                .join(series, series.c.study_fk == study.c.id)
                .join(instance, instance.c.series_fk == series.c.id)
            )
            .where(table.c.is_cache, table.c.state == RemoteStudyState.COMPLETE)
            .group_by(table.c.id, table.c.remote, table.c.study_instance_uid, table.c.deadline)
            .having(others == 0)
            .order_by(fetched_at, table.c.id)
        )
        if only is not None:
            rows = rows.where(table.c.id == only)
        with self._database.connect() as connection:
            return [
                Cached(key, remote, uid, in_utc(at), deadline and in_utc(deadline), count, int(size), bool(needed))
                for key, remote, uid, at, deadline, count, size, needed in connection.execute(rows)
            ]

    def is_needed(self, cached: Cached, today: str) -> bool:
        """Whether a cached study waits to be sent, or is wanted for an examination that is planned, as in `cached`."""
        mine = select(table.c.id).where(table.c.id == cached.id, _needed(today))
        with self._database.connect() as connection:
            return connection.scalar(mine) is not None

    def end_cache(self, study_instance_uid: str) -> None:
        """Keep that a study is to stay here."""
        mine = and_(table.c.study_instance_uid == study_instance_uid, table.c.is_cache)
        with self._database.begin() as connection:
            connection.execute(update(table).where(mine).values(is_cache=False))

    def drop(self, cached: Cached, now: datetime) -> None:
        """Keep that a study is deleted here because the remote still has it.

        Nor is it here any more for another remote, for which it may have been complete as well.
        """
        mine = and_(table.c.study_instance_uid == cached.study_instance_uid, table.c.state == RemoteStudyState.COMPLETE)
        self._set(mine, RemoteStudyState.DROPPED, now)

    def keep(self, cached: Cached, dropped_at: datetime, now: datetime) -> None:
        """Keep that a study is here after all that was to be dropped then."""
        mine = and_(
            table.c.study_instance_uid == cached.study_instance_uid,
            table.c.state == RemoteStudyState.DROPPED,
            table.c.changed_at == dropped_at,
        )
        self._set(mine, RemoteStudyState.COMPLETE, now)

    def _set(self, mine: ColumnElement[bool], state: RemoteStudyState, now: datetime) -> None:
        values = {"state": state, "changed_at": now, "last_error": ""}
        with self._database.begin() as connection:
            connection.execute(update(table).where(mine).values(**values))

    # ---------------------------------------------------------------- the polling itself

    def polling(self) -> dict[str, PollingState]:
        """How each entry of the polling stands that has ever been asked, by its name."""
        with self._database.connect() as connection:
            return {row.name: _polling_state(row) for row in connection.execute(select(polling_state))}

    def set_polling(self, state: PollingState) -> None:
        """Keep how an entry of the polling stands."""
        values = {name: getattr(state, name) for name in PollingState.__dataclass_fields__}
        new: Any = self._insert(polling_state).values(**values)
        with self._database.begin() as connection:
            connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=values))

    # ---------------------------------------------------------------- for people

    def studies(self, wanted: RemoteStudyFilter, limit: int, before: int | None = None) -> list[RemoteStudy]:
        """The newest studies that the filter lets through, the newest first; `before` is an id that all are below."""
        conditions = [
            column == value
            for column, value in (
                (table.c.remote, wanted.remote),
                (table.c.state, wanted.state),
                (table.c.study_instance_uid, wanted.study_instance_uid),
            )
            if value is not None
        ]
        if before is not None:
            conditions.append(table.c.id < before)
        rows = select(table).where(*conditions).order_by(table.c.id.desc()).limit(limit)
        with self._database.connect() as connection:
            return [_remote_study(row) for row in connection.execute(rows)]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many studies there are, by remote and state."""
        counted = select(table.c.remote, table.c.state, func.count()).group_by(table.c.remote, table.c.state)
        with self._database.connect() as connection:
            return {(remote, state): count for remote, state, count in connection.execute(counted)}


def _needed(today: str) -> ColumnElement[bool]:
    """Whether a study waits to be sent, or is an earlier study for an examination that is planned from today on."""
    waiting = exists().where(delivery.c.study_instance_uid == table.c.study_instance_uid, delivery.c.state == "waiting")
    planned, prior = worklist_item.c, prefetch_prior.c
    wanted = exists().where(
        prior.study_instance_uid == table.c.study_instance_uid, prior.item_id == planned.id,
        planned.status.in_(SHOWN), planned.scheduled_procedure_step_start_date >= today,
    )  # fmt: skip
    return or_(waiting, wanted)


def _room(connection: Connection, remote: str, places: int) -> int:
    # What has failed and runs again holds a place like all that runs.
    failed = and_(task.c.attempts > 0, task.c.state == TaskState.READY)
    counted = (
        select(func.count(), func.count(case((failed, 1))))
        .select_from(table.outerjoin(task, task.c.id == table.c.task_id))
        .where(table.c.state == RemoteStudyState.FETCHING, table.c.remote == remote)
    )
    fetching, failing = connection.execute(counted).one()
    return places - (fetching - failing) - max(0, failing - _FAILING_PER_PLACE * places)


# ------------------------------------------------------------------------------------ following the task


def follow(connection: Connection, fetch: Task, retried: bool) -> None:
    """Repeat for the study that a task fetches what has become of the task, in the transaction that changes it."""
    payload: Mapping[str, Any] = fetch.payload
    if payload.get("series"):
        return
    values: dict[str, Any] = {"last_error": fetch.last_error}
    match fetch.state:
        case TaskState.DONE:
            listed = fetch.progress.get("expected")
            values |= {"state": RemoteStudyState.COMPLETE, "completed_at": fetch.finished, "last_error": ""}
            values |= {"listed_instances": listed} if isinstance(listed, int) else {}
        case TaskState.DEAD:
            values["state"] = RemoteStudyState.FAILED
        case TaskState.CANCELLED:
            values |= {"state": RemoteStudyState.FAILED, "last_error": _CANCELLED}
        case TaskState.READY if retried:
            values |= {"state": RemoteStudyState.FETCHING, "last_error": ""}
    if "state" in values:
        values["changed_at"] = datetime.now(UTC)
    mine = and_(
        table.c.remote == fetch.target,
        table.c.study_instance_uid == payload["study"],
        table.c.task_id == fetch.id,
    )
    connection.execute(update(table).where(mine).values(**values))


# ------------------------------------------------------------------------------------ rows


def _values(found: RemoteStudy) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in RemoteStudy.__dataclass_fields__ if name != "id"}
    # A less urgent one waits for more urgent ones that were found later, and not for ever, as with tasks.
    return {**values, "turn": found.changed_at + PATIENCE[found.priority]}


def _remote_study(row: Row[Any]) -> RemoteStudy:
    values = {name: getattr(row, name) for name in RemoteStudy.__dataclass_fields__}
    for name in ("found_at", "seen_at", "changed_at", "completed_at", "deadline"):
        values[name] = values[name] and in_utc(values[name])
    state, priority = RemoteStudyState(row.state), Priority(row.priority)
    return RemoteStudy(**{**values, "state": state, "priority": priority})


def _polling_state(row: Row[Any]) -> PollingState:
    values = dict(row._mapping)
    for name in ("asked_at", "answered_at"):
        values[name] = values[name] and in_utc(values[name])
    return PollingState(**values)
