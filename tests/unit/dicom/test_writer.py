"""Elements as the writer encodes them are what the reader reads."""

import pytest

from pacs_server.dicom.encoding import EXPLICIT_LE, IMPLICIT_LE, Encoding
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.text_encoder import ascii_text
from pacs_server.dicom.writer import Writer


@pytest.mark.parametrize("encoding", [EXPLICIT_LE, IMPLICIT_LE])
@pytest.mark.parametrize("tag", [0x00080005, 0x7FE00008, 0xFFFC0010, 0xFFFF0010])
def test_only_the_delimiters_of_sequences_have_no_vr(tag: int, encoding: Encoding) -> None:
    (element,) = read_elements(memoryview(Writer(encoding).element(tag, "LO", b"ab")), encoding)
    assert (element.tag, element.content) == (tag, b"ab")
    assert encoding.implicit_vr or element.vr == "LO"


def test_text_that_is_too_long_loses_whole_values() -> None:
    values = ["1.2.840.10008.5.1.4.1.1.2"] * 3000
    raw = Writer(EXPLICIT_LE).text(0x0008001A, "UI", "\\".join(values), ascii_text)
    (element,) = read_elements(memoryview(raw), EXPLICIT_LE)
    kept = element.content.decode().rstrip("\0").split("\\")
    assert set(kept) == {values[0]}
    assert 65534 - 2 * len(values[0]) < len(element.content) <= 65534
