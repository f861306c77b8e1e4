import xml.etree.ElementTree as ET
from typing import Any

from pacs_server.dicom.native_xml import native_model

NAMESPACE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"


def read(document: str) -> list[Any]:
    """The attributes: what they have, and what is in them, without the namespace."""

    def told(element: ET.Element) -> tuple[str, dict[str, str], str | list[Any]]:
        name = element.tag.removeprefix(NAMESPACE)
        assert element.tag.startswith(NAMESPACE)
        return name, element.attrib, [told(inner) for inner in element] or element.text or ""

    root = ET.fromstring(document.encode())
    assert root.tag == f"{NAMESPACE}NativeDicomModel"
    return [told(element) for element in root]


def test_values() -> None:
    document = native_model(
        {
            "00100020": {"vr": "LO", "Value": ["<P> & \"1\""]},
            "00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]},
            "00080050": {"vr": "SH"},
            "00281053": {"vr": "DS", "Value": [1.5]},
            "00104000": {"vr": "LT", "Value": ["a\r\nb\x00\x0bc"]},
        }
    )  # fmt: skip
    assert [(told["tag"], told["keyword"], told["vr"]) for _, told, _ in read(document)] == [
        ("00080008", "ImageType", "CS"),
        ("00080050", "AccessionNumber", "SH"),
        ("00100020", "PatientID", "LO"),
        ("00104000", "PatientComments", "LT"),
        ("00281053", "RescaleSlope", "DS"),
    ]
    assert [content for _, _, content in read(document)] == [
        [("Value", {"number": "1"}, "ORIGINAL"), ("Value", {"number": "3"}, "AXIAL")],
        "",
        [("Value", {"number": "1"}, '<P> & "1"')],
        [("Value", {"number": "1"}, "a\r\nbc")],
        [("Value", {"number": "1"}, "1.5")],
    ]


def test_names() -> None:
    name = {"Alphabetic": "Müller^Jörg^^Dr.", "Ideographic": "山田^太郎"}
    [(_, _, content)] = read(native_model({"00100010": {"vr": "PN", "Value": [name, None]}}))
    groups = [
        ("Alphabetic", {}, [("FamilyName", {}, "Müller"), ("GivenName", {}, "Jörg"), ("NamePrefix", {}, "Dr.")]),
        ("Ideographic", {}, [("FamilyName", {}, "山田"), ("GivenName", {}, "太郎")]),
    ]
    assert content == [("PersonName", {"number": "1"}, groups)]


def test_sequences_private_attributes_and_bulk_data() -> None:
    item = {"00080100": {"vr": "SH", "Value": ["A"]}}
    document = native_model(
        {
            "00081032": {"vr": "SQ", "Value": [item, {}]},
            "00091002": {"vr": "UN", "InlineBinary": "AAE="},
            "00090010": {"vr": "LO", "Value": ["ACME 1"]},
            "7FE00010": {"vr": "OW", "BulkDataURI": "http://x/?a&b"},
        }
    )
    code = (
        "DicomAttribute",
        {"tag": "00080100", "keyword": "CodeValue", "vr": "SH"},
        [("Value", {"number": "1"}, "A")],
    )
    assert [content for _, _, content in read(document)] == [
        [("Item", {"number": "1"}, [code]), ("Item", {"number": "2"}, "")],
        [("Value", {"number": "1"}, "ACME 1")],
        [("InlineBinary", {}, "AAE=")],
        [("BulkData", {"uri": "http://x/?a&b"}, "")],
    ]
    # PS3.19 Table A.1.5-2: the creator instead of its block.
    assert read(document)[2][1] == {"tag": "00090002", "privateCreator": "ACME 1", "vr": "UN"}
