"""Whole data sets to and from the DICOM JSON Model (PS3.18 F.2): every attribute, text decoded, nothing judged.

A data set is a dict from tag ("00100010") to `{"vr": ..., "Value": [...]}` or `{"vr": ..., "InlineBinary": ...}`;
an attribute without either is empty. DS and IS stay text, so that they keep their form.
"""

import base64
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacs_server.dicom.deflate import inflated
from pacs_server.dicom.elements import ReturnKey
from pacs_server.dicom.reencode import EXPLICIT_LE, Element, encode, encoding_of, parse
from pacs_server.dicom.text import encodings_of, text_values
from pacs_server.dicom.writer import NUMBERS, Encode, Writer
from pacs_server.errors import TranscodeError

DataSet = Mapping[str, Any]
"""A data set or item in the DICOM JSON Model."""

SPECIFIC_CHARACTER_SET = "00080005"
# Far more than procedure steps and worklist items ask for.
_MAX_NESTING = 16
_MAX_ELEMENTS = 100_000
_MAX_VALUES = 100_000
_CHARACTER_SET_TAG = int(SPECIFIC_CHARACTER_SET, 16)
_TEXTS = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split())
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def decode_data_set(data: bytes, transfer_syntax_uid: str, limit: int) -> dict[str, Any]:
    """The data set in `data`; raises TranscodeError if it is broken, nested deeper than 16 levels, has more than
    100,000 elements and items or as many values, or is, inflated, longer than `limit` bytes.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        # One byte more than allowed shows that it is too long.
        data, _ = inflated(data, limit + 1)
        if len(data) > limit:
            raise TranscodeError("the data set is too long")
    encoding = encoding_of(transfer_syntax_uid)
    elements = parse(memoryview(data), encoding, max_depth=_MAX_NESTING, max_elements=_MAX_ELEMENTS)
    if _delimiters(elements) > _MAX_VALUES:
        raise TranscodeError("the data set has too many values")
    if not encoding.little_endian:
        elements = parse(memoryview(encode(elements, EXPLICIT_LE)), EXPLICIT_LE)
    return _data_set(elements, encodings_of(""))


def encode_data_set(data_set: DataSet, transfer_syntax_uid: str, specific_character_set: str) -> bytes:
    """A data set on the wire, in that character set if it can represent the text, else in ISO_IR 192."""
    writer = Writer(transfer_syntax_uid)

    def elements(encode_text: Encode) -> bytes:
        return b"".join(writer.item(ReturnKey(0, "SQ"), data_set, encode_text))

    return writer.data_set(writer.attempts(specific_character_set), elements)


def values_of(data_set: DataSet, tag: str) -> list[Any]:
    """The values of an attribute that are not empty; none if it is absent."""
    return [value for value in data_set.get(tag, {}).get("Value", ()) if value not in (None, "")]


def first_value(data_set: DataSet, tag: str) -> str:
    """The first value of a text attribute, '' if there is none."""
    value = next((value for value in data_set.get(tag, {}).get("Value", ())), None)
    if isinstance(value, dict):
        return "=".join(str(value.get(group, "")) for group in _NAME_GROUPS).rstrip("=")
    return "" if value is None else str(value)


def items_of(data_set: DataSet, tag: str) -> list[DataSet]:
    """The items of a sequence; none if it is absent, empty, or no sequence."""
    element = data_set.get(tag, {})
    return list(element.get("Value", ())) if element.get("vr") == "SQ" else []


def empty_element(tag: int) -> dict[str, str]:
    """An attribute of zero length, with its VR by the dictionary."""
    return {"vr": _dictionary_vr(tag)}


def _data_set(elements: Iterable[Element], encodings: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for element in elements:
        if element.tag == _CHARACTER_SET_TAG:
            # PS3.5 7.5.3: an item's own character set holds for it and everything inside.
            encodings = encodings_of("\\".join(text_values(_raw(element), "CS", ())))
        # PS3.5 7.1, 7.2: a data set begins at group 0008; group lengths are retired and mean nothing.
        if element.tag >= _CHARACTER_SET_TAG and element.tag & 0xFFFF:
            found[f"{element.tag:08X}"] = _element(element, encodings)
    return found


def _element(element: Element, encodings: tuple[str, ...]) -> dict[str, Any]:
    if isinstance(element.value, tuple):
        items = [_data_set(item.elements, encodings) for item in element.value]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    vr, raw = _vr(element), _raw(element)
    if not raw:
        return {"vr": vr}
    values: list[Any]
    if vr in _TEXTS:
        values = [_value(text, vr) for text in text_values(raw, vr, encodings)]
    elif vr in NUMBERS:
        values = _numbers(raw, vr)
    elif vr == "AT":
        values = [f"{group:04X}{number:04X}" for group, number in _unpacked("HH", raw)]
    else:
        return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode("ascii")}
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _delimiters(elements: Iterable[Element]) -> int:
    """How many values there are beyond one for each element, or rather more; as objects they are far larger."""
    count = 0
    for element in elements:
        if isinstance(element.value, tuple):
            count += sum(_delimiters(item.elements) for item in element.value)
        elif (vr := _vr(element)) in NUMBERS or vr == "AT":
            count += len(element.value) // 2
        else:
            count += bytes(element.value).count(b"\\")
    return count


def _raw(element: Element) -> bytes:
    return b"" if isinstance(element.value, tuple) else bytes(element.value)


def _vr(element: Element) -> str:
    """The VR that was sent; what came as UN though the dictionary knows it is text or numbers is that."""
    # The dictionary has "US or SS": the first is as good as the second where no pixel data follows.
    vr = element.vr[:2]
    known = _dictionary_vr(element.tag)
    return known if vr == "UN" and (known in _TEXTS or known in NUMBERS) else vr


def _dictionary_vr(tag: int) -> str:
    return str(dictionary_VR(tag))[:2] if dictionary_has_tag(tag) else "UN"


def _value(text: str, vr: str) -> Any:
    if not text:
        return None
    if vr == "PN":
        return {group: part for group, part in zip(_NAME_GROUPS, text.split("="), strict=False) if part}
    return text


def _numbers(raw: bytes, vr: str) -> list[Any]:
    numbers = [number for (number,) in _unpacked(NUMBERS[vr], raw)]
    # JSON has no infinity.
    return [number if math.isfinite(number) else str(number) for number in numbers]


def _unpacked(layout: str, raw: bytes) -> Iterable[tuple[Any, ...]]:
    code = struct.Struct("<" + layout)
    if len(raw) % code.size:
        raise TranscodeError("an element has a length that its VR cannot have")
    return code.iter_unpack(raw)
