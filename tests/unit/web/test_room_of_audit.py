"""The page of the audit trail, the words for its records, and its export."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from rooms import Rooms

from pacs_server.audit.events import EventID, EventType
from pacs_server.dicom.caller import Role
from pacs_server.web.api.audit import EventKind
from pacs_server.web.pages.audit import wanted
from pacs_server.web.pages.audit_words import KINDS, deed, told


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    yield rooms
    rooms.close()


def test_records_are_told_in_words_and_searched(rooms: Rooms) -> None:
    rooms.study(PatientID="P<b>7", PatientName="Roe^Jane")
    rooms.get("/studies", params={"PatientID": "P<b>7"})
    page = rooms.page("/audit?when=today&event=query&user=ann")
    assert "searched" in page
    assert "10.0.0.9" in page
    assert "P&lt;b&gt;7" in page
    assert "P<b>7" not in page
    assert "Nothing like that was recorded." in rooms.page("/audit?when=yesterday")
    assert "Nothing like that was recorded." in rooms.page("/audit?failed=true&event=query")
    assert rooms.last_audited().event.event_id is EventID.AUDIT_LOG_USED


def test_pages_lead_from_the_newest_to_the_oldest(rooms: Rooms) -> None:
    for _ in range(60):
        rooms.get("/studies")
    page = rooms.page("/audit?event=query")
    assert page.count('<th scope="row">') == 50
    following = page.split('class="more"><a href="')[1].split('"')[0].replace("&amp;", "&")
    assert rooms.page(f"/audit{following}").count('<th scope="row">') == 10


def test_the_trail_is_exported_and_that_is_recorded(rooms: Rooms) -> None:
    rooms.study(PatientID="=1+1")
    rooms.get("/studies", params={"PatientID": "=1+1"})
    answer = rooms.client.get("/api/v1/audit/export?event=query")
    assert answer.headers["content-disposition"].endswith('.csv"')
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["event"], row["users"].partition(";")[0]) == ("Query", "ann")
    assert "export event=query" in rooms.last_audited().event.detail
    lines = rooms.client.get("/api/v1/audit/export?form=json").text.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    rooms.act_as(Role.OPERATOR)
    assert rooms.client.get("/api/v1/audit/export").status_code == 403
    assert "needs the role administrator" in rooms.page("/audit", 403)


def test_every_kind_of_event_has_its_words() -> None:
    assert {each.value for each in EventKind} == {each.name.lower() for each in EventID} == set(KINDS)
    for event in EventID:
        assert deed({"id": event.value[0]}), event
        for kind in EventType:
            assert deed({"id": event.value[0], "type": kind.value[0], "action": "R"})


def test_who_did_it_is_the_requestor() -> None:
    people = [{"user": "PACS", "ae": "PACS"}, {"user": "ann", "ae": "WS1", "address": "10.0.0.1", "requestor": True}]
    found = told({"id": "110104", "participants": people, "outcome": 4})
    assert (found.who, found.where, found.others, found.failed) == ("ann (WS1)", "10.0.0.1", ("PACS",), True)
    assert told({}).who == ""


def test_words_for_days() -> None:
    today = date(2026, 3, 1)
    assert wanted({"when": "today"}, today) == {"first": "2026-03-01", "last": "2026-03-01"}
    assert wanted({"when": "yesterday"}, today) == {"first": "2026-02-28", "last": "2026-02-28"}
    assert wanted({"when": "week", "first": "2020-01-01"}, today) == {"first": "2026-02-23", "last": "2026-03-01"}
    assert wanted({"when": "x", "failed": "y"}, today) == {}
