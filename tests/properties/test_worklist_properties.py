"""What the database finds in the worklist is what the pure definition says, and answers are what items hold."""

from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import examples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from sqlalchemy import delete
from strategies import encoded, person_names, text_values
from worklists import json_of, keys, numbered

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.worklist import ItemStatus, WorklistItem
from pacs_server.dicom.worklist_query import WorklistEncoder, WorklistQuery, parse_worklist, presented
from pacs_server.errors import InvalidIdentifier, InvalidWorklistItem
from pacs_server.index.database import Database
from pacs_server.index.workflow_models import worklist_item
from pacs_server.index.worklist import WorklistIndex

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"

DAYS = st.integers(20260104, 20260107).map(str)
CLOCK = st.sampled_from(["00", "0930", "093000", "12", "120000.5", "235959"])
STATIONS = st.lists(st.sampled_from(["CT1", "CT2", "MR_1", "M%"]), min_size=1, max_size=2, unique=True)
MODALITIES = st.sampled_from(["CT", "MR", "C_"])
SHORT = text_values("%_*?ab1", 4).filter(bool)
NAMES = (person_names() | st.sampled_from(["Doe^John", "doe^jane", "D\u00f6^"])).filter(lambda name: name.strip("^= "))


def ranges(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        values,
        st.tuples(values, values).map(lambda pair: "-".join(sorted(pair))),
        values.map("{}-".format),
        values.map("-{}".format),
    )


STORED_STEP = st.fixed_dictionaries(
    {
        "ScheduledStationAETitle": STATIONS,
        "ScheduledProcedureStepStartDate": DAYS | DAYS.map(lambda day: f"{day[:4]}.{day[4:6]}.{day[6:]}"),
        "ScheduledProcedureStepStartTime": CLOCK,
        "Modality": MODALITIES,
        "ScheduledPerformingPhysicianName": st.just("") | NAMES,
    }
)
STORED = st.fixed_dictionaries(
    {"PatientName": NAMES, "PatientID": SHORT, "CurrentPatientLocation": st.just("") | SHORT}
)
STEP_KEYS = st.fixed_dictionaries(
    {},
    optional={
        "ScheduledStationAETitle": STATIONS | st.sampled_from(["CT*", "M?", "*", ""]),
        "ScheduledProcedureStepStartDate": ranges(DAYS),
        "ScheduledProcedureStepStartTime": ranges(CLOCK),
        "Modality": MODALITIES | st.sampled_from(["C*", ["CT", "MR"], "?T"]),
        "ScheduledPerformingPhysicianName": NAMES,
    },
)
TOP_KEYS = st.fixed_dictionaries(
    {}, optional={"PatientName": NAMES, "PatientID": SHORT, "CurrentPatientLocation": SHORT, "AccessionNumber": SHORT}
)


# What modalities ask for most.
PLACE_AND_DAY = ["ScheduledStationAETitle", "ScheduledProcedureStepStartDate"]
USUAL = st.sampled_from([{*PLACE_AND_DAY}, {*PLACE_AND_DAY, "ScheduledProcedureStepStartTime"}])
STATUSES = st.just(ItemStatus.SCHEDULED) | st.sampled_from(ItemStatus)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


def items_of(data: st.DataObject) -> list[WorklistItem]:
    found = []
    for number in range(1, data.draw(st.integers(1, 6)) + 1):
        try:
            found.append(numbered(number, data.draw(STORED_STEP), **data.draw(STORED)))
        except InvalidWorklistItem:
            continue  # a name of nothing but delimiters, for one
    return found


def asked(data: st.DataObject, items: list[WorklistItem]) -> WorklistQuery | None:
    if items and data.draw(st.booleans()):
        step, top = keys_like(data, data.draw(st.sampled_from(items)))
    else:
        step, top = data.draw(STEP_KEYS), data.draw(TOP_KEYS)
    try:
        return parse_worklist(encoded(keys(step, SpecificCharacterSet="ISO_IR 192", **top)), IMPLICIT)
    except InvalidIdentifier:
        return None


def keys_like(data: st.DataObject, item: WorklistItem) -> tuple[dict[str, Any], dict[str, Any]]:
    """Some keys that an item matches, so that keys find something together; the days reach beyond it."""
    day = text_of(item.step, "00400002")
    first, last = sorted([day, data.draw(DAYS)])
    clock = data.draw(CLOCK)
    step = {
        "ScheduledStationAETitle": text_of(item.step, "00400001").split("\\"),
        "ScheduledProcedureStepStartDate": data.draw(st.sampled_from([day, f"{first}-{last}", f"{day}-", f"-{day}"])),
        "ScheduledProcedureStepStartTime": data.draw(st.sampled_from([f"00-{clock}", f"{clock}-", f"-{clock}"])),
        "Modality": text_of(item.step, "00080060"),
    }
    top = {
        "PatientName": text_of(item.data_set, "00100010"),
        "PatientID": text_of(item.data_set, "00100020"),
        "AccessionNumber": item.accession_number,
        "StudyInstanceUID": item.study_instance_uid,
    }
    chosen = data.draw(USUAL | st.sets(st.sampled_from([*step, *top]), min_size=1, max_size=3))
    return {k: v for k, v in step.items() if k in chosen}, {k: v for k, v in top.items() if k in chosen}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(60))
@given(data=st.data())
def test_the_database_finds_what_matches(database: Database, data: st.DataObject) -> None:
    items = items_of(data)
    index = WorklistIndex(database)
    with database.begin() as connection:
        connection.execute(delete(worklist_item))
    index.put(items)
    rows = {row.item.accession_number: row.id for row in index.list()}
    statuses = {item.accession_number: data.draw(STATUSES) for item in items}
    for accession_number, status in statuses.items():
        index.set_status([rows[accession_number]], status)
    for _ in range(6):
        query = asked(data, items)
        if query is None:
            continue
        station = data.draw(st.none() | st.sampled_from(["CT1", "MR_1"]))
        expected = [
            item.accession_number
            for item in items
            if statuses[item.accession_number] in ("SCHEDULED", "IN PROGRESS")
            and (station is None or station in text_of(item.step, "00400001").split("\\"))
            and query.matches(presented(item.data_set, statuses[item.accession_number]))
        ]
        found = [item.accession_number for item in index.find(query, station)]
        assert found == expected, query


def answer(query: Dataset, item: WorklistItem) -> dict[str, Any]:
    asked = parse_worklist(encoded(query), IMPLICIT)
    data = WorklistEncoder(asked, EXPLICIT).encode(presented(item.data_set, item.status))
    return json_of(read_dataset(BytesIO(data), False, True))


@pytest.mark.slow
@given(step=STORED_STEP, order=STORED, charset=st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "\\ISO 2022 IR 87"]))
def test_answers_are_what_the_item_holds(step: dict[str, Any], order: dict[str, Any], charset: str) -> None:
    try:
        item = numbered(1, step, **order)
    except InvalidWorklistItem:
        return
    query = keys(dict.fromkeys(step, ""), **(dict.fromkeys(order, "") | {"StudyInstanceUID": ""}))
    query.SpecificCharacterSet = charset.split("\\")
    found = answer(query, item)
    (found_step,) = found.pop("00400100")["Value"]
    assert found == {tag: item.data_set[tag] for tag in found}
    assert found_step == {tag: item.step[tag] for tag in found_step}
    assert len(found) == len(order) + 2
    assert len(found_step) == len(step)


@given(st.binary(max_size=60), st.sampled_from([IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]))
def test_any_bytes_are_a_query_or_refused(data: bytes, transfer_syntax: str) -> None:
    with suppress(InvalidIdentifier):
        parse_worklist(data, transfer_syntax)
