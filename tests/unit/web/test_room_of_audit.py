"""The page of the audit trail, the words for its records, and its export."""

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rooms import Rooms
from servers import eventually

from pacs_server.audit import verification
from pacs_server.audit.events import EventID, EventType, Outcome
from pacs_server.dicom.caller import Role
from pacs_server.errors import ResourceLimitation
from pacs_server.web.api.audit import EventKind
from pacs_server.web.pages.audit import wanted
from pacs_server.web.pages.audit_verification import meaning_of
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
    assert "There are no such records." in rooms.page("/audit?when=yesterday")
    assert "There are no such records." in rooms.page("/audit?failed=true&event=query")
    assert rooms.last_audited().event.event_id is EventID.AUDIT_LOG_USED


def test_searches_can_be_left_out(rooms: Rooms) -> None:
    (study,) = rooms.study(PatientID="P7")
    rooms.get("/studies", params={"PatientID": "P7"})
    rooms.get(f"/instances/{study.SOPInstanceUID}/tags")
    every = rooms.page("/audit?patient=P7")
    assert "<td>searched" in every
    # The patient in a row leads to what was done, which is less than what was searched.
    link = every.split('class="light" href="')[1].split('"')[0].replace("&amp;", "&")
    assert link == "/audit?patient=P7&event=no_query"
    page = rooms.page(link)
    assert "looked at images or fetched them" in page
    assert "<td>searched" not in page
    assert 'href="/api/v1/audit/export?form=csv&amp;patient=P7&amp;without=query"' in page
    assert 'Searches are left out. <a href="/audit?patient=P7">Show them too</a>' in " ".join(page.split())


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


@pytest.mark.parametrize(
    ("participants", "words"),
    [
        ([{"ae": "CT1", "role": "110153", "requestor": True}, {"ae": "PACS", "role": "110152"}],
         "sent images to this archive"),
        ([{"ae": "PACS", "role": "110153"}, {"user": "ann", "role": "110152", "requestor": True}],
         "looked at images or fetched them"),
        ([{"ae": "PACS", "role": "110153"}, {"ae": "WS1", "address": "10.0.0.1", "role": "110152"},
          {"user": "ann", "requestor": True}], "sent images to another system"),
        ([{"ae": "WS1", "address": "10.0.0.1", "role": "110153"}, {"ae": "PACS", "role": "110152"},
          {"user": "ann", "requestor": True}], "transferred images"),
        ([], "transferred images"),
    ],
)  # fmt: skip
def test_it_is_told_which_way_images_went(participants: list[dict[str, Any]], words: str) -> None:
    assert deed({"id": "110104", "action": "R", "participants": participants}) == words


def test_words_for_days() -> None:
    today = date(2026, 3, 1)
    assert wanted({"when": "today"}, today) == {"first": "2026-03-01", "last": "2026-03-01"}
    assert wanted({"when": "yesterday"}, today) == {"first": "2026-02-28", "last": "2026-02-28"}
    assert wanted({"when": "week", "first": "2020-01-01"}, today) == {"first": "2026-02-23", "last": "2026-03-01"}
    assert wanted({"when": "x", "failed": "y"}, today) == {}
    assert wanted({"event": "no_query"}, today) == {"without": "query"}


def finished(rooms: Rooms) -> dict[str, Any]:
    """The state of the verification once none runs."""
    assert eventually(lambda: not rooms.get("/audit/verification")["running"])
    state: dict[str, Any] = rooms.get("/audit/verification")
    return state


def test_the_trail_is_verified_in_the_background(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(120):
        rooms.get("/studies")
    assert "not been verified on this page yet" in rooms.page("/audit/verification")
    # It waits after a hundred records, so that it is still there when it is asked.
    monkeypatch.setattr(verification, "_PAUSE", 60.0)
    page = rooms.submit("/audit/verification")
    assert eventually(lambda: rooms.get("/audit/verification")["checked"] == 100)
    assert "is being verified" in page
    assert rooms.send("POST", "/audit/verification", None, 202)["running"]
    begun = [record for record in rooms.audited() if record.event.detail == "verification begins"]
    assert len(begun) == 1
    # The server does not wait for it when it stops.
    assert rooms.archive.verification is not None
    rooms.archive.verification.close()
    assert not rooms.get("/audit/verification")["running"]
    assert rooms.get("/audit/verification")["last"] is None


def test_without_a_thread_nothing_is_verified_and_the_server_can_stop(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    assert rooms.archive.verification is not None
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ResourceLimitation):
            rooms.archive.verification.start(rooms.caller)
    assert not rooms.archive.verification.running
    rooms.archive.verification.close()


def test_what_was_found_is_told_and_recorded(rooms: Rooms) -> None:
    rooms.get("/studies")
    rooms.page("/audit/verification")
    rooms.submit("/audit/verification")
    last = finished(rooms)["last"]
    assert (last["in_order"], last["by"], last["first"]) == (True, "ann", 1)
    assert last["mac"] in rooms.page("/audit/verification")
    detail = f"verification: in order: records 1 to {last['last']}, MAC {last['mac']}"
    assert any(record.event.detail == detail for record in rooms.audited())
    [day] = rooms.config.audit.directory.glob("audit-*.jsonl")
    day.write_bytes(day.read_bytes().replace(b'"user":"ann"', b'"user":"bob"', 1))
    rooms.page("/audit/verification")
    rooms.submit("/audit/verification")
    last = finished(rooms)["last"]
    assert not last["in_order"]
    page = rooms.page("/audit/verification")
    assert ">fault found<" in page
    assert "A record was changed." in page
    assert rooms.last_audited().event.outcome is Outcome.SERIOUS_FAILURE


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        ("audit-2026-03-01.jsonl line 17: record 17: changed: its MAC is not that of its content", "was changed"),
        ("head line 1: missing: the file is not there", "are missing"),
        ("audit-2026-03-01.jsonl line 3: torn: it does not end", "is incomplete"),
        ("the audit trail cannot be read: no such file", "could not be read"),
    ],
)
def test_a_finding_is_explained(problem: str, why: str) -> None:
    assert why in meaning_of(problem).why
