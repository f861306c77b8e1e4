"""Read the index to check it, and repair it: rows in the order of their ids, and counters.

Nothing here holds a transaction for longer than a page of rows, but for the counters: each of those statements
sees one moment.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select, update

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index.database import WRITER_LOCK, Database
from pacs_server.index.instances import StoredInstance
from pacs_server.index.models import instance, patient, series, study
from pacs_server.index.parents import joined

_PLACE = ("sop_class_uid", "transfer_syntax_uid", "path", "data_set_offset", "size", "digest", "version")
_VALUES: Final = tuple(attribute.column for attribute in at_level(Level.IMAGE))
_ROWS = (
    select(instance, series.c.series_instance_uid, study.c.study_instance_uid)
    .join(series, series.c.id == instance.c.series_fk)
    .join(study, study.c.id == series.c.study_fk)
)
# A table, one of its counters, and the rows that the counter counts.
_COUNTED: Final = (
    (series, "number_of_series_related_instances", instance.c.id),
    (study, "number_of_study_related_series", series.c.id.distinct()),
    (study, "number_of_study_related_instances", instance.c.id),
    (patient, "number_of_patient_related_studies", study.c.id.distinct()),
    (patient, "number_of_patient_related_series", series.c.id.distinct()),
    (patient, "number_of_patient_related_instances", instance.c.id),
)
_BELOW: Final = {
    "series": series.outerjoin(instance),
    "study": study.outerjoin(series).outerjoin(instance),
    "patient": patient.outerjoin(study).outerjoin(series).outerjoin(instance),
}
# Columns in which a study collects values, and the columns that the values come from.
_COLLECTED: Final = (("modalities_in_study", series.c.modality), ("sop_classes_in_study", instance.c.sop_class_uid))


@dataclass(frozen=True, slots=True)
class IndexedInstance:
    """An instance in the index. `key` is its id, which grows in the order of arrival; `values` are its attributes."""

    key: int
    stored: StoredInstance
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CounterFault:
    """A counter, or a collected set of values, that does not agree with the rows below."""

    table: str
    key: int
    uid: str
    column: str
    kept: str
    right: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Which instances to read: those received since a time, or those of a study; by default all."""

    since: datetime | None = None
    study_instance_uid: str | None = None


class IntegrityIndex:
    """Reads and mends one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, after: int, limit: int, scope: Scope = Scope()) -> list[IndexedInstance]:
        """The next instances whose key is greater than `after`, in the order of their keys."""
        query = _ROWS.where(instance.c.id > after).order_by(instance.c.id).limit(limit)
        if scope.since is not None:
            query = query.where(instance.c.received_at >= scope.since.astimezone(UTC))
        if scope.study_instance_uid is not None:
            query = query.where(study.c.study_instance_uid == scope.study_instance_uid)
        return self._read(query)

    def find(self, sop_instance_uids: Collection[str]) -> dict[str, IndexedInstance]:
        """The instances of these UIDs that are indexed, by UID."""
        rows = self._read(_ROWS.where(instance.c.sop_instance_uid.in_(sop_instance_uids)))
        return {row.stored.uids.sop: row for row in rows}

    def move(self, sop_instance_uid: str, *, old: str, new: str) -> bool:
        """Change the path of an instance; False if its path is no longer the old one."""
        changed = (
            update(instance)
            .where(instance.c.sop_instance_uid == sop_instance_uid, instance.c.path == old)
            .values(path=new)
        )
        with self._database.begin(lock=WRITER_LOCK) as connection:
            return connection.execute(changed).rowcount == 1

    def counter_faults(self) -> Iterator[CounterFault]:
        """The counters that are wrong, each as of one moment."""
        with self._database.connect() as connection:
            yield from _counter_faults(connection)

    def recount(self) -> list[CounterFault]:
        """Correct all wrong counters in one transaction; returns what was wrong."""
        with self._database.begin(lock=WRITER_LOCK) as connection:
            faults = list(_counter_faults(connection))
            for fault in faults:
                table = _TABLES[fault.table]
                value: Any = int(fault.right) if fault.column.startswith("number_of") else fault.right
                connection.execute(update(table).where(table.c.id == fault.key).values({fault.column: value}))
        return faults

    def _read(self, query: Select[Any]) -> list[IndexedInstance]:
        with self._database.connect() as connection:
            return [_indexed(row) for row in connection.execute(query).mappings()]


_TABLES: Final = {"series": series, "study": study, "patient": patient}
_NAMES: Final = {
    "series": series.c.series_instance_uid,
    "study": study.c.study_instance_uid,
    # Findings must not contain the Patient ID.
    "patient": patient.c.id,
}


def _counter_faults(connection: Connection) -> Iterator[CounterFault]:
    for table, column, counted in _COUNTED:
        counter, right = table.c[column], func.count(counted)
        query = (
            select(table.c.id, _NAMES[table.name], counter, right)
            .select_from(_BELOW[table.name])
            .group_by(table.c.id)
            .having(right != counter)
            .order_by(table.c.id)
        )
        for key, name, kept, count in connection.execute(query, execution_options={"yield_per": 500}):
            yield CounterFault(table.name, key, str(name), column, str(kept), str(count))
    for column, source in _COLLECTED:
        yield from _collection_faults(connection, column, source)


def _collection_faults(connection: Connection, column: str, source: Any) -> Iterator[CounterFault]:
    """Studies whose collected values differ from their rows, except empty studies, which are being changed."""
    query = (
        select(study.c.id, study.c.study_instance_uid, study.c[column], source)
        .select_from(study.join(series).join(instance))
        .distinct()
        .order_by(study.c.id)
    )
    rows = connection.execute(query, execution_options={"yield_per": 500})
    for (key, uid, kept), group in groupby(rows, key=lambda row: tuple(row[:3])):
        right = joined(row[3] for row in group)
        if kept != right:
            yield CounterFault("study", key, uid, column, kept, right)


def _indexed(row: Mapping[Any, Any]) -> IndexedInstance:
    uids = InstanceUIDs(row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"])
    stored = StoredInstance(uids, **{name: row[name] for name in _PLACE})
    return IndexedInstance(row["id"], stored, {name: row[name] for name in _VALUES})
