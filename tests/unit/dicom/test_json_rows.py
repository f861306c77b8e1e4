import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from pacs_server.dicom.attributes import ATTRIBUTES
from pacs_server.dicom.json_rows import RowEncoder
from pacs_server.dicom.levels import Level
from pacs_server.dicom.web_query import parse_search

URL = "http://localhost:8080/dicom-web"


def encoded(level: Level, query: str, **values: str) -> dict[str, Any]:
    asked = parse_search(level, {}, query.encode()).query
    row = [values.get(ATTRIBUTES[key.tag].keyword, "") for key in asked.returns]
    found = RowEncoder(asked, URL).encode(row)
    document: dict[str, Any] = json.loads(found)
    # PS3.18 F.2.2
    assert list(document) == sorted(document)
    return document


def test_a_study() -> None:
    found = encoded(
        Level.STUDY,
        "includefield=PatientComments,OtherPatientIDs",
        StudyInstanceUID="1.2",
        PatientName="Müller^Jörg=山田^太郎=やまだ^たろう",
        ReferringPhysicianName='Quote"d^Back',
        ModalitiesInStudy="CT\\MR",
        OtherPatientIDs="A\\\\B",
        PatientComments="one\\two\nthree",
        NumberOfStudyRelatedInstances="3",
    )
    assert found["0020000D"] == {"vr": "UI", "Value": ["1.2"]}
    name = {"Alphabetic": "Müller^Jörg", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    assert found["00100010"] == {"vr": "PN", "Value": [name]}
    assert found["00080090"] == {"vr": "PN", "Value": [{"Alphabetic": 'Quote"d^Back'}]}
    assert found["00080061"] == {"vr": "CS", "Value": ["CT", "MR"]}
    assert found["00101000"] == {"vr": "LO", "Value": ["A", None, "B"]}
    assert found["00104000"] == {"vr": "LT", "Value": ["one\\two\nthree"]}
    assert found["00201208"] == {"vr": "IS", "Value": [3]}
    assert found["00080050"] == {"vr": "SH"}
    assert found["00081190"] == {"vr": "UR", "Value": [f"{URL}/studies/1.2"]}
    assert found["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    assert found["00080056"] == {"vr": "CS", "Value": ["ONLINE"]}
    assert "00080201" not in found  # present if known only


@pytest.mark.parametrize(
    ("text", "values"), [("7", [7]), ("-0", [0]), ("007", ["007"]), ("x", ["x"]), ("1\\\\2", [1, None, 2])]
)
def test_whole_numbers_are_numbers_if_nothing_is_lost(text: str, values: list[object]) -> None:
    assert encoded(Level.SERIES, "", SeriesNumber=text)["00200011"] == {"vr": "IS", "Value": values}


def test_retrieve_urls_of_lower_levels() -> None:
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4"}
    series, instance = (encoded(level, "", **uids)["00081190"]["Value"] for level in (Level.SERIES, Level.IMAGE))
    assert series == [f"{URL}/studies/1.2/series/1.3"]
    assert instance == [f"{URL}/studies/1.2/series/1.3/instances/1.4"]


def test_items_of_sequences() -> None:
    items = [{"00400009": {"vr": "SH", "Value": [text]}, "00321060": {"vr": "LO", "Value": ["x"]}} for text in "AB"]
    text = json.dumps(items)
    found = encoded(Level.SERIES, "", RequestAttributesSequence=text)["00400275"]
    assert found["Value"][0] == {"00400009": {"vr": "SH", "Value": ["A"]}, "00401001": {"vr": "SH"}}
    whole = encoded(Level.SERIES, "includefield=RequestAttributesSequence", RequestAttributesSequence=text)["00400275"]
    assert whole["Value"] == items
    # PS3.4 C.2.2.2.6: only the items that match are returned.
    query = "RequestAttributesSequence.ScheduledProcedureStepID=B&includefield=00400275"
    assert encoded(Level.SERIES, query, RequestAttributesSequence=text)["00400275"]["Value"] == items[1:]


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@given(TEXT.filter(lambda text: "\\" not in text), TEXT.filter(lambda text: "=" not in text and "\\" not in text))
def test_pydicom_reads_any_text(text: str, name: str) -> None:
    found = encoded(Level.STUDY, "", StudyInstanceUID="1.2", StudyDescription=text, PatientName=name)
    data_set = Dataset.from_json(found)
    assert (data_set.StudyDescription, str(data_set.PatientName)) == (text, name)


def test_the_shapes_are_those_of_pydicom() -> None:
    found = encoded(
        Level.IMAGE, "includefield=ImageType", StudyInstanceUID="1.2", SeriesInstanceUID="1.3", SOPInstanceUID="1.4",
        PatientName="A^B=C", ModalitiesInStudy="CT\\MR", Rows="512", InstanceNumber="3", ImageType="ORIGINAL\\PRIMARY",
        RequestAttributesSequence=json.dumps([{"00400009": {"vr": "SH", "Value": ["A"]}}]),
    )  # fmt: skip
    assert Dataset.from_json(found).to_json_dict() == found
