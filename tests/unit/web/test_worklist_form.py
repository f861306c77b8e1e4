"""The form of an order: what people type becomes what DICOM wants, and what they leave alone stays as it was."""

from typing import Any

import pytest

from pacs_server.intake.worklist_fields import order_of_fields
from pacs_server.web.pages.worklist_form import changed, problems, shown, texts, typed

ORDER = {
    "PatientName": "Roe^Jane^Ann", "PatientID": "P7", "PatientBirthDate": "19701231", "PatientSex": "F",
    "Modality": "CT", "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20261130",
    "ScheduledProcedureStepStartTime": "0715",
}  # fmt: skip


def order(**fields: str) -> dict[str, Any]:
    return order_of_fields(ORDER | fields, "fields")


@pytest.mark.parametrize(
    ("keyword", "written", "meant"),
    [
        ("PatientName", "Miller, Anna Maria", "Miller^Anna Maria"),
        ("PatientName", "Miller", "Miller"),
        ("PatientName", "Miller^Anna^^Dr", "Miller^Anna^^Dr"),
        # Nobody knows what this is about.
        ("PatientName", "Miller, Anna, Dr", "Miller, Anna, Dr"),
        ("Modality", "ct", "CT"),
        ("ScheduledStationAETitle", "ct1", "ct1"),
    ],
)
def test_what_is_meant_by_what_is_written(keyword: str, written: str, meant: str) -> None:
    assert typed({keyword: f" {written} "})[keyword] == meant


def test_an_order_is_shown_as_browsers_and_people_want_it() -> None:
    told = shown(order(PatientName="Roe^Jane"))
    assert told["PatientName"] == "Roe, Jane"
    assert (told["PatientBirthDate"], told["ScheduledProcedureStepStartTime"]) == ("1970-12-31", "07:15")
    assert shown(order())["PatientName"] == "Roe^Jane^Ann"


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = problems(typed({"PatientBirthDate": "12/31/70", "ScheduledStationAETitle": "A" * 17}))
    assert list(found) == ["PatientBirthDate", "ScheduledStationAETitle"]
    assert found["PatientBirthDate"].startswith("a date such as 2026-01-31")


def test_only_what_was_changed_is_changed() -> None:
    # A time with a fraction is not what a browser can show.
    before = order(PatientName="Roe^Jane")
    before["00400100"]["Value"][0]["00400003"]["Value"] = ["071530.25"]
    after = changed(before, typed(shown(before) | {"PatientName": "Roe, June", "ScheduledStationAETitle": "CT2"}))
    assert texts(after) == texts(before) | {"PatientName": "Roe^June", "ScheduledStationAETitle": "CT2"}
