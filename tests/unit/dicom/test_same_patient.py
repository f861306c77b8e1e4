"""When two data sets may be about the same person."""

import pytest

from pacs_server.dicom.original_attributes import completed, earlier, original_item
from pacs_server.dicom.same_patient import Identity, combined_name, compatible

DOE = Identity("P1", "A", "Doe^Jane", "19700101")


@pytest.mark.parametrize(
    "other",
    [
        DOE,
        Identity("P1", "A"),
        Identity("P1", "A", "DOE^JANE^^^", "1970.01.01"),
        Identity("P1", "A", "D\u00f6e^Jane=\u5c71\u7530^\u82b1\u5b50"),
        Identity("P1", "A", "=\u5c71\u7530^\u82b1\u5b50", "19700101"),
        Identity("P1", "A", "^^", ""),
    ],
)
def test_nothing_speaks_against_the_same_person(other):
    assert compatible(DOE, other)
    assert compatible(other, DOE)


@pytest.mark.parametrize(
    "other",
    [
        Identity("P2", "A", "Doe^Jane", "19700101"),
        Identity("P1", "B", "Doe^Jane", "19700101"),
        Identity("P1", "", "Doe^Jane", "19700101"),
        Identity("", "A", "Doe^Jane", "19700101"),
        Identity("P1", "A", "Roe^Jane", "19700101"),
        Identity("P1", "A", "Doe^Jane^M", "19700101"),
        Identity("P1", "A", "Doe^Jane", "19700102"),
        Identity("P1", "A", "", "no date"),
        Identity("P1", "A", "Doe^Jane\\Roe^Jane", ""),
    ],
)
def test_these_are_not_the_same_person(other):
    assert not compatible(DOE, other)
    assert not compatible(other, DOE)


def test_two_names_in_other_scripts_tell_people_apart():
    assert not compatible(Identity("P1", "", "Doe=A"), Identity("P1", "", "Doe=B"))


@pytest.mark.parametrize(
    ("known", "sent", "combined"),
    [
        ("Doe^Jane", "", "Doe^Jane"),
        ("", "Doe^Jane", "Doe^Jane"),
        ("^^", "Doe^Jane", "Doe^Jane"),
        ("Doe^Jane", "DOE^JANE=Y", "Doe^Jane=Y"),
        ("Doe^Jane==Z", "=Y", "Doe^Jane=Y=Z"),
        ("Doe\\Roe", "Doe\\Roe", "Doe\\Roe"),
    ],
)
def test_names_complete_each_other(known, sent, combined):
    assert combined_name(known, sent) == combined


def test_original_item_has_what_was_changed_and_nothing_else():
    from datetime import UTC, datetime

    before = {"patient_id": "P1", "patient_name": "Doe^Jane=X", "patient_sex": "F", "other_patient_ids": "A\\B"}
    after = {"patient_id": "P2", "patient_name": "Doe", "patient_sex": "F", "patient_birth_date": "1970"}
    at = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    item = original_item(before, after, at=at, system="PACS", reason="COERCE", origin="CT1")
    assert item == {
        "04000550": {
            "vr": "SQ",
            "Value": [
                {
                    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane", "Ideographic": "X"}]},
                    "00100020": {"vr": "LO", "Value": ["P1"]},
                    "00100030": {"vr": "DA"},
                    "00101000": {"vr": "LO", "Value": ["A", "B"]},
                }
            ],
        },
        "04000562": {"vr": "DT", "Value": ["20240506070809.000000+0000"]},
        "04000563": {"vr": "LO", "Value": ["PACS"]},
        "04000564": {"vr": "LO", "Value": ["CT1"]},
        "04000565": {"vr": "CS", "Value": ["COERCE"]},
    }


def test_items_tell_whose_a_study_was_and_take_in_what_is_said_of_them_later():
    from datetime import UTC, datetime

    def item(before, after):
        at = datetime(2024, 5, 6, tzinfo=UTC)
        return original_item(before, after, at=at, system="PACS", reason="CORRECT", origin="")

    now = Identity("P3", "", "Doe=A==", "1970")
    items = [
        item({"patient_id": "P1", "patient_name": "Doe"}, {"patient_id": "P2", "patient_name": "Roe"}),
        item({"patient_id": "P2", "patient_name": "Roe"}, {"patient_id": "P3", "patient_name": "Doe=A"}),
    ]
    assert {(each.patient_id, each.patient_name) for each in earlier(items, now)} >= {("P1", "Doe"), ("P2", "Roe")}
    assert completed(items, now, Identity("P2", "", "Roe")) == items
    assert completed(items, now, Identity("P4", "", "Roe")) is None
    told = completed(items, Identity("P3"), Identity("P1", "", "Doe=B", "19700101"))
    assert told is not None
    assert told[1] == items[1]
    (values,) = told[0]["04000550"]["Value"]
    assert values["00100010"]["Value"] == [{"Alphabetic": "Doe", "Ideographic": "B"}]
    assert values["00100030"] == {"vr": "DA", "Value": ["19700101"]}
