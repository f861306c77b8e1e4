"""The header reader against anything at all, and against pydicom."""

import json
import warnings
from functools import cache
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.charset import python_encoding
from pydicom.errors import InvalidDicomError

from benchmarks import instances
from pacs_server.dicom import skim
from pacs_server.dicom.attributes import INDEXED
from pacs_server.dicom.header import Header, read_header
from pacs_server.dicom.runs import Runs
from pacs_server.dicom.text import encodings_of, plain_value, text_values
from pacs_server.errors import InvalidInstance

DATA = Path(pydicom.__file__).parent / "data"
TRANSFER_SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"]
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@cache
def dicom_files() -> dict[str, tuple[bytes, str]]:
    """The data set bytes and transfer syntax of every file of pydicom's that has a file meta group."""
    found = {}
    for path in sorted([*DATA.glob("test_files/**/*.dcm"), *DATA.glob("charset_files/*.dcm")]):
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pydicom.filereader.read_preamble(file, force=False)
            except InvalidDicomError:
                continue
            meta = pydicom.filereader._read_file_meta_info(file)
            if "TransferSyntaxUID" in meta:
                found[path.name] = (file.read(), str(meta.TransferSyntaxUID))
    return found


def said_by_pydicom(name: str) -> pydicom.Dataset:
    (path,) = DATA.rglob(name)
    return pydicom.dcmread(path)


def text_of(data_set: pydicom.Dataset, tag: int) -> str:
    element = data_set.get(tag)
    if element is None or element.value is None:
        return ""
    if element.VR == "SQ":
        items = [item.to_json_dict() for item in element.value]
        return json.dumps(items, ensure_ascii=False, separators=(",", ":")) if items else ""
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join(str(value).strip() for value in values)


def test_there_are_files_to_test_with():
    assert len(dicom_files()) > 80


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", dicom_files())
def test_headers_are_what_pydicom_says(name):
    raw, transfer_syntax = dicom_files()[name]
    expected = said_by_pydicom(name)
    if not all(expected.get(uid) for uid in UIDS):
        with pytest.raises(InvalidInstance, match="is missing"):
            read_header(raw, transfer_syntax, complete=True)
        return
    header = read_header(raw, transfer_syntax, complete=True)
    assert header.values == {a.column: text for a in INDEXED if (text := text_of(expected, a.tag))}
    assert header.uids.sop == expected.SOPInstanceUID


@given(st.data())
def test_a_cut_header_is_whole_or_refused(data):
    name = data.draw(st.sampled_from(["CT_small.dcm", "rtplan.dcm", "MR_small_bigendian.dcm"]))
    raw, transfer_syntax = dicom_files()[name]
    size = data.draw(st.integers(0, len(raw)))
    cut = read_or_refuse(raw[:size], transfer_syntax, complete=False)
    assert cut in (None, read_header(raw, transfer_syntax, complete=True))


def assert_fit_for_a_database(header: Header) -> None:
    for text in header.values.values():
        assert text
        assert "\0" not in text
        text.encode("utf-8")


def read_or_refuse(raw: bytes, transfer_syntax: str, *, complete: bool) -> Header | None:
    try:
        header = read_header(raw, transfer_syntax, complete=complete)
    except InvalidInstance:
        return None
    assert_fit_for_a_database(header)
    return header


@given(st.binary(max_size=4096), st.sampled_from(TRANSFER_SYNTAXES), st.booleans())
@example(b"", TRANSFER_SYNTAXES[0], True)
@example(b"\x08\x00\x05\x00CS\xff\xff", TRANSFER_SYNTAXES[1], True)
@example(b"\x08\x00\x05\x00SQ\0\0" + b"\xff" * 4, TRANSFER_SYNTAXES[1], True)
def test_any_bytes_are_read_or_refused(raw, transfer_syntax, complete):
    read_or_refuse(raw, transfer_syntax, complete=complete)


@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    names = [name for name, (raw, _) in dicom_files().items() if len(raw) < 200_000]
    raw, transfer_syntax = dicom_files()[data.draw(st.sampled_from(names))]
    damaged = bytearray(raw[:16_384])
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6)) or b"\xff"
    read_or_refuse(bytes(damaged), transfer_syntax, complete=data.draw(st.booleans()))


def forgetful(raw: bytes, transfer_syntax: str, *, complete: bool) -> Header | None:
    """The header as somebody reads it who has read no other one before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skim, "_RUNS", {key: Runs() for key in skim._RUNS})
        patch.setattr(skim, "_known", {})
        return read_or_refuse(raw, transfer_syntax, complete=complete)


@given(st.data())
def test_what_other_data_sets_had_changes_nothing(data):
    names = [name for name, (raw, _) in dicom_files().items() if len(raw) < 200_000]
    raw, transfer_syntax = dicom_files()[data.draw(st.sampled_from(names))]
    changed = bytearray(raw[:2048])
    complete = data.draw(st.booleans())
    for _ in range(6):
        assert read_or_refuse(bytes(changed), transfer_syntax, complete=complete) == forgetful(
            bytes(changed), transfer_syntax, complete=complete
        )
        # The same again, or a value, a head or the length changed somewhere.
        for at in data.draw(st.lists(st.integers(0, len(changed) - 1), max_size=2)):
            changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))


def test_runs_that_instances_have_in_common_are_stepped_over_at_once(monkeypatch):
    monkeypatch.setattr(skim, "_RUNS", {key: Runs() for key in skim._RUNS})
    learned: list[int] = []
    learn = Runs.learn
    monkeypatch.setattr(Runs, "learn", lambda self, raw, steps: (learned.append(len(steps)), learn(self, raw, steps)))
    for number in range(4):
        raw = instances.ct_template(64).patched(1, number)
        assert read_header(raw, instances.EXPLICIT_VR_LITTLE_ENDIAN, complete=True).uids.sop == instances.sop_uid(
            number
        )
    assert learned[0] > 60
    assert learned[3] <= 8


@pytest.mark.slow
@given(st.text(max_size=64), st.binary(max_size=200), st.sampled_from(["PN", "LO", "LT", "CS", "UI"]))
def test_any_bytes_become_text(character_set, raw, vr):
    for value in text_values(raw, vr, encodings_of(character_set)):
        assert "\0" not in value
        value.encode("utf-8")


@given(
    st.sampled_from(["", "KLINGON", *python_encoding]),
    st.binary(max_size=12) | st.text(st.sampled_from("aB1 .^=\\\t\0\x7f\x1b~"), max_size=12).map(str.encode),
    st.sampled_from("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split()),
)
@example("", b"Doe^Jane==", "PN")
@example("", b" lines\r\n", "LO")
@example("ISO_IR 13", b"a\\ b", "SH")
@example("", b"  indented", "LT")
def test_a_plain_value_is_the_same_by_all_the_rules(character_set, raw, vr):
    text = plain_value(raw, vr.encode())
    assert text is None or text == "\\".join(text_values(raw, vr, encodings_of(character_set)))


@pytest.mark.slow
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\="), max_size=16))
def test_printable_ascii_is_plain(text):
    assert plain_value(text.encode() + b"\0", b"PN") == text.strip()


@given(
    st.sampled_from(["ISO_IR 192", "GB18030"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="\\="), min_size=1),
)
def test_text_survives_a_set_that_holds_it(character_set, text):
    encoding = {"ISO_IR 192": "utf-8", "GB18030": "gb18030"}[character_set]
    assert text_values(text.encode(encoding), "PN", encodings_of(character_set)) == [text]
