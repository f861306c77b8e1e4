"""The reader of whole data sets: what has no end, and what is nested too deep."""

import struct

import pytest

from pacs_server.dicom.encoding import EXPLICIT_LE, IMPLICIT_LE
from pacs_server.dicom.reader import read_elements
from pacs_server.errors import TranscodeError

UNDEFINED = 0xFFFFFFFF


def head(tag: int, length: int) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, length)


def nested(depth: int) -> bytes:
    """An element of VR UN that is a sequence of so many others in one another and an empty one (PS3.5 6.2.2)."""
    value = b""
    for _ in range(depth):
        value = head(0xFFFEE000, 8 + len(value)) + head(0x00081032, len(value)) + value
    return b"\x08\0\x32\x10UN\0\0" + struct.pack("<L", len(value)) + value


def test_an_item_of_undefined_length_has_an_end() -> None:
    item = head(0xFFFEE000, UNDEFINED) + head(0x00080100, 2) + b"A "
    for value in (item, item + head(0xFFFEE00D, 0)):
        data = memoryview(head(0x00081032, len(value)) + value)
        if value == item:
            with pytest.raises(TranscodeError, match="has no end"):
                read_elements(data, IMPLICIT_LE)
        else:
            assert len(read_elements(data, IMPLICIT_LE)) == 1


@pytest.mark.parametrize(
    ("outside", "inside", "vr"), [(0, 3, "SQ"), (0, 4, "UN"), (1, 2, "SQ"), (1, 3, "UN"), (0, 2000, "UN")]
)
def test_a_sequence_that_came_as_unknown_counts_with_those_around_it(outside: int, inside: int, vr: str) -> None:
    data = nested(inside)
    for _ in range(outside):
        item = head(0xFFFEE000, len(data)) + data
        data = b"\x08\0\x40\x11SQ\0\0" + struct.pack("<L", len(item)) + item
    (element,) = read_elements(memoryview(data), EXPLICIT_LE, max_depth=4, known_sequences=True)
    for _ in range(outside):
        assert isinstance(element.value, tuple)
        (element,) = element.value[0].elements
    assert element.vr == vr


def test_private_elements_have_the_vr_that_their_creator_gives_them() -> None:
    creator = head(0x00290010, 18) + b"SIEMENS CSA HEADER"
    for value in (creator + head(0x00291010, 2) + b"ab", head(0x00291010, 2) + b"ab"):
        *_, element = read_elements(memoryview(value), IMPLICIT_LE)
        assert element.vr == ("OB" if value.startswith(creator) else "UN")
