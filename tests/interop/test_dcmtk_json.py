"""The DICOM JSON Model, as DCMTK's dcm2json has it."""

import json
import struct
from pathlib import Path
from typing import Any

import datasets
import dcmtk
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from servers import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT
from strategies import encoded

from pacs_server.dicom.encoding import encoding_of
from pacs_server.dicom.json_codec import decode_data_set
from pacs_server.dicom.part10 import encode_head
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode

pytestmark = pytest.mark.interop

FILES = datasets.pydicom_test_files()


def without_pixels(path: Path) -> tuple[str, bytes]:
    """A file's data set without pixels, which dcm2json does not take compressed, and its transfer syntax."""
    syntax, data = datasets.data_set_bytes(path)
    if syntax in (BIG_ENDIAN, DEFLATED) or path.name == "SC_rgb_jpeg.dcm":
        pytest.skip("the same elements as in little endian, or not readable")
    elements = [e for e in read_elements(memoryview(data), encoding_of(syntax)) if e.tag != 0x7FE00010]
    return (IMPLICIT if syntax == IMPLICIT else EXPLICIT), encode(elements, encoding_of(syntax))


def number(value: Any) -> Any:
    try:
        return pytest.approx(float(value))
    except ValueError:
        return value


def comparable(element: dict[str, Any]) -> Any:
    """The values of an element, where the two may write the same in two ways."""
    vr = element["vr"]
    if vr == "SQ":
        return [{tag: (e["vr"], comparable(e)) for tag, e in item.items()} for item in element.get("Value", [])]
    values: list[Any] = []
    for value in element.get("Value", []):
        if vr in ("DS", "IS", "FD") and value not in (None, ""):
            values.append(number(value))
        elif vr == "FL":
            # Nine digits or seventeen name the same number of four bytes, and -0 is 0.
            values.append(struct.pack("<f", value + 0.0))
        elif vr == "PN":
            # DCMTK leaves out empty components at the end.
            groups = {name: group.rstrip("^") for name, group in (value or {}).items()}
            values.append({name: group for name, group in groups.items() if group} or None)
        else:
            values.append(value.strip() or None if isinstance(value, str) else value)
    return element.get("InlineBinary", values if any(value is not None for value in values) else [])


@pytest.mark.parametrize("signed", [0, 1])
def test_numbers_are_signed_where_pixels_are(signed: int, tmp_path: Path) -> None:
    # In Implicit VR only Pixel Representation tells whether these are US or SS.
    vr, value = ("SS", -5) if signed else ("US", 65531)
    data_set, lut = Dataset(), Dataset()
    data_set.PixelRepresentation, data_set.BitsAllocated = signed, 16
    for tag in (0x00280106, 0x00280107, 0x00280120):
        data_set.add_new(tag, vr, value)
    lut.add_new(0x00283002, vr, [10, value, 16])
    data_set.ModalityLUTSequence = [lut]
    data = encoded(data_set, IMPLICIT)
    file = tmp_path / "file"
    file.write_bytes(encode_head("1.2", "1.3", IMPLICIT, "TEST") + data)
    ran = dcmtk.run("dcm2json", file)
    assert ran.returncode == 0, ran.stderr
    of_dcmtk = {tag: element for tag, element in json.loads(ran.stdout).items() if tag[:4] != "0002"}
    found = decode_data_set(data, IMPLICIT, 1 << 20)
    assert found == dcmread(file).to_json_dict()
    # For the item of a sequence DCMTK does not look at the data set around it.
    assert found.pop("00283000")["Value"][0]["00283002"] == {"vr": vr, "Value": [10, value, 16]}
    assert found == {tag: element for tag, element in of_dcmtk.items() if tag != "00283000"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_pydicom_is_what_dcmtk_says(path: Path, tmp_path: Path) -> None:
    syntax, data = without_pixels(path)
    file = tmp_path / "file"
    file.write_bytes(encode_head("1.2", "1.3", syntax, "TEST") + data)
    ran = dcmtk.run("dcm2json", file)
    if ran.returncode:
        pytest.skip(f"DCMTK cannot read it: {ran.stderr.strip()}")
    expected = {tag: e for tag, e in json.loads(ran.stdout).items() if tag[4:] != "0000" and tag[:4] != "0002"}
    found = decode_data_set(data, syntax, 1 << 28)
    # dcm2json writes UTF-8 and says so, we keep what was sent.
    for each in (found, expected):
        each.pop("00080005", None)
    assert found.keys() == expected.keys()
    for tag, element in found.items():
        if expected[tag]["vr"] == "UN":
            continue  # dcm2json leaves it at what was sent, pydicom and we go by the dictionary (PS3.5 6.2.2)
        assert (element["vr"], comparable(element)) == (expected[tag]["vr"], comparable(expected[tag])), tag
