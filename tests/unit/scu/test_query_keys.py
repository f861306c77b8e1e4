"""Queries in a way that a remote takes."""

import pytest

from pacs_server.dicom.vendors import GENERIC, VENDORS, Quirks, Vendor
from pacs_server.errors import InvalidIdentifier
from pacs_server.scu.query_keys import MOST_REQUESTS, Answers, requests_of

KEYS = {"PatientName": "*", "StudyDate": "*", "00201206": "*", "ScheduledProcedureStepSequence.Modality": "*"}


@pytest.mark.parametrize("vendor", [GENERIC, *VENDORS], ids=lambda each: each.name)
def test_a_lone_star_is_no_value_of_a_date_and_for_some_of_nothing(vendor: Vendor) -> None:
    quirks = vendor.quirks
    (asked,) = requests_of(KEYS | {"PatientID": "P*"}, quirks)
    assert {path for path, text in asked.items() if text == "*"} == (
        {"PatientName", "ScheduledProcedureStepSequence.Modality"} if quirks.star_means_all else set()
    )
    assert asked["PatientID"] == "P*"


def test_lists_are_asked_for_value_by_value_unless_the_remote_takes_them() -> None:
    keys = {"ModalitiesInStudy": "CT\\MR", "PatientSex": "F\\M", "StudyInstanceUID": "1.2\\1.3", "00081030": "A"}
    asked = requests_of(keys, Quirks())
    assert {(each["ModalitiesInStudy"], each["PatientSex"]) for each in asked} == {
        ("CT", "F"), ("CT", "M"), ("MR", "F"), ("MR", "M"),
    }  # fmt: skip
    assert {each["StudyInstanceUID"] for each in asked} == {"1.2\\1.3"}
    assert requests_of(keys, Quirks(takes_lists=True)) == [keys]
    with pytest.raises(InvalidIdentifier, match="one by one"):
        requests_of({"PatientID": "\\".join(map(str, range(MOST_REQUESTS + 1)))}, Quirks())


def study(uid: str, *modalities: str, patient: str = "P1") -> dict[str, object]:
    return {
        "00100020": {"vr": "LO", "Value": [patient]}, "0020000D": {"vr": "UI", "Value": [uid]},
        "00080061": {"vr": "CS", "Value": list(modalities)},
    }  # fmt: skip


def test_studies_that_say_they_have_other_modalities_are_dropped() -> None:
    answers = Answers({"ModalitiesInStudy": "ct\\M*"}, 1)
    assert [answers.is_wanted(study("1", *each)) for each in (("CT", "SR"), ("MR",), ("US",), ())] == [
        True, True, False, True,
    ]  # fmt: skip
    assert Answers({"00080061": "CT"}, 1).is_wanted(study("1", "US")) is False
    assert Answers({"PatientID": "CT"}, 1).is_wanted(study("1", "US"))


def test_an_answer_to_several_requests_is_told_once_and_patients_are_kept_apart() -> None:
    answers = Answers({}, 2)
    told = []
    for request in ([study("1"), study("1"), study("2", patient="P2")], [study("1"), study("1", patient="P2")]):
        answers.next_request()
        told.append([answers.is_wanted(each) for each in request])
    # A remote that names a study twice in one answer is heard twice, as if it had been asked once.
    assert told == [[True, True, True], [False, True]]
