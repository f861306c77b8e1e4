"""The metadata of an instance: its whole data set as text in the DICOM JSON Model, without bulk data (PS3.18 F.2).

Pixel data and long values are left out, and a Bulkdata URI stands in their place. The data set is read forwards, and
neither long values nor the text as a whole are ever in memory.
"""

import base64
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pacs_server.dicom.element_stream import ByteStream, DataSetBytes, ElementStream, StreamedElement
from pacs_server.dicom.person_name import groups_of
from pacs_server.dicom.tags import (
    PIXEL_DATA,
    PIXEL_REPRESENTATION,
    SPECIFIC_CHARACTER_SET,
)
from pacs_server.dicom.text import encodings_of, plain_value, text_values
from pacs_server.dicom.vr import BYTES_VRS, NUMBERS, TEXT_VRS, implicit_vr
from pacs_server.errors import TranscodeError

BASE: Final = "\0"
"""Stands in the text for the URL of the instance, with which a Bulkdata URI begins. JSON has no such character."""

# PS3.3 C.7.6.3, C.7.6.24: Pixel Data, Float Pixel Data, Double Float Pixel Data.
_PIXELS: Final = (PIXEL_DATA, 0x7FE00008, 0x7FE00009)
# Longer values of bytes, of other VRs that may have a Bulkdata URI, and of VRs that may not (PS3.18 10.4.3.3.2).
_LONGEST_BYTES: Final = 1024
_LONGEST_TEXT: Final = 16 * 1024
_LONGEST: Final = 1024 * 1024
_BULK_VRS: Final = BYTES_VRS | frozenset("DS FD FL IS SL SS SV UL US UV".split())
# An element that was sent as UN is read by the dictionary's VR if that is one of these.
_READABLE_VRS: Final = TEXT_VRS | NUMBERS.keys() | {"AT", "US or SS"}
_TOGETHER: Final = 256
_UTF_8: Final = b"ISO_IR 192"
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"([+-]?)0*([0-9]*)(?:\.([0-9]*))?([eE][+-]?[0-9]+)?")
# Greater numbers are not exact in every reader of JSON.
_EXACT: Final = 2**53
_quoted = json.encoder.encode_basestring


@dataclass(slots=True)
class _Surroundings:
    """What an element takes from the data set or item around it.

    `path` leads to the item, with a slash at its end; `signed` is whether pixels are signed, None if not known yet.
    """

    path: str
    encodings: tuple[str, ...]
    signed: bool | None


class Metadata:
    """The metadata of one data set.

    Once all `pieces` were taken, `has_pixels` says whether it has any, and `broken` why the pieces end early, if so.
    """

    def __init__(self, data_set: DataSetBytes) -> None:
        self.broken: str | None = None
        self.has_pixels = False
        self._data_set = data_set
        self._signed: bool | None = None

    def pieces(self) -> Iterator[str]:
        """The text of one JSON object in pieces. What the `read` of the data set raises passes through.

        Where a data set is malformed, the text ends with the last element that could be read, and is complete JSON.
        """
        begun = False
        try:
            level = self._data_set.heads()
            begun = True
            yield from self._elements(level, _Surroundings("", encodings_of(""), None))
        except TranscodeError as error:
            self.broken = str(error)
            if not begun:
                yield "{}"

    def _elements(self, level: ElementStream, around: _Surroundings) -> Iterator[str]:
        """The text of a data set or item."""
        parts: list[str] = []
        begin = "{"
        try:
            while (element := level.next()) is not None:
                # PS3.5 7.1, 7.2: a data set begins at group 0008. F.2.2: no group lengths.
                if element.tag < SPECIFIC_CHARACTER_SET or not element.tag & 0xFFFF:
                    element.skip()
                elif element.is_sequence:
                    yield "".join(parts) + f'{begin}"{element.tag:08X}":'
                    parts.clear()
                    begin = ","
                    yield from self._items(element, around)
                else:
                    parts.append(f'{begin}"{element.tag:08X}":{self._element(element, around)}')
                    begin = ","
                if len(parts) == _TOGETHER:
                    yield "".join(parts)
                    parts.clear()
        except TranscodeError:
            yield "".join(parts) + ("{}" if begin == "{" else "}")
            raise
        yield "".join(parts) + ("{}" if begin == "{" else "}")

    def _items(self, element: StreamedElement, around: _Surroundings) -> Iterator[str]:
        number = 0
        try:
            for number, item in enumerate(element.items(), 1):
                yield '{"vr":"SQ","Value":[' if number == 1 else ","
                path = f"{around.path}{element.tag:08X}/{number}/"
                yield from self._elements(item, replace(around, path=path))
        except TranscodeError:
            yield "]}" if number else '{"vr":"SQ"}'
            raise
        yield "]}" if number else '{"vr":"SQ"}'

    def _element(self, element: StreamedElement, around: _Surroundings) -> str:
        """The text of an element that is no sequence; what it says about others goes into `around`."""
        level, tag = element.level, element.tag
        if element.length and _is_bulk(element):
            vr = _vr(element)
            self.has_pixels |= not level.depth and tag in _PIXELS
            element.skip()
            return f'{{"vr":"{vr}","BulkDataURI":"{BASE}/bulkdata/{around.path}{tag:08X}"}}'
        raw = element.value(_LONGEST)
        if tag == SPECIFIC_CHARACTER_SET:
            # PS3.5 7.5.3: an item's own character set applies to the item and to everything inside it.
            around.encodings = encodings_of("\\".join(text_values(raw, "CS", ())))
            raw = raw and _UTF_8
        elif tag == PIXEL_REPRESENTATION:
            around.signed = raw[:1] == b"\1"
        return self._value(element, raw, around)

    def _value(self, element: StreamedElement, raw: bytes, around: _Surroundings) -> str:
        vr = _vr(element)
        if vr == "SQ":
            return self._sequence(element, raw, around)
        if vr == "US or SS":
            vr = "SS" if (self._is_signed() if around.signed is None else around.signed) else "US"
        if not raw:
            return f'{{"vr":"{vr}"}}'
        if vr in TEXT_VRS:
            found = _texts(raw, vr, around.encodings)
        elif vr in NUMBERS or vr == "AT":
            if len(raw) % struct.calcsize(NUMBERS.get(vr, "HH")):
                return _binary("UN", raw)
            found = _numbers(raw, vr)
        else:
            return _binary(vr, raw)
        return f'{{"vr":"{vr}","Value":[{found}]}}' if found else f'{{"vr":"{vr}"}}'

    def _sequence(self, element: StreamedElement, raw: bytes, around: _Surroundings) -> str:
        """The text of a sequence that was sent as UN, or of its bytes if they are no items (PS3.5 6.2.2)."""
        try:
            return "".join(self._items(as_sequence(element, raw), around))
        except TranscodeError:
            return _binary("UN", raw)

    def _is_signed(self) -> bool:
        """Whether Pixel Representation, which comes later in the data set, says that pixels are signed."""
        if self._signed is None:
            self._signed = _signed_pixels(self._data_set)
        return self._signed


def _is_bulk(element: StreamedElement) -> bool:
    if element.tag in _PIXELS:
        return True
    vr = _vr(element)
    if vr in BYTES_VRS or vr == "SQ":
        # A sequence that was sent as UN.
        return element.length > (_LONGEST_TEXT if vr == "SQ" else _LONGEST_BYTES)
    return element.length > (_LONGEST_TEXT if vr in _BULK_VRS else _LONGEST)


def _vr(element: StreamedElement) -> str:
    """The VR that was sent. An element that was sent as UN gets the dictionary's VR if that can be read."""
    if element.is_encapsulated:
        return "OB"
    if element.vr == "UN":
        known = implicit_vr(element.tag, element.level.creators)
        return known if known in _READABLE_VRS or known == "SQ" else "UN"
    return element.vr


def as_sequence(element: StreamedElement, raw: bytes) -> StreamedElement:
    """An element that was sent as UN, whose value holds items, to be read once more."""
    level = ElementStream(
        element.level.data_set, ByteStream(iter((raw,))), element.level.encoding, around=element.level
    )
    return StreamedElement(level, element.tag, "UN", len(raw))


def _signed_pixels(data_set: DataSetBytes) -> bool:
    level = data_set.heads()
    try:
        while (element := level.next()) is not None and element.tag <= PIXEL_REPRESENTATION:
            if element.tag == PIXEL_REPRESENTATION:
                return element.value(_LONGEST_BYTES)[:1] == b"\1"
            element.skip()
    except TranscodeError:
        pass
    return False


def _binary(vr: str, raw: bytes) -> str:
    return f'{{"vr":"{vr}","InlineBinary":"{base64.b64encode(raw).decode("ascii")}"}}'


def _numbers(raw: bytes, vr: str) -> str:
    if vr == "AT":
        return ",".join([f'"{group:04X}{number:04X}"' for group, number in struct.iter_unpack("<HH", raw)])
    numbers = [number for (number,) in struct.iter_unpack("<" + NUMBERS[vr], raw)]
    return ",".join([repr(each) if math.isfinite(each) and _is_exact(each) else f'"{each}"' for each in numbers])


def _is_exact(number: float) -> bool:
    return isinstance(number, float) or -_EXACT <= number <= _EXACT


def _texts(raw: bytes, vr: str, encodings: tuple[str, ...]) -> str:
    plain = plain_value(raw, vr.encode("ascii"))
    values = text_values(raw, vr, encodings) if plain is None else [plain] if plain else []
    return ",".join([_text(value, vr) for value in values])


def _text(value: str, vr: str) -> str:
    if not value:
        return "null"
    if vr == "PN":
        groups = ",".join([f'"{group}":{_quoted(part)}' for group, part in groups_of(value).items()])
        return f"{{{groups}}}" if groups else "null"
    if vr in ("DS", "IS"):
        return number_text(value, vr) or _quoted(value)
    return _quoted(value)


def number_text(value: str, vr: str) -> str | None:
    """A decimal or integer string as the text of a JSON number of the same digits; None if it is no number.

    F.2.3: a string is allowed as well, and keeps what is no number, or not exact as one.
    """
    if vr == "IS":
        number = int(value) if _INTEGER.fullmatch(value) else _EXACT + 1
        return str(number) if _is_exact(number) else None
    found = _DECIMAL.fullmatch(value)
    if found is None or not (found[2] or found[3] or "0" in value):
        return None
    sign, whole, fraction, exponent = found.groups("")
    if len(exponent) > 4:
        # Not every reader of JSON has such numbers.
        return None
    return f"{'-' if sign == '-' else ''}{whole or '0'}{'.' + fraction if fraction else ''}{exponent}"
