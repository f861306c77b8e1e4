"""The table of attributes and the life of a step, without network and database."""

from typing import Any

import pytest

from pacs_server.dicom.mpps import (
    REQUIREMENTS,
    PerformedInstance,
    Requirement,
    ScheduledStep,
    created,
    performed_instances,
    scheduled_steps,
    selected,
    status_of_item,
    updated,
)
from pacs_server.errors import (
    AttributeRefused,
    InvalidAttributeValue,
    MissingAttribute,
    MissingAttributeValue,
    ProcedureStepClosed,
)

JSON = dict[str, Any]
STATUS, SERIES, SCHEDULED, END_DATE, END_TIME = "00400252", "00400340", "00400270", "00400250", "00400251"


def element(requirement: Requirement) -> JSON:
    """A value for every attribute."""
    if requirement.keyword.endswith("Sequence"):
        return {"vr": "SQ", "Value": [{row.tag: element(row) for row in requirement.items}]}
    if requirement.keyword.endswith("UID"):
        return {"vr": "UI", "Value": ["1.2.3"]}
    return {"vr": "LO", "Value": ["IN PROGRESS"]}


def whole() -> JSON:
    """A step in progress with every attribute of the table."""
    return {requirement.tag: element(requirement) for requirement in REQUIREMENTS}


def text(value: str) -> JSON:
    return {"vr": "CS", "Value": [value]}


def places(requirements: tuple[Requirement, ...], *above: str) -> list[tuple[tuple[str, ...], Requirement]]:
    found = []
    for requirement in requirements:
        found.append((above, requirement))
        found += places(requirement.items, *above, requirement.tag)
    return found


PLACES = places(REQUIREMENTS)


def at(data_set: JSON, path: tuple[str, ...]) -> JSON:
    for tag in path:
        data_set = data_set[tag]["Value"][0]
    return data_set


def test_a_whole_step_is_as_it_was_sent() -> None:
    assert created(whole()) == whole()


def test_the_table_is_that_of_the_standard() -> None:
    """PS3.4 Table F.7.2-1, counted by hand at the top level."""
    types = [requirement.type for requirement in REQUIREMENTS]
    assert (types.count(1), types.count(2)) == (7, 15)
    assert {r.keyword for r in REQUIREMENTS if r.final} == {
        "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence",
    }  # fmt: skip
    assert sum(r.settable for r in REQUIREMENTS) == 11


@pytest.mark.parametrize(("path", "requirement"), PLACES, ids=lambda value: getattr(value, "keyword", None))
def test_attributes_that_are_missing(path: tuple[str, ...], requirement: Requirement) -> None:
    data_set = whole()
    del at(data_set, path)[requirement.tag]
    if requirement.type > 1:
        created(data_set)
        return
    with pytest.raises(MissingAttribute, match=requirement.keyword) as caught:
        created(data_set)
    assert caught.value.tag == requirement.tag


@pytest.mark.parametrize("empty", [{}, {"Value": []}, {"Value": [None]}, {"Value": [""]}])
@pytest.mark.parametrize(("path", "requirement"), PLACES, ids=lambda value: getattr(value, "keyword", None))
def test_attributes_that_are_empty(path: tuple[str, ...], requirement: Requirement, empty: JSON) -> None:
    data_set = whole()
    target = at(data_set, path)
    if target[requirement.tag]["vr"] == "SQ" and empty.get("Value"):
        return
    target[requirement.tag] = {"vr": target[requirement.tag]["vr"]} | empty
    if requirement.type > 1:
        created(data_set)
        return
    with pytest.raises(MissingAttributeValue, match=requirement.keyword):
        created(data_set)


@pytest.mark.parametrize(
    ("path", "tag", "value"),
    [
        ((), STATUS, text("COMPLETED")),
        ((), STATUS, text("in progress")),
        ((SCHEDULED,), "0020000D", {"vr": "UI", "Value": ["1.2.x"]}),
        ((SERIES,), "0020000E", {"vr": "UI", "Value": ["1.2.3", "1..2"]}),
        ((SERIES, "00081140"), "00081155", {"vr": "UI", "Value": ["1." * 33 + "1"]}),
        ((), SCHEDULED, {"vr": "UN", "InlineBinary": "AAAA"}),
        ((), "00080060", {"vr": "SQ", "Value": [{}]}),
    ],
)
def test_values_that_may_not_be(path: tuple[str, ...], tag: str, value: JSON) -> None:
    data_set = whole()
    at(data_set, path)[tag] = value
    with pytest.raises(AttributeRefused) as caught:
        created(data_set)
    assert caught.value.tag == tag


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.keyword)
def test_what_may_be_set(requirement: Requirement) -> None:
    """What is not allowed may be repeated, and neither changed nor emptied."""
    step = created(whole())
    if requirement.settable and requirement.tag != STATUS:
        new = {**element(requirement), "Value": [*element(requirement)["Value"], *element(requirement)["Value"]]}
        assert updated(step, {requirement.tag: new})[requirement.tag] == new
        return
    assert updated(step, {requirement.tag: step[requirement.tag]}) == step
    for other in ({"vr": step[requirement.tag]["vr"]}, text("other")):
        with pytest.raises(AttributeRefused):
            updated(step, {requirement.tag: other})


def test_attributes_beyond_the_table_may_be_set_and_identity_may_not() -> None:
    step = updated(created(whole()), {"00091001": text("x"), "00080018": text("1.2"), "00080005": text("ISO_IR 192")})
    assert step == whole() | {"00091001": text("x")}


@pytest.mark.parametrize("end", ["COMPLETED", "DISCONTINUED"])
def test_a_step_ends_once(end: str) -> None:
    step = updated(created(whole()), {STATUS: text(end)})
    for modifications in ({}, {STATUS: text("COMPLETED")}, {STATUS: text("IN PROGRESS")}, {"00100010": text("x")}):
        with pytest.raises(ProcedureStepClosed, match="may no longer be updated"):
            updated(step, modifications)


@pytest.mark.parametrize("end", ["COMPLETED", "DISCONTINUED"])
@pytest.mark.parametrize("tag", [SERIES, END_DATE, END_TIME])
def test_what_a_step_needs_to_end(end: str, tag: str) -> None:
    step = created({t: e for t, e in whole().items() if t != tag})
    with pytest.raises(MissingAttribute):
        updated(step, {STATUS: text(end)})
    with pytest.raises(MissingAttributeValue):
        updated(step, {STATUS: text(end), tag: {"vr": whole()[tag]["vr"]}})
    assert updated(step, {STATUS: text(end), tag: whole()[tag]})[STATUS] == text(end)


def test_status_has_one_of_three_values() -> None:
    step = created(whole())
    assert updated(step, {STATUS: text("IN PROGRESS")}) == step | {STATUS: text("IN PROGRESS")}
    with pytest.raises(InvalidAttributeValue):
        updated(step, {STATUS: text("DONE")})


def test_what_a_step_refers_to() -> None:
    reference = {"00081150": text("1.2"), "00081155": text("1.3")}
    other = {"00081150": text("1.2"), "00081155": text("1.4")}
    series = [
        {"0020000E": text("1"), "00081140": {"vr": "SQ", "Value": [reference, other]}},
        {"0020000E": text("2"), "00400220": {"vr": "SQ", "Value": [reference | {"00081155": text("1.5")}, other]}},
    ]
    found = performed_instances({SERIES: {"vr": "SQ", "Value": series}})
    assert {each.sop_instance_uid for each in found} == {"1.3", "1.4", "1.5"}
    assert found[0] == PerformedInstance("1", "1.2", "1.3")
    assert len(found) == 3
    assert performed_instances({}) == ()
    assert scheduled_steps({SCHEDULED: {"vr": "SQ", "Value": [{"0020000D": text("1.9")}]}}) == (
        ScheduledStep("1.9", "", "", ""),
    )


def test_selected() -> None:
    step = {"00080005": text("ISO_IR 100"), "00091001": text("x"), "00100020": text("P")}
    everything, supported = selected(step, [])
    assert supported
    assert everything.items() >= step.items()
    assert everything["00100010"] == {"vr": "PN"}
    assert "00100021" not in everything  # of type 3
    assert selected(step, [0x00100020]) == ({"00080005": text("ISO_IR 100"), "00100020": text("P")}, True)
    assert selected(step, [0x00091001])[1]
    assert selected(step, [0x00100021]) == ({"00080005": text("ISO_IR 100")}, True)
    assert not selected(step, [0x00100020, 0x00280010])[1]


@pytest.mark.parametrize(
    ("steps", "returning", "staying"),
    [
        (["IN PROGRESS"], "IN PROGRESS", "IN PROGRESS"),
        (["COMPLETED"], "COMPLETED", "COMPLETED"),
        (["DISCONTINUED"], "SCHEDULED", "DISCONTINUED"),
        (["COMPLETED", "IN PROGRESS"], "IN PROGRESS", "IN PROGRESS"),
        (["COMPLETED", "DISCONTINUED"], "COMPLETED", "COMPLETED"),
        (["DISCONTINUED", "DISCONTINUED"], "SCHEDULED", "DISCONTINUED"),
    ],
)
def test_status_of_an_item(steps: list[str], returning: str, staying: str) -> None:
    assert status_of_item(steps, discontinued_returns=True) == returning
    assert status_of_item(steps, discontinued_returns=False) == staying
