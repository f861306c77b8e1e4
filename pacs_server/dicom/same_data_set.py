"""Compares two data sets by their elements and values, however they are encoded (PS3.5 7, 10, A).

What depends on the encoding is left out: VRs that only one data set tells, group lengths, defined or undefined
lengths, Data Set Trailing Padding, padding of values, zeros that numbers of VR DS and IS are written with, and the
compression of Pixel Data if it is lossless. Both data sets are read forwards together, so that little memory is
needed, and the first difference ends it.
"""

from decimal import Decimal, InvalidOperation
from itertools import zip_longest

from pacs_server.dicom.codecs import BROKEN_DATA
from pacs_server.dicom.element_stream import DataSetBytes, ElementStream, StreamedElement
from pacs_server.dicom.pixels import ENCAPSULATED_ONLY, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION
from pacs_server.dicom.same_pixels import same_bytes, same_pixels
from pacs_server.dicom.vr import BYTES_VRS, SINGLE_VALUED_VRS, TEXT_VRS, dictionary_vr
from pacs_server.errors import TranscodeError

_DATA_SET_TRAILING_PADDING = 0xFFFCFFFC
# Codecs change these two, so they may differ if Pixel Data is encapsulated on one side.
_CHANGED_BY_CODECS = (PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION)
# Longer values are compared chunk by chunk.
_SHORT_VALUE = 64 * 1024
_MAX_OFFSET_TABLE = 1024 * 1024
# VRs of numbers that are written as text.
_NUMBERS = frozenset(("DS", "IS"))


def same_data_set(one: DataSetBytes, other: DataSetBytes) -> bool:
    """Whether two data sets have the same elements with the same values.

    A malformed data set is not the same as any other. What the `read` of a data set raises passes through.
    """
    try:
        return _same_elements(one.elements(), other.elements())
    except (TranscodeError, *BROKEN_DATA):
        return False


def _same_elements(one: ElementStream, other: ElementStream) -> bool:
    differing: set[int] = set()
    while True:
        first, second = _next(one), _next(other)
        if first is None or second is None:
            return first is second and not differing
        if first.tag != second.tag:
            return False
        if first.is_encapsulated or second.is_encapsulated:
            same = same_pixels(first, second, described_alike=not differing)
            differing.clear()
        elif first.is_sequence or second.is_sequence:
            same = _same_items(first, second)
        else:
            same = _same_value(first, second)
            if not same and first.tag in _CHANGED_BY_CODECS:
                differing.add(first.tag)
                same = True
        if not same:
            return False


def _next(level: ElementStream) -> StreamedElement | None:
    """The next element that counts."""
    while (element := level.next()) is not None:
        if element.tag in ENCAPSULATED_ONLY:
            element.value(_MAX_OFFSET_TABLE)
        elif element.tag & 0xFFFF == 0 or element.tag == _DATA_SET_TRAILING_PADDING:
            for _ in element.chunks():
                pass
        else:
            return element
    return None


def _same_items(one: StreamedElement, other: StreamedElement) -> bool:
    if not all(element.is_sequence or element.vr == "UN" for element in (one, other)):
        return False
    for first, second in zip_longest(one.items(), other.items()):
        if first is None or second is None or not _same_elements(first, second):
            return False
    return True


def _same_value(one: StreamedElement, other: StreamedElement) -> bool:
    vr = _common_vr(one, other)
    if vr is None:
        return False
    if max(one.length, other.length) > _SHORT_VALUE:
        return _same_chunks(one, other, vr)
    first, second = one.value(_SHORT_VALUE), other.value(_SHORT_VALUE)
    if vr in TEXT_VRS:
        first, second = _without_padding(first, vr), _without_padding(second, vr)
        return first == second or (vr in _NUMBERS and _same_numbers(first, second))
    return same_bytes(iter((first,)), iter((second,)), b"\0", 1 if vr in BYTES_VRS else 0)


def _same_numbers(one: bytes, other: bytes) -> bool:
    """Whether two values are the same numbers, as 1.50 and 1.5 are: some programs write all numbers anew."""
    try:
        return _numbers(one) == _numbers(other)
    except (InvalidOperation, UnicodeDecodeError):
        return False


def _numbers(value: bytes) -> list[Decimal]:
    return [Decimal(text) for text in value.decode("ascii").split("\\")]


def _same_chunks(one: StreamedElement, other: StreamedElement, vr: str) -> bool:
    if vr in TEXT_VRS:
        return same_bytes(one.chunks(), other.chunks(), b"\0 ")
    return same_bytes(one.chunks(), other.chunks(), b"\0", 1 if vr in BYTES_VRS else 0)


def _without_padding(value: bytes, vr: str) -> bytes:
    value = value.rstrip(b"\0 ")
    return value if vr in SINGLE_VALUED_VRS else value.lstrip(b" ")


def _common_vr(one: StreamedElement, other: StreamedElement) -> str | None:
    """The VR by which to compare two values; None if the VRs that the data sets tell contradict each other."""
    told = {element.vr for element in (one, other) if element.has_vr}
    if not told:
        known = [element.vr for element in (one, other) if element.vr != "UN"]
        return known[0] if known else dictionary_vr(one.tag) or "UN"
    if len(told) == 1:
        return told.pop()
    if told <= TEXT_VRS:
        return min(told & SINGLE_VALUED_VRS, default="LO")
    # Bytes and words hold any numbers, as OW and US do in a lookup table.
    return "UN" if told & BYTES_VRS and not told & TEXT_VRS else None
