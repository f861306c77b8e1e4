"""DICOM JSON from others: what is taken, in which form, and what is refused."""

from typing import Any

import pytest

from pacs_server.dicom.json_input import checked_data_set, checked_element, element_of_text


@pytest.mark.parametrize(
    ("element", "kept"),
    [
        ({"vr": "LO", "Value": [" P1 "]}, {"vr": "LO", "Value": ["P1"]}),
        ({"vr": "LO", "Value": ["A\\B", None, "C"]}, {"vr": "LO", "Value": ["A", "B", None, "C"]}),
        ({"vr": "LO", "Value": ["Do\0e\ud800"]}, {"vr": "LO", "Value": ["Doe"]}),
        ({"vr": "LO", "Value": [None]}, {"vr": "LO"}),
        ({"vr": "LO", "Value": [5]}, {"vr": "LO", "Value": ["5"]}),
        ({"vr": "LO"}, {"vr": "LO"}),
        ({"vr": "LT", "Value": ["  two\\lines "]}, {"vr": "LT", "Value": ["  two\\lines"]}),
        ({"vr": "PN", "Value": [{"Alphabetic": "A^B ", "Phonetic": " C"}]}, {"vr": "PN", "Value": [
            {"Alphabetic": "A^B", "Phonetic": "C"}]}),
        ({"vr": "PN", "Value": [{}, None]}, {"vr": "PN"}),
        ({"vr": "DS", "Value": [70.5, "70.50", 70, ""]}, {"vr": "DS", "Value": ["70.5", "70.50", "70", None]}),
        ({"vr": "DS", "Value": ["-.5e-3 ", "1.", " +2"]}, {"vr": "DS", "Value": ["-.5e-3", "1.", "+2"]}),
        ({"vr": "IS", "Value": [3.0, "03", 3]}, {"vr": "IS", "Value": ["3", "03", "3"]}),
        ({"vr": "US", "Value": [4, "5"]}, {"vr": "US", "Value": [4, 5]}),
        ({"vr": "SV", "Value": ["-9007199254740993"]}, {"vr": "SV", "Value": [-9007199254740993]}),
        ({"vr": "FD", "Value": [1]}, {"vr": "FD", "Value": [1.0]}),
        ({"vr": "AT", "Value": ["0010002d"]}, {"vr": "AT", "Value": ["0010002D"]}),
        ({"vr": "OB", "InlineBinary": "AQI="}, {"vr": "OB", "InlineBinary": "AQI="}),
        ({"vr": "UN", "InlineBinary": ""}, {"vr": "UN"}),
        ({"vr": "SQ"}, {"vr": "SQ"}),
        ({"vr": "SQ", "Value": [{}]}, {"vr": "SQ", "Value": [{}]}),
    ],
)  # fmt: skip
def test_what_is_kept(element: dict[str, Any], kept: dict[str, Any]) -> None:
    assert checked_element(element) == kept
    # What is kept is in order.
    assert checked_element(kept) == kept


@pytest.mark.parametrize(
    "element",
    [
        *("text", None, [], {}, {"vr": "XX"}, {"vr": None}, {"vr": "LO", "Value": "P1"}, {"vr": "LO", "Value": [True]}),
        *({"vr": "LO", "Value": [{}]}, {"vr": "LO", "Value": [["P1"]]}, {"vr": "PN", "Value": ["Doe"]}),
        *({"vr": "PN", "Value": [{"Alphabetic": 3}]}, {"vr": "DS", "Value": ["heavy"]}, {"vr": "DS", "Value": ["nan"]}),
        *({"vr": "DS", "Value": ["1_000"]}, {"vr": "DS", "Value": ["\u0665"]}, {"vr": "DS", "Value": [10**400]}),
        *({"vr": "IS", "Value": ["1_000"]}, {"vr": "IS", "Value": ["\u0665"]}, {"vr": "UI", "Value": [1.5]}),
        *({"vr": "IS", "Value": ["1A"]}, {"vr": "IS", "Value": [1.5]}, {"vr": "US", "Value": ["four"]}),
        *({"vr": "US", "Value": [True]}, {"vr": "FD", "Value": [float("inf")]}, {"vr": "US", "Value": [float("nan")]}),
        *({"vr": "AT", "Value": ["10"]}, {"vr": "AT", "Value": [0x00100020]}, {"vr": "LO", "InlineBinary": "AQI="}),
        *({"vr": "OB", "InlineBinary": "A"}, {"vr": "OB", "InlineBinary": 3}, {"vr": "OB", "Value": [1]}),
        *({"vr": "OB", "BulkDataURI": "http://a"}, {"vr": "LO", "Value": [], "BulkDataURI": "http://a"}),
        *({"vr": []}, {"vr": {}}, {"vr": "IS", "Value": [float("inf")]}, {"vr": "FD", "Value": [10**400]}),
        *({"vr": "SQ", "Value": [3]}, {"vr": "SQ", "Value": [{"PatientID": {"vr": "LO"}}]}),
    ],
)
def test_what_is_refused(element: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        checked_element(element)


def test_names_are_tags_at_every_depth() -> None:
    item = {"0010002d": {"vr": "LO"}}
    assert checked_data_set({"0040010a": {"vr": "SQ", "Value": [item]}}) == {
        "0040010A": {"vr": "SQ", "Value": [{"0010002D": {"vr": "LO"}}]}
    }
    with pytest.raises(ValueError, match="no tag"):
        checked_data_set({"00400100": {"vr": "SQ", "Value": [item | {"0008010000": {"vr": "SH"}}]}})


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"00400100": {"vr": "SQ", "Value": [nested(depth - 1)] if depth else []}}

    assert checked_data_set(nested(16))
    for depth in (17, 300):
        with pytest.raises(ValueError, match="too deep"):
            checked_data_set(nested(depth))


def test_text() -> None:
    assert element_of_text("PN", "A^B = C =") == {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": "C"}]}
    assert element_of_text("AE", "CT1\\ CT2 ") == {"vr": "AE", "Value": ["CT1", "CT2"]}
    assert element_of_text("LO", " ") == {"vr": "LO"}
