"""What routing rules ask the index: the attributes of instances, and how complete a study is."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, func, select

from pacs_server.dicom.attributes import Attribute
from pacs_server.dicom.levels import Level
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.feed import Effect
from pacs_server.index.matching import column_of, name_of
from pacs_server.index.models import instance, series, study
from pacs_server.index.scope import joined_from
from pacs_server.index.task_values import NewTask
from pacs_server.index.tasks import add_task, make_due
from pacs_server.index.workflow_models import procedure_step, procedure_step_instance, worklist_item

# SQLite takes so many values and more.
_CHUNK: Final = 500
_FIRST: Final = [
    name_of(column)
    for column in (
        instance.c.id, study.c.study_instance_uid, series.c.series_instance_uid, instance.c.sop_instance_uid,
        instance.c.calling_ae, instance.c.move_originator,
    )
]  # fmt: skip
# What polling and prefetching only fetch is nothing that arrives. What the same peer sends by itself is, and names
# nobody that had it sent.
_ARRIVED: Final = (
    "NOT EXISTS (SELECT 1 FROM remote_study WHERE remote_study.study_instance_uid = study.study_instance_uid "
    "AND remote_study.source_ae = instance.calling_ae AND instance.move_originator <> '' "
    "AND NOT remote_study.is_routed)"
)


@dataclass(frozen=True, slots=True)
class StudyArrival:
    """How a study stands: instances, when the last one came, and from where.

    `expected` is the number of instances that completed procedure steps name, None without such a step, `received` how
    many of these are there. `in_progress` says whether a step of the study is still being performed.
    """

    instances: int
    last_at: datetime
    calling_ae: str
    peer: str
    expected: int | None
    received: int
    in_progress: bool


class RoutingIndex:
    """Facts for rules, from one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def instances(self, ids: Sequence[int], attributes: Sequence[Attribute]) -> Iterator[tuple[Any, ...]]:
        """Id, Study, Series and SOP Instance UID, calling AE title, move originator and these attributes of instances.

        Instances that are gone are left out, and those that polling has only fetched.
        """
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            # The ids are numbers, from the index itself.
            yield from self._rows(attributes, f"instance.id IN ({', '.join(map(str, some))}) AND {_ARRIVED}", ())

    def of_study(self, study_instance_uid: str, attributes: Sequence[Attribute]) -> Iterator[tuple[Any, ...]]:
        """The same of all instances of a study."""
        yield from self._rows(attributes, f"study.study_instance_uid = ? AND {_ARRIVED}", (study_instance_uid,))

    def _rows(self, attributes: Sequence[Attribute], condition: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        columns = ", ".join([*_FIRST, *(f"CAST({column_of(each)} AS VARCHAR)" for each in attributes)])
        tables = joined_from(Level.IMAGE, Level.PATIENT)
        sql = f"SELECT {columns} FROM {tables} WHERE {condition} ORDER BY instance.id"  # noqa: S608
        with self._database.rows(sql, values) as rows:
            return list(rows)

    def priorities(self, studies: Collection[str]) -> dict[str, str]:
        """Requested Procedure Priority of studies by their UIDs, as far as worklist items tell it."""
        item = worklist_item.c
        found: dict[str, str] = {}
        with self._database.connect() as connection:
            rows = connection.execute(
                select(item.study_instance_uid, item.data_set).where(item.study_instance_uid.in_(studies))
            ).all()
            missing = [uid for uid in studies if uid not in {row.study_instance_uid for row in rows}]
            by_accession = (
                select(study.c.study_instance_uid, item.data_set)
                .join(study, study.c.accession_number == item.accession_number)
                .where(study.c.study_instance_uid.in_(missing), study.c.accession_number != "")
            )
            rows = [*rows, *(connection.execute(by_accession).all() if missing else [])]
        for uid, text in rows:
            priority = _priority_in(text)
            if priority:
                found.setdefault(uid, priority)
        return found

    def arrival(self, study_instance_uid: str) -> StudyArrival | None:
        """How a study stands; None if nothing of it is there."""
        of_study = study.c.study_instance_uid == study_instance_uid
        tables = instance.join(series, series.c.id == instance.c.series_fk).join(study, study.c.id == series.c.study_fk)
        newest = (
            select(instance.c.received_at, instance.c.calling_ae, instance.c.peer)
            .select_from(tables)
            .where(of_study)
            .order_by(instance.c.id.desc())
            .limit(1)
        )
        step, made = procedure_step.c, procedure_step_instance.c
        named = procedure_step_instance.join(procedure_step, step.id == made.procedure_step_fk).outerjoin(
            instance, instance.c.sop_instance_uid == made.sop_instance_uid
        )
        with self._database.connect() as connection:
            last = connection.execute(newest).one_or_none()
            if last is None:
                return None
            count = connection.scalar(select(func.count()).select_from(tables).where(of_study))
            states = connection.scalars(select(step.status).where(step.study_instance_uid == study_instance_uid)).all()
            expected, received = connection.execute(
                select(func.count(), func.count(instance.c.id))
                .select_from(named)
                .where(step.study_instance_uid == study_instance_uid, step.status == "COMPLETED")
            ).one()
        return StudyArrival(
            int(count or 0), in_utc(last.received_at), last.calling_ae, last.peer,
            int(expected) if "COMPLETED" in states else None, int(received), "IN PROGRESS" in states,
        )  # fmt: skip

    def study(self, study_instance_uid: str) -> dict[str, str | int]:
        """What a receiver of webhooks is told of a study; nothing but its UID if it is gone."""
        columns = [
            study.c.accession_number,
            study.c.number_of_study_related_series,
            study.c.number_of_study_related_instances,
        ]
        statement = select(*columns).where(study.c.study_instance_uid == study_instance_uid).order_by(study.c.id)
        with self._database.connect() as connection:
            row = connection.execute(statement.limit(1)).one_or_none()
        told: dict[str, str | int] = {"study_instance_uid": study_instance_uid}
        return told if row is None else told | {"accession_number": row[0], "series": row[1], "instances": row[2]}

    def commit(self, effects: Sequence[Effect]) -> None:
        """Have all effects in one transaction."""
        with self._database.begin() as connection:
            for effect in effects:
                effect(connection)


def adding(tasks: Sequence[NewTask], now: datetime) -> Effect:
    """The effect that adds tasks."""

    def add(connection: Connection) -> None:
        for each in tasks:
            add_task(connection, each, now)

    return add


def making_due(dedupe_key: str, now: datetime) -> Effect:
    """The effect that makes the task of a key due now, if there is one that is not done."""

    def make(connection: Connection) -> None:
        make_due(connection, dedupe_key, now, None)

    return make


def _priority_in(data_set: str) -> str:
    value = json.loads(data_set).get("00401003", {}).get("Value") or [""]
    return str(value[0] or "").strip()
