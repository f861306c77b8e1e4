"""What the index keeps of an instance, read from the first bytes of its data set.

The reader walks element headers and looks into nothing it does not need: no recursion into foreign
sequences, no value copied that is not indexed, and nothing a sender writes can raise anything but
`InvalidInstance`.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydicom.datadict import dictionary_VR

from pacs_server.dicom.attributes import BY_KEYWORD, INDEXED, Attribute
from pacs_server.dicom.deflate import inflated
from pacs_server.dicom.text import SINGLE_VALUED_VRS, encodings_of, plain_value, text_values
from pacs_server.dicom.uids import InstanceUIDs, clean_uid, is_uid
from pacs_server.errors import InvalidInstance, TranscodeError

MAX_INFLATED_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 100_000
MAX_SEQUENCE_BYTES = 65_536
# Short ones go into database indexes, which take about 2,700 bytes (PostgreSQL).
MAX_SHORT_TEXT = 256
MAX_LONG_TEXT = 10_240

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
# Deflated Explicit VR, and the two JPIP Referenced Deflate ones: the data set itself is compressed (PS3.5 A.5).
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_CHARACTER_SET = 0x00080005
_BY_TAG = {attribute.tag: attribute for attribute in INDEXED}
# What is read while it is stepped over, if it is plain, and its VR where the data set does not say it.
_TEXT_TAGS = {_CHARACTER_SET: b"CS"} | {tag: a.vr.encode() for tag, a in _BY_TAG.items() if a.vr != "SQ"}
_SKIMMED = frozenset({*_BY_TAG, _CHARACTER_SET})
# The walk ends behind the last indexed attribute. What lies past group 0040 is a presentation
# state's label, and not worth refusing an object whose long groups before it were cut off.
_LAST_TAG = max(_BY_TAG)
_LAST_NEEDED_TAG = max(tag for tag in _BY_TAG if tag <= 0x0040FFFF)

_PIXEL_DATA = 0x7FE00010
_ITEM = 0xFFFEE000
_ITEM_DELIMITER = 0xFFFEE00D
_DELIMITERS = (_ITEM_DELIMITER, 0xFFFEE0DD)
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT_VRS = {vr.encode(): vr for vr in "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()}
_SHORT_VRS[b""] = ""  # Implicit VR
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_TEXTS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@dataclass(frozen=True, slots=True)
class Header:
    """The indexed part of an instance.

    `values` maps `Attribute.column` to decoded text for every indexed attribute that is present and
    not empty (several values joined by backslash, sequences as DICOM JSON text); padding is gone.
    """

    uids: InstanceUIDs
    sop_class_uid: str
    transfer_syntax_uid: str
    values: Mapping[str, str]


def read_header(head: bytes, transfer_syntax_uid: str, *, complete: bool, size: int | None = None) -> Header:
    """Read the indexed attributes from the first bytes of a data set, which is all of it when `complete`.

    Raises InvalidInstance when the data set breaks the encoding's rules, has no usable UIDs, or when
    its indexed part is longer than `head`; and when its `size` is given, in bytes, and Pixel Data
    does not end within it.
    """
    if transfer_syntax_uid in _DEFLATED:
        head, complete = _inflate(head, complete)
        size = None
    walker = Walker(
        head,
        explicit=transfer_syntax_uid != _IMPLICIT_LITTLE,
        order=">" if transfer_syntax_uid == _EXPLICIT_BIG else "<",
    )
    found, rest = _find(walker, complete)
    if size is not None and _is_cut_off(walker, rest, size):
        # Half an image that is kept would stand in the way of the whole one.
        raise InvalidInstance("the data set ends in the middle of Pixel Data")
    encodings = _encodings(walker, found)
    values = {}
    for tag, value in found.items():
        if value and (attribute := _BY_TAG.get(tag)) is not None:
            text = value if isinstance(value, str) else _indexed_text(walker, value, attribute, encodings)
            if text:
                values[attribute.column] = text
    uids = InstanceUIDs(
        study=_uid(values, "StudyInstanceUID"),
        series=_uid(values, "SeriesInstanceUID"),
        sop=_uid(values, "SOPInstanceUID"),
    )
    return Header(uids, _uid(values, "SOPClassUID"), transfer_syntax_uid, values)


def _inflate(head: bytes, complete: bool) -> tuple[bytes, bool]:
    try:
        plain, ended = inflated(head, MAX_INFLATED_BYTES)
    except TranscodeError as error:
        raise InvalidInstance("the deflated data set cannot be inflated") from error
    return plain, complete and ended


class Element(NamedTuple):
    """An element: where its value starts, and its length in bytes as the data set says it."""

    tag: int
    vr: str
    start: int
    length: int


# By tag; a value that is plain text as that.
_Found = dict[int, Element | str]


class Cut(Exception):
    """The bytes end in the middle of this element."""

    def __init__(self, tag: int) -> None:
        self.tag = tag


class Walker:
    """Steps over the elements of a data set, `max_elements` at most; `order` is a struct prefix."""

    def __init__(self, data: bytes, *, explicit: bool, order: str, max_elements: int = MAX_ELEMENTS) -> None:
        self.data = data
        self.order = order
        self._implicit_head = struct.Struct(f"{order}HHL").unpack_from
        self._explicit_head = struct.Struct(f"{order}HH2sH").unpack_from
        self._long_length = struct.Struct(f"{order}L").unpack_from
        # Some senders use the other VR encoding than they negotiated: the first element tells.
        self._explicit = explicit if len(data) < 6 else _looks_like_vr(data[4:6])
        self._max_elements = max_elements
        self._seen = 0

    def skim(self, at: int, found: "_Found") -> tuple[int, int]:
        """Step over plain elements from `at` on, keep the indexed ones; returns where it ended and the last tag.

        Plain is what is whole, not past the indexed ones and, in Explicit VR, of a short length: nearly
        all of a header, which is why these few lines stand apart from the general walk.
        """
        last = seen = 0
        data, explicit, size = self.data, self._explicit, len(self.data)
        vr = b""
        while size - at >= 8:
            if explicit:
                group, number, vr, length = self._explicit_head(data, at)
            else:
                group, number, length = self._implicit_head(data, at)
            tag = group << 16 | number
            start = at + 8
            at = start + length
            if vr not in _SHORT_VRS or at > size or tag > _LAST_TAG:
                at = start - 8
                break
            if tag in _SKIMMED:
                found[tag] = self._kept(tag, vr, start, length)
            last = tag
            seen += 1
        self._seen += seen
        self._check_count()
        return at, last

    def _kept(self, tag: int, vr: bytes, start: int, length: int) -> "Element | str":
        """A plain value as its text; an element that has to be looked at as such."""
        if length <= MAX_SHORT_TEXT and tag in _TEXT_TAGS:
            text = plain_value(self.data[start : start + length], vr or _TEXT_TAGS[tag])
            if text is not None:
                return text
        return Element(tag, _SHORT_VRS[vr], start, length)

    def elements(self, start: int, end: int) -> Iterator[Element]:
        """The elements of one data set or item, each before it is stepped over; raises Cut, InvalidInstance."""
        while end - start >= 8:
            element = self._head(start)
            if element.tag == _ITEM_DELIMITER:
                return
            yield element
            start = self.end(element)
            if start > end:
                raise Cut(element.tag)

    def items(self, sequence: Element) -> Iterator[tuple[int, int]]:
        """Where each item's content starts and ends; raises Cut, InvalidInstance."""
        start = sequence.start
        end = len(self.data) if sequence.length == _UNDEFINED else start + sequence.length
        while end - start >= 8:
            item = self._head(start)
            if item.tag != _ITEM:
                return
            start = self._end(item)
            yield item.start, start

    def value(self, element: Element) -> bytes:
        """The bytes of an element's value; none when its length is undefined."""
        return b"" if element.length == _UNDEFINED else self.data[element.start : element.start + element.length]

    def _head(self, at: int) -> Element:
        self._seen += 1
        self._check_count()
        try:
            group, number, length = self._implicit_head(self.data, at)
            tag = group << 16 | number
            # PS3.5 7.5: items and delimiters have no VR.
            if not self._explicit or group == 0xFFFE:
                return Element(tag, "", at + 8, length)
            _, _, raw_vr, short_length = self._explicit_head(self.data, at)
            vr = raw_vr.decode("latin_1")
            if vr in _LONG_VRS:
                return Element(tag, vr, at + 12, self._long_length(self.data, at + 8)[0])
        except struct.error:
            raise Cut(0) from None
        if _looks_like_vr(raw_vr):
            return Element(tag, vr, at + 8, short_length)
        # PS3.5 6.2.2: what a UN of undefined length holds is Implicit VR.
        return Element(tag, "", at + 8, length)

    def _check_count(self) -> None:
        if self._seen > self._max_elements:
            raise InvalidInstance(f"the header has more than {self._max_elements} elements")

    def end(self, element: Element) -> int:
        """Where the element ends, its delimiter included; raises Cut if its delimiter is not there."""
        try:
            return self._end(element)
        except Cut:
            raise Cut(element.tag) from None

    def _end(self, element: Element) -> int:
        """Whatever has no length is closed by a delimiter."""
        if element.length != _UNDEFINED:
            return element.start + element.length
        at, depth = element.start, 1
        while depth:
            inner = self._head(at)
            at = inner.start
            if inner.tag in _DELIMITERS:
                depth -= 1
            elif inner.length == _UNDEFINED:
                depth += 1
            else:
                at += inner.length
            # A sequence and its item are two levels here.
            if depth > 2 * MAX_DEPTH:
                raise InvalidInstance(f"sequences are nested deeper than {MAX_DEPTH} levels")
        return at


def _looks_like_vr(raw: bytes) -> bool:
    return raw.isalpha() and raw.isupper()


def _find(walker: Walker, complete: bool) -> tuple[_Found, int]:
    """The indexed elements of the top level, by tag, and where those that are not looked at begin."""
    found: _Found = {}
    size = len(walker.data)
    tag = at = 0
    try:
        while size - at >= 8:
            at, skimmed = walker.skim(at, found)
            tag = max(tag, skimmed)
            # What is not plain ends the skimming: step over it with care, and skim on.
            element = next(walker.elements(at, size), None)
            if element is None:
                break
            tag = element.tag
            if tag > _LAST_TAG:
                return found, at
            if element.length == _UNDEFINED or element.start + element.length <= size:
                found[tag] = element
            at = walker.end(element)
            if at > size:
                raise Cut(tag)
        # Bytes are missing that may hold more elements; tags ascend (PS3.5 7.1).
        if not complete:
            raise Cut(tag)
    except Cut as cut:
        if complete:
            raise InvalidInstance("the data set ends in the middle of an element") from None
        if max(cut.tag, tag) <= _LAST_NEEDED_TAG:
            raise InvalidInstance(f"the header does not end within the first {size} bytes of the data set") from None
    return found, size


def _is_cut_off(walker: Walker, at: int, size: int) -> bool:
    """Whether a data set of `size` bytes ends within its Pixel Data, as far as the bytes at hand tell.

    Compressed Pixel Data says how long it is at its very end, so that it is seen through only where
    it is all at hand.
    """
    end = len(walker.data)
    try:
        while end - at >= 8:
            element = next(walker.elements(at, end), None)
            if element is None or element.tag > _PIXEL_DATA:
                return False
            if element.tag == _PIXEL_DATA and element.length != _UNDEFINED:
                return element.start + element.length > size
            at = walker.end(element)
    except Cut as cut:
        return cut.tag == _PIXEL_DATA and end == size
    except InvalidInstance:
        # What lies before is not indexed, and no reason to refuse an object.
        return False
    return False


def _encodings(walker: Walker, found: Mapping[int, Element | str]) -> tuple[str, ...]:
    value = found.get(_CHARACTER_SET, "")
    return encodings_of(value if isinstance(value, str) else "\\".join(_texts(walker, value, "CS", ("",))))


def _uid(values: dict[str, str], keyword: str) -> str:
    column = BY_KEYWORD[keyword].column
    uid = clean_uid(values.get(column, ""))
    if not uid:
        raise InvalidInstance(f"{keyword} is missing")
    if not is_uid(uid):
        raise InvalidInstance(f"{keyword} is not a UID")
    return uid


def _indexed_text(walker: Walker, element: Element, attribute: Attribute, encodings: tuple[str, ...]) -> str:
    if attribute.vr == "SQ":
        return _sequence_text(walker, element, encodings)
    text = "\\".join(_texts(walker, element, attribute.vr, encodings))
    long = attribute.multiple or attribute.vr in SINGLE_VALUED_VRS
    return text[: MAX_LONG_TEXT if long else MAX_SHORT_TEXT].rstrip()


def _texts(walker: Walker, element: Element, dictionary_vr: str, encodings: tuple[str, ...]) -> list[str]:
    """The values as text, by the VR that was sent if it is of any use."""
    vr = element.vr if element.vr in _TEXTS or element.vr in _NUMBERS else dictionary_vr
    raw = walker.value(element)
    if vr not in _NUMBERS:
        return text_values(raw, vr, encodings)
    code = struct.Struct(walker.order + _NUMBERS[vr])
    if len(raw) % code.size:
        return []
    return [str(number) for (number,) in code.iter_unpack(raw)]


def _sequence_text(walker: Walker, element: Element, encodings: tuple[str, ...]) -> str:
    """The items as DICOM JSON (PS3.18 F.2), '' when there are none or they cannot be read."""
    if element.length != _UNDEFINED and element.length > MAX_SEQUENCE_BYTES:
        return ""
    try:
        items = _json_items(walker, element, encodings, 1)
    except Cut:
        return ""
    text = json.dumps(items, ensure_ascii=False, separators=(",", ":")) if any(items) else ""
    return text if len(text) <= MAX_SEQUENCE_BYTES else ""


def _json_items(walker: Walker, sequence: Element, encodings: tuple[str, ...], depth: int) -> list[object]:
    if depth > MAX_DEPTH:
        raise InvalidInstance(f"sequences are nested deeper than {MAX_DEPTH} levels")
    return [_json_item(walker, start, end, encodings, depth) for start, end in walker.items(sequence)]


def _json_item(walker: Walker, start: int, end: int, encodings: tuple[str, ...], depth: int) -> dict[str, object]:
    item: dict[str, object] = {}
    for element in walker.elements(start, end):
        vr = element.vr if element.vr not in ("", "UN") else _dictionary_vr(element.tag)
        if element.tag == _CHARACTER_SET:
            # PS3.5 7.5.3: an item's own character set holds for it and everything inside.
            encodings = _encodings(walker, {_CHARACTER_SET: element})
        if vr == "SQ":
            values = _json_items(walker, element, encodings, depth + 1)
        elif vr in _TEXTS or vr in _NUMBERS:
            values = [_json_value(text, vr) for text in _texts(walker, element, vr, encodings)]
        else:
            continue
        item[f"{element.tag:08X}"] = {"vr": vr, "Value": values} if values else {"vr": vr}
    return item


def _json_value(text: str, vr: str) -> object:
    if text == "":
        return None
    if vr == "PN":
        return {name: part for name, part in zip(_NAME_GROUPS, text.split("="), strict=False) if part}
    if vr not in _NUMBERS and vr not in ("DS", "IS"):
        return text
    try:
        if vr not in ("DS", "FL", "FD"):
            return int(text)
        number = float(text)
    except ValueError:
        return text
    # JSON has no infinity.
    return number if math.isfinite(number) else text


def _dictionary_vr(tag: int) -> str:
    try:
        return str(dictionary_VR(tag))[:2]
    except KeyError:
        return "UN"
