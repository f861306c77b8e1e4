"""Patients, their studies, and the conflicts among them; conflicts are computed from the rows, never stored."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    Table,
    func,
    literal_column,
    select,
)

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.levels import Level
from pacs_server.dicom.same_patient import Identity
from pacs_server.index.database import Database
from pacs_server.index.models import patient, patient_alias, study

T = TypeVar("T")

ATTRIBUTES: Final = tuple(attribute.column for attribute in at_level(Level.PATIENT))


@dataclass(frozen=True, slots=True)
class Person:
    """A patient. `key` is the id of the row, or of the alias if it was merged; `attributes` holds what is not empty."""

    key: int
    merged: bool
    attributes: Mapping[str, str]
    studies: int = 0
    instances: int = 0

    @property
    def identity(self) -> Identity:
        """The identity of the patient."""
        return Identity.of(self.attributes)

    @property
    def reference(self) -> str:
        """The reference that commands accept for this patient."""
        return f"@{'m' if self.merged else ''}{self.key}-{_check(self.attributes)}"


@dataclass(frozen=True, slots=True)
class StudyOf:
    """A study with its patient; `key` is the id of its row."""

    key: int
    study_instance_uid: str
    accession_number: str
    instances: int
    person: Person
    study_date: str = ""
    study_description: str = ""

    @property
    def reference(self) -> str:
        """The reference that commands accept for this study."""
        return f"@{self.key}-{_check(self.study_instance_uid, self.person.attributes)}"


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Patients of one ID that cannot be the same person, and studies of one UID with several patients."""

    patients: tuple[tuple[Person, ...], ...]
    studies: tuple[tuple[StudyOf, ...], ...]

    @property
    def groups(self) -> list[Sequence[Person | StudyOf]]:
        """All conflicts: those of patients, then those of studies."""
        return [*self.patients, *self.studies]


class PatientIndex:
    """The patients of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def people(self, patient_id: str, issuer: str | None = None) -> list[Person]:
        """The patients of that ID, of one issuer or of all, and then those that were merged into others."""
        with self._database.connect() as connection:
            rows = connection.execute(select(patient).where(*named(patient, patient_id, issuer)).order_by(patient.c.id))
            found = [_person(row) for row in rows.mappings()]
            merged = (*named(patient_alias, patient_id, issuer), patient_alias.c.study_instance_uid == "")
            return found + _decided(connection, *merged)

    def person(self, key: int, *, merged: bool) -> Person | None:
        """The patient of that key; with `merged`, the source patient of the alias of that key."""
        with self._database.connect() as connection:
            if not merged:
                row = connection.execute(select(patient).where(patient.c.id == key)).mappings().one_or_none()
                return None if row is None else _person(row)
            alias = select(patient_alias.c.id, patient_alias.c.source).where(patient_alias.c.id == key)
            found = connection.execute(alias).one_or_none()
            return None if found is None else _merged(*found)

    def moved_away(self, study_instance_uid: str) -> list[Person]:
        """The patients that a study belonged to before operators moved it."""
        with self._database.connect() as connection:
            return _decided(connection, patient_alias.c.study_instance_uid == study_instance_uid)

    def studies_of(self, person: Person) -> list[StudyOf]:
        """The studies of a patient."""
        return self._studies(study.c.patient_fk == person.key) if not person.merged else []

    def studies(self, study_instance_uid: str) -> list[StudyOf]:
        """The studies of that UID, one for each patient that it came with."""
        return self._studies(study.c.study_instance_uid == study_instance_uid)

    def study(self, key: int) -> StudyOf | None:
        """The study of that key."""
        return next(iter(self._studies(study.c.id == key)), None)

    def conflicts(self) -> Conflicts:
        """All conflicts, in the order of IDs and of UIDs."""
        several = _several(patient, "patient_id", "issuer_of_patient_id")
        same = (patient.c.patient_id == several.c.patient_id) & (
            patient.c.issuer_of_patient_id == several.c.issuer_of_patient_id
        )
        order = (patient.c.patient_id, patient.c.issuer_of_patient_id, patient.c.id)
        with self._database.connect() as connection:
            rows = connection.execute(select(patient).join(several, same).order_by(*order)).mappings()
            people = [_person(row) for row in rows]
        uids = _several(study, "study_instance_uid")
        studies = self._studies(study.c.study_instance_uid.in_(select(uids.c.study_instance_uid)))
        return Conflicts(
            _grouped(people, lambda each: each.identity.key),
            _grouped(studies, lambda each: each.study_instance_uid),
        )

    def count_conflicts(self) -> int:
        """The number of conflicts; fast as long as there are few."""
        kinds = (_several(patient, "patient_id", "issuer_of_patient_id"), _several(study, "study_instance_uid"))
        with self._database.connect() as connection:
            return sum(connection.scalar(select(func.count()).select_from(kind)) or 0 for kind in kinds)

    def _studies(self, condition: ColumnElement[bool]) -> list[StudyOf]:
        columns = (
            study.c.study_instance_uid, study.c.accession_number, study.c.number_of_study_related_instances,
            study.c.study_date, study.c.study_description,
        )  # fmt: skip
        statement = (
            select(study.c.id.label("study_key"), *columns, patient).join(patient, study.c.patient_fk == patient.c.id)
            .where(condition).order_by(study.c.study_instance_uid, study.c.id)
        )  # fmt: skip
        with self._database.connect() as connection:
            return [_study_of(row) for row in connection.execute(statement).mappings()]


def _check(*values: object) -> str:
    """A checksum of four letters that detects another row with the same id, for example after a rebuild."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:4]


def named(table: Table, patient_id: str, issuer: str | None) -> list[ColumnElement[bool]]:
    """Conditions for the rows of an ID, of one issuer or of all."""
    clauses: list[ColumnElement[bool]] = [table.c.patient_id == patient_id]
    return clauses if issuer is None else [*clauses, table.c.issuer_of_patient_id == issuer]


def _decided(connection: Connection, *conditions: ColumnElement[bool]) -> list[Person]:
    rows = select(patient_alias.c.id, patient_alias.c.source).where(*conditions).order_by(patient_alias.c.id)
    return [_merged(*row) for row in connection.execute(rows)]


def _several(table: Table, *names: str) -> Subquery:
    """Names that belong to more than one row, found by the few rows that are not the first of their name."""
    # A literal, because with a bound number the database would not use its partial index.
    later = select(*(table.c[name] for name in names)).where(literal_column(f"{table.name}.variant > 0")).distinct()
    named = later.subquery()
    every = select(*(table.c[name] for name in names))
    for name in names:
        every = every.where(table.c[name] == named.c[name])
    return every.group_by(*(table.c[name] for name in names)).having(func.count() > 1).subquery()


def _grouped(rows: Iterable[T], key: Callable[[T], object]) -> tuple[tuple[T, ...], ...]:
    return tuple(tuple(group) for _, group in groupby(rows, key))


def _person(row: Mapping[Any, Any]) -> Person:
    attributes = {name: row[name] for name in ATTRIBUTES if row[name]}
    counts = (row["number_of_patient_related_studies"], row["number_of_patient_related_instances"])
    return Person(row["id"], False, attributes, *counts)


def _merged(key: int, source: str) -> Person:
    return Person(key, True, json.loads(source))


def _study_of(row: Mapping[Any, Any]) -> StudyOf:
    return StudyOf(
        row["study_key"],
        row["study_instance_uid"],
        row["accession_number"],
        row["number_of_study_related_instances"],
        _person(row),
        row["study_date"],
        row["study_description"],
    )
