"""An index with the service that operators use on it, and instances of one patient or another."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Table, select
from trails import Kept, recorder_of

from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index import archive_models, models
from pacs_server.index.database import Database
from pacs_server.index.decisions import Decision, DecisionIndex
from pacs_server.index.instances import InstanceIndex, StoredInstance
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.patients import PatientIndex, Person
from pacs_server.services.decisions import DecisionJournal
from pacs_server.services.patients import PatientService
from pacs_server.storage.filesystem.archive_directory import archive_directory

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
ORIGIN = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)


def header(study: str = "1.1", series: str = "1.1.1", sop: str = "1.1.1.1", **values: str) -> Header:
    """An instance of patient P1, unless `values` say otherwise."""
    uids = {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": sop}
    defaults = {"patient_id": "P1", "modality": "CT", "sop_class_uid": CT}
    every = {name: value for name, value in (defaults | uids | values).items() if value}
    return Header(InstanceUIDs(study, series, sop), CT, EXPLICIT, every)


def decisions_in(directory: Path) -> list[Decision]:
    """What operators decided in an archive's directory, in order."""
    return DecisionJournal(archive_directory(directory).decisions).read()


def add(index: InstanceIndex, of: Header) -> None:
    """Index an instance that has no file."""
    stored = StoredInstance(of.uids, of.sop_class_uid, EXPLICIT, f"{of.uids.study}/{of.uids.sop}", 352, 1000, "ab", 1)
    index.add(stored, of, ORIGIN)


def adds_in_one_batch(index: InstanceIndex, headers: list[Header]) -> list[BaseException | None]:
    """Add all of them with a single commit: they queue up while this stands in for a leader."""
    with ThreadPoolExecutor(len(headers)) as threads:
        with index._commits._leading:
            jobs = []
            for number, one in enumerate(headers, 1):
                jobs.append(threads.submit(add, index, one))
                while len(index._commits._pending) < number and not jobs[-1].done():
                    pass
        return [job.exception() for job in jobs]


def rows(database: Database, table: Table) -> list[dict]:
    """All rows of a table, by id."""
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]


def assert_counters_exact(database: Database) -> None:
    """Every counter is what counting gives, and nothing is empty."""
    assert list(IntegrityIndex(database).counter_faults()) == []
    for table in (models.patient, models.study, models.series):
        assert all(row[f"number_of_{table.name}_related_instances"] > 0 for row in rows(database, table))


class Desk:
    """An index, the service that operators use, and the trail."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.directory = directory
        self.index = InstanceIndex(database)
        self.trail = Kept()
        self.service = PatientService(
            database, archive_directory(directory).decisions, recorder_of(self.trail), lambda: "PACS"
        )

    def add(self, sop: str, study: str = "1.1", series: str = "", **values: str) -> None:
        add(self.index, header(study=study, series=series or f"{study}.1", sop=sop, **values))

    def apply(self, decision: Decision) -> None:
        """Apply a decision to the index alone, as a rebuild does."""
        DecisionIndex(self.database).apply(decision)

    def person(self, key: int) -> Person:
        """The patient of a row."""
        found = PatientIndex(self.database).person(key, merged=False)
        assert found is not None
        return found

    def moved_away(self, patient_id: str) -> str:
        """The reference of the patient of that ID who was moved away."""
        with self.database.connect() as connection:
            keys = connection.scalars(
                select(models.patient_alias.c.id).where(models.patient_alias.c.patient_id == patient_id)
            ).all()
        found = PatientIndex(self.database).person(keys[0], merged=True)
        assert found is not None
        return found.reference

    def merge(self, source: str, into: str) -> None:
        self.service.merge(self.service.person(source), self.service.person(into), "typed wrong")

    def reassign(self, study: str, to: str) -> None:
        self.service.reassign(self.service.study(study), self.service.person(to), "wrong patient chosen")

    def people(self) -> list[tuple[str, str, int]]:
        found = rows(self.database, models.patient)
        return [(row["patient_id"], row["patient_name"], row["number_of_patient_related_instances"]) for row in found]

    def studies(self) -> list[tuple[str, str]]:
        """Study and Patient ID."""
        ids = {row["id"]: row["patient_id"] for row in rows(self.database, models.patient)}
        return [(row["study_instance_uid"], ids[row["patient_fk"]]) for row in rows(self.database, models.study)]

    def originals(self, uid: str) -> list[dict]:
        (row,) = [row for row in rows(self.database, models.study) if row["study_instance_uid"] == uid]
        return json.loads(row["original_attributes_sequence"] or "[]")

    def state(self) -> dict[str, list[dict]]:
        tables = [*models.TABLES.values(), models.patient_alias, archive_models.archive_state]
        with self.database.connect() as connection:
            return {
                t.name: [dict(row) for row in connection.execute(select(t).order_by(*t.primary_key)).mappings()]
                for t in tables
            }
