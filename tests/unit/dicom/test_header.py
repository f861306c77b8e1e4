"""The header reader: what it takes, what it refuses, and in which words."""

import json
import struct
import zlib

import pytest
from datasets import encoded
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence

from pacs_server.dicom import header as header_module
from pacs_server.dicom.header import MAX_INFLATED_BYTES, read_header
from pacs_server.dicom.skim import MAX_DEPTH, MAX_ELEMENTS
from pacs_server.dicom.text import encodings_of, text_values
from pacs_server.errors import InvalidInstance

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"


def element(tag: int, vr: str, value: bytes, order: str = "<") -> bytes:
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr in ("SQ", "OB", "UN", "UT"):
        return head + struct.pack(f"{order}HL", 0, len(value)) + value
    return head + struct.pack(f"{order}H", len(value)) + value


def data_set(**values: object) -> Dataset:
    made = Dataset()
    uids = {"SOPClassUID": "1.2", "SOPInstanceUID": "1.1.1.1", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}
    for keyword, value in (uids | values).items():
        setattr(made, keyword, value)
    return made


def with_bytes(*elements: bytes) -> bytes:
    """The four UIDs with elements of any bytes among them, in the order of their tags; the last of a tag counts."""
    parts = [
        element(0x00080016, "UI", b"1.2\0"),
        element(0x00080018, "UI", b"1.1.1.1\0"),
        element(0x0020000D, "UI", b"1.1\0"),
        element(0x0020000E, "UI", b"1.1.1\0"),
        *elements,
    ]
    return b"".join(sorted(parts, key=lambda part: struct.unpack_from("<HH", part)))


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG, JPEG])
def test_every_encoding_gives_the_same_header(transfer_syntax):
    item = data_set()
    item.clear()
    item.ScheduledProcedureStepID = "S1"
    one = data_set(
        PatientName="Doe^Jane", PatientID="P1", Rows=512, ImageType=["ORIGINAL", "PRIMARY"], InstanceNumber="3",
        RequestAttributesSequence=[item],
    )  # fmt: skip
    header = read_header(encoded(one, transfer_syntax), transfer_syntax, complete=True)
    assert (header.uids.study, header.uids.series, header.uids.sop) == ("1.1", "1.1.1", "1.1.1.1")
    assert (header.sop_class_uid, header.transfer_syntax_uid) == ("1.2", transfer_syntax)
    assert header.values == {
        "study_instance_uid": "1.1",
        "series_instance_uid": "1.1.1",
        "sop_instance_uid": "1.1.1.1",
        "sop_class_uid": "1.2",
        "patient_name": "Doe^Jane",
        "patient_id": "P1",
        "rows": "512",
        "image_type": "ORIGINAL\\PRIMARY",
        "instance_number": "3",
        "request_attributes_sequence": '[{"00400009":{"vr":"SH","Value":["S1"]}}]',
    }


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_missing_and_empty_uids_are_named(keyword):
    missing = data_set()
    delattr(missing, keyword)
    for one, words in ((missing, "is missing"), (data_set(**{keyword: ""}), "is missing")):
        with pytest.raises(InvalidInstance, match=f"{keyword} {words}"):
            read_header(encoded(one), EXPLICIT, complete=True)


@pytest.mark.parametrize("wrong", [b"../../etc", b"1.2.\0\0", b"1\\2 ", b"1" * 66, b"1.2\xff "])
@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_wrong_uids_are_named(keyword, wrong):
    raw = with_bytes(element(tag_for_keyword(keyword), "UI", wrong))
    with pytest.raises(InvalidInstance, match=f"{keyword} is not a UID"):
        read_header(raw, EXPLICIT, complete=True)


def test_padded_uids_are_cleaned():
    raw = element(0x00080016, "UI", b" 1.2\0\0") + element(0x00080018, "UI", b"1.1.1.1   ")
    raw += element(0x0020000D, "UI", b" 1.1 \0") + element(0x0020000E, "UI", b"1.1.1\0\0\0")
    header = read_header(raw, EXPLICIT, complete=True)
    assert (header.uids.study, header.uids.series, header.uids.sop) == ("1.1", "1.1.1", "1.1.1.1")
    assert header.values["study_instance_uid"] == "1.1"


@pytest.mark.parametrize(
    ("raw", "column", "text"),
    [
        (element(0x00080020, "DA", b"2004-1-9"), "study_date", "2004-1-9"),
        (element(0x00080020, "DA", b"tomorrow"), "study_date", "tomorrow"),
        (element(0x00100020, "LO", b""), "patient_id", None),
        (element(0x00100020, "LO", b" \0"), "patient_id", None),
        (element(0x00100020, "LO", b" P1 \0\0 "), "patient_id", "P1"),
        (element(0x00100020, "US", b"\x07\0"), "patient_id", "7"),
        (element(0x00100020, "UN", b"P1"), "patient_id", "P1"),
        (element(0x00100020, "OB", b"P1"), "patient_id", "P1"),
        (element(0x00100020, "ZZ", b"P1"), "patient_id", "P1"),
        (element(0x00100020, "LO", b"P\x001\x1b2\x07"), "patient_id", "P12"),
        (element(0x00100020, "LO", b"P" * 1000), "patient_id", "P" * 256),
        (element(0x00104000, "LT", b"  two\r\nlines\\here "), "patient_comments", "  two\r\nlines\\here"),
        (element(0x00200013, "IS", b"one "), "instance_number", "one"),
        (element(0x00280010, "US", b"\0\x02"), "rows", "512"),
        (element(0x00280010, "US", b"\0\x02\0"), "rows", None),
        (element(0x00280010, "IS", b"512 "), "rows", "512"),
        (element(0x00280010, "US", b"\1\0\2\0"), "rows", "1\\2"),
        (element(0x00080008, "CS", b"A\\\\B "), "image_type", "A\\\\B"),
        (element(0x00080008, "CS", b"\\\\ "), "image_type", None),
        (element(0x00400275, "SQ", b"junk"), "request_attributes_sequence", None),
        (element(0x00400275, "LO", b"junk"), "request_attributes_sequence", None),
        (element(0x00400275, "SQ", b"\xfe\xff\x00\xe0\x00\x00\x00\x00"), "request_attributes_sequence", None),
        (element(0x00400275, "SQ", b"\xfe\xff\x00\xe0\xff\x00\x00\x00"), "request_attributes_sequence", None),
    ],
)
def test_odd_values_are_kept_as_text_or_left_out(raw, column, text):
    assert read_header(with_bytes(raw), EXPLICIT, complete=True).values.get(column) == text


def test_nothing_but_uids_is_enough():
    assert len(read_header(with_bytes(), EXPLICIT, complete=True).values) == 4


def test_other_vr_encoding_than_negotiated_is_seen():
    one = data_set(PatientID="P1")
    assert read_header(encoded(one, IMPLICIT), EXPLICIT, complete=True).values["patient_id"] == "P1"
    assert read_header(encoded(one, EXPLICIT), IMPLICIT, complete=True).values["patient_id"] == "P1"


def test_cut_behind_the_last_indexed_element_does_not_matter():
    raw = with_bytes(element(0x00280010, "US", b"\0\x02")) + element(0x7FE00010, "OB", bytes(5000))
    whole = read_header(raw, EXPLICIT, complete=True)
    for size in range(len(raw) - 5000, len(raw), 500):
        assert read_header(raw[:size], EXPLICIT, complete=False) == whole


def test_cut_before_the_last_indexed_element_names_the_limit():
    raw = with_bytes(element(0x00290010, "OB", bytes(5000)))
    with pytest.raises(InvalidInstance, match="the header does not end within the first 1000 bytes of the data set"):
        read_header(raw[:1000], EXPLICIT, complete=False)
    assert read_header(raw, EXPLICIT, complete=True).uids.study == "1.1"


def test_every_cut_of_an_incomplete_head_is_refused():
    raw = with_bytes(element(0x00100010, "PN", b"Doe^Jane"))
    for size in range(len(raw) + 1):
        with pytest.raises(InvalidInstance, match=f"within the first {size} bytes"):
            read_header(raw[:size], EXPLICIT, complete=False)


def test_data_set_that_ends_inside_an_element_is_refused():
    raw = with_bytes()
    with pytest.raises(InvalidInstance, match="ends in the middle of an element"):
        read_header(raw[:-3], EXPLICIT, complete=True)


def test_padding_behind_the_data_set_is_ignored():
    assert read_header(with_bytes() + b"\0\0", EXPLICIT, complete=True).uids.study == "1.1"


def nested(depth: int) -> bytes:
    """Sequences of undefined length inside each other."""
    opened = (b"\x08\x00\x15\x11SQ\0\0" + b"\xff" * 4) + (b"\xfe\xff\x00\xe0" + b"\xff" * 4)
    closed = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    return opened * depth + closed * depth


def test_nesting_is_bounded():
    assert read_header(with_bytes(nested(MAX_DEPTH)), EXPLICIT, complete=True).uids.study == "1.1"
    for depth in (MAX_DEPTH + 1, 5000):
        with pytest.raises(InvalidInstance, match=f"nested deeper than {MAX_DEPTH} levels"):
            read_header(with_bytes(nested(depth)), EXPLICIT, complete=True)


def test_nesting_of_an_indexed_sequence_is_bounded():
    raw = b""
    for _ in range(1000):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(raw)) + raw
        raw = element(0x00400275, "SQ", item)
    with pytest.raises(InvalidInstance, match=f"nested deeper than {MAX_DEPTH} levels"):
        read_header(with_bytes(raw), EXPLICIT, complete=True)


@pytest.mark.slow
def test_number_of_elements_is_bounded():
    raw = element(0x00090010, "LO", b"") * (MAX_ELEMENTS + 1)
    with pytest.raises(InvalidInstance, match=f"more than {MAX_ELEMENTS} elements"):
        read_header(with_bytes(raw), EXPLICIT, complete=True)


@pytest.mark.slow
def test_deflate_bomb_is_bounded():
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    plain = element(0x00090010, "OB", bytes(64 * 1024 * 1024))
    bomb = deflater.compress(with_bytes(plain)) + deflater.flush()
    with pytest.raises(InvalidInstance, match=f"within the first {MAX_INFLATED_BYTES} bytes"):
        read_header(bomb, DEFLATED, complete=True)


def test_bytes_that_are_not_deflated_are_refused():
    with pytest.raises(InvalidInstance, match="cannot be inflated"):
        read_header(b"\xff" * 100, DEFLATED, complete=True)


def test_deflated_head_may_be_cut():
    one = data_set(PatientID="P1")
    one.add_new(0x7FE00010, "OB", bytes(range(256)) * 400)
    raw = encoded(one, DEFLATED)
    assert read_header(raw[: len(raw) // 2], DEFLATED, complete=False).values["patient_id"] == "P1"


def test_sequences_are_dicom_json():
    code, inner = Dataset(), Dataset()
    inner.PatientName = "Yamada^Tarou=山田^太郎"
    inner.SpecificCharacterSet = "ISO_IR 192"
    code.CodeValue, code.CodeMeaning = "T1", ""
    code.ReferencedSOPSequence = Sequence([inner])
    code.add_new(0x00090010, "OB", b"\1\2")
    code.PatientWeight, code.InstanceNumber, code.Rows = "70.5", "4", 2
    header = read_header(encoded(data_set(ProcedureCodeSequence=[code])), EXPLICIT, complete=True)
    (item,) = json.loads(header.values["procedure_code_sequence"])
    assert item["00080100"] == {"vr": "SH", "Value": ["T1"]}
    assert item["00080104"] == {"vr": "LO"}
    assert "00090010" not in item, "bytes are not indexed"
    assert item["00101030"] == {"vr": "DS", "Value": [70.5]}
    assert item["00200013"] == {"vr": "IS", "Value": [4]}
    assert item["00280010"] == {"vr": "US", "Value": [2]}
    (name,) = item["00081199"]["Value"]
    assert name["00100010"]["Value"] == [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]


def test_numbers_that_json_has_not_stay_text():
    item = b"".join(
        [
            element(0x00101020, "DS", b"nan "),
            element(0x00101030, "DS", b"1e999 "),
            element(0x00200013, "IS", b"9" * 400),
        ]
    )
    sequence = element(0x00081032, "SQ", b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item)
    text = read_header(with_bytes(sequence), EXPLICIT, complete=True).values["procedure_code_sequence"]

    def refuse(name: str) -> None:
        raise AssertionError(name)

    (parsed,) = json.loads(text, parse_constant=refuse)
    assert parsed["00101030"]["Value"] == ["1e999"]


@pytest.mark.parametrize(
    ("name", "raw", "text"),
    [
        ("ISO_IR 100", b"M\xfcller", "Müller"),
        ("ISO IR 100", b"M\xfcller", "Müller"),
        ("ISO_IR_100", b"M\xfcller", "Müller"),
        ("iso-ir 100", b"M\xfcller", "Müller"),
        ("latin1", b"M\xfcller", "Müller"),
        ("ISO 2022 IR 100", b"M\xfcller", "Müller"),
        ("ISO-IR 192", "Müller".encode(), "Müller"),
        ("UTF8", "Müller".encode(), "Müller"),
        ("utf-8", "Müller".encode(), "Müller"),
        ("ISO_IR 192", b"M\xfcller", "M\ufffdller"),
        ("ISO_IR 144", "Люксембург".encode("iso8859_5"), "Люксембург"),
        ("windows-1251", "Люксембург".encode("cp1251"), "Люксембург"),
        ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
        ("GBK", "王^小东".encode("gbk"), "王^小东"),
        ("ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("", b"Doe^Jane", "Doe^Jane"),
        ("", "Müller".encode(), "Müller"),
        ("", b"M\xfcller", "Müller"),
        ("ISO 2022 IR 6", b"M\xfcller", "Müller"),
        ("KLINGON", b"M\xfcller", "Müller"),
        ("KLINGON", "Müller".encode(), "Müller"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (
            "\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东",
        ),
        ("ISO 2022 IR 100\\ISO 2022 IR 144", b"Andr\xe9^\x1b-L\xbb\xee", "André^Лю"),
        ("\\ISO 2022 IR 87", b"A\x1b%zB", "A%zB"),
        ("ISO_IR 192\\ISO 2022 IR 87", "Müller".encode(), "Müller"),
    ],
)
def test_character_sets(name, raw, text):
    assert text_values(raw, "PN", encodings_of(name)) == [text]


def test_character_set_of_the_data_set_reaches_the_values():
    raw = with_bytes(
        element(0x00080005, "CS", b"ISO IR 144"), element(0x00100010, "PN", "Люксембург".encode("iso8859_5"))
    )
    assert read_header(raw, EXPLICIT, complete=True).values["patient_name"] == "Люксембург"


def test_backslash_inside_a_multi_byte_character_is_no_separator():
    # 0x8E5C is one character here, and its second byte a backslash.
    assert text_values("\u5c5c".encode("gb18030") + b"\x8e\\", "LO", encodings_of("GB18030"))[0].count("\\") == 0


def test_single_byte_text_outside_its_vr_follows_the_default_repertoire():
    assert text_values(b"Knie", "CS", encodings_of("ISO_IR 13")) == ["Knie"]


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_compressed_pixel_data_that_is_all_at_hand_is_seen_through(cut):
    fragments = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(part)) + part for part in (b"", bytes(64)))
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    whole = with_bytes(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + fragments + end)
    read_header(whole, JPEG, complete=True, size=len(whole))
    with pytest.raises(InvalidInstance, match="Pixel Data"):
        read_header(whole[:-cut], JPEG, complete=True, size=len(whole) - cut)
    # Of more than is at hand nothing is known, and nothing held against it.
    read_header(whole[:-cut], JPEG, complete=False, size=len(whole))


def test_only_what_is_not_plain_is_looked_at_twice(monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        header_module, "text_values", lambda raw, *rest: looked_at.append(raw) or text_values(raw, *rest)
    )
    one = data_set(
        SpecificCharacterSet="ISO_IR 100", ImageType=["ORIGINAL", "PRIMARY"], StudyDate="20240229", PatientID="P1",
        PatientName="Müller^Jürgen", ReferringPhysicianName="Doe^Jane", PatientBirthDate="", StudyDescription="Thorax",
    )  # fmt: skip
    values = read_header(encoded(one), EXPLICIT, complete=True).values
    assert len(values) == 10
    # The other one was read before in another data set.
    assert looked_at[-1:] == ["Müller^Jürgen ".encode("latin_1")]
    assert set(looked_at) <= {b"ORIGINAL\\PRIMARY", "Müller^Jürgen ".encode("latin_1")}
