"""Deliveries for people: what is where, what waits, and why; and how many there are."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, literal, select, text, union_all

from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.index import outgoing_models
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.deliveries import DeliveryState
from pacs_server.index.matching import Clause
from pacs_server.index.outgoing_models import delivery as table
from pacs_server.index.scope import joined_from, limited, seen

# The states of which something is still to come, or to be decided.
OPEN_STATES: Final = (DeliveryState.WAITING, DeliveryState.DEAD)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries to show: of these states, and of one remote, rule and study if they are given."""

    states: Collection[DeliveryState] = OPEN_STATES
    remote: str | None = None
    rule: str | None = None
    study_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery as it stands; the table says what each field means."""

    id: int
    remote: str
    rule: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    state: DeliveryState
    caused_by: str
    created: datetime
    attempts: int
    answered_by: str
    answered_at: datetime | None
    status: int | None
    detail: str
    association: str
    task_id: int | None


@dataclass(frozen=True, slots=True)
class DeliveryGroup:
    """The deliveries of one study, remote and rule that are in one state.

    `detail` is one of the reasons, `since` when the first was added, and `last` when the last one was answered.
    """

    study_instance_uid: str
    remote: str
    rule: str
    state: DeliveryState
    instances: int
    since: datetime
    last: datetime | None
    detail: str


class DeliveryOverview:
    """Reads the deliveries of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def deliveries(
        self, wanted: DeliveryFilter, limit: int, before: int | None = None, scope: Scope = EVERYTHING
    ) -> list[Delivery]:
        """The last added deliveries of instances that `scope` shows; `before` is a number that all are below."""
        with self._database.rows(*self._keys(wanted, limit, before, scope), few=True) as rows:
            keys = [key for (key,) in rows]
        with self._database.connect() as connection:
            found = connection.execute(select(table).where(table.c.id.in_(keys)).order_by(table.c.id.desc()))
            return [_delivery(row) for row in found]

    def groups(self, wanted: DeliveryFilter, limit: int) -> list[DeliveryGroup]:
        """The deliveries by study, remote, rule and state, those added last at the end."""
        columns = [table.c[name] for name in ("study_instance_uid", "remote", "rule", "state")]
        values = (func.count(), func.min(table.c.created), func.max(table.c.answered_at), func.max(table.c.detail))
        statement = select(*columns, *values).group_by(*columns).order_by(func.max(table.c.id).desc()).limit(limit)
        statement = statement.where(table.c.state.in_(wanted.states))
        for column, value in _narrowed(wanted):
            statement = statement.where(table.c[column] == value)
        with self._database.connect() as connection:
            rows = connection.execute(statement).all()
        return [
            DeliveryGroup(uid, remote, rule, DeliveryState(state), count, in_utc(since), last and in_utc(last), detail)
            for uid, remote, rule, state, count, since, last, detail in reversed(rows)
        ]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many deliveries wait for each remote and are dead."""
        counts = [
            select(table.c.remote, literal(str(state)), func.count()).where(text(condition)).group_by(table.c.remote)
            for state, condition in (
                (DeliveryState.WAITING, outgoing_models.IS_WAITING),
                (DeliveryState.DEAD, outgoing_models.IS_DEAD),
            )
        ]
        with self._database.connect() as connection:
            return {(remote, state): count for remote, state, count in connection.execute(union_all(*counts))}

    def oldest(self) -> dict[str, datetime]:
        """Since when the delivery waits that waits the longest, by remote."""
        waiting = text(outgoing_models.IS_WAITING)
        statement = select(table.c.remote, func.min(table.c.created)).where(waiting).group_by(table.c.remote)
        with self._database.connect() as connection:
            return {remote: in_utc(created) for remote, created in connection.execute(statement)}

    def _keys(self, wanted: DeliveryFilter, limit: int, before: int | None, scope: Scope) -> tuple[str, Sequence[Any]]:
        narrowed = list(_narrowed(wanted))
        states = ", ".join(f"'{DeliveryState(state)}'" for state in wanted.states)
        conditions = [f"delivery.state IN ({states})", *(f"delivery.{column} = ?" for column, _ in narrowed)]
        if before is not None:
            conditions.append(f"delivery.id < {int(before)}")
        source = "delivery"
        if scope.is_limited:
            same = "delivery.sop_instance_uid = instance.sop_instance_uid"
            source = f"{joined_from(Level.IMAGE)} JOIN delivery ON {same}"
            conditions.append(seen(Level.IMAGE, scope))
        where = f"{' AND '.join(conditions)} ORDER BY delivery.id DESC LIMIT {int(limit)}"
        statement = Clause(f"SELECT delivery.id FROM {source} WHERE {where}", tuple(value for _, value in narrowed))  # noqa: S608
        return limited(statement, scope, embedded=self._database.is_sqlite)


def _narrowed(wanted: DeliveryFilter) -> Iterator[tuple[str, str]]:
    for column in ("remote", "rule", "study_instance_uid"):
        value: str | None = getattr(wanted, column)
        if value is not None:
            yield column, value


def _delivery(row: Row[Any]) -> Delivery:
    values = {name: getattr(row, name) for name in Delivery.__dataclass_fields__}
    values["state"] = DeliveryState(values["state"])
    for name in ("created", "answered_at"):
        values[name] = values[name] and in_utc(values[name])
    return Delivery(**values)
