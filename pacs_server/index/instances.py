"""The index's write side: instances in, with their series, study and patient, and the counters kept.

A batch of instances costs a handful of statements, whatever its size; the batches are made by
`GroupCommit`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, or_, select, update

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.header import Header
from pacs_server.dicom.levels import Level
from pacs_server.dicom.matching import fold_name, time_key
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import DuplicateInstance, InstanceNotFound, PacsError
from pacs_server.index import models
from pacs_server.index.database import Database, GroupCommit

log = logging.getLogger(__name__)

# One writer at a time in all processes, as on SQLite: no deadlocks, and counters add up.
_WRITER_LOCK = 0x50414353_494E4458  # any number, the same everywhere: "PACSINDX"
# Folding may lengthen a name; PostgreSQL indexes about 2,700 bytes, and a character takes up to 4.
_MAX_MATCH = 512
_COUNTERS = {
    models.patient: tuple(f"number_of_patient_related_{what}" for what in ("studies", "series", "instances")),
    models.study: (
        *(f"number_of_study_related_{what}" for what in ("series", "instances")),
        *("modalities_in_study", "sop_classes_in_study"),
    ),
    models.series: ("number_of_series_related_instances",),
}
# Built once: putting a statement together costs more than running it.
_KNOWN = select(models.instance.c.sop_instance_uid).where(
    models.instance.c.sop_instance_uid.in_(bindparam("uids", expanding=True))
)
_LOAD = {
    table: select(table).where(
        or_(table.c[unique].in_(bindparam("uids", expanding=True)), table.c.id.in_(bindparam("ids", expanding=True)))
    )
    for table, unique in zip(_COUNTERS, ("patient_id", "study_instance_uid", "series_instance_uid"), strict=True)
}
_INSERT = {table: insert(table).returning(table.c.id, sort_by_parameter_order=True) for table in _COUNTERS}
_INSERT_INSTANCE = insert(models.instance)
_UPDATE = {
    table: update(table).where(table.c.id == bindparam("key")).values({name: bindparam(name) for name in names})
    for table, names in _COUNTERS.items()
}
# The fields of StoredInstance that are columns of the same name.
_STORED = ("sop_class_uid", "transfer_syntax_uid", "path", "data_set_offset", "size", "digest", "version")
_PARENT_KEY = {models.study: "patient_fk", models.series: "study_fk"}
_COLUMNS = {models.TABLES[level]: tuple(attribute.column for attribute in at_level(level)) for level in Level}


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """Where an instance is: `path` is POSIX and relative to the archive root, `size` and offset are bytes.

    `digest` is the SHA-256 of the data set in hexadecimal, `data_set_offset` where that starts in the file.
    """

    uids: InstanceUIDs
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    data_set_offset: int
    size: int
    digest: str
    version: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How much the index holds."""

    patients: int
    studies: int
    series: int
    instances: int


class _Entry(NamedTuple):
    instance: StoredInstance
    header: Header
    origin: Origin


class InstanceIndex:
    """The instances of one database; `on_commit` hears of every commit: its seconds and its instances."""

    def __init__(self, database: Database, *, on_commit: Callable[[float, int], None] | None = None) -> None:
        self._database = database
        self._commits = GroupCommit(database, _write, lock=_WRITER_LOCK, on_commit=on_commit)

    def get(self, sop_instance_uid: str) -> StoredInstance | None:
        """The instance of that UID, under the study and series it is indexed in; raises IndexUnavailable."""
        with self._database.connect() as connection:
            row = connection.execute(_LOOK_UP, {"uid": sop_instance_uid}).mappings().one_or_none()
        return None if row is None else _stored(row)

    def add(self, instance: StoredInstance, header: Header, origin: Origin) -> None:
        """Index an instance, and return when that is committed; raises DuplicateInstance, IndexUnavailable.

        After IndexUnavailable the row may be there all the same, if the database was lost while it
        committed: the file has to stay where it is.
        """
        self._commits.add(_Entry(instance, header, origin))

    def replace(self, instance: StoredInstance, header: Header, origin: Origin) -> None:
        """Put another version in an instance's place; raises InstanceNotFound, IndexUnavailable."""
        with self._commits.alone() as connection:
            _remove(connection, instance.uids.sop)
            _write(connection, [_Entry(instance, header, origin)])

    def remove(self, sop_instance_uid: str) -> None:
        """Forget an instance, and its series, study and patient if it was their last; as `replace` raises."""
        with self._commits.alone() as connection:
            _remove(connection, sop_instance_uid)

    def counts(self) -> Counts:
        """How much the index holds, from the counters; raises IndexUnavailable."""
        sums = [func.coalesce(func.sum(models.patient.c[name]), 0) for name in _COUNTERS[models.patient]]
        with self._database.connect() as connection:
            row = connection.execute(select(func.count(), *sums).select_from(models.patient)).one()
        return Counts(*(int(number) for number in row))


def _write(connection: Connection, entries: list[_Entry]) -> list[PacsError | None]:
    """Write all entries whose instance is not known already, and return what is wrong with each."""
    known = set(connection.scalars(_KNOWN, {"uids": [entry.instance.uids.sop for entry in entries]}))
    fresh: list[_Entry] = []
    errors: list[PacsError | None] = []
    for entry in entries:
        sop = entry.instance.uids.sop
        errors.append(DuplicateInstance(f"{sop} is stored already") if sop in known else None)
        if sop not in known:
            known.add(sop)
            fresh.append(entry)
    if fresh:
        _Batch(connection, fresh).write()
    return errors


class _Row:
    """A patient, study or series: as it was found, or new and without an id."""

    __slots__ = ("filled", "parent", "table", "touched", "values")

    def __init__(self, table: Table, values: dict[str, Any], parent: "_Row | None") -> None:
        self.table = table
        self.values = values
        self.parent = parent
        self.filled: dict[str, str] = {}
        self.touched = False

    def fill(self, header: Header) -> None:
        """Take from a later instance what the earlier ones had left empty."""
        columns = _COLUMNS[self.table]
        found = {name: header.values[name] for name in columns if not self.values[name] and header.values.get(name)}
        if found:
            found |= _match_values(found)
            self.values |= found
            self.filled |= found

    def count(self, name: str) -> None:
        self.values[name] += 1

    def collect(self, name: str, value: str) -> None:
        """Add to a sorted set of values."""
        self.values[name] = _joined({*self.values[name].split("\\"), value})


class _Batch:
    """What one transaction writes: the parents are read once, changed here, and written once."""

    def __init__(self, connection: Connection, entries: list[_Entry]) -> None:
        self._connection = connection
        self._entries = entries
        self._patients: dict[tuple[str, str], _Row] = {}
        self._studies: dict[str, _Row] = {}
        self._series: dict[str, _Row] = {}
        self._touched: dict[Table, list[_Row]] = {table: [] for table in _COUNTERS}

    def write(self) -> None:
        """Write the entries, which are all new."""
        self._load()
        placed = [(entry, self._place(entry)) for entry in self._entries]
        # Parents before children, for their ids.
        for table in _COUNTERS:
            self._insert(table)
            self._update(table)
        received_at = datetime.now(UTC)
        rows = [_instance_values(entry, received_at) | {"series_fk": row.values["id"]} for entry, row in placed]
        self._connection.execute(_INSERT_INSTANCE, rows)

    def _load(self) -> None:
        uids = [entry.header.uids for entry in self._entries]
        all_series = self._rows(models.series, {uid.series for uid in uids}, set())
        studies = self._rows(models.study, {uid.study for uid in uids}, {row["study_fk"] for row in all_series})
        patient_ids = {_identity(entry.header)[0] for entry in self._entries} - {""}
        patients = self._rows(models.patient, patient_ids, {row["patient_fk"] for row in studies})
        by_id = {values["id"]: _Row(models.patient, values, None) for values in patients}
        self._patients = {_patient_key(row.values): row for row in by_id.values() if row.values["patient_id"]}
        study_by_id = {row["id"]: _Row(models.study, row, by_id[row["patient_fk"]]) for row in studies}
        self._studies = {row.values["study_instance_uid"]: row for row in study_by_id.values()}
        found = [_Row(models.series, row, study_by_id[row["study_fk"]]) for row in all_series]
        self._series = {row.values["series_instance_uid"]: row for row in found}

    def _place(self, entry: _Entry) -> _Row:
        """The series an instance goes to, with all counters above it brought up to date."""
        header = entry.header
        series = self._series.get(header.uids.series) or self._new_series(header)
        study = series.parent
        assert study is not None
        patient = study.parent
        assert patient is not None
        series.fill(header)
        if study.values["study_instance_uid"] != header.uids.study:
            _warn("series is known in another study and stays there", header)
        else:
            study.fill(header)
        if _patient_key(patient.values) != _identity(header):
            _warn("study is known with another patient and stays there", header)
        else:
            patient.fill(header)
        series.count("number_of_series_related_instances")
        study.count("number_of_study_related_instances")
        patient.count("number_of_patient_related_instances")
        study.collect("modalities_in_study", series.values["modality"])
        study.collect("sop_classes_in_study", header.sop_class_uid)
        for row in (patient, study, series):
            self._touch(row)
        return series

    def _new_series(self, header: Header) -> _Row:
        study = self._studies.get(header.uids.study) or self._new_study(header)
        assert study.parent is not None
        study.count("number_of_study_related_series")
        study.parent.count("number_of_patient_related_series")
        series = self._series[header.uids.series] = _new_row(models.series, header, study)
        return series

    def _new_study(self, header: Header) -> _Row:
        identity = _identity(header)
        patient = self._patients.get(identity) or _new_row(models.patient, header, None)
        # An empty Patient ID identifies nobody, so its next study is another patient's.
        if identity[0]:
            self._patients[identity] = patient
        patient.count("number_of_patient_related_studies")
        study = self._studies[header.uids.study] = _new_row(models.study, header, patient)
        return study

    def _touch(self, row: _Row) -> None:
        if not row.touched:
            row.touched = True
            self._touched[row.table].append(row)

    def _insert(self, table: Table) -> None:
        rows = [row for row in self._touched[table] if "id" not in row.values]
        if not rows:
            return
        for row in rows:
            if row.parent is not None:
                row.values[_PARENT_KEY[table]] = row.parent.values["id"]
        keys = self._connection.scalars(_INSERT[table], [row.values for row in rows]).all()
        for row, key in zip(rows, keys, strict=True):
            row.values["id"] = key
            row.touched = False

    def _update(self, table: Table) -> None:
        rows = [row for row in self._touched[table] if row.touched]
        if not rows:
            return
        names = ("id", *_COUNTERS[table])
        new = [{"key" if name == "id" else name: row.values[name] for name in names} for row in rows]
        self._connection.execute(_UPDATE[table], new)
        for row in rows:
            if row.filled:
                self._connection.execute(update(table).where(table.c.id == row.values["id"]).values(row.filled))

    def _rows(self, table: Table, uids: set[str], ids: set[int]) -> list[dict[str, Any]]:
        found = self._connection.execute(_LOAD[table], {"uids": list(uids), "ids": list(ids)})
        return [dict(row) for row in found.mappings()]


def _new_row(table: Table, header: Header, parent: _Row | None) -> _Row:
    values: dict[str, Any] = {name: header.values.get(name, "") for name in _COLUMNS[table]}
    values |= _match_values(values)
    for name in _COUNTERS[table]:
        values[name] = 0 if name.startswith("number") else ""
    return _Row(table, values, parent)


def _match_values(values: Mapping[str, str]) -> dict[str, str]:
    names = {f"{name}_match": fold_name(values[name])[:_MAX_MATCH] for name in models.NAME_MATCH if name in values}
    times = {f"{name}_match": time_key(values[name]) for name in models.TIME_MATCH if name in values}
    return names | times


def _identity(header: Header) -> tuple[str, str]:
    return _patient_key({name: header.values.get(name, "") for name in ("patient_id", "issuer_of_patient_id")})


def _patient_key(values: Mapping[str, Any]) -> tuple[str, str]:
    return values["patient_id"], values["issuer_of_patient_id"]


def _instance_values(entry: _Entry, received_at: datetime) -> dict[str, Any]:
    stored, origin = entry.instance, entry.origin
    values: dict[str, Any] = {name: entry.header.values.get(name, "") for name in _COLUMNS[models.instance]}
    return values | {
        "sop_instance_uid": stored.uids.sop,
        **{name: getattr(stored, name) for name in _STORED},
        "received_at": received_at,
        "calling_ae": _storable(origin.calling_ae),
        "peer": _storable(origin.peer),
    }


def _storable(text: str) -> str:
    """Without what no database takes: NUL, and the surrogates that stand for odd bytes in file names."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _warn(event: str, header: Header) -> None:
    uids = header.uids
    names = {"study_instance_uid": uids.study, "series_instance_uid": uids.series, "sop_instance_uid": uids.sop}
    log.warning(event, extra=names)


_LOOK_UP = (
    select(models.instance, models.series.c.series_instance_uid, models.study.c.study_instance_uid)
    .join(models.series, models.series.c.id == models.instance.c.series_fk)
    .join(models.study, models.study.c.id == models.series.c.study_fk)
    .where(models.instance.c.sop_instance_uid == bindparam("uid"))
)


def _stored(row: Mapping[Any, Any]) -> StoredInstance:
    uids = InstanceUIDs(row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"])
    return StoredInstance(uids, **{name: row[name] for name in _STORED})


def _remove(connection: Connection, sop_instance_uid: str) -> None:
    """Delete an instance and what is empty without it, and take it out of the counters."""
    patient, study, series, instance = (models.TABLES[level] for level in Level)
    found = connection.execute(
        select(instance.c.id, instance.c.series_fk, series.c.study_fk, study.c.patient_fk)
        .join(series, series.c.id == instance.c.series_fk)
        .join(study, study.c.id == series.c.study_fk)
        .where(instance.c.sop_instance_uid == sop_instance_uid)
    ).one_or_none()
    if found is None:
        raise InstanceNotFound(f"{sop_instance_uid} is not in the index")
    connection.execute(delete(instance).where(instance.c.id == found.id))
    last_in_series = _take_off(connection, series, found.series_fk, instances=1)
    last_in_study = _take_off(connection, study, found.study_fk, instances=1, series=int(last_in_series))
    gone = {"instances": 1, "series": int(last_in_series), "studies": int(last_in_study)}
    _take_off(connection, patient, found.patient_fk, **gone)
    if not last_in_study:
        _collect_again(connection, found.study_fk)


def _take_off(connection: Connection, table: Table, key: int, **gone: int) -> bool:
    """Lower the counters of a row; delete it and return True when no instance is left."""
    counters = {table.c[f"number_of_{table.name}_related_{what}"]: count for what, count in gone.items()}
    instances = table.c[f"number_of_{table.name}_related_instances"]
    last = connection.scalar(select(instances).where(table.c.id == key)) == 1
    changed = update(table).values({counter.name: counter - count for counter, count in counters.items()})
    connection.execute((delete(table) if last else changed).where(table.c.id == key))
    return last


def _collect_again(connection: Connection, study_key: int) -> None:
    """Collect a study's modalities and SOP classes from what is left of it."""
    series, instance = models.series, models.instance
    modalities = connection.scalars(select(series.c.modality).where(series.c.study_fk == study_key).distinct())
    classes = connection.scalars(
        select(instance.c.sop_class_uid).join(series).where(series.c.study_fk == study_key).distinct()
    )
    values = {"modalities_in_study": _joined(modalities), "sop_classes_in_study": _joined(classes)}
    connection.execute(update(models.study).where(models.study.c.id == study_key).values(values))


def _joined(values: Iterable[str]) -> str:
    return "\\".join(sorted(set(values) - {""}))
