"""The form of an order: whoever saves it undoes nothing that somebody else has changed meanwhile."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rooms import Rooms

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.worklist_form import shown

ORDER = {
    "PatientName": "Roe^Jane", "PatientID": "P7", "AccessionNumber": "A7", "Modality": "CT",
    "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20261130",
    "ScheduledProcedureStepStartTime": "0715", "RequestedProcedureDescription": "CT of the head",
}  # fmt: skip


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    rooms.act_as(Role.CONTRIBUTOR)
    rooms.send("POST", "/worklist", {"fields": ORDER}, 201)
    yield rooms
    rooms.close()


def order(rooms: Rooms) -> dict[str, Any]:
    found: dict[str, Any] = rooms.get("/worklist/1")
    return found


def form(page: str) -> dict[str, str]:
    """What a browser would send of the form."""
    inputs = re.findall(r'<input (?:id="\w+" |type="hidden" )name="(\w+)"[^>]*? value="([^"]*)"', page)
    return {name: unescape(value) for name, value in inputs if name != "token"}


def move(rooms: Rooms, time: str) -> None:
    """Somebody else gives the order another time."""
    data_set = order(rooms)["data_set"]
    data_set["00400100"]["Value"][0]["00400003"] = {"vr": "TM", "Value": [time]}
    rooms.send("PUT", "/worklist/1", {"data_set": data_set})


def test_what_somebody_else_has_changed_stays_until_it_was_seen(rooms: Rooms) -> None:
    written = form(rooms.page("/worklist/1")) | {"PatientName": "Roe, June"}
    move(rooms, "0930")
    page = rooms.submit("/worklist/1", 412, **written)
    told = shown(order(rooms)["data_set"])
    assert (told["PatientName"], told["ScheduledProcedureStepStartTime"]) == ("Roe, Jane", "09:30")
    assert "Somebody has changed this order" in page
    assert "<li>Time: 09:30</li>" in page
    # What was typed is still there, and is taken by whoever has seen the other change.
    again = form(page)
    assert (again["PatientName"], again["ScheduledProcedureStepStartTime"]) == ("Roe, June", "07:15")
    rooms.submit("/worklist/1", **again | {"ScheduledProcedureStepStartTime": "09:30"})
    told = shown(order(rooms)["data_set"])
    assert (told["PatientName"], told["ScheduledProcedureStepStartTime"]) == ("Roe, June", "09:30")


def test_a_form_that_was_wrong_first_is_still_the_one_that_was_opened(rooms: Rooms) -> None:
    written = form(rooms.page("/worklist/1"))
    move(rooms, "0930")
    page = rooms.submit("/worklist/1", 400, **written | {"PatientBirthDate": "some day"})
    rooms.submit("/worklist/1", 412, **form(page) | {"PatientBirthDate": "1970-12-31"})
    rooms.submit("/worklist/1", 412, **{name: text for name, text in written.items() if name != "seen"})
    assert shown(order(rooms)["data_set"])["ScheduledProcedureStepStartTime"] == "09:30"


def test_an_order_that_nobody_else_has_changed_is_saved(rooms: Rooms) -> None:
    rooms.submit("/worklist/1", **form(rooms.page("/worklist/1")) | {"Modality": "mr"})
    assert shown(order(rooms)["data_set"])["Modality"] == "MR"
