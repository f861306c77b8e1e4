"""What comes with another patient is kept apart, listed, and moved as operators decide."""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from patients import Desk, adds_in_one_batch, assert_counters_exact, decisions_in, header, rows
from sqlalchemy import delete
from strategies import encoded, identifier

from pacs_server.audit.events import Action, EventID
from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.identifier import QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import AuditUnavailable, IndexUnavailable, PatientError, StorageFull, StorageUnavailable
from pacs_server.index import archive_models, models
from pacs_server.index.database import Database
from pacs_server.index.instances import Counts
from pacs_server.index.queries import QueryIndex
from pacs_server.index.scope import ScopeIndex


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    database = Database(database_url)
    database.migrate()
    yield Desk(database, tmp_path / "archive")
    database.close()


@pytest.fixture(autouse=True)
def archive_directory(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()


@pytest.mark.slow
def test_people_of_one_id_are_kept_apart_and_listed(desk, caplog):
    desk.add("1.0", patient_name="Doe^Jane")
    desk.add("2.0", study="2.2", patient_name="Roe^Richard")
    desk.add("3.0", study="3.3", patient_name="DOE^JANE")
    desk.add("4.0", study="4.4", patient_name="Roe^Richard", patient_birth_date="19700101")
    assert desk.people() == [("P1", "Doe^Jane", 2), ("P1", "Roe^Richard", 2)]
    assert [row["variant"] for row in rows(desk.database, models.patient)] == [0, 1]
    (group,) = desk.service.conflicts().patients
    assert [person.identity.patient_name for person in group] == ["Doe^Jane", "Roe^Richard"]
    assert desk.service.conflicts().studies == ()
    assert desk.service.count() == 1
    assert [record.getMessage() for record in caplog.records].count(
        "patient ID is known with another name or birth date, kept apart"
    ) == 1
    assert_counters_exact(desk.database)


def test_a_study_of_two_patients_is_listed_with_both(desk):
    desk.add("1.0")
    desk.add("1.1", patient_id="P2")
    desk.add("1.2", patient_id="P2")
    (group,) = desk.service.conflicts().studies
    assert [(study.person.identity.patient_id, study.instances) for study in group] == [("P1", 1), ("P2", 2)]
    assert desk.service.count() == 1
    with pytest.raises(PatientError, match="several studies"):
        desk.service.study("1.1")
    assert desk.service.study(group[1].reference) == group[1]


def test_no_conflict_without_contradiction(desk):
    desk.add("1.0", patient_name="Doe^Jane")
    desk.add("1.1", patient_name="", patient_birth_date="19700101")
    desk.add("1.2", patient_name="doe^jane=\u5c71", patient_birth_date="1970.01.01")
    assert desk.people() == [("P1", "Doe^Jane=\u5c71", 3)]
    assert desk.service.count() == 0


def test_names_that_completed_a_patient_count_from_then_on(desk):
    desk.add("1.0", patient_name="Doe")
    desk.add("1.1", patient_name="Doe=A")
    desk.add("1.2", patient_name="Doe=B")
    assert desk.people() == [("P1", "Doe=A", 2), ("P1", "Doe=B", 1)]


def test_one_batch_keeps_apart_too(desk):
    headers = [header(sop=f"1.{n}", patient_name="Doe" if n % 2 else "Roe") for n in range(6)]
    assert set(adds_in_one_batch(desk.index, headers)) == {None}
    assert [count for _, _, count in desk.people()] == [3, 3]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_merge_moves_all_and_what_comes_later(desk):
    desk.add("1.0", patient_id="P1", patient_name="Doe^Jane")
    desk.add("2.0", study="2.2", patient_id="P1X", patient_name="Doe^Jnae", patient_sex="F")
    desk.merge("P1X", into="P1")
    desk.add("2.1", study="2.2", patient_id="P1X", patient_name="Doe^Jnae")
    desk.add("3.0", study="3.3", patient_id="P1X", patient_name="Doe^Jnae", patient_sex="F")
    assert desk.people() == [("P1", "Doe^Jane", 4)]
    assert rows(desk.database, models.patient)[0]["patient_sex"] == "", "an attribute of the other record"
    assert desk.service.count() == 0
    (item,) = desk.originals("2.2")
    (values,) = item["04000550"]["Value"]
    assert values["00100020"]["Value"] == ["P1X"]
    assert values["00100010"]["Value"] == [{"Alphabetic": "Doe^Jnae"}]
    assert item["04000564"]["Value"] == ["CT1"]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_merge_joins_studies_and_series_of_one_uid(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("1.1", patient_id="P2", modality="MR")
    desk.add("1.2", patient_id="P2", series="1.1.2", modality="MR")
    assert desk.index.counts() == Counts(2, 2, 3, 3)
    desk.merge("P2", into="P1")
    assert desk.index.counts() == Counts(1, 1, 2, 3)
    assert rows(desk.database, models.study)[0]["modalities_in_study"] == "CT\\MR"
    assert len(desk.originals("1.1")) == 1
    desk.add("1.3", patient_id="P2")
    assert desk.studies() == [("1.1", "P1")]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_patients_of_one_id_merge_by_their_keys(desk):
    desk.add("1.0", patient_name="Doe")
    desk.add("2.0", study="2.2", patient_name="Roe")
    with pytest.raises(PatientError, match=r"several patients of ID P1: name one of @1-\w{4}, @2-\w{4}"):
        desk.service.person("P1")
    desk.merge(desk.person(2).reference, into=desk.person(1).reference)
    assert desk.service.count() == 0
    desk.add("2.1", study="2.2", patient_name="Roe")
    assert desk.people() == [("P1", "Doe", 3)]
    desk.add("3.0", study="3.3", patient_name="Poe")
    assert desk.people() == [("P1", "Doe", 3), ("P1", "Poe", 1)]


@pytest.mark.slow
def test_merges_follow_one_another(desk):
    for number in (1, 2, 3):
        desk.add(f"{number}.0", study=f"{number}.1", patient_id=f"P{number}")
    desk.merge("P1", into="P2")
    desk.merge("P2", into="P3")
    desk.add("4.0", study="4.1", patient_id="P1")
    assert desk.people() == [("P3", "", 4)]
    assert len(desk.originals("1.1")) == 2
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_the_target_of_a_merge_comes_back_when_its_instances_were_deleted(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2", patient_name="Doe")
    desk.merge("P1", into="P2")
    for sop in ("1.0", "2.0"):
        desk.index.remove(sop)
    assert desk.people() == []
    desk.add("3.0", study="3.3", patient_id="P1")
    assert desk.people() == [("P2", "Doe", 1)]


@pytest.mark.slow
def test_reassign_moves_one_study_and_what_comes_of_it(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P1")
    desk.add("3.0", study="3.3", patient_id="P2")
    desk.reassign("2.2", to="P2")
    desk.add("2.1", study="2.2", series="2.2.9", patient_id="P1")
    desk.add("4.0", study="4.4", patient_id="P1")
    assert desk.studies() == [("1.1", "P1"), ("2.2", "P2"), ("3.3", "P2"), ("4.4", "P1")]
    assert desk.originals("2.2")[0]["04000565"]["Value"] == ["CORRECT"]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_a_reassigned_study_that_was_deleted_goes_to_the_same_patient_again(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.reassign("1.1", to="P2")
    desk.index.remove("1.0")
    desk.add("1.0", patient_id="P1")
    assert desk.studies() == [("2.2", "P2"), ("1.1", "P2")]


@pytest.mark.slow
def test_a_study_without_patient_id_can_be_given_to_somebody(desk):
    desk.add("1.0", patient_id="", patient_name="Doe")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.add("3.0", study="3.3", patient_id="", patient_name="Doe")
    desk.reassign("1.1", to="P2")
    desk.add("1.1", patient_id="", patient_name="Doe")
    assert sorted(desk.studies()) == [("1.1", "P2"), ("2.2", "P2"), ("3.3", "")]
    (before,) = [person for person in desk.service.people_of("1.1") if person.merged]
    desk.reassign("1.1", to=before.reference)
    assert sorted(desk.studies()) == [("1.1", ""), ("2.2", "P2"), ("3.3", "")]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_reassigning_back_undoes(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P1", patient_sex="F")
    desk.add("3.0", study="3.3", patient_id="P2")
    before = desk.state()
    desk.reassign("2.2", to="P2")
    desk.reassign("2.2", to="P1")
    after = desk.state()
    after["archive_state"] = []
    assert after == before
    desk.add("2.1", study="2.2", patient_id="P1")
    assert desk.service.count() == 0


@pytest.mark.slow
def test_a_study_that_joined_another_goes_on_whole(desk):
    """Part of it was never where the other part came from, so it is no way back, and later arrivals follow it."""
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", patient_id="P2")
    desk.add("3.0", study="3.3", patient_id="P2")
    desk.service.reassign(desk.service.studies_of(desk.service.person("P2"))[0], desk.service.person("P1"), "wrong")
    assert desk.studies() == [("1.1", "P1"), ("3.3", "P2")]
    desk.reassign("1.1", to="P2")
    for sop, patient in (("1.2", "P1"), ("2.2", "P2")):
        desk.add(sop, patient_id=patient)
    assert desk.studies() == [("1.1", "P2"), ("3.3", "P2")]
    assert desk.people() == [("P2", "", 5)]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_reassigning_all_back_undoes_a_merge(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2", patient_name="Doe", patient_sex="F")
    desk.add("3.0", study="3.3", patient_id="P2", patient_name="Doe")
    desk.merge("P2", into="P1")
    (gone,) = desk.service.people("P2")
    assert gone.merged
    desk.reassign("2.2", to="P2")
    desk.add("3.1", study="3.3", patient_id="P2", patient_name="Doe")
    assert desk.studies() == [("1.1", "P1"), ("2.2", "P2"), ("3.3", "P1")], "what was not undone stays decided"
    desk.add("4.0", study="4.4", patient_id="P2", patient_name="Doe")
    assert desk.studies()[-1] == ("4.4", "P2"), "who is there again gets what is sent"
    desk.reassign("3.3", to="P2")
    assert desk.people() == [("P1", "", 1), ("P2", "Doe", 4)]
    assert rows(desk.database, models.patient)[1]["patient_sex"] == "F"
    assert desk.state()["patient_alias"] == []
    assert desk.originals("2.2") == []
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_merging_back_and_forth_ends_somewhere(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.merge("P1", into="P2")
    desk.reassign("1.1", to="P1")
    desk.merge("P2", into="P1")
    desk.add("3.0", study="3.3", patient_id="P1")
    desk.add("4.0", study="4.4", patient_id="P2")
    assert desk.people() == [("P1", "", 4)]


@pytest.mark.slow
def test_a_study_of_a_merge_that_was_deleted_and_sent_again_is_of_the_patient_it_was_merged_into(desk):
    """Where one decision leads to another and that one back, the way ends at who is there."""
    desk.add("1.0", patient_id="P1")
    desk.add("3.0", study="3.3", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.reassign("1.1", to="P2")
    desk.index.remove("1.0")
    desk.merge("P2", into="P1")
    desk.add("1.0", patient_id="P1")
    assert desk.people() == [("P1", "", 3)]
    assert desk.service.count() == 0


@pytest.mark.slow
def test_a_chain_of_merges_is_followed_to_its_end(desk):
    for number in range(30):
        desk.add(f"{number}.0", study=f"{number}.1", patient_id=f"P{number}")
    for number in range(29):
        desk.merge(f"P{number}", into=f"P{number + 1}")
    desk.add("99.0", study="99.1", patient_id="P0")
    assert desk.people() == [("P29", "", 31)]


@pytest.mark.slow
def test_a_patient_is_not_given_to_whom_they_are_taken_for(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.reassign("1.1", to="P2")
    desk.add("3.0", study="3.3", patient_id="P1", patient_name="Doe")
    before = desk.state()
    # The nameless P1 of then and P1 Doe may be one person, so there is nobody else to give the study to.
    with pytest.raises(PatientError, match="one and the same"):
        desk.reassign("3.3", to=desk.moved_away("P1"))
    assert desk.state() == before
    assert len(decisions_in(desk.directory)) == 1
    # Written down by somebody who saw other rows, it still is no change.
    (done,) = decisions_in(desk.directory)
    same = {"source": {"patient_id": "P1", "patient_name": "Doe"}, "target": {"patient_id": "P1"}}
    desk.apply(replace(done, number=2, studies=("3.3",), **same))
    assert _rows_without_state(desk.state()) == _rows_without_state(before)
    assert_counters_exact(desk.database)


def _rows_without_state(state: dict[str, list[dict]]) -> dict[str, list[dict]]:
    return {name: found for name, found in state.items() if name != "archive_state"}


@pytest.mark.slow
def test_what_follows_a_merge_is_kept_as_if_it_had_been_there(desk):
    desk.add("1.0", patient_id="P1", patient_name="Doe^Jane")
    desk.add("2.0", study="2.2", patient_id="P1X", patient_name="Doe^Jnae")
    desk.merge("P1X", into="P1")
    for sop, study in (("3.0", "3.3"), ("3.1", "3.3"), ("1.1", "1.1")):
        desk.add(sop, study=study, patient_id="P1X", patient_name="Doe^Jnae")
    for study in ("2.2", "3.3", "1.1"):
        (item,) = desk.originals(study)
        (values,) = item["04000550"]["Value"]
        assert (values["00100020"]["Value"], values["00100010"]["Value"]) == (["P1X"], [{"Alphabetic": "Doe^Jnae"}])
        assert (item["04000563"]["Value"], item["04000564"]["Value"]) == (["PACS"], ["CT1"])
    desk.reassign("3.3", to="P1X")
    assert desk.originals("3.3") == [], "it is whose it was sent as"
    desk.reassign("1.1", to="P1X")
    assert len(desk.originals("1.1")) == 2, "part of it was sent as P1's"
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_what_was_sent_for_both_does_not_come_back_in_silence(desk):
    """A study that got instances of its new patient is no longer only what was moved."""
    desk.add("1.0", patient_id="P1")
    desk.add("9.0", study="9.9", patient_id="P2")
    desk.reassign("1.1", to="P2")
    desk.add("1.1", patient_id="P2")
    (before,) = [person for person in desk.service.people_of("1.1") if person.merged]
    desk.reassign("1.1", to=before.reference)
    assert len(desk.originals("1.1")) == 2
    desk.add("1.2", patient_id="P2")
    assert desk.people() == [("P2", "", 1), ("P1", "", 3)]
    assert desk.service.count() == 0


@pytest.mark.slow
def test_a_study_that_went_in_a_circle_takes_what_comes_for_all_stations(desk):
    for number in (1, 2, 3):
        desk.add(f"{number}.0", study=f"{number}.1", patient_id=f"P{number}")
        desk.add(f"{number}.5", study=f"{number}.2", patient_id=f"P{number}")
    for target in ("P2", "P3", "P1", "P3"):
        desk.reassign("1.1", to=target)
    for number in (1, 2, 3):
        desk.add(f"{number}.9", study="1.1", patient_id=f"P{number}")
        assert ("1.1", "P3") in desk.studies()
    assert desk.service.count() == 0
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_a_merge_of_somebody_without_a_name_does_not_take_two_people(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.merge("P1", into="P2")
    desk.add("3.0", study="3.3", patient_id="P1", patient_name="Doe")
    desk.add("4.0", study="4.4", patient_id="P1", patient_name="Roe")
    assert desk.people() == [("P2", "", 3), ("P1", "Roe", 1)]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_a_study_given_back_to_nobody_takes_what_comes_for_the_other(desk):
    desk.add("1.0", patient_id="", patient_name="Doe")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.reassign("1.1", to="P2")
    desk.add("2.1", patient_id="P2")
    (before,) = [person for person in desk.service.people_of("1.1") if person.merged]
    desk.reassign("1.1", to=before.reference)
    for sop in ("2.3", "2.4"):
        desk.add(sop, patient_id="P2")
    assert desk.people() == [("P2", "", 1), ("", "Doe", 4)]


@pytest.mark.slow
def test_who_is_there_again_is_known_as_well_as_before(desk):
    desk.add("1.0", patient_id="P1", patient_name="Doe")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.reassign("1.1", to="P2")
    desk.add("1.1", patient_id="P1", patient_name="Doe", patient_birth_date="19800101")
    desk.add("3.0", study="3.3", patient_id="P1")
    (before,) = [person for person in desk.service.people_of("1.1") if person.merged]
    desk.reassign("1.1", to=before.reference)
    desk.add("4.0", study="4.4", patient_id="P1", patient_birth_date="19700101")
    assert desk.people() == [("P2", "", 1), ("P1", "Doe", 3), ("P1", "", 1)]


@pytest.mark.slow
def test_a_study_that_another_one_joined_has_no_way_back_on_its_own(desk):
    for number in (0, 1, 2):
        desk.add(f"{number}.5", study=f"{number}.2", patient_id=f"P{number}")
    desk.add("0.0", patient_id="P0")
    desk.reassign("1.1", to="P2")
    desk.add("1.0", patient_id="P1")
    studies = {each.study_instance_uid: each for each in desk.service.studies_of(desk.service.person("P1"))}
    desk.reassign(studies["1.1"].reference, to="P2")
    desk.reassign("1.1", to="P0")
    assert len(desk.originals("1.1")) == 3
    desk.add("1.9", patient_id="P1")
    assert desk.service.count() == 0


@pytest.mark.slow
def test_a_study_is_given_to_somebody_who_was_moved_away(desk):
    """Whom the key says, though less was sent of them since; and nobody who contradicts what was sent."""
    desk.add("9.0", study="9.9", patient_id="P9")
    desk.add("1.0", patient_id="P1", patient_name="Doe")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.reassign("1.1", to="P9")
    desk.add("3.0", study="3.3", patient_id="P1")
    desk.reassign("2.2", to=desk.moved_away("P1"))
    desk.add("4.0", study="4.4", patient_id="P1", patient_name="Roe")
    assert desk.people() == [("P9", "", 2), ("P1", "Doe", 2), ("P1", "Roe", 1)]


@pytest.mark.slow
def test_what_comes_for_whom_a_study_was_follows_to_another_patient_of_that_id(desk):
    desk.add("9.0", study="9.9", patient_id="P9")
    desk.add("7.0", study="7.7", patient_id="P1")
    desk.reassign("7.7", to="P9")
    desk.add("1.0", patient_id="P1", patient_birth_date="19800101")
    desk.reassign("1.1", to="P9")
    desk.add("3.0", study="3.3", patient_id="P1", patient_birth_date="19700101")
    # The key is of one of whom no birth date is known, so that of the ID who is there is meant.
    desk.reassign("1.1", to=desk.moved_away("P1"))
    desk.add("1.9", patient_id="P1", patient_birth_date="19800101")
    assert desk.people() == [("P9", "", 2), ("P1", "", 3)]
    assert len(desk.originals("1.1")) == 2


@pytest.mark.slow
def test_what_cannot_be_is_refused_and_changes_nothing(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="")
    desk.add("3.0", study="3.3", patient_id="P3")
    desk.merge("P3", into="P1")
    before = desk.state()
    service = desk.service
    nobody = service.study("2.2").person
    one = service.person("P1")
    gone = service.person("P3")
    for attempt in (
        lambda: service.merge(one, one, "x"),
        lambda: service.merge(one, nobody, "x"),
        lambda: service.merge(gone, one, "x"),
        lambda: service.merge(nobody, one, " "),
        lambda: service.reassign(service.study("1.1"), nobody, "x"),
        lambda: service.person("P9"),
        lambda: service.person("@99-0000"),
        lambda: service.person(""),
        lambda: service.study("@m1-0000"),
        lambda: service.study("9.9"),
    ):
        with pytest.raises(PatientError):
            attempt()
    service.merge(nobody, one, "x", dry_run=True)
    assert desk.state() == before
    assert len(decisions_in(desk.directory)) == 1


@pytest.mark.slow
def test_both_patients_have_an_audit_event(desk):
    desk.add("1.0", patient_id="P1", accession_number="A1")
    desk.add("2.0", study="2.2", patient_id="P2", issuer_of_patient_id="X")
    desk.merge("P1", into="P2^^^X")
    gone, kept = desk.trail.of(EventID.PATIENT_RECORD)
    assert (gone.action, gone.subjects[0].patient_id, gone.subjects[0].accession_number) == (Action.DELETE, "P1", "A1")
    assert (kept.action, kept.subjects[0].issuer_of_patient_id) == (Action.UPDATE, "X")
    assert "typed wrong" in gone.detail
    assert gone.participants[0].requestor


@pytest.mark.slow
def test_a_change_is_written_down_before_it_is_made(desk, monkeypatch):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    before = desk.state()
    person = desk.service.person

    def lose(*_: object) -> None:
        raise IndexUnavailable("lost")

    with monkeypatch.context() as patch:
        patch.setattr("pacs_server.index.decisions._apply", lose)
        with pytest.raises(IndexUnavailable):
            desk.merge("P1", into="P2")
    assert desk.state() == before
    (change,) = decisions_in(desk.directory)
    assert (change.number, change.whole, change.source["patient_id"]) == (1, True, "P1")
    assert desk.service.catch_up() == 1
    assert desk.people() == [("P2", "", 2)]
    assert desk.service.catch_up() == 0
    assert person("P1").merged


@pytest.mark.slow
def test_a_number_that_somebody_else_has_by_now_names_nobody(desk):
    desk.add("1.0", patient_name="Doe")
    desk.add("2.0", study="2.2", patient_name="Roe")
    first, second = desk.person(1).reference, desk.person(2).reference
    study = desk.service.study("2.2").reference
    desk.merge(second, into=first)
    desk.index.remove("2.0")
    desk.add("5.0", study="5.5", patient_id="P5", patient_name="Stranger")
    if desk.database.is_sqlite:
        assert desk.person(2).identity.patient_id == "P5", "numbers come back"
    for attempt in (lambda: desk.merge(second, into=first), lambda: desk.reassign(study, to="P1")):
        with pytest.raises(PatientError, match="any more; list them again"):
            attempt()
    assert desk.people() == [("P1", "Doe", 1), ("P5", "Stranger", 1)]


@pytest.mark.slow
def test_a_change_that_is_made_after_a_crash_is_audited_as_whose_it_is(desk, monkeypatch):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.merge("P1", into="P2")
    (change,) = decisions_in(desk.directory)
    desk.reassign("1.1", to="P1")
    file = desk.directory / "changes/changes.jsonl"
    line = {**asdict(change), "number": 3, "at": change.at.isoformat(), "by": "somebody"}
    file.write_text(file.read_text() + json.dumps(line) + "\n")
    before = len(desk.trail.of(EventID.PATIENT_RECORD))
    assert desk.service.catch_up() == 1
    gone, kept = desk.trail.of(EventID.PATIENT_RECORD)[before:]
    assert (gone.subjects[0].patient_id, kept.subjects[0].patient_id) == ("P1", "P2")
    assert gone.participants[0].user_id == "somebody"


@pytest.mark.slow
def test_what_cannot_be_audited_is_not_changed(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    before = desk.state()
    desk.trail.full = True
    with pytest.raises(AuditUnavailable):
        desk.merge("P1", into="P2")
    desk.trail.full = False
    assert (desk.service.catch_up(), decisions_in(desk.directory)) == (0, [])
    assert desk.state() == before
    desk.merge("P1", into="P2")


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["fsync", "pwrite"])
def test_a_change_that_the_disk_did_not_take_is_not_made_later(desk, monkeypatch, failing):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.merge("P1", into="P2")
    before = desk.state()
    real = os.pwrite

    def fail(descriptor: int, data: bytes = b"", at: int = 0) -> int:
        if failing == "fsync":
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, data[:-1], at)

    with monkeypatch.context() as patch:
        patch.setattr(f"pacs_server.storage.filesystem.decision_log.os.{failing}", fail)
        with pytest.raises((StorageFull, StorageUnavailable)):
            desk.reassign("1.1", to=desk.moved_away("P1"))
    assert len(decisions_in(desk.directory)) == 1
    assert desk.service.catch_up() == 0
    assert desk.state() == before


@pytest.mark.slow
def test_a_journal_that_is_behind_the_index_is_asked_for(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.merge("P1", into="P2")
    before = desk.state()
    (desk.directory / "changes/changes.jsonl").unlink()
    with pytest.raises(StorageUnavailable, match="holds 0 changes and the index 1: put it back from a backup"):
        desk.reassign("1.1", to=desk.moved_away("P1"))
    assert desk.state() == before


def test_nothing_is_changed_that_cannot_be_written_down(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    before = desk.state()
    (desk.directory / "changes").write_text("in the way")
    with pytest.raises(StorageUnavailable):
        desk.merge("P1", into="P2")
    assert desk.state() == before


@pytest.mark.slow
def test_a_line_that_a_crash_cut_off_is_as_if_never_written(desk):
    desk.add("1.0", patient_id="P1")
    desk.add("2.0", study="2.2", patient_id="P2")
    desk.merge("P1", into="P2")
    file = desk.directory / "changes/changes.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"number": 2, "at"' + b" " * 4000)
    assert len(decisions_in(desk.directory)) == 1
    desk.reassign("1.1", to="P1")
    assert [change.whole for change in decisions_in(desk.directory)] == [True, False]
    assert file.read_bytes().startswith(whole)
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"{}\n" + whole)
    with pytest.raises(StorageUnavailable, match="line 1"):
        decisions_in(desk.directory)


@pytest.mark.slow
def test_two_operators_at_once_do_not_lose_a_change(desk):
    from concurrent.futures import ThreadPoolExecutor

    desk.add("0.0", study="9.9", patient_id="P0")
    for number in range(1, 7):
        desk.add(f"{number}.0", study=f"{number}.1", patient_id=f"P{number}")
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda number: desk.merge(f"P{number}", into="P0"), range(1, 7)))
    assert desk.people() == [("P0", "", 7)]
    assert [change.number for change in decisions_in(desk.directory)] == [1, 2, 3, 4, 5, 6]
    assert_counters_exact(desk.database)


@pytest.mark.slow
def test_replay_gives_the_same_index(desk):
    """What arrives between the changes goes the same way when the changes are replayed in between."""
    arrivals: list = []

    def arrive(sop: str, **values: str) -> None:
        arrivals.append((len(decisions_in(desk.directory)), sop, values))
        desk.add(sop, **values)

    arrive("1.0", patient_id="P1", patient_name="Doe")
    arrive("1.1", patient_id="P1", patient_name="Roe")
    arrive("2.0", study="2.2", patient_id="P2")
    desk.merge(desk.person(2).reference, into="P2")
    arrive("1.2", patient_id="P1", patient_name="Roe")
    desk.reassign(desk.service.studies_of(desk.person(1))[0].reference, to="P2")
    arrive("1.3", patient_id="P1", patient_name="Doe")
    desk.reassign("2.2", to=next(p.reference for p in desk.service.people("P1") if p.merged))
    arrive("5.0", study="5.5", patient_id="P1", patient_name="Roe")
    before = desk.state()
    with desk.database.begin() as connection:
        for table in (*reversed(models.TABLES.values()), models.patient_alias, archive_models.archive_state):
            connection.execute(delete(table))
    changes = decisions_in(desk.directory)
    done = 0
    for number, sop, values in arrivals:
        for change in changes[done:number]:
            desk.apply(change)
        done = number
        desk.add(sop, **values)
    for change in changes:
        desk.apply(change)
    assert _without_keys(desk.state()) == _without_keys(before)
    assert_counters_exact(desk.database)


def _without_keys(state: dict[str, list[dict]]) -> dict[str, list]:
    """The rows, with what they refer to in place of numbers that only this database gave."""
    names = {"patient_fk": "patient", "study_fk": "study", "series_fk": "series"}
    by_id = {table: {row["id"]: row for row in found} for table, found in state.items() if table in names.values()}

    def plain(row: dict) -> list:
        left_out = ("id", "received_at", "last")
        return sorted(
            (name, repr(plain(by_id[names[name]][value]) if name in names else value))
            for name, value in row.items()
            if name not in left_out
        )

    return {table: sorted(plain(row) for row in found) for table, found in state.items()}


def test_it_is_known_where_decisions_lead_out_of_the_limits_of_a_caller(desk: Desk) -> None:
    desk.add("1.1.1.1", patient_name="A")
    desk.add("2.1.1.1", study="2.1", patient_id="P3", patient_name="A")
    desk.add("3.1.1.1", study="3.1", patient_id="P4", patient_name="A")
    own, both = Scope(patients=(("P1", ""),)), Scope(patients=(("P1", ""), ("P3", "")))
    scopes, values = ScopeIndex(desk.database), {"patient_id": "P1", "patient_name": "A"}
    assert not scopes.leads_out(values, "9.1", own)
    desk.merge("P1", "P3")
    assert scopes.leads_out(values, "9.1", own)
    assert not scopes.leads_out(values, "9.1", both)
    assert not scopes.leads_out(values, "9.1", Scope(modalities=("CT",)))
    assert not scopes.leads_out(values | {"patient_name": "B"}, "9.1", own)
    # And from there to the next.
    desk.merge("P3", "P4")
    assert scopes.leads_out(values, "9.1", both)


def test_a_caller_with_limits_is_not_told_whose_a_study_was(desk: Desk) -> None:
    desk.add("1.1.1.1", patient_name="A")
    desk.add("2.1.1.1", study="2.1", patient_id="P3", patient_name="B")
    desk.reassign("1.1", "P3")
    keys = encoded(identifier("STUDY", StudyInstanceUID="1.1", OriginalAttributesSequence=[]))
    asked = parse_find(keys, "1.2.840.10008.1.2", InformationModel.STUDY_ROOT, QueryOptions())
    place = [key.tag for key in asked.returns].index(BY_KEYWORD["OriginalAttributesSequence"].tag)
    for scope, told in ((EVERYTHING, True), (Scope(patients=(("P3", ""),)), False), (Scope(modalities=("CT",)), False)):
        [row] = QueryIndex(desk.database).find(asked, scope)
        assert ("P1" in row[place]) is told
