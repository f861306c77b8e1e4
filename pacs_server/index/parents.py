"""Find or insert the series, study and patient of an instance, and keep their counters.

A batch of instances reads each of them once, changes it here, and writes it once. Instances of
patients that cannot be the same person never share a patient, nor a study or series whatever its UID.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Table, bindparam, insert, literal_column, null, select, update

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.header import Header
from pacs_server.dicom.levels import Level
from pacs_server.dicom.matching import time_key
from pacs_server.dicom.original_attributes import completed, original_item
from pacs_server.dicom.person_name import fold_name
from pacs_server.dicom.same_patient import Identity, combined_name, compatible
from pacs_server.index import aliases, models
from pacs_server.index.aliases import Alias
from pacs_server.index.prepared import Prepared, PreparedForMany, Raw

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

# The patients of an ID and their aliases, in one statement, because it is run for every new study.
_PATIENTS = Prepared(
    select(models.patient, *(null() for _ in aliases.COLUMNS))
    .where(
        models.patient.c.patient_id == bindparam("patient_id"),
        models.patient.c.issuer_of_patient_id == bindparam("issuer"),
    )
    .union_all(
        select(*(null() for _ in models.patient.c), *aliases.COLUMNS).where(
            models.patient_alias.c.patient_id == bindparam("patient_id"),
            models.patient_alias.c.issuer_of_patient_id == bindparam("issuer"),
        )
    )
)
# An empty Patient ID identifies nobody, so aliases are found by the study only.
_NOBODY = Prepared(
    select(*aliases.COLUMNS).where(
        models.patient_alias.c.study_instance_uid == bindparam("uid"),
        models.patient_alias.c.patient_id == literal_column("''"),
    )
)
_STUDIES = Prepared(
    select(models.patient, models.study)
    .join(models.study, models.study.c.patient_fk == models.patient.c.id)
    .where(models.study.c.study_instance_uid == bindparam("uid"))
)
_SERIES = PreparedForMany(
    models.series.c.series_instance_uid,
    select(models.patient, models.study, models.series)
    .join(models.study, models.study.c.patient_fk == models.patient.c.id)
    .join(models.series, models.series.c.study_fk == models.study.c.id),
)
_INSERT = {table: insert(table).returning(table.c.id, sort_by_parameter_order=True) for table in COUNTERS}


def _update_of(table: Table, names: tuple[str, ...]) -> Prepared:
    return Prepared(
        update(table).where(table.c.id == bindparam("key")).values({name: bindparam(name) for name in names})
    )


_UPDATE = {table: _update_of(table, names) for table, names in COUNTERS.items()}
# What most instances change of a study. SQLite would write an index anew if its column were set, to whatever value.
_COUNT_IN_STUDY = _update_of(models.study, ("number_of_study_related_instances",))


class _Row:
    """A row of a patient, study or series: read from the index, or new and still without an id."""

    __slots__ = ("filled", "has_new", "identity", "open", "parent", "table", "touched", "values")

    def __init__(self, table: Table, values: dict[str, Any], parent: "_Row | None") -> None:
        self.table = table
        self.values = values
        if "id" in values:
            values["key"] = values["id"]
        self.parent = parent
        # The names of attributes that are still empty; of a patient, who it is.
        self.open = [name for name in _COLUMNS[table] if not values[name]]
        self.identity = Identity.of(values) if table is models.patient else None
        self.filled: dict[str, str] = {}
        self.touched = False
        # Whether there is something new in it, besides another instance of what it had before.
        self.has_new = table is not models.study

    def fill(self, header: Header) -> None:
        """Fill attributes that are still empty from a later instance."""
        if found := left_open(self.table, self.values, header.values):
            self.values |= found
            self.filled |= found
            self.open = [name for name in self.open if name not in found]
            if self.identity is not None:
                self.identity = Identity.of(self.values)

    def set(self, name: str, value: str) -> None:
        """Set a column."""
        if self.values[name] != value:
            self.values[name] = self.filled[name] = value

    def collect(self, name: str, value: str) -> None:
        """Add to a sorted set of values."""
        known = self.values[name].split("\\")
        if value not in known:
            self.values[name] = joined({*known, value})
            self.has_new = True


class Parents:
    """The series, studies and patients of one transaction's instances.

    They may serve the next transaction as well if nobody else has written in between.
    """

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        # The rows read so far by table and id; then all rows, read or new, by the UID or ID that identifies them.
        self._read_rows: dict[tuple[Table, int], _Row] = {}
        self._patients: dict[tuple[str, str], list[_Row]] = {}
        self._aliases: dict[tuple[str, ...], list[Alias]] = {}
        self._studies: dict[str, list[_Row]] = {}
        self._series: dict[str, list[_Row]] = {}
        self._touched: dict[Table, list[_Row]] = {table: [] for table in COUNTERS}
        # What to log once the instances are in: one that is known already has changed nothing.
        self._warnings: list[tuple[str, Header]] = []

    def __len__(self) -> int:
        """How many series are remembered."""
        return len(self._series)

    def insert(self) -> None:
        """Insert the rows that `place` has made. After that, the rows that it returned have ids."""
        # Parents come before children, which need their ids.
        for table, touched in self._touched.items():
            new = [row for row in touched if "id" not in row.values]
            if new:
                self._insert(table, new)

    def update(self) -> None:
        """Write what `place` has changed in rows that were there before."""
        for table, touched in self._touched.items():
            changed = [row for row in touched if row.touched]
            if changed:
                self._update(table, changed)
            touched.clear()
        self._raw.finish()
        if self._warnings:
            for message, header in self._warnings:
                log.warning(message, extra=_uids(header))
            self._warnings.clear()

    def _warn(self, message: str, header: Header) -> None:
        self._warnings.append((message, header))

    def place(self, header: Header, received_at: datetime, calling_ae: str) -> _Row:
        """The series an instance goes to, with all counters above it brought up to date."""
        identity = Identity.of(header.values)
        series = self._series_of(header, identity)
        study = series.parent
        assert study is not None
        at = moment_text(received_at)
        if (known := study.values.get("received_at")) is None:
            study.values["received_at"] = at
        elif not known or at < known:
            # What comes back from the trash, or into a new index, may be older than what is there.
            study.set("received_at", at)
        patient = study.parent
        assert patient is not None
        sent = header.values.keys()
        for row in (series, study):
            if not sent.isdisjoint(row.open):
                row.fill(header)
        if _accepts(patient, identity):
            if patient.values["patient_name"] != identity.patient_name or not sent.isdisjoint(patient.open):
                patient.fill(header)
            if study.values["original_attributes_sequence"]:
                aliases.mark_joined(self._raw.connection, header.uids.study, identity)
        else:
            # An operator's decision has put the instance under a patient of another identity.
            self._keep_original(header, study, received_at, calling_ae)
        series.values["number_of_series_related_instances"] += 1
        study.values["number_of_study_related_instances"] += 1
        patient.values["number_of_patient_related_instances"] += 1
        study.collect("modalities_in_study", series.values["modality"])
        study.collect("sop_classes_in_study", header.sop_class_uid)
        for row in (patient, study, series):
            if not row.touched:
                row.touched = True
                self._touched[row.table].append(row)
        return series

    def _keep_original(self, header: Header, study: _Row, received_at: datetime, calling_ae: str) -> None:
        """Record the original patient of an instance that follows a decision, in the Original Attributes Sequence."""
        assert study.parent is not None
        identity, now, uid = Identity.of(header.values), study.parent.values, header.uids.study
        items = json.loads(study.values["original_attributes_sequence"] or "[]")
        if (told := completed(items, Identity.of(now), identity)) is not None:
            study.set("original_attributes_sequence", aliases.as_json(told))
            return
        fitting = [each for each in self._patients_of(identity, uid)[1] if each.about(identity)]
        leading = max((each for each in fitting if each.study in ("", uid)), key=lambda each: bool(each.study))
        item = original_item(
            header.values, now, at=received_at, system=leading.system, reason="COERCE", origin=calling_ae
        )
        study.set("original_attributes_sequence", aliases.as_json([*items, item]))
        joined = study.values["number_of_study_related_instances"] > 0
        if joined:
            aliases.mark_joined(self._raw.connection, uid, Identity.of(now))
        if not leading.study:
            made = aliases.add_alias(self._raw.connection, uid, header.values, now, leading.system, joined=joined)
            self._patients_of(identity, uid)[1].append(made)

    def _series_of(self, header: Header, identity: Identity) -> _Row:
        known = self._series[header.uids.series]
        for series in known:
            study = series.parent
            same = study is not None and study.values["study_instance_uid"] == header.uids.study
            if study is not None and same and _accepts(study.parent, identity):
                return series
        study = self._study_of(header, identity)
        for series in known:
            if series.parent is study:
                return series
        if any(series.parent.values["study_instance_uid"] != header.uids.study for series in known if series.parent):
            self._warn("series is known in another study, kept apart", header)
        return self._new_series(header, study)

    def _study_of(self, header: Header, identity: Identity) -> _Row:
        known = self._studies_of(header.uids.study)
        for study in known:
            if _accepts(study.parent, identity):
                return study
        patient = self._patient_of(header, identity)
        for study in known:
            if study.parent is patient:
                return study
        if known:
            self._warn("study is known with another patient, kept apart", header)
        return self._new_study(header, patient)

    def _patient_of(self, header: Header, identity: Identity) -> _Row:
        """The patient for a study: the one that an operator chose, the one of that ID, or a new one."""
        attributes: Mapping[str, str] = header.values
        followed: list[Alias] = []
        while True:
            patients, decided = self._patients_of(identity, header.uids.study)
            # Each alias is followed once, so that circular decisions end.
            fitting = [each for each in decided if each not in followed and each.about(identity)]
            alias = next((alias for alias in fitting if alias.study == header.uids.study), None)
            patient = next((row for row in patients if _accepts(row, identity)), None)
            if alias is None and patient is not None:
                return patient
            alias = alias or next((alias for alias in fitting if not alias.study), None)
            if alias is None:
                break
            if not followed:
                aliases.complete(self._raw.connection, alias, header.values)
            followed.append(alias)
            attributes, identity = alias.target, Identity.of(alias.target)
        return self._new_patient(attributes, header)

    def _patients_of(self, identity: Identity, study_uid: str) -> tuple[list[_Row], list[Alias]]:
        if not identity.patient_id:
            key: tuple[str, ...] = ("", "", study_uid)
            if key not in self._aliases:
                rows = _NOBODY.run(self._raw, {"uid": study_uid})
                self._aliases[key] = [Alias.of(row) for row in rows]
            above = [study.parent for study in self._studies_of(study_uid) if study.parent is not None]
            return [row for row in above if not row.values["patient_id"]], self._aliases[key]
        key = identity.key
        if key not in self._aliases:
            patient_id, issuer = identity.key
            found = _PATIENTS.run(self._raw, {"patient_id": patient_id, "issuer": issuer})
            width = len(_ALL_COLUMNS[models.patient])
            self._aliases[key] = [Alias.of(row[width:]) for row in found if row[0] is None]
            patients = [self._read(row, (models.patient,)) for row in found if row[0] is not None]
            self._patients[identity.key] = sorted(patients, key=_variant)
        return self._patients[identity.key], self._aliases[key]

    def look_up(self, headers: Iterable[Header]) -> None:
        """Read the series of one or more instances, with their studies and patients."""
        uids = [uid for uid in {header.uids.series for header in headers} if uid not in self._series]
        if not uids:
            return
        self._series |= {uid: [] for uid in uids}
        found = [self._read(row, (models.patient, models.study, models.series)) for row in _SERIES.all(self._raw, uids)]
        for row in sorted(found, key=lambda row: int(row.values["id"])):
            self._series[row.values["series_instance_uid"]].append(row)

    def _studies_of(self, uid: str) -> list[_Row]:
        """All studies of a UID, by id."""
        if uid not in self._studies:
            rows = _STUDIES.run(self._raw, {"uid": uid})
            found = [self._read(row, (models.patient, models.study)) for row in rows]
            self._studies[uid] = sorted(found, key=lambda row: int(row.values["id"]))
        return self._studies[uid]

    def _read(self, found: tuple[Any, ...], tables: tuple[Table, ...]) -> _Row:
        """Split a joined row into the rows of `tables`, parents first; returns the row of the last table."""
        row: _Row | None = None
        start = 0
        for table in tables:
            names = _ALL_COLUMNS[table]
            key = (table, found[start])
            if key not in self._read_rows:
                self._read_rows[key] = _Row(table, dict(zip(names, found[start:], strict=False)), row)
            row = self._read_rows[key]
            start += len(names)
        assert row is not None
        return row

    def _new_series(self, header: Header, study: _Row) -> _Row:
        assert study.parent is not None
        study.values["number_of_study_related_series"] += 1
        study.has_new = True
        study.parent.values["number_of_patient_related_series"] += 1
        series = _new_row(models.series, header.values, study)
        self._series[header.uids.series].append(series)
        return series

    def _new_study(self, header: Header, patient: _Row) -> _Row:
        patient.values["number_of_patient_related_studies"] += 1
        study = _new_row(models.study, header.values, patient)
        known = self._studies[header.uids.study]
        study.values |= {"original_attributes_sequence": "", "variant": _next_variant(known)}
        known.append(study)
        return study

    def _new_patient(self, attributes: Mapping[str, str], header: Header) -> _Row:
        patient = _new_row(models.patient, attributes, None)
        patient.values["variant"] = 0
        identity = Identity.of(attributes)
        if identity.patient_id:
            known, _ = self._patients_of(identity, header.uids.study)
            patient.values["variant"] = _next_variant(known)
            if known:
                self._warn("patient ID is known with another name or birth date, kept apart", header)
            known.append(patient)
        return patient

    def _insert(self, table: Table, rows: list[_Row]) -> None:
        for row in rows:
            if row.parent is not None:
                row.values[_PARENT_KEY[table]] = row.parent.values["id"]
        if len(rows) == 1:
            keys = [key for (key,) in _insert_one(table, tuple(rows[0].values)).run(self._raw, rows[0].values)]
        else:
            keys = list(self._raw.connection.scalars(_INSERT[table], [row.values for row in rows]))
        for row, key in zip(rows, keys, strict=True):
            row.values["id"] = row.values["key"] = key
            row.touched = False
            row.has_new = table is not models.study
            row.filled = {}

    def _update(self, table: Table, rows: list[_Row]) -> None:
        for has_new, statement in ((True, _UPDATE[table]), (False, _COUNT_IN_STUDY)):
            changed = [row.values for row in rows if row.has_new is has_new]
            if changed:
                statement.write(self._raw, changed)
        for row in rows:
            row.touched = False
            row.has_new = table is not models.study
            if row.filled:
                self._raw.connection.execute(update(table).where(table.c.id == row.values["id"]).values(row.filled))
                row.filled = {}


@lru_cache
def _insert_one(table: Table, names: tuple[str, ...]) -> Prepared:
    """The INSERT of one row, which is what nearly all transactions need."""
    return Prepared(insert(table).values({name: bindparam(name) for name in names}).returning(table.c.id))


def _new_row(table: Table, attributes: Mapping[str, str], parent: _Row | None) -> _Row:
    values: dict[str, Any] = {name: attributes.get(name, "") for name in _COLUMNS[table]}
    values |= _match_values(values)
    for name in COUNTERS[table]:
        values[name] = 0 if name.startswith("number") else ""
    return _Row(table, values, parent)


def moment_text(at: datetime) -> str:
    """A moment as `study.received_at` has it."""
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S")


def left_open(table: Table, known: Mapping[str, Any], sent: Mapping[str, str]) -> dict[str, str]:
    """The values in `sent` for columns that are empty in a row."""
    found = {name: sent[name] for name in _COLUMNS[table] if not known[name] and sent.get(name)}
    if table is models.patient and known["patient_name"] != sent.get("patient_name", ""):
        name = combined_name(known["patient_name"], sent.get("patient_name", ""))
        if name != known["patient_name"]:
            found["patient_name"] = name
    return found | _match_values(found) if found else found


def patient_values(attributes: Mapping[str, str]) -> dict[str, Any]:
    """The columns of a patient of these attributes who has no study yet."""
    return _new_row(models.patient, attributes, None).values


def _match_values(values: Mapping[str, str]) -> dict[str, str]:
    names = {f"{name}_match": fold_name(values[name])[:_MAX_MATCH] for name in models.NAME_MATCH if name in values}
    times = {f"{name}_match": time_key(values[name]) for name in models.TIME_MATCH if name in values}
    return names | times


def _accepts(patient: _Row | None, identity: Identity) -> bool:
    return (
        patient is not None
        and patient.identity is not None
        and (patient.identity == identity or compatible(patient.identity, identity))
    )


def _variant(row: _Row) -> int:
    return int(row.values["variant"])


def _next_variant(rows: Iterable[_Row]) -> int:
    return max(map(_variant, rows), default=-1) + 1


def _uids(header: Header) -> dict[str, str]:
    uids = header.uids
    return {"study_instance_uid": uids.study, "series_instance_uid": uids.series, "sop_instance_uid": uids.sop}


def joined(values: Iterable[str]) -> str:
    """Values as one text: sorted, without duplicates and empty values, joined by backslashes."""
    return "\\".join(sorted(set(values) - {""}))
