"""Steps in the database, tied to items and instances, on both kinds of database."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, select

from pacs_server.dicom.worklist import ItemStatus, WorklistItem
from pacs_server.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceNotFound,
    InvalidAttributeValue,
    ProcedureStepClosed,
)
from pacs_server.index import models
from pacs_server.index.database import Database
from pacs_server.index.mpps import ProcedureStepIndex
from pacs_server.index.workflow_models import procedure_step_instance, procedure_step_item
from pacs_server.index.worklist import WorklistIndex
from pacs_server.services.mpps import MPPSService

JSON = dict[str, Any]
STATUS = "00400252"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def steps(database: Database) -> ProcedureStepIndex:
    return ProcedureStepIndex(database)


def text(value: str, vr: str = "SH") -> JSON:
    return {"vr": vr, "Value": [value]} if value else {"vr": vr}


def scheduled(study: str = "1.1", sps: str = "S1", procedure: str = "R1", accession: str = "A1") -> JSON:
    return {
        "0020000D": text(study, "UI"), "00080050": text(accession), "00401001": text(procedure), "00400009": text(sps),
    }  # fmt: skip


def step(*items: JSON, status: str = "IN PROGRESS", made: tuple[str, ...] = ()) -> JSON:
    references = [{"00081150": text("1.2", "UI"), "00081155": text(uid, "UI")} for uid in made]
    series = {"0020000E": text("1.1.1", "UI"), "00081140": {"vr": "SQ", "Value": references}}
    return {
        "00400270": {"vr": "SQ", "Value": list(items or (scheduled(),))},
        STATUS: text(status, "CS"),
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg", "Ideographic": "山田"}]},
        "00100020": text("P1", "LO"),
        "00400244": text("20250301", "DA"),
        "00400340": {"vr": "SQ", "Value": [series]},
    }


def worklist_item(
    accession: str = "A1", procedure: str = "R1", sps: str = "S1", study: str = "1.1", patient: str = "P1"
) -> WorklistItem:
    sequence = {"00400009": text(sps), "00400001": text("CT1", "AE"), "00400002": text("20250301", "DA")}
    data_set = {"00100020": text(patient, "LO"), "00400100": {"vr": "SQ", "Value": [sequence]}}
    return WorklistItem(accession, procedure, sps, study, ItemStatus.SCHEDULED, "test", data_set)


def put(database: Database, *items: WorklistItem) -> None:
    WorklistIndex(database).put(items)


def statuses(database: Database) -> dict[str, str]:
    return {row.item.scheduled_procedure_step_id: row.item.status.value for row in WorklistIndex(database).list()}


def end(status: str, *made: str) -> Any:
    return lambda before: before | step(status=status, made=made) | {"00400270": before["00400270"]}


def create(steps: ProcedureStepIndex, uid: str, data_set: JSON) -> int:
    return steps.create(uid, data_set, "CT1", discontinued_returns=True)


def test_a_step_is_kept_whole(steps: ProcedureStepIndex) -> None:
    data_set = step() | {"00291001": {"vr": "UN", "InlineBinary": "AAECAw=="}, "00101030": text("70.50", "DS")}
    create(steps, "1.2.3", data_set)
    assert steps.get("1.2.3") == data_set
    row = steps.row("1.2.3")
    assert (row.patient_name, row.patient_id, row.study_instance_uid) == ("Müller^Jörg=山田", "P1", "1.1")
    assert (row.status, row.start_date, row.calling_ae) == ("IN PROGRESS", "20250301", "CT1")
    assert row.created_at == row.updated_at


def test_a_known_uid_changes_nothing(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item())
    create(steps, "1.2.3", step(scheduled(sps="other"), made=("1.9",)))
    with pytest.raises(DuplicateInstance):
        create(steps, "1.2.3", step(made=("1.8",)))
    assert statuses(database) == {"S1": "SCHEDULED"}
    assert steps.row("1.2.3").referenced == 1


def test_an_unknown_uid(steps: ProcedureStepIndex) -> None:
    with pytest.raises(InstanceNotFound):
        steps.update("1.2.3", end("COMPLETED"), discontinued_returns=True)
    for reader in (steps.get, steps.row):
        with pytest.raises(InstanceNotFound):
            reader("1.2.3")
    assert list(steps.missing("1.2.3")) == list(steps.list()) == list(steps.items_of("1.2.3")) == []


def test_a_change_that_is_refused_changes_nothing(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item())
    create(steps, "1.2.3", step(made=("1.9",)))

    def refuse(before: JSON) -> JSON:
        before[STATUS] = text("COMPLETED")
        raise ProcedureStepClosed("x")

    with pytest.raises(ProcedureStepClosed):
        steps.update("1.2.3", refuse, discontinued_returns=True)
    assert steps.row("1.2.3").status == "IN PROGRESS"
    assert statuses(database) == {"S1": "IN PROGRESS"}


@pytest.mark.slow
def test_a_step_may_not_grow_without_end(steps: ProcedureStepIndex) -> None:
    create(steps, "1.2.3", step())
    with pytest.raises(InvalidAttributeValue):
        steps.update("1.2.3", lambda before: before | {"0009": "x" * (17 << 20)}, discontinued_returns=True)
    assert steps.get("1.2.3") == step()


@pytest.mark.parametrize(
    ("reference", "tied"),
    [
        (scheduled(), True),
        (scheduled(accession=""), True),
        (scheduled(procedure=""), True),
        (scheduled(study="9.9"), True),  # a study of the modality's own; the accession number tells
        (scheduled(study="9.9", procedure=""), True),
        (scheduled(study="9.9", accession=""), False),
        (scheduled(study="9.9", accession="A2"), False),
        (scheduled(procedure="R2"), False),
        (scheduled(sps="S2"), False),
        (scheduled(sps=""), False),
    ],
)
def test_which_item_a_step_is_about(database: Database, steps: ProcedureStepIndex, reference: JSON, tied: bool) -> None:
    put(database, worklist_item(), worklist_item("A3", "R3", "S3", "1.3"))
    assert create(steps, "1.2.3", step(reference)) == int(tied)
    assert statuses(database) == {"S1": "IN PROGRESS" if tied else "SCHEDULED", "S3": "SCHEDULED"}


def test_an_item_that_comes_in_late(database: Database, steps: ProcedureStepIndex) -> None:
    assert create(steps, "1.2.3", step()) == 0
    put(database, worklist_item())
    assert steps.update("1.2.3", end("COMPLETED"), discontinued_returns=True) == ("COMPLETED", 1)
    assert statuses(database) == {"S1": "COMPLETED"}


@pytest.mark.slow
def test_several_steps_for_one_item(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item())
    create(steps, "1", step())
    create(steps, "2", step())
    steps.update("1", end("COMPLETED"), discontinued_returns=True)
    assert statuses(database) == {"S1": "IN PROGRESS"}
    steps.update("2", end("DISCONTINUED"), discontinued_returns=True)
    assert statuses(database) == {"S1": "COMPLETED"}
    (item,) = WorklistIndex(database).list()
    assert [row.sop_instance_uid for row in steps.of_item(item.id)] == ["1", "2"]
    assert steps.items_of("2") == [(item.id, ItemStatus.COMPLETED)]


def test_a_cancelled_item_stays_cancelled(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item())
    (item,) = WorklistIndex(database).list()
    WorklistIndex(database).set_status([item.id], ItemStatus.CANCELLED)
    create(steps, "1", step())
    steps.update("1", end("DISCONTINUED"), discontinued_returns=True)
    assert statuses(database) == {"S1": "CANCELLED"}
    assert len(steps.of_item(item.id)) == 1


def test_an_item_that_is_removed_takes_its_ties_along(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item())
    create(steps, "1", step())
    (item,) = WorklistIndex(database).list()
    WorklistIndex(database).remove(item.id)
    with database.connect() as connection:
        assert connection.execute(select(procedure_step_item)).all() == []
    assert steps.update("1", end("COMPLETED"), discontinued_returns=True) == ("COMPLETED", 0)


def archived(database: Database, *sops: str, study: str = "1.1", accession: str = "", number: int = 1) -> None:
    """A study in the archive."""
    now = datetime.now(UTC)
    tables = models.patient, models.study, models.series, models.instance
    with database.begin() as connection:
        rows: list[JSON] = [
            {"patient_id": f"P{number}"},
            {
                "patient_fk": number, "study_instance_uid": study, "accession_number": accession,
                "number_of_study_related_instances": len(sops), "modalities_in_study": "CT", "study_date": "20250301",
            },
            {"study_fk": number, "series_instance_uid": f"{study}.1"},
        ]  # fmt: skip
        for table, row in zip(tables, rows, strict=False):
            connection.execute(insert(table), {"id": number} | row)
        for sop in sops:
            connection.execute(insert(models.instance), {
                "series_fk": number, "sop_instance_uid": sop, "sop_class_uid": "1.2", "path": sop, "size": 1,
                "data_set_offset": 0, "digest": "d", "received_at": now,
            })  # fmt: skip


def test_performed_and_received(database: Database, steps: ProcedureStepIndex) -> None:
    create(steps, "1", step())
    create(steps, "2", step())
    steps.update("1", end("IN PROGRESS", "3.1"), discontinued_returns=True)
    # All items of a sequence are sent again each time (PS3.4 F.7.2.2.2); one of them is named twice.
    steps.update("1", end("COMPLETED", "3.1", "3.2", "3.3", "3.2"), discontinued_returns=True)
    archived(database, "3.1", "3.3", "3.4")
    assert [(row.sop_instance_uid, row.received, row.referenced) for row in steps.list()] == [("2", 0, 0), ("1", 2, 3)]
    assert list(steps.missing("1")) == ["3.2"]
    assert (steps.instances_in_study("1.1"), steps.instances_in_study("1.9")) == (3, 0)
    with database.connect() as connection:
        assert len(connection.execute(select(procedure_step_instance)).all()) == 3


def test_studies_without_an_item(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item(), worklist_item("A2", "R2", "S2", "1.2"))
    archived(database, "3.1", study="1.1", number=1)
    archived(database, "3.2", study="8.1", accession="A2", number=2)
    archived(database, "3.3", study="8.2", number=3)
    archived(database, "3.4", "3.5", study="8.3", accession="A9", number=4)
    create(steps, "1", step(scheduled("8.2", accession="A1")))
    (study,) = steps.unmatched()
    assert (study.study_instance_uid, study.patient_id, study.accession_number) == ("8.3", "P4", "A9")
    assert (study.study_date, study.modalities, study.instances) == ("20250301", "CT", 2)


def test_of_many_ends_at_once_one_wins(database: Database, steps: ProcedureStepIndex) -> None:
    put(database, worklist_item())
    service = MPPSService(steps, discontinued_returns=lambda: True)
    create(steps, "1", step() | {"00400250": text("20250301", "DA"), "00400251": text("10", "TM")})
    barrier = threading.Barrier(4)
    won: list[str] = []
    lost: list[str] = []

    def finish(status: str) -> None:
        barrier.wait(60)
        try:
            series = {"0020000E": text("1.1.1", "UI"), "00181030": text("Head", "LO")}
            service.set("1", {STATUS: text(status, "CS"), "00400340": {"vr": "SQ", "Value": [series]}})
            won.append(status)
        except ProcedureStepClosed:
            lost.append(status)

    threads = [threading.Thread(target=finish, args=(end,)) for end in ("COMPLETED", "DISCONTINUED") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    assert steps.row("1").status == won[0]
    assert statuses(database) == {"S1": "COMPLETED" if won == ["COMPLETED"] else "SCHEDULED"}


@pytest.mark.slow
def test_two_steps_of_an_item_ending_at_once(database: Database, steps: ProcedureStepIndex) -> None:
    """Neither may see the other one as still open, or the item would stay open for ever."""
    for number in range(5):
        study = f"1.{number}"
        put(database, worklist_item(f"A{number}", "R1", f"S{number}", study))
        uids = [f"1.2.{number}.{which}" for which in (1, 2)]
        for uid in uids:
            create(steps, uid, step(scheduled(study, f"S{number}", accession=f"A{number}")))
        barrier = threading.Barrier(2)

        def finish(uid: str, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(60)
            steps.update(uid, end("COMPLETED"), discontinued_returns=True)

        threads = [threading.Thread(target=finish, args=(uid,)) for uid in uids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses(database)[f"S{number}"] == "COMPLETED"


def test_a_database_that_is_gone(database: Database, steps: ProcedureStepIndex) -> None:
    create(steps, "1", step())
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE procedure_step RENAME TO away")
    for attempt in (lambda: create(steps, "2", step()), lambda: steps.get("1"), lambda: list(steps.list())):
        with pytest.raises(IndexUnavailable):
            attempt()
