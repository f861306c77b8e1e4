"""Instances are made of their data set in DICOM JSON and their bulk data."""

import io
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from datasets import make_ct, pydicom_test_files
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from pacs_server.dicom.bulk_input import Bulk, instance_pieces
from pacs_server.dicom.json_input import checked_data_set
from pacs_server.dicom.json_model import DataSet
from pacs_server.errors import InvalidInstance

EXPLICIT = str(ExplicitVRLittleEndian)
JPEG = "1.2.840.10008.1.2.4.50"


class Piecewise:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.size = len(raw)

    def pieces(self) -> Iterator[bytes]:
        for at in range(0, len(self._raw), 100_000):
            yield self._raw[at : at + 100_000]


def frames(ds: pydicom.Dataset, number: int | None = None) -> list[bytes]:
    found = generate_frames(ds.PixelData, number_of_frames=number or int(ds.get("NumberOfFrames") or 1))
    return [frame.rstrip(b"\0") for frame in found]


def made(data_set: DataSet, syntax: str = EXPLICIT, bulk: Bulk | None = None) -> pydicom.Dataset:
    data = b"".join(instance_pieces(checked_data_set(data_set, bulk=True), syntax, bulk or {}))
    ds = pydicom.filereader.read_dataset(io.BytesIO(data), is_implicit_VR=False, is_little_endian=True)
    ds.walk(lambda item, element: element.value)
    return ds


def _is_big_endian(path: Path) -> bool:
    return str(ExplicitVRBigEndian).encode() + b"\0" in path.read_bytes()[:1024]


# Not one whose IS is no number, and no big endian words, which a client would have to reverse.
_FILES = [path for path in pydicom_test_files() if path.name != "badVR.dcm" and not _is_big_endian(path)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of pydicom, about what the files hold
@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_every_file_comes_back_from_its_json_and_bulk_data(path: Path) -> None:
    ds = pydicom.dcmread(path)
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    bulk: dict[str, list[Piecewise]] = {}

    def keep(element: pydicom.DataElement) -> str:
        uri = f"bulk/{len(bulk)}"
        value = element.value if isinstance(element.value, bytes) else bytes(element.value)
        compressed = element.tag == 0x7FE00010 and syntax.is_encapsulated
        bulk[uri] = [Piecewise(each) for each in (frames(ds) if compressed else [value])]
        return uri

    told = ds.to_json_dict(bulk_data_threshold=100, bulk_data_element_handler=keep)
    back = made(told, str(syntax) if syntax.is_encapsulated else EXPLICIT, bulk)
    for element in ds:
        if element.tag != 0x7FE00010 or not syntax.is_encapsulated:
            assert_same(back.get(element.tag), element)
    if syntax.is_encapsulated:
        assert frames(back) == frames(ds)


def assert_same(back: pydicom.DataElement | None, element: pydicom.DataElement) -> None:
    if element.tag.element == 0 or element.tag == 0x00080005:
        return
    assert back is not None, element
    assert back.VR == element.VR or len(element.value) > 0xFFFF
    if element.VR == "SQ":
        assert len(back.value) == len(element.value)
        for one, other in zip(back.value, element.value, strict=True):
            for inner in other:
                assert_same(one.get(inner.tag), inner)
    elif isinstance(element.value, bytes):
        assert back.value.rstrip(b"\0") == element.value.rstrip(b"\0")
    else:
        assert plain(back) == plain(element), element


def plain(element: pydicom.DataElement) -> list[object]:
    values = element.value if element.VM > 1 else [element.value]
    return [value.strip() if isinstance(value, str) else value or None for value in values]


@pytest.mark.parametrize(
    ("charset", "name", "expected"),
    [
        (None, "Muller", None),
        (None, "Müller", "ISO_IR 192"),
        ("ISO_IR 100", "Müller", "ISO_IR 100"),
        ("ISO_IR 100", "山田", "ISO_IR 192"),
        ("ISO_IR 192", "山田", "ISO_IR 192"),
    ],
)
def test_text_in_the_character_set_that_can_represent_it(charset: str | None, name: str, expected: str | None) -> None:
    data_set = {
        "00080008": {"vr": "CS", "Value": ["ORIGINAL"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": name}]},
        "00081140": {"vr": "SQ", "Value": [{"00081030": {"vr": "LO", "Value": [name]}}]},
    }
    if charset:
        data_set["00080005"] = {"vr": "CS", "Value": [charset]}
    ds = made(data_set)
    assert ds.get("SpecificCharacterSet") == expected
    assert str(ds.PatientName) == name
    assert ds.ReferencedImageSequence[0].StudyDescription == name
    assert list(ds.keys()) == sorted(ds.keys())


def test_bulk_data_in_a_sequence_and_of_odd_length() -> None:
    ds = made(
        {"54000100": {"vr": "SQ", "Value": [{"54001010": {"vr": "OB", "BulkDataURI": "w"}}]}},
        bulk={"w": [Piecewise(b"123")]},
    )
    assert ds.WaveformSequence[0].WaveformData == b"123\0"


def test_frames_of_compressed_pixel_data() -> None:
    data_set = {"7FE00010": {"vr": "OB", "BulkDataURI": "p"}}
    ds = made(data_set, JPEG, {"p": [Piecewise(b"one"), Piecewise(b"two!")]})
    assert frames(ds, 2) == [b"one", b"two!"]


def test_inline_pixel_data_is_one_frame_if_it_is_compressed() -> None:
    ds = made({"7FE00010": {"vr": "OB", "InlineBinary": "AAEC"}}, JPEG)
    assert frames(ds) == [b"\0\1\2"]


def test_large_bulk_data_is_handed_on_in_its_pieces() -> None:
    told = checked_data_set(make_ct().to_json_dict() | {"7FE00010": {"vr": "OW", "BulkDataURI": "p"}}, bulk=True)
    pieces = list(instance_pieces(told, EXPLICIT, {"p": [Piecewise(bytes(1_000_000))]}))
    assert max(map(len, pieces)) <= 100_000
    assert len(pieces) == 11


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ({"vr": "US", "Value": [65536]}, "does not fit"),
        ({"vr": "SS", "Value": [1, -40000]}, "does not fit"),
        ({"vr": "LO", "Value": ["x" * 70_000]}, "too long"),
        ({"vr": "OW", "BulkDataURI": "elsewhere"}, "not in the request"),
    ],
)
def test_what_cannot_be_made(element: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInstance, match=message):
        made({"00281101": element})
