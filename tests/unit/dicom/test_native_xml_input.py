"""The Native DICOM Model is read into the DICOM JSON Model."""

from pathlib import Path
from typing import Any

import pytest
from datasets import data_set_bytes, pydicom_test_files

from pacs_server.dicom.json_codec import decode_data_set
from pacs_server.dicom.json_input import checked_data_set
from pacs_server.dicom.native_xml import native_model
from pacs_server.dicom.native_xml_input import read_native_xml
from pacs_server.errors import TranscodeError

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"


def document(content: str) -> bytes:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}">{content}</NativeDicomModel>'
    return text.encode()


def test_values_in_their_order() -> None:
    assert read_native_xml(
        document(
            '<DicomAttribute tag="00080008" vr="CS" keyword="ImageType">\n'
            '<Value number="3">AXIAL</Value><Value number="1">ORIGINAL</Value></DicomAttribute>'
            '<DicomAttribute tag="0020000d" vr="UI"><Value>1.2</Value></DicomAttribute>'
            '<DicomAttribute tag="00280010" vr="US">'
            '<Value number="1">512</Value><Value number="2">7</Value></DicomAttribute>'
            '<DicomAttribute tag="00189087" vr="FD"><Value number="1">1.5</Value></DicomAttribute>'
            '<DicomAttribute tag="00281052" vr="DS"><Value number="1">-1024.0</Value></DicomAttribute>'
            '<DicomAttribute tag="00104000" vr="LT"><Value number="1"> &lt;b&gt;\n &#228; </Value></DicomAttribute>'
            '<DicomAttribute tag="00080050" vr="SH"/><DicomAttribute tag="00200013"/>'
        )
    ) == {
        "00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]},
        "0020000D": {"vr": "UI", "Value": ["1.2"]},
        "00280010": {"vr": "US", "Value": [512, 7]},
        "00189087": {"vr": "FD", "Value": [1.5]},
        "00281052": {"vr": "DS", "Value": ["-1024.0"]},
        "00104000": {"vr": "LT", "Value": [" <b>\n ä "]},
        "00080050": {"vr": "SH"},
        "00200013": {"vr": "IS"},
    }


def test_person_names() -> None:
    assert read_native_xml(
        document(
            '<DicomAttribute tag="00100010" vr="PN"><PersonName number="1"><Alphabetic><FamilyName>Yamada</FamilyName>'
            "<GivenName>Tarou</GivenName><NamePrefix>Dr</NamePrefix></Alphabetic><Ideographic><FamilyName>山田"
            "</FamilyName></Ideographic></PersonName></DicomAttribute>"
        )
    ) == {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou^^Dr", "Ideographic": "山田"}]}}


def test_sequences_binary_and_bulk_data() -> None:
    assert read_native_xml(
        document(
            '<DicomAttribute tag="00081140" vr="SQ"><Item number="1">'
            '<DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2</Value></DicomAttribute></Item>'
            '<Item number="2"/></DicomAttribute>'
            '<DicomAttribute tag="00420011" vr="OB"><InlineBinary>AAEC</InlineBinary></DicomAttribute>'
            '<DicomAttribute tag="7FE00010" vr="OW"><BulkData uri="http://x/bulk/1"/></DicomAttribute>'
            '<DicomAttribute tag="54001010" vr="OW"><BulkData uuid="ab-12"/></DicomAttribute>'
        )
    ) == {
        "00081140": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}, {}]},
        "00420011": {"vr": "OB", "InlineBinary": "AAEC"},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://x/bulk/1"},
        "54001010": {"vr": "OW", "BulkDataURI": "urn:uuid:ab-12"},
    }


def test_private_attributes_get_a_block_of_their_creator() -> None:
    assert read_native_xml(
        document(
            '<DicomAttribute tag="00091001" vr="LO" privateCreator="A"><Value number="1">1</Value></DicomAttribute>'
            '<DicomAttribute tag="00090002" vr="LO" privateCreator="B"><Value number="1">2</Value></DicomAttribute>'
            '<DicomAttribute tag="00090003" vr="LO" privateCreator="A"><Value number="1">3</Value></DicomAttribute>'
        )
    ) == {
        "00090010": {"vr": "LO", "Value": ["A"]},
        "00090011": {"vr": "LO", "Value": ["B"]},
        "00091001": {"vr": "LO", "Value": ["1"]},
        "00091102": {"vr": "LO", "Value": ["2"]},
        "00091003": {"vr": "LO", "Value": ["3"]},
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no xml",
        b"<a/>",
        b"<NativeDicomModel>",
        b'<?xml version="1.0" encoding="klingon"?><NativeDicomModel/>',
        b'<!DOCTYPE a [<!ENTITY b "c">]><NativeDicomModel/>',
        b'<!DOCTYPE NativeDicomModel SYSTEM "http://127.0.0.1/x.dtd"><NativeDicomModel/>',
        b"<NativeDicomModel>&b;</NativeDicomModel>",
        b"<NativeDicomModel><Value/></NativeDicomModel>",
        b"<NativeDicomModel><DicomAttribute/></NativeDicomModel>",
        b'<NativeDicomModel><DicomAttribute tag="x"/></NativeDicomModel>',
        document('<DicomAttribute tag="00280010" vr="US"><Value number="1">x</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00280010" vr="US"><Value number="0">1</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00280010" vr="US"><Value number="999999999">1</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00081140" vr="SQ"><Item number="1">' * 40),
        pytest.param(document('<DicomAttribute tag="00280010" vr="US"/>' * 200_001), marks=pytest.mark.slow),
    ],
    ids=lambda data: data[:40].decode() + str(len(data)),
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_native_xml(data)


# Not one whose IS is no number, and no encapsulated pixels, which are no value.
_FILES = [p for p in pydicom_test_files() if p.name != "badVR.dcm" and p.stat().st_size < 20_000]


@pytest.mark.slow
@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_what_this_server_writes_is_read_back(path: Path) -> None:
    syntax, data = data_set_bytes(path)
    try:
        told = decode_data_set(data, syntax, 1 << 20)
    except TranscodeError:
        pytest.skip("encapsulated")
    read, written = (checked_data_set(each) for each in (read_native_xml(native_model(told).encode()), told))
    assert read == {tag: _without_empty_components(element) for tag, element in written.items()}


def _without_empty_components(element: dict[str, Any]) -> dict[str, Any]:
    if element["vr"] != "PN":
        return element
    names = [{group: part.rstrip("^") for group, part in name.items()} for name in element.get("Value", ())]
    return {"vr": "PN", "Value": names} if any(any(name.values()) for name in names) else {"vr": "PN"}
