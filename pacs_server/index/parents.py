"""The rows above an instance: its series, study and patient, found or made, with their counters.

A batch of instances reads each of them once, changes it here, and writes it once.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, select, update

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.header import Header
from pacs_server.dicom.levels import Level
from pacs_server.dicom.matching import fold_name, time_key
from pacs_server.index import models
from pacs_server.index.database import Prepared

log = logging.getLogger(__name__)

# Folding may lengthen a name; PostgreSQL indexes about 2,700 bytes, and a character takes up to 4.
_MAX_MATCH = 512
COUNTERS = {
    models.patient: tuple(f"number_of_patient_related_{what}" for what in ("studies", "series", "instances")),
    models.study: (
        *(f"number_of_study_related_{what}" for what in ("series", "instances")),
        *("modalities_in_study", "sop_classes_in_study"),
    ),
    models.series: ("number_of_series_related_instances",),
}
_PARENT_KEY = {models.study: "patient_fk", models.series: "study_fk"}
_COLUMNS = {models.TABLES[level]: tuple(attribute.column for attribute in at_level(level)) for level in Level}
_ALL_COLUMNS = {table: tuple(table.c.keys()) for table in COUNTERS}

_PATIENT = Prepared(
    select(models.patient).where(
        models.patient.c.patient_id == bindparam("patient_id"),
        models.patient.c.issuer_of_patient_id == bindparam("issuer"),
    )
)
_STUDY = Prepared(
    select(models.patient, models.study)
    .join(models.study, models.study.c.patient_fk == models.patient.c.id)
    .where(models.study.c.study_instance_uid == bindparam("uid"))
)
_SERIES = Prepared(
    select(models.patient, models.study, models.series)
    .join(models.study, models.study.c.patient_fk == models.patient.c.id)
    .join(models.series, models.series.c.study_fk == models.study.c.id)
    .where(models.series.c.series_instance_uid == bindparam("uid"))
)
_INSERT = {table: insert(table).returning(table.c.id, sort_by_parameter_order=True) for table in COUNTERS}
_UPDATE = {
    table: Prepared(
        update(table).where(table.c.id == bindparam("key")).values({name: bindparam(name) for name in names})
    )
    for table, names in COUNTERS.items()
}


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
        self.values[name] = joined({*self.values[name].split("\\"), value})


class Parents:
    """The series, studies and patients of one transaction's instances."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # What was read so far, by table and id, and what was read or made, by what names it.
        self._read_rows: dict[tuple[Table, int], _Row] = {}
        self._patients: dict[tuple[str, str], _Row] = {}
        self._studies: dict[str, _Row] = {}
        self._series: dict[str, _Row] = {}
        self._touched: dict[Table, list[_Row]] = {table: [] for table in COUNTERS}

    def write(self) -> None:
        """Write what `place` made and changed; the rows that it returned have their ids then."""
        # Parents before children, for their ids.
        for table in COUNTERS:
            self._insert(table)
            self._update(table)

    def place(self, header: Header) -> _Row:
        """The series an instance goes to, with all counters above it brought up to date."""
        series = self._find_series(header.uids.series) or self._new_series(header)
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

    def _find_series(self, uid: str) -> _Row | None:
        if uid not in self._series:
            found = _SERIES.first(self._connection, uid=uid)
            if found is None:
                return None
            self._series[uid] = self._read(found, (models.patient, models.study, models.series))
        return self._series[uid]

    def _find_study(self, uid: str) -> _Row | None:
        if uid not in self._studies:
            found = _STUDY.first(self._connection, uid=uid)
            if found is None:
                return None
            self._read(found, (models.patient, models.study))
        return self._studies[uid]

    def _find_patient(self, identity: tuple[str, str]) -> _Row | None:
        # An empty Patient ID identifies nobody, so its next study is another patient's.
        if not identity[0]:
            return None
        if identity not in self._patients:
            found = _PATIENT.first(self._connection, patient_id=identity[0], issuer=identity[1])
            if found is None:
                return None
            self._read(found, (models.patient,))
        return self._patients[identity]

    def _read(self, found: tuple[Any, ...], tables: tuple[Table, ...]) -> _Row:
        """The rows in a joined one, which holds the columns of `tables`, parents first; returns the last."""
        row: _Row | None = None
        start = 0
        for table in tables:
            names = _ALL_COLUMNS[table]
            key = (table, found[start])
            if key not in self._read_rows:
                self._read_rows[key] = _Row(table, dict(zip(names, found[start:], strict=False)), row)
                self._name(self._read_rows[key])
            row = self._read_rows[key]
            start += len(names)
        assert row is not None
        return row

    def _name(self, row: _Row) -> None:
        if row.table is models.study:
            self._studies[row.values["study_instance_uid"]] = row
        elif row.table is models.patient and row.values["patient_id"]:
            self._patients[_patient_key(row.values)] = row

    def _new_series(self, header: Header) -> _Row:
        study = self._find_study(header.uids.study) or self._new_study(header)
        assert study.parent is not None
        study.count("number_of_study_related_series")
        study.parent.count("number_of_patient_related_series")
        series = self._series[header.uids.series] = _new_row(models.series, header, study)
        return series

    def _new_study(self, header: Header) -> _Row:
        identity = _identity(header)
        patient = self._find_patient(identity) or _new_row(models.patient, header, None)
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
        for row in self._touched[table]:
            if row.touched:
                counters = {name: row.values[name] for name in COUNTERS[table]}
                _UPDATE[table].run(self._connection, key=row.values["id"], **counters).close()
                if row.filled:
                    self._connection.execute(update(table).where(table.c.id == row.values["id"]).values(row.filled))


def _new_row(table: Table, header: Header, parent: _Row | None) -> _Row:
    values: dict[str, Any] = {name: header.values.get(name, "") for name in _COLUMNS[table]}
    values |= _match_values(values)
    for name in COUNTERS[table]:
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


def _warn(event: str, header: Header) -> None:
    uids = header.uids
    names = {"study_instance_uid": uids.study, "series_instance_uid": uids.series, "sop_instance_uid": uids.sop}
    log.warning(event, extra=names)


def joined(values: Iterable[str]) -> str:
    """A set of values as one text, sorted, without the empty one."""
    return "\\".join(sorted(set(values) - {""}))
