"""Data sets become worklist items, complete or not at all."""

from collections.abc import Callable
from typing import Any

import pytest
from worklists import ORDER, STEP, code, item, item_dataset, json_of

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.uids import is_uid
from pacs_server.dicom.worklist import ItemStatus, items_of_order
from pacs_server.errors import InvalidWorklistItem


def order(**values: Any) -> dict[str, Any]:
    return json_of(item_dataset(**values))


def test_an_item_is_the_whole_data_set() -> None:
    found = item()
    assert found.identity == ("A1", "RP1", "SPS1")
    assert (found.study_instance_uid, found.generated) == ("1.2.3.1", False)
    assert (found.status, found.source) == (ItemStatus.SCHEDULED, "test")
    assert found.data_set["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Anna"}]}
    assert text_of(found.step, "00400001") == "CT1"
    assert [text_of(each, "00080100") for each in found.step["00400008"]["Value"]] == ["TX1", "TX2"]


def test_one_item_for_each_step() -> None:
    second = STEP | {"ScheduledStationAETitle": "CT2", "ScheduledProcedureStepID": "SPS2"}
    first, other = items_of_order(order(ScheduledProcedureStepSequence=[STEP, second]), "test")
    assert [each.scheduled_procedure_step_id for each in (first, other)] == ["SPS1", "SPS2"]
    assert [text_of(each.step, "00400001") for each in (first, other)] == ["CT1", "CT2"]
    assert all(len(each.data_set["00400100"]["Value"]) == 1 for each in (first, other))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientName", None), ("PatientName", ""), ("PatientName", "^"), ("PatientID", None), ("PatientID", "")],
)
def test_a_patient_is_needed(keyword: str, value: str | None) -> None:
    with pytest.raises(InvalidWorklistItem, match=rf"^{keyword} \(0010,00.0\) is missing$"):
        item(**{keyword: value})


@pytest.mark.parametrize(
    "keyword",
    ["ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "Modality"],
)
@pytest.mark.parametrize("value", [None, ""])
def test_place_and_time_are_needed(keyword: str, value: str | None) -> None:
    with pytest.raises(InvalidWorklistItem, match=rf"^{keyword} \(....,....\) is missing$"):
        item({keyword: value})


@pytest.mark.parametrize(
    ("step", "order"),
    [
        ({"ScheduledProcedureStepStartDate": "20260230x"}, {}),
        ({"ScheduledProcedureStepStartTime": "25"}, {}),
        ({"ScheduledStationAETitle": "A title that is too long"}, {}),
        ({"Modality": "c t"}, {}),
        ({"ScheduledProcedureStepID": "17 characters long"}, {}),
        ({}, {"StudyInstanceUID": "1.2.x"}),
        ({}, {"AccessionNumber": "17 characters long"}),
        ({}, {"RequestedProcedureID": "17 characters long"}),
    ],
)
def test_values_have_to_be_valid(step: dict[str, Any], order: dict[str, Any]) -> None:
    (keyword,) = step or order
    with pytest.raises(InvalidWorklistItem, match=f"^{keyword} "):
        item(step, **order)


@pytest.mark.parametrize(
    ("step", "order"),
    [
        ({}, {"PatientID": "P\\1"}),
        ({}, {"AccessionNumber": "A\\1"}),
        ({}, {"RequestedProcedureID": "\\R1"}),
        ({"ScheduledProcedureStepID": "S1\\"}, {}),
    ],
)
def test_an_identifier_has_one_value(step: dict[str, Any], order: dict[str, Any]) -> None:
    """Otherwise a search for `P` or for `1` would find the item of a patient whose ID was typed with a backslash."""
    (keyword,) = step or order
    with pytest.raises(InvalidWorklistItem, match=f"^{keyword} .* has several values: a backslash separates them"):
        item(step, **order)


def test_old_dates_and_times_become_new_ones() -> None:
    found = item(
        {"ScheduledProcedureStepStartDate": "2026.01.05", "ScheduledProcedureStepStartTime": "09:30"},
    )
    assert (text_of(found.step, "00400002"), text_of(found.step, "00400003")) == ("20260105", "0930")


def test_a_step_is_needed() -> None:
    for given in (None, []):
        with pytest.raises(InvalidWorklistItem, match="ScheduledProcedureStepSequence"):
            items_of_order(order(ScheduledProcedureStepSequence=given), "test")


def test_two_steps_need_two_ids() -> None:
    with pytest.raises(InvalidWorklistItem, match="is the same in two steps"):
        items_of_order(order(ScheduledProcedureStepSequence=[STEP, STEP]), "test")


# ------------------------------------------------------------------------------------ descriptions

NO_STEP_TEXT = {"ScheduledProcedureStepDescription": None, "ScheduledProtocolCodeSequence": None}
NO_ORDER_TEXT = {"RequestedProcedureDescription": None, "RequestedProcedureCodeSequence": None}


@pytest.mark.parametrize(
    ("step", "order", "texts"),
    [
        (NO_STEP_TEXT, {}, ("CT thorax", "CT thorax")),
        ({}, NO_ORDER_TEXT, ("Thorax native", "Thorax native")),
        (NO_STEP_TEXT | {"ScheduledProtocolCodeSequence": [code("X", "")]}, NO_ORDER_TEXT, ("", "X")),
        (NO_STEP_TEXT, NO_ORDER_TEXT | {"RequestedProcedureCodeSequence": [code("X", "Chest")]}, ("Chest", "")),
    ],
)
def test_one_description_stands_in_for_the_other(
    step: dict[str, Any], order: dict[str, Any], texts: tuple[str, str]
) -> None:
    found = item(step, **order)
    assert (text_of(found.step, "00400007"), text_of(found.data_set, "00321060")) == texts


def test_a_description_or_code_is_needed() -> None:
    with pytest.raises(InvalidWorklistItem, match=r"^ScheduledProcedureStepDescription \(0040,0007\) is missing$"):
        item(NO_STEP_TEXT, **NO_ORDER_TEXT)


# ------------------------------------------------------------------------------------ identifiers that are made

BARE = {"AccessionNumber": None, "RequestedProcedureID": None, "StudyInstanceUID": None}


def test_what_is_absent_is_made_once_for_the_same_order() -> None:
    first, again = (item({"ScheduledProcedureStepID": None}, **BARE) for _ in range(2))
    assert first == again
    assert first.generated
    assert is_uid(first.study_instance_uid)
    assert first.study_instance_uid.startswith("2.25.")
    assert first.accession_number == ""
    for text in (first.requested_procedure_id, first.scheduled_procedure_step_id):
        assert 0 < len(text) <= 16
    assert text_of(first.data_set, "0020000D") == first.study_instance_uid
    assert text_of(first.data_set, "00401001") == first.requested_procedure_id
    assert text_of(first.step, "00400009") == first.scheduled_procedure_step_id


@pytest.mark.parametrize(
    "other",
    [
        lambda: item({"ScheduledProcedureStepID": None}, **(BARE | {"PatientID": "P2"})),
        lambda: item({"ScheduledProcedureStepID": None, "ScheduledProcedureStepStartTime": "1000"}, **BARE),
        lambda: item({"ScheduledProcedureStepID": None, "Modality": "MR"}, **BARE),
        lambda: item({"ScheduledProcedureStepID": None}, **(BARE | {"AccessionNumber": "A1"})),
    ],
)
def test_another_order_gets_others(other: Callable[[], Any]) -> None:
    one = item({"ScheduledProcedureStepID": None}, **BARE)
    assert one.identity != other().identity
    assert one.study_instance_uid != other().study_instance_uid


def test_an_order_with_a_number_keeps_its_ids_when_it_is_moved() -> None:
    without = {"RequestedProcedureID": None, "StudyInstanceUID": None}
    one = item({"ScheduledProcedureStepID": None}, **without)
    moved = item({"ScheduledProcedureStepID": None, "ScheduledProcedureStepStartDate": "20260202"}, **without)
    assert (one.identity, one.study_instance_uid) == (moved.identity, moved.study_instance_uid)


def test_steps_without_ids_get_different_ones() -> None:
    step = {key: value for key, value in STEP.items() if key != "ScheduledProcedureStepID"}
    found = items_of_order(order(StudyInstanceUID=None, ScheduledProcedureStepSequence=[step, step]), "test")
    assert len({each.scheduled_procedure_step_id for each in found}) == 2
    assert len({each.study_instance_uid for each in found}) == 1


# ------------------------------------------------------------------------------------ values


def test_what_no_database_takes_is_dropped() -> None:
    assert text_of(item(PatientName="Do\0e^\ud800John").data_set, "00100010") == "Doe^John"


def test_attributes_are_in_the_order_of_their_tags() -> None:
    backwards = dict(reversed(order().items()))
    backwards["00400100"]["Value"][0] = dict(reversed(backwards["00400100"]["Value"][0].items()))
    (found,) = items_of_order(backwards, "test")
    assert list(found.data_set) == sorted(found.data_set)
    assert list(found.step) == sorted(found.step)
    assert found == item()


def test_items_are_in_unicode() -> None:
    charset = {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00100000": {"vr": "UL", "Value": [8]}}
    values = order()
    values["00400100"]["Value"][0] |= charset
    (found,) = items_of_order(values | charset, "test")
    assert found == item()


def test_the_test_data_are_complete() -> None:
    assert set(STEP) <= {element.keyword for element in item_dataset().ScheduledProcedureStepSequence[0]}
    assert set(ORDER) <= {element.keyword for element in item_dataset()}
