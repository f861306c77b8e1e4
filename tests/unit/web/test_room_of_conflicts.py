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
    assert "Move this study to another patient?" in look
    fields = {name: value for name, value in _hidden(look).items() if name in ("study", "target")}
    assert "Done: 1 study, 1 image." in rooms.submit("/conflicts/reassign", **fields, reason="wrong choice")
    counts = {row["PatientName"]: row["NumberOfPatientRelatedStudies"] for row in rooms.get("/patients")["items"]}
    assert counts == {"Roe^Jane": 1, "Row^Jane": 2}


def _given(page: str, number: int = 0) -> tuple[str, list[str], list[str]]:
    """What a conflict offers for giving a study away: its name, the studies, and to whom."""
    form = page.split('name="conflict" value="')[1 + number].partition("</form>")[0]
    return (
        form.partition('"')[0],
        [unescape(each) for each in re.findall(r'<option value="([^"]+)"', form)],
        [unescape(each) for each in re.findall(r'type="radio" name="target" value="([^"]*)"', form)],
    )


def test_a_conflict_offers_to_give_a_study_to_one_of_its_patients_or_to_somebody_else(rooms: Rooms) -> None:
    rooms.store([make_ct(PatientName="Poe^Edgar", PatientID="1845", StudyDescription="Knee")])
    page = rooms.page("/conflicts")
    conflict, studies, people = _given(page)
    assert (len(studies), len(people), people[-1]) == (3, 3, "other")
    assert re.search(r">Row, Jane: [^<]*, &lt;b&gt;Head&lt;/b&gt;, 1 image</option>", page)
    look = rooms.page(f"/conflicts/reassign?conflict={conflict}&study={studies[2]}&target={people[0]}&other=")
    assert "Move this study to another patient?" in look
    fields = {name: value for name, value in _hidden(look).items() if name in ("study", "target")}
    assert fields == {"study": studies[2], "target": people[0]}
    look = rooms.page(f"/conflicts/reassign?conflict={conflict}&study={studies[2]}&target=other&other=1845")
    assert "Poe, Edgar" in look
    assert rooms.page("/conflicts") == page, "looking has changed something"
    fields = {name: value for name, value in _hidden(look).items() if name in ("study", "target")}
    done = rooms.submit("/conflicts/reassign", **fields, reason="<b>wrong ID</b>")
    assert "Done: 1 study, 1 image." in done
    assert "There are no conflicts." in done
    counts = {row["PatientName"]: row["NumberOfPatientRelatedStudies"] for row in rooms.get("/patients")["items"]}
    assert counts == {"Roe^Jane": 2, "Poe^Edgar": 2}
    assert rooms.archive.trail is not None
    details = [record.event.detail for record, _ in rooms.archive.trail.records_after(None)]
    assert details.count("reassigned, change 1: <b>wrong ID</b>") == 2, "one for each patient"


def test_what_cannot_be_given_comes_back_in_the_conflict(rooms: Rooms) -> None:
    conflict, studies, people = _given(rooms.page("/conflicts"))
    for target, other, told in (
        ("other", "", "The Patient ID of the other patient has to be given."),
        ("other", "SYN<33", "There is no patient of ID SYN&lt;33: only"),
        (people[1], "", "That is one and the same patient."),
    ):
        page = rooms.page(
            f"/conflicts/reassign?conflict={conflict}&study={studies[2]}&target={target}&other={other}", 409
        )
        assert told in page
        assert '<details class="keep" open><summary>A study belongs to somebody else' in page
        form = page.partition('name="conflict"')[2].partition("</form>")[0]
        assert told in form
        assert f'value="{studies[2]}" selected' in form
        assert f'name="target" value="{target}" required checked' in form
        assert f'name="other" value="{other.replace("<", "&lt;")}"' in form
    gone = rooms.page(f"/conflicts/reassign?conflict=000000000000&study=@999-ffff&target={people[0]}&other=", 409)
    assert '<p class="problem" role="alert">There is no study @999-ffff any more; list them again.</p>' in gone


def test_a_study_that_somebody_has_given_away_meanwhile_is_not_given_once_more(rooms: Rooms) -> None:
    """Also if the study was typed, as its UID."""
    uid = rooms.get("/studies?StudyDescription=Thorax")["items"][0]["StudyInstanceUID"]
    rooms.store([make_ct(PatientName="Poe^Edgar", PatientID="1845")])
    look = rooms.page(f"/conflicts/reassign?study={uid}&target=1845")
    fields = {name: value for name, value in _hidden(look).items() if name in ("study", "target")}
    target = next(
        each["reference"] for each in rooms.get("/conflicts")["patients"][0] if each["patient_name"][:3] == "Row"
    )
    rooms.send("POST", "/conflicts/reassign", {"study": uid, "target": target, "reason": "mine"})
    page = rooms.submit("/conflicts/reassign", 409, **fields, reason="yours")
    assert "any more; list them again" in page
    counts = {row["PatientName"]: row["NumberOfPatientRelatedStudies"] for row in rooms.get("/patients")["items"]}
    assert counts == {"Roe^Jane": 1, "Row^Jane": 2, "Poe^Edgar": 1}


def test_a_study_of_several_patients_is_given_to_one_of_them(rooms: Rooms) -> None:
    uid = rooms.get("/studies?StudyDescription=Thorax")["items"][0]["StudyInstanceUID"]
    rooms.store([make_ct(PatientName="Poe^Edgar", PatientID="1845", StudyInstanceUID=uid)])
    conflict, studies, people = _given(rooms.page("/conflicts"), 1)
    assert (len(studies), len(people)) == (2, 3)
    look = rooms.page(f"/conflicts/reassign?conflict={conflict}&study={studies[1]}&target={people[0]}&other=")
    fields = {name: value for name, value in _hidden(look).items() if name in ("study", "target")}
    assert "Done: 1 study, 1 image." in rooms.submit("/conflicts/reassign", **fields, reason="one study")
    assert rooms.archive.patients.conflicts().studies == ()


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
