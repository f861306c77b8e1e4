"""Data sets to the DICOM JSON Model and back, also against pydicom and DCMTK."""

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from strategies import encoded

from pacs_server.dicom.json_codec import decode_data_set, encode_data_set
from pacs_server.dicom.json_model import first_value, items_of, values_of
from pacs_server.errors import TranscodeError

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
SYNTAXES = [IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN]
LIMIT = 1 << 20


def data_set() -> Dataset:
    inner = Dataset()
    inner.SpecificCharacterSet = "ISO_IR 192"
    inner.CodeMeaning = "頭部"
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 100"
    found.PatientName = "Müller^Jörg"
    found.PatientWeight = "70.50"
    found.ProcedureCodeSequence = [inner]
    found.PerformedSeriesSequence = []
    found.FrameIncrementPointer = [0x00181063, 0x00181065]
    found.Rows = 512
    found.RealWorldValueIntercept = 1.5
    found.OtherPatientNames = ["A^B", "C^D"]
    found.StudyID = ""
    block = found.private_block(0x0029, "MAKER", create=True)
    block.add_new(1, "OB", b"\x00\x01\x02\x03")
    return found


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_decoded(syntax: str) -> None:
    found = decode_data_set(encoded(data_set(), syntax), syntax, LIMIT)
    assert found["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]}
    assert found["00101030"] == {"vr": "DS", "Value": ["70.50"]}
    assert items_of(found, "00081032")[0]["00080104"] == {"vr": "LO", "Value": ["頭部"]}
    assert found["00400340"] == {"vr": "SQ"}
    assert found["00280009"] == {"vr": "AT", "Value": ["00181063", "00181065"]}
    assert found["00280010"] == {"vr": "US", "Value": [512]}
    assert found["00409224"] == {"vr": "FD", "Value": [1.5]}
    assert found["00200010"] == {"vr": "SH"}
    assert found["00291001"]["InlineBinary"] == "AAECAw=="
    assert first_value(found, "00100010") == "Müller^Jörg"
    assert len(values_of(found, "00101001")) == 2
    assert items_of(found, "00100010") == values_of(found, "00200010") == []


@pytest.mark.parametrize("into", SYNTAXES)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nothing_is_lost_on_the_way_back(syntax: str, into: str) -> None:
    found = decode_data_set(encoded(data_set(), syntax), syntax, LIMIT)
    again = decode_data_set(encode_data_set(found, into, "ISO_IR 100"), into, LIMIT)
    # The item's text does not fit into ISO_IR 100, so all goes out in UTF-8; items need no set of their own then.
    assert again.pop("00080005") == {"vr": "CS", "Value": ["ISO_IR 192"]}
    del found["00080005"]
    del found["00081032"]["Value"][0]["00080005"]
    if into == IMPLICIT and syntax != IMPLICIT:
        # Implicit VR cannot tell the VR of what only its maker knows.
        assert found.pop("00291001")["InlineBinary"] == again.pop("00291001")["InlineBinary"]
    assert again == found


@pytest.mark.parametrize(
    ("charset", "text", "sent"),
    [
        ("", "Jane", ""),
        ("", "Jörg", "ISO_IR 192"),
        ("ISO_IR 100", "Jörg", "ISO_IR 100"),
        ("ISO_IR 100", "山田", "ISO_IR 192"),
        ("\\ISO 2022 IR 87", "山田", "\\ISO 2022 IR 87"),
        ("no such set", "Jörg", "ISO_IR 192"),
    ],
)
def test_character_sets(charset: str, text: str, sent: str) -> None:
    element = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": text}]}}
    found = decode_data_set(encode_data_set(element, EXPLICIT, charset), EXPLICIT, LIMIT)
    assert found["00100010"] == element["00100010"]
    names = ["" if value is None else value for value in found.get("00080005", {}).get("Value", [])]
    assert "\\".join(names) == sent


def test_what_cannot_be_decoded() -> None:
    whole = encoded(data_set(), EXPLICIT)
    with pytest.raises(TranscodeError):
        decode_data_set(whole[:-1], EXPLICIT, LIMIT)
    with pytest.raises(TranscodeError):
        decode_data_set(b"no deflate stream", DEFLATED, LIMIT)
    compressor = zlib.compressobj(wbits=-15)
    bomb = compressor.compress(bytes(1000)) + compressor.flush()
    with pytest.raises(TranscodeError):
        decode_data_set(bomb, DEFLATED, 999)
    with pytest.raises(TranscodeError):
        decode_data_set(b"\x28\x00\x10\x00US\x01\x00\x00", EXPLICIT, LIMIT)


def test_known_text_that_came_as_unknown_is_text() -> None:
    raw = b"\x08\x00\x60\x00UN\x00\x00\x02\x00\x00\x00CT" + b"\x02\x00\x10\x00UI\x02\x001\x00"
    assert decode_data_set(raw, EXPLICIT, LIMIT) == {"00080060": {"vr": "CS", "Value": ["CT"]}}


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_rubbish_is_refused_or_decoded(data: bytes, syntax: str) -> None:
    try:
        found: dict[str, Any] = decode_data_set(data, syntax, LIMIT)
    except TranscodeError:
        return
    assert isinstance(encode_data_set(found, syntax, ""), bytes)
