"""The Native DICOM Model, as DCMTK's dcm2xml has it."""

import xml.etree.ElementTree as ET
from pathlib import Path

import datasets
import dcmtk
import pytest

from pacs_server.dicom.json_codec import decode_data_set
from pacs_server.dicom.native_xml import native_model

pytestmark = pytest.mark.interop

# Private attributes with and without a creator, sequences, names, numbers.
NAMES = ("CT_small.dcm", "rtplan.dcm", "reportsi.dcm", "image_dfl.dcm", "chrGreek.dcm")
FILES = [path for path in datasets.pydicom_test_files() if path.name in NAMES]


Told = tuple[dict[str, str], object]


def told(element: ET.Element) -> Told:
    """What an element says, without what the two may write in two ways."""
    inner = [told(each) for each in element if is_compared(each)]
    text = (element.text or "").strip()
    # DCMTK does not know all keywords.
    attributes = {name: value for name, value in element.attrib.items() if name != "keyword"}
    return attributes, inner or number(text)


def is_compared(element: ET.Element) -> bool:
    # dcm2xml converts the text, writes bulk data in its own way, and keeps lengths of groups.
    tag = element.get("tag", "")
    return element.get("vr") not in ("OB", "OW", "UN") and tag != "00080005" and not (tag and tag.endswith("0000"))


def number(text: str) -> str | float:
    try:
        # Seven digits name a number of four bytes.
        return float(f"{float(text):.7g}")
    except ValueError:
        return text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_of_pydicom_are_what_dcmtk_says(path: Path) -> None:
    ran = dcmtk.run("dcm2xml", "-nat", "+Xn", "+U8", path)
    assert ran.returncode == 0, ran.stderr
    syntax, data = datasets.data_set_bytes(path)
    found = ET.fromstring(native_model(decode_data_set(data, syntax, 1 << 28)).encode())
    assert len(found) > 10
    assert told(found) == told(ET.fromstring(ran.stdout.encode()))
