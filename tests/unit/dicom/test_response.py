import json
import zlib
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from strategies import encoded, identifier

from pacs_server.dicom.element import Element
from pacs_server.dicom.encoding import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from pacs_server.dicom.identifier import Query, QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.response import ResponseEncoder, _layout
from pacs_server.dicom.text import encodings_of, text_values

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
YAMADA = "Yamada^Tarou=山田^太郎=やまだ^たろう"
HONG = "Hong^Gildong=洪^吉洞=홍^길동"


def query_for(level: str = "STUDY", charset: str = "", **keys: object) -> Query:
    model, options = InformationModel.STUDY_ROOT, QueryOptions(relational=True)
    query = parse_find(encoded(identifier(level, **keys)), ImplicitVRLittleEndian, model, options)
    return replace(query, specific_character_set=charset)


def decoded(data: bytes, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    assert len(data) % 2 == 0
    if syntax == DeflatedExplicitVRLittleEndian:
        data = zlib.decompressobj(-15).decompress(data)
    data_set = read_dataset(BytesIO(data), syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    assert [element.tag for element in data_set] == sorted(element.tag for element in data_set)
    data_set.decode()
    return data_set


def respond(query: Query, *row: str, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    return decoded(ResponseEncoder(query, syntax, "PACS").encode(row), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_response_holds_the_requested_keys_and_what_every_response_answers(syntax: str) -> None:
    query = query_for("IMAGE", StudyDate="", PatientName="", SOPInstanceUID="", Rows=None, InstanceNumber="")
    found = respond(query, "20200101", "Doe^Jane", "1.2.3", "7", "512", syntax=syntax)
    # In the order of tags: date, then SOP Instance UID comes before it.
    assert {element.keyword for element in found} == {
        "SOPInstanceUID", "StudyDate", "QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability",
        "PatientName", "InstanceNumber", "Rows",
    }  # fmt: skip
    assert (found.QueryRetrieveLevel, found.RetrieveAETitle, found.InstanceAvailability) == ("IMAGE", "PACS", "ONLINE")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_values_come_back_as_they_were_stored(syntax: str) -> None:
    query = query_for("IMAGE", SOPInstanceUID="", ModalitiesInStudy="", PatientName="", InstanceNumber="", Rows=None)
    found = respond(query, "1.2.3", "CT\\MR", "Doe^Jane", "7", "512", syntax=syntax)
    assert found.SOPInstanceUID == "1.2.3"
    assert found.ModalitiesInStudy == ["CT", "MR"]
    assert found.PatientName == "Doe^Jane"
    assert found.InstanceNumber == 7
    assert found.Rows == 512
    assert "SpecificCharacterSet" not in found


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_empty_values_are_zero_length(syntax: str) -> None:
    query = query_for("IMAGE", StudyDate="", PatientName="", Rows=None, RequestAttributesSequence=Sequence())
    found = respond(query, "", "", "", "", syntax=syntax)
    assert found["StudyDate"].is_empty
    assert found["PatientName"].is_empty
    assert found["Rows"].is_empty
    assert list(found.RequestAttributesSequence) == []


def test_values_are_padded_by_their_vr() -> None:
    query = query_for(StudyInstanceUID="", StudyID="")
    data = ResponseEncoder(query, ExplicitVRLittleEndian, "PAC").encode(("1.2", "abc"))
    assert b"UI\x04\x001.2\0" in data
    assert b"SH\x04\x00abc " in data
    assert b"AE\x04\x00PAC " in data


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 101", "Wałęsa^Łukasz"),
        ("ISO_IR 144", "Люкцж"),
        ("ISO_IR 192", YAMADA),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("GBK", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("\\ISO 2022 IR 87", YAMADA),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("\\ISO 2022 IR 87\\ISO 2022 IR 159", "Yamada=山田^丂a丂"),
        ("\\ISO 2022 IR 149", HONG),
        ("ISO 2022 IR 100\\ISO 2022 IR 144", "Müller^Люкцж Jörg"),
    ],
)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_character_set_of_the_request_is_used(charset: str, name: str, syntax: str) -> None:
    found = respond(query_for(charset=charset, PatientName=""), name, syntax=syntax)
    terms = charset.split("\\")
    assert found.SpecificCharacterSet == (terms if len(terms) > 1 else charset)
    assert str(found.PatientName) == name


@pytest.mark.parametrize("charset", ["", "ISO_IR 100", "ISO_IR 13", "\\ISO 2022 IR 149", "ISO_IR 999", "latin1"])
def test_text_that_does_not_fit_goes_out_in_utf_8(charset: str) -> None:
    query = query_for(charset=charset, PatientName="", StudyDescription="")
    found = respond(query, "Wałęsa丂", YAMADA)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert str(found.PatientName) == YAMADA
    assert found.StudyDescription == "Wałęsa丂"


def test_the_character_set_is_told_only_where_it_matters() -> None:
    assert "SpecificCharacterSet" not in respond(query_for(PatientName=""), "Doe")
    assert "SpecificCharacterSet" not in respond(query_for(charset="ISO_IR 6", PatientName=""), "Doe")
    assert "SpecificCharacterSet" not in respond(query_for(charset="ISO_IR 999", PatientName=""), "Doe")
    assert respond(query_for(charset="ISO_IR 100", PatientName=""), "Doe").SpecificCharacterSet == "ISO_IR 100"


def test_each_row_chooses_its_character_set() -> None:
    encoder = ResponseEncoder(query_for(charset="ISO_IR 100", PatientName=""), ImplicitVRLittleEndian, "PACS")
    sets = [decoded(encoder.encode((n,)), ImplicitVRLittleEndian).SpecificCharacterSet for n in ("A", "Ä", "山", "A")]
    assert sets == ["ISO_IR 100", "ISO_IR 100", "ISO_IR 192", "ISO_IR 100"]


def test_queries_of_the_same_form_share_what_is_the_same_in_their_responses() -> None:
    _layout.cache_clear()
    for name in ("Doe^Jane", "Roe*", ""):
        respond(query_for(PatientName=name, StudyDate=""), "20200101", "Doe^Jane")
    assert _layout.cache_info().misses == 1


def test_the_same_keys_in_another_form_are_answered_in_that_form() -> None:
    asked = query_for(StudyDate="", PatientName="")
    by_image = query_for("IMAGE", StudyDate="", PatientName="")
    assert respond(asked, "20200101", "Doe").QueryRetrieveLevel == "STUDY"
    assert respond(by_image, "20200101", "Doe").QueryRetrieveLevel == "IMAGE"
    assert decoded(ResponseEncoder(asked, ExplicitVRLittleEndian, "OTHER").encode(("", ""))).RetrieveAETitle == "OTHER"
    assert respond(asked, "20200101", "Doe", syntax=ImplicitVRLittleEndian).StudyDate == "20200101"


@pytest.mark.slow
def test_what_is_kept_of_queries_is_bounded_and_holds_nothing_of_their_items() -> None:
    for number in range(200):
        item = Dataset()
        item.CodeValue, item.CodeMeaning = "", ""
        asked = query_for(ProcedureCodeSequence=[item] if number % 2 else [Dataset()], StudyDate="")
        stored = json.dumps([{"00080100": {"vr": "SH", "Value": ["A"]}, "00080102": {"vr": "SH", "Value": ["B"]}}])
        data = ResponseEncoder(asked, ExplicitVRLittleEndian, f"AE{number}").encode(("20200101", stored))
        (found,) = decoded(data).ProcedureCodeSequence
        assert ("CodingSchemeDesignator" in found) == (number % 2 == 0)
    assert _layout.cache_info().currsize <= 64


def test_the_time_zone_is_never_empty() -> None:
    query = query_for(TimezoneOffsetFromUTC="", StudyID="")
    assert "TimezoneOffsetFromUTC" not in respond(query, "", "1")
    assert respond(query, "+0100", "1").TimezoneOffsetFromUTC == "+0100"


def test_chinese_with_escape_sequences() -> None:
    # PS3.5 K.2; pydicom leaves the escape sequence in the text, so the bytes are compared.
    encoder = ResponseEncoder(query_for(charset="\\ISO 2022 IR 58", PatientName=""), ImplicitVRLittleEndian, "PACS")
    assert b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab" in encoder.encode(["Zhang^XiaoDong=张^小东"])


ITEMS = [
    {
        "00080100": {"vr": "SH", "Value": ["A"]},
        "00080104": {"vr": "LO", "Value": ["Köpf"]},
        "00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]},
        "00280010": {"vr": "US", "Value": [7]},
        "00400009": {"vr": "SH"},
    },
    {"00080005": {"vr": "CS", "Value": ["ISO_IR 100"]}, "00080100": {"vr": "SH", "Value": ["B"]}},
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_empty_item_returns_all_of_a_sequence(syntax: str) -> None:
    query = query_for(ProcedureCodeSequence=Sequence([Dataset()]))
    found = respond(query, json.dumps(ITEMS), syntax=syntax)
    first, second = found.ProcedureCodeSequence
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert (first.CodeValue, first.CodeMeaning, first.Rows) == ("A", "Köpf", 7)
    assert first.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2"
    assert first["ScheduledProcedureStepID"].is_empty
    assert [element.keyword for element in second] == ["CodeValue"]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_only_requested_attributes_of_items_that_match_are_returned(syntax: str) -> None:
    item = Dataset()
    item.CodeValue = "A"
    item.CodingSchemeDesignator = ""
    found = respond(query_for(ProcedureCodeSequence=Sequence([item])), json.dumps(ITEMS), syntax=syntax)
    (only,) = found.ProcedureCodeSequence
    assert [element.keyword for element in only] == ["CodeValue", "CodingSchemeDesignator"]
    assert only.CodeValue == "A"
    assert only["CodingSchemeDesignator"].is_empty


def test_binary_values_of_items() -> None:
    stored = [
        {
            "00091001": {"vr": "UN", "InlineBinary": "AQI="},
            "00720026": {"vr": "AT", "Value": ["00100020"]},
            "00720074": {"vr": "FD", "Value": [1.5]},
            "00720078": {"vr": "UL", "Value": [-1]},
            "00081032": {"vr": "OB", "InlineBinary": "x"},
        }
    ]
    (item,) = respond(query_for(ProcedureCodeSequence=Sequence()), json.dumps(stored)).ProcedureCodeSequence
    assert item[0x00091001].value == b"\x01\x02"
    assert item[0x00720026].value == 0x00100020
    assert item[0x00720074].value == 1.5
    assert item[0x00720078].is_empty
    assert item[0x00081032].is_empty


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("value", ["x" * 70_000, "ü" * 70_000, "山" * 70_000])
def test_a_value_is_cut_to_what_its_length_can_say(value: str, syntax: str) -> None:
    encoder = ResponseEncoder(query_for(PatientComments="", charset="ISO_IR 192"), syntax, "PACS")
    (comments,) = (e for e in _elements(encoder.encode([value]), syntax) if e.tag == 0x00104000)
    cut = bytes(comments.value).decode().rstrip()
    assert value.startswith(cut)
    assert 60_000 < len(cut.encode()) <= 0xFFFE


@pytest.mark.slow
def test_a_list_is_cut_between_values() -> None:
    value = "\\".join(f"1.2.{n}" for n in range(20_000))
    kept = respond(query_for(SOPClassesInStudy=""), value).SOPClassesInStudy
    assert list(kept) == value.split("\\")[: len(kept)]
    assert len(kept) > 5000
    whole = respond(query_for(SOPClassesInStudy=""), value, syntax=ImplicitVRLittleEndian).SOPClassesInStudy
    assert len(whole) == 20_000


CHARSETS = [
    "", "ISO_IR 100", "ISO_IR 13", "GB18030", "GBK", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149",
    "ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159", "ISO 2022 IR 100\\ISO 2022 IR 126\\ISO 2022 IR 58",
]  # fmt: skip
LETTERS = "aB1 äß\u03b1\u0416山丂太\u3042ガﾀ홍길동东~"


def _elements(data: bytes, syntax: str) -> tuple[Element, ...]:
    if syntax == DeflatedExplicitVRLittleEndian:
        data = zlib.decompressobj(-15).decompress(data)
    encodings = {ImplicitVRLittleEndian: IMPLICIT_LE, ExplicitVRBigEndian: EXPLICIT_BE}
    return read_elements(memoryview(data), encodings.get(syntax, EXPLICIT_LE))


@pytest.mark.slow
@given(
    st.sampled_from(CHARSETS),
    st.sampled_from(SYNTAXES),
    st.text(LETTERS + "^=", max_size=12),
    st.lists(st.text(LETTERS, max_size=6), max_size=3),
)
def test_text_survives_any_character_set(charset: str, syntax: str, name: str, values: list[str]) -> None:
    encoder = ResponseEncoder(query_for(charset=charset, PatientName="", OtherPatientIDs=""), syntax, "PACS")
    elements = {element.tag: element for element in _elements(encoder.encode((name, "\\".join(values))), syntax)}
    charset_used = elements.get(0x00080005)
    encodings = encodings_of(bytes(charset_used.value).decode().strip() if charset_used else "")

    def text(tag: int) -> list[str]:
        return text_values(bytes(elements[tag].value), elements[tag].vr, encodings)

    assert text(0x00100010) == text_values(name.encode(), "PN", ("UTF8",))
    assert text(0x00101000) == text_values("\\".join(values).encode(), "LO", ("UTF8",))
