"""Forms that cannot be taken come back with what was typed, and why, beside the field: conflicts, labels and notes."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from datasets import make_ct
from rooms import Rooms

from pacs_server.dicom.caller import Role
from pacs_server.errors import PatientError

LONG = "L" * 65


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    names = ("Roe^Jane", "Row^Jane")
    rooms.store(
        [
            make_ct(PatientName=name, PatientID="4711", StudyInstanceUID=f"2.25.{uid}")
            for uid, name in enumerate(names, 1)
        ]
    )
    rooms.act_as(Role.OPERATOR)
    yield rooms
    rooms.close()


def _fault(page: str, field: str) -> str:
    """What the page says beside a field, which points to it; each other field has nothing to say."""
    inputs = re.findall(rf'<(?:input|textarea) id="{re.escape(field)}"[^>]*>', page)
    assert len(inputs) == 1, (field, page)
    told = re.search(r'aria-invalid="true" aria-describedby="([^"]+)"', inputs[0])
    assert told is not None, inputs[0]
    assert page.count('aria-invalid="true"') == 1
    beside = re.search(rf'<span class="bad" role="alert" id="{re.escape(told[1])}">([^<]*)</span>', page)
    assert beside is not None, page
    assert "That did not work" not in page
    return unescape(beside[1])


def _value(page: str, field: str) -> str:
    found = re.search(rf'<input id="{re.escape(field)}"[^>]* value="([^"]*)"', page)
    assert found is not None, page
    return unescape(found[1])


def test_a_label_that_is_too_long_comes_back(rooms: Rooms) -> None:
    rooms.page("/studies/2.25.1")
    page = rooms.submit("/studies/2.25.1/marks", 400, add=LONG)
    assert _fault(page, "add") == "A label has 1 to 64 printable characters."
    assert _value(page, "add") == LONG
    assert _fault(rooms.submit("/studies/2.25.1/marks", 400, add=" "), "add")
    assert rooms.get("/studies/2.25.1/marks")["labels"] == []


def test_a_reader_that_cannot_be_comes_back_with_the_state_that_was_chosen(rooms: Rooms) -> None:
    rooms.page("/studies/2.25.1")
    page = rooms.submit("/studies/2.25.1/marks", 400, reading="review", assigned_to="Dr. \x07")
    assert _fault(page, "assigned_to").startswith("The name of who is to read a study has at most 64")
    assert '<option value="review" selected>' in page
    assert rooms.get("/studies/2.25.1/marks")["reading"] == "unread"
    assert "A note has 1" not in page


@pytest.mark.parametrize("text", ["  \n ", "<b>" + "x" * 4000, "a\x07b"])
def test_a_note_comes_back(rooms: Rooms, text: str) -> None:
    rooms.page("/studies/2.25.1")
    page = rooms.submit("/studies/2.25.1/notes", 400, text=text)
    assert _fault(page, "text") == "A note has 1 to 4000 printable characters."
    found = re.search(r'<textarea id="text"[^>]*>(.*?)</textarea>', page, re.DOTALL)
    assert found is not None
    assert unescape(found[1]) == text
    assert rooms.get("/studies/2.25.1/notes")["items"] == []


def test_labels_of_several_studies_come_back(rooms: Rooms) -> None:
    rooms.page("/studies")
    page = rooms.submit("/studies/selected/mark", 400, study="2.25.1", add="", remove="", reading="")
    assert _fault(page, "add") == "Give a label to add or remove, or choose a reading state."
    assert 'name="study" value="2.25.1"' in page
    page = rooms.submit("/studies/selected/mark", 400, study="2.25.1", add="", remove=LONG, reading="read")
    assert _fault(page, "remove")
    assert _value(page, "remove") == LONG
    assert '<option value="read" selected>' in page
    page = rooms.submit("/studies/selected/delete", 400, study="2.25.1", reason=" ")
    assert _fault(page, "reason") == "A reason has to be given."
    assert len(rooms.get("/studies")["items"]) == 2


def _digest(rooms: Rooms) -> str:
    (about,) = rooms.get("/conflicts")["about"]
    return str(about["digest"])


def test_people_are_not_kept_apart_without_a_reason(rooms: Rooms) -> None:
    rooms.page("/conflicts")
    digest = _digest(rooms)
    page = rooms.submit("/conflicts/accept", 409, digest=digest, reason=" ")
    assert _fault(page, f"keep-{digest[:12]}") == "A reason has to be given."
    page = rooms.submit("/conflicts/accept", 400, digest=digest, reason="twins\x07")
    assert _fault(page, f"keep-{digest[:12]}")
    assert _value(page, f"keep-{digest[:12]}") == "twins\x07"
    assert '<details class="keep" open>' in page


def test_a_conflict_that_is_gone_is_told_above_the_list(rooms: Rooms) -> None:
    rooms.page("/conflicts")
    for deed in ("accept", "reopen"):
        page = rooms.submit(f"/conflicts/{deed}", 409, digest="x", reason="twins")
        assert '<p class="problem" role="alert">There is no such conflict any more; list them again.</p>' in page
        assert "Several patients with the ID 4711" in page


def test_a_decision_without_a_reason_shows_once_more_what_will_change(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (person["reference"] for person in rooms.get("/conflicts/patients?patient=4711")["items"])
    rooms.page("/conflicts")
    page = rooms.submit("/conflicts/merge", 409, source=first, target=second, reason=" ")
    assert "Merge these two patients?" in page
    assert _fault(page, "reason") == "A reason has to be given."
    assert f'name="source" value="{first}"' in page

    def late(*_: object, dry_run: bool, **__: object) -> list[object]:
        if dry_run:
            return []
        raise PatientError("somebody else changes patients all the time; nothing was changed")

    with monkeypatch.context() as patch:
        patch.setattr(rooms.archive.patients, "merge", late)
        page = rooms.submit("/conflicts/merge", 409, source=first, target=second, reason="typed wrong")
    assert _fault(page, "reason").startswith("Somebody else changes patients")
    assert _value(page, "reason") == "typed wrong"
    gone = rooms.submit("/conflicts/merge", 409, source="@999-ffff", target=second, reason="typed wrong")
    assert '<p class="problem" role="alert">There is no patient @999-ffff any more' in gone


@pytest.mark.parametrize(
    ("deed", "asked", "field", "told"),
    [
        ("merge", {"source": "4712", "target": "47<11"}, "source", "There is no patient of ID 4712: only"),
        ("merge", {"source": "4711", "target": "47<11"}, "source", "There are several patients of ID 4711: name"),
        ("reassign", {"study": "2.25.1", "target": "SYN-33"}, "target", "There is no patient of ID SYN-33: only"),
        ("reassign", {"study": "2.25.99", "target": "4711"}, "study", "There is no study 2.25.99."),
    ],
)
def test_a_name_of_nobody_comes_back_in_its_form(
    rooms: Rooms, deed: str, asked: dict[str, str], field: str, told: str
) -> None:
    page = rooms.page(f"/conflicts/{deed}?" + "&".join(f"{name}={text}" for name, text in asked.items()), 409)
    assert _fault(page, f"{deed}-{field}").startswith(told)
    assert {name: _value(page, f"{deed}-{name}") for name in asked} == asked
    assert '<details class="card" open>' in page


def test_a_link_to_patients_who_are_gone_leads_to_the_list(rooms: Rooms) -> None:
    page = rooms.page("/conflicts/merge?source=@999-ffff&target=4711", 409)
    assert '<p class="problem" role="alert">There is no patient @999-ffff any more; list them again.</p>' in page
    assert 'value="@999' not in page


def test_whoever_changes_the_language_then_comes_to_a_page(rooms: Rooms) -> None:
    rooms.page("/studies/2.25.1?view=list")
    pages = {
        "/studies/2.25.1?view=list": rooms.page("/studies/2.25.1?view=list"),
        "/studies/2.25.1": rooms.submit("/studies/2.25.1/marks", 400, add=LONG),
        "/conflicts": rooms.submit("/conflicts/accept", 409, digest="", reason=""),
    }
    for path, page in pages.items():
        assert f'<input type="hidden" name="back" value="{path}">' in page
        rooms.page(path)
