"""The page of conflicts: patients side by side, what a decision would change, and the decision."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from datasets import make_ct
from rooms import Rooms

from pacs_server.dicom.caller import Role


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    rooms.store(
        [
            make_ct(PatientName="Roe^Jane", PatientID="4711", StudyDescription="Thorax"),
            make_ct(PatientName="Roe^Jane", PatientID="4711", StudyDescription="Abdomen"),
            make_ct(PatientName="Row^Jane", PatientID="4711", StudyDescription="<b>Head</b>"),
        ]
    )
    rooms.act_as(Role.OPERATOR)
    yield rooms
    rooms.close()


def _link(page: str, beginning: str, number: int = 0) -> str:
    return unescape(re.findall(rf'href="({re.escape(beginning)}[^"]*)"', page)[number])


def _hidden(page: str) -> dict[str, str]:
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page)}


def test_patients_stand_side_by_side_and_are_merged_after_a_look(rooms: Rooms) -> None:
    page = rooms.page("/conflicts")
    assert "Several patients with the ID 4711" in page
    assert "&lt;b&gt;Head&lt;/b&gt;" in page
    assert page.count('class="differs"') == 1
    assert "moves 1 study of Row, Jane here, 1 image" in page
    assert "moves 2 studies of Roe, Jane here, 2 images" in page
    look = rooms.page(_link(page, "/conflicts/merge?"))
    assert "Merge these two patients?" in look
    assert rooms.page("/conflicts") == page, "looking has changed something"
    fields = {name: value for name, value in _hidden(look).items() if name in ("source", "target")}
    assert "a reason has to be given" in rooms.submit("/conflicts/merge", 409, **fields, reason=" ").lower()
    done = rooms.submit("/conflicts/merge", **fields, reason="typed wrong")
    assert "Done: 1 study, 1 image." in done
    assert "There are no conflicts." in done
    (row,) = rooms.get("/patients")["items"]
    assert (row["PatientName"], row["NumberOfPatientRelatedStudies"]) == ("Roe^Jane", 3)


def test_a_study_is_given_to_the_other_patient(rooms: Rooms) -> None:
    look = rooms.page(_link(rooms.page("/conflicts"), "/conflicts/reassign?"))
    assert "Give this study to another patient?" in look
    fields = {name: value for name, value in _hidden(look).items() if name in ("study", "target")}
    assert "Done: 1 study, 1 image." in rooms.submit("/conflicts/reassign", **fields, reason="wrong choice")
    counts = {row["PatientName"]: row["NumberOfPatientRelatedStudies"] for row in rooms.get("/patients")["items"]}
    assert counts == {"Roe^Jane": 1, "Row^Jane": 2}


def test_a_patient_without_a_study_gets_none(rooms: Rooms) -> None:
    study = rooms.get("/studies")["items"][0]["StudyInstanceUID"]
    page = rooms.page(f"/conflicts/reassign?study={study}&target=SYN-33", 409)
    assert "no patient of ID SYN-33: only a patient who has a study here can get others" in page


def test_a_conflict_that_is_none_leaves_the_list_until_somebody_joins_it(rooms: Rooms) -> None:
    rooms.page("/conflicts")
    (about,) = rooms.get("/conflicts")["about"]
    rooms.submit("/conflicts/accept", 409, digest="x", reason="no such")
    page = rooms.submit("/conflicts/accept", digest=about["digest"], reason="<b>twins</b>")
    assert "They stay apart" in page
    assert "There are no conflicts." in page
    assert rooms.archive.patients.count() == 0
    assert rooms.archive.trail is not None
    details = [record.event.detail for record, _ in rooms.archive.trail.records_after(None)]
    assert details.count("kept apart: <b>twins</b>") == 2, "one for each patient"
    page = rooms.page("/conflicts?accepted=yes")
    assert "&lt;b&gt;twins&lt;/b&gt;" in page
    assert "by ann:" in page
    # Another study of one of them is no news, a third patient is.
    rooms.store([make_ct(PatientName="Row^Jane", PatientID="4711")])
    assert rooms.archive.patients.count() == 0
    rooms.store([make_ct(PatientName="Poe^Edgar", PatientID="4711")])
    assert rooms.archive.patients.count() == 1
    assert "Poe, Edgar" in rooms.page("/conflicts")


def test_an_accepted_conflict_is_decided_again(rooms: Rooms) -> None:
    rooms.page("/conflicts")
    (about,) = rooms.get("/conflicts")["about"]
    rooms.submit("/conflicts/accept", digest=about["digest"], reason="twins")
    assert "on the list again" in rooms.submit("/conflicts/reopen", digest=about["digest"])
    assert [each["digest"] for each in rooms.get("/conflicts")["about"]] == [about["digest"]]
    rooms.submit("/conflicts/reopen", 409, digest=about["digest"])


def test_only_operators_see_conflicts(rooms: Rooms) -> None:
    rooms.act_as(Role.CONTRIBUTOR)
    assert "needs the role operator" in rooms.page("/conflicts", 403)
    assert "Roe" not in rooms.page("/conflicts/merge?source=4711&target=1", 403)
