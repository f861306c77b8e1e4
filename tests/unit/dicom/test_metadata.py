"""Metadata as text of DICOM JSON, and the values that were left out of it."""

import base64
import json
import shutil
import subprocess
import warnings
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs_server.dicom.bulk_data import find_bulk_data
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.encoding import deflated, encoding_of, is_deflated
from pacs_server.dicom.metadata import BASE, Metadata, number_text
from pacs_server.dicom.part10 import decode_head
from pacs_server.errors import BulkDataNotFound

_PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"


class Reads:
    """A data set that counts the bytes that are read of it."""

    def __init__(self, data: bytes, transfer_syntax_uid: str) -> None:
        self._data = data
        self.bytes = 0
        self.data_set = DataSetBytes(self._read, len(data), transfer_syntax_uid)

    def _read(self, offset: int, length: int) -> bytes:
        self.bytes += len(piece := self._data[offset : offset + length])
        return piece


def json_of(data_set: DataSetBytes) -> dict[str, Any]:
    """The metadata as values; Bulkdata URIs begin with "URL"."""
    metadata = Metadata(data_set)
    text = "".join(metadata.pieces())
    assert metadata.broken is None
    found: dict[str, Any] = json.loads(text.replace(BASE, "URL"))
    return found


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> DataSetBytes:
    """A data set as it is stored in a transfer syntax."""
    buffer = BytesIO()
    encoding = encoding_of(syntax)
    ds = Dataset({element.tag: element for element in ds})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(
            buffer, ds, implicit_vr=encoding.implicit_vr, little_endian=encoding.little_endian, force_encoding=True
        )
    data = buffer.getvalue()
    return Reads(deflated(data) if is_deflated(syntax) else data, syntax).data_set


def bulk(data_set: DataSetBytes, path: str) -> bytes:
    found = find_bulk_data(data_set, path)
    assert found.length is not None
    whole = b"".join(found.chunks(0, found.length))
    if found.offset is not None:
        assert data_set.read(found.offset, found.length) == whole
    return whole


def swapped(value: bytes) -> bytes:
    """Words of 16 bits in the other byte order."""
    return b"".join(value[at : at + 2][::-1] for at in range(0, len(value), 2))


def of_file(path: Path) -> Reads:
    """The data set of a file."""
    data = path.read_bytes()
    head = decode_head(data)
    assert head is not None
    return Reads(data[head.data_set_offset :], head.transfer_syntax_uid)


# ------------------------------------------------------------------------------------ the same as others say


def plain(value: Any) -> Any:
    """A value as it can be compared: programs differ in digits, in blanks, and in what an empty value is."""
    if isinstance(value, dict):
        return {key: part for key, part in ((key, plain(part)) for key, part in value.items()) if part} or None
    try:
        return float(f"{float(value):.7g}")
    except (TypeError, ValueError):
        return (value or "").strip().rstrip("^") or None


def differences(ours: dict[str, Any], theirs: dict[str, Any], path: str = "") -> list[str]:
    """What two data sets in DICOM JSON differ in, but for values that are bulk data."""
    found = []
    for tag in sorted(set(ours) | set(theirs)):
        one, other, place = ours.get(tag, {}), theirs.get(tag, {}), path + tag
        # Group lengths and groups below 0008 belong into no metadata, and the text is in UTF-8.
        if tag < "00080005" or tag == "00080005" or tag.endswith("0000"):
            continue
        if one.get("vr") != other.get("vr"):
            found.append(f"{place}: {one or 'missing'} and {other or 'missing'}")
        elif "BulkDataURI" in one:
            assert one["BulkDataURI"] == f"URL/bulkdata/{place}"
        elif one["vr"] == "SQ":
            items = one.get("Value", []), other.get("Value", [])
            if len(items[0]) != len(items[1]):
                found.append(f"{place}: {len(items[0])} and {len(items[1])} items")
            for number, pair in enumerate(zip(*items, strict=False), 1):
                found += differences(*pair, f"{place}/{number}/")
        elif one.get("InlineBinary", "") != (other.get("InlineBinary") or ""):
            found.append(f"{place}: {one} and {other}")
        else:
            values = [[plain(value) for value in each.get("Value", [])] for each in (one, other)]
            if values[0] != values[1] and any(value is not None for both in values for value in both):
                found.append(f"{place}: {values}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in datasets.pydicom_test_files() if path.name != "badVR.dcm"], ids=lambda path: path.name
)
def test_metadata_are_as_pydicom_reads_them(path: Path) -> None:
    """The metadata of each file that pydicom ships are what pydicom itself makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pydicom.dcmread(path).to_json_dict(bulk_data_threshold=1 << 40)
    ours = json_of(of_file(path).data_set)
    found = differences(ours, theirs)
    # One file says OW of its encapsulated pixels, which pydicom believes in one version and not in the next.
    assert [each for each in found if not each.startswith("7FE00010")] == []
    assert [tag for tag in ours if tag != "00080005"] == sorted(ours.keys() - {"00080005"})


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("dcm2json") is None, reason="no dcm2json")
@pytest.mark.parametrize("path", datasets.pydicom_test_files(), ids=lambda path: path.name)
def test_metadata_are_as_dcmtk_reads_them(path: Path) -> None:
    """The metadata are what dcm2json says, in which private attributes of unknown VR stay bytes."""
    answer = subprocess.run(["dcm2json", path], capture_output=True, check=False, timeout=60)
    try:
        theirs = json.loads(answer.stdout)
    except ValueError:
        pytest.skip("too much for dcm2json")
    found = differences(json_of(of_file(path).data_set), theirs)
    assert [each for each in found if not int(each.split("/")[-1][:4], 16) & 1] == []


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm"])
def test_a_broken_data_set_ends_where_it_breaks(name: str) -> None:
    """What can be read before the break is there, as complete JSON, and the reason is told."""
    path = _PACKAGED / name
    metadata = Metadata(of_file(path).data_set)
    found = json.loads("".join(metadata.pieces()).replace(BASE, "URL"))
    assert metadata.broken == "the data set ends within an element"
    assert found["00080060"]["Value"] == [pydicom.dcmread(path, stop_before_pixels=True).Modality]


def test_any_cut_of_a_data_set_is_complete_json() -> None:
    """Wherever a data set is cut, also within sequences, its metadata are JSON with what came before."""
    ds = datasets.make_ct(ReferencedStudySequence=[_reference(1), _reference(2)], rows=1, columns=2)
    whole = encoded(ds)
    data = whole.read(0, whole.size)
    sizes = []
    for end in range(len(data)):
        metadata = Metadata(Reads(data[:end], ExplicitVRLittleEndian).data_set)
        text = "".join(metadata.pieces())
        json.loads(text.replace(BASE, "URL"))
        sizes.append(len(text))
    assert sizes[0] == 2
    assert all(before <= after + 40 for before, after in pairwise(sizes))


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("value", "vr", "text"),
    [
        *[("1.50", "DS", "1.50"), ("+1.5", "DS", "1.5"), (".5", "DS", "0.5"), ("-.5", "DS", "-0.5"), ("5.", "DS", "5")],
        *[("007", "DS", "7"), ("0", "DS", "0"), ("-0.0", "DS", "-0.0"), ("00.10", "DS", "0.10")],
        *[("1e5", "DS", "1e5"), ("-1.0E-03", "DS", "-1.0E-03"), ("12", "IS", "12"), ("+012", "IS", "12")],
        *[("-5", "IS", "-5"), ("1.5", "IS", None), ("abc", "DS", None), (".", "DS", None), ("1e9999", "DS", None)],
        *[
            ("NaN", "DS", None),
            ("1,5", "DS", None),
            ("99999999999999999999", "IS", None),
            ("9" * 5000, "IS", None),
            ("e5", "DS", None),
        ],
    ],
)
def test_numbers_that_are_text(value: str, vr: str, text: str | None) -> None:
    """DS and IS become JSON numbers of the same digits, or stay text if they are no numbers."""
    assert number_text(value, vr) == text
    if text is not None:
        assert float(json.loads(text)) == float(value)


def test_text_in_every_character_set_is_utf_8_and_says_so() -> None:
    """F.2: the text is in UTF-8, whatever the data set was in."""
    ds = datasets.make_ct(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
    found = json_of(encoded(ds))
    assert found["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]}
    assert found["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}


@pytest.mark.parametrize("signed", [0, 1])
def test_us_or_ss_in_implicit_vr(signed: int) -> None:
    """Pixel Representation decides, also where it comes later or lies around the item."""
    ds = datasets.make_ct(rows=1, columns=2, SmallestImagePixelValue=5)
    ds.PixelRepresentation = signed
    ds.add_new(0x00189810, "US or SS", 7)
    item = Dataset()
    item.add_new(0x00409216, "US or SS", 9)
    ds.add_new(0x00409096, "SQ", [item])
    vr = "SS" if signed else "US"
    for tag in (0x00189810, 0x00280106):
        ds[tag].VR = vr
    ds[0x00409096].value[0][0x00409216].VR = vr
    found = json_of(encoded(ds, ImplicitVRLittleEndian))
    assert found["00189810"] == {"vr": vr, "Value": [7]}
    assert found["00280106"] == {"vr": vr, "Value": [5]}
    assert found["00409096"]["Value"][0]["00409216"] == {"vr": vr, "Value": [9]}


def test_numbers_that_json_has_not() -> None:
    """Numbers that are not finite, and integers that not every reader has exactly, are text."""
    ds = Dataset()
    ds.add_new(0x00080018, "UI", "1.2")
    ds.add_new(0x00720074, "FD", [float("nan"), float("inf"), -0.5])
    ds.add_new(0x00720082, "SV", [2**53, -(2**53) - 1])
    found = json_of(encoded(ds))
    assert found["00720074"]["Value"] == ["nan", "inf", -0.5]
    assert found["00720082"]["Value"] == [2**53, str(-(2**53) - 1)]


def test_an_empty_sequence_and_an_empty_item() -> None:
    """F.2.5: an empty sequence has no values, an empty item is an empty object."""
    ds = datasets.make_ct(ReferencedStudySequence=[], ReferencedSeriesSequence=[Dataset(), Dataset()])
    found = json_of(encoded(ds))
    assert found["00081110"] == {"vr": "SQ"}
    assert found["00081115"] == {"vr": "SQ", "Value": [{}, {}]}


@pytest.mark.parametrize("value", [b"\xfe\xff\x00\xe0\x0a\0\0\0\x08\0\x50\x11\x02\0\0\x001.", b"no items"])
def test_a_sequence_that_was_sent_as_un(value: bytes) -> None:
    """Items in the value of a UN element are items; what are none stays bytes."""
    data = b"\x08\0\x11\x11UN\0\0" + len(value).to_bytes(4, "little") + value
    data_set = Reads(data, ExplicitVRLittleEndian).data_set
    found = json_of(data_set)["00081111"]
    if value == b"no items":
        assert found == {"vr": "UN", "InlineBinary": base64.b64encode(value).decode()}
    else:
        assert found == {"vr": "SQ", "Value": [{"00081150": {"vr": "UI", "Value": ["1."]}}]}
        assert bulk(data_set, "00081111/1/00081150") == b"1."


# ------------------------------------------------------------------------------------ bulk data


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
    ],
)
def test_values_that_were_left_out_are_found_by_their_path(syntax: str) -> None:
    """Pixels and long values have a Bulkdata URI, and its path leads to the value in little endian."""
    ds = datasets.make_ct(rows=2, columns=2)
    inner = Dataset()
    inner.EncapsulatedDocument = bytes(range(256)) * 8
    ds.ReferencedStudySequence = [_reference(1), inner]
    ds.ICCProfile = b"\7" * 1024
    ds.RedPaletteColorLookupTableData = bytes(range(256)) * 6
    data_set = encoded(ds, syntax)
    found = json_of(data_set)
    assert found["7FE00010"]["BulkDataURI"] == "URL/bulkdata/7FE00010"
    assert found["00081110"]["Value"][1]["00420011"]["BulkDataURI"] == "URL/bulkdata/00081110/2/00420011"
    assert "InlineBinary" in found["00282000"]
    # pydicom writes the bytes of words as they are, in any byte order.
    words = swapped if syntax == ExplicitVRBigEndian else bytes
    assert bulk(data_set, "7FE00010") == words(ds.PixelData)
    assert bulk(data_set, "00081110/2/00420011") == inner.EncapsulatedDocument
    assert bulk(data_set, "00281201") == words(ds.RedPaletteColorLookupTableData)
    direct = syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert (find_bulk_data(data_set, "7FE00010").offset is not None) == direct
    assert b"".join(find_bulk_data(data_set, "7FE00010").chunks(3, 6)) == words(ds.PixelData)[3:6]


@pytest.mark.parametrize(
    "path",
    [
        *["00081110", "00081110/3/00081155", "00081110/0/00081155", "00081110/1", "00081110/1/", "00100010/1/00081155"],
        *["00081155", "7fe00010", "../etc/passwd", "", "FFFFFFFF", "7FE00010/1/7FE00010", "00081110/1/7FE00010"],
    ],
)
def test_there_is_no_bulk_data_at_other_paths(path: str) -> None:
    """A sequence, an item that is not there, and what is no path at all have no value."""
    ds = datasets.make_ct(rows=1, columns=2, ReferencedStudySequence=[_reference(1), _reference(2)])
    with pytest.raises(BulkDataNotFound):
        find_bulk_data(encoded(ds), path)


def test_long_values_are_not_read() -> None:
    """Neither the metadata nor the place of a value need the values before it, long ones or fragments."""
    ds = datasets.make_ct(rows=1000, columns=1000)
    ds.EncapsulatedDocument = bytes(8_000_000)
    ds.DataSetTrailingPadding = b"\1\2"
    data_set = encoded(ds)
    reads = Reads(data_set.read(0, data_set.size), ExplicitVRLittleEndian)
    assert json_of(reads.data_set)["FFFCFFFC"]["InlineBinary"] == "AQI="
    find_bulk_data(reads.data_set, "7FE00010")
    assert reads.bytes < 300_000
    assert reads.data_set.size > 9_000_000


def test_encapsulated_pixels_are_frames() -> None:
    """Encapsulated Pixel Data is told as such, and what comes behind it is there."""
    data_set = of_file(_PACKAGED / "MR_small_RLE.dcm").data_set
    assert find_bulk_data(data_set, "7FE00010").is_encapsulated
    assert json_of(data_set)["7FE00010"] == {"vr": "OB", "BulkDataURI": "URL/bulkdata/7FE00010"}


def _reference(number: int) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPInstanceUID = f"1.2.{number}"
    return ds
