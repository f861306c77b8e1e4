"""Converts whole data sets to and from the DICOM JSON Model (PS3.18 F.2).

All attributes are converted and text is decoded. Whether values are valid is not checked.
"""

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pacs_server.dicom.element import Element, PixelDescription
from pacs_server.dicom.encoding import EXPLICIT_LE, encoding_of, inflated, is_deflated
from pacs_server.dicom.json_model import DataSet, element_text, text_element
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode
from pacs_server.dicom.tags import SPECIFIC_CHARACTER_SET
from pacs_server.dicom.text import encodings_of, text_values
from pacs_server.dicom.text_encoder import Encode
from pacs_server.dicom.vr import LONG_VRS, NUMBERS, TEXT_VRS, implicit_vr
from pacs_server.dicom.writer import Writer, writer_for
from pacs_server.errors import TranscodeError

# Far more than procedure steps and worklist items need.
_MAX_NESTING = 16
_MAX_ELEMENTS = 100_000
_MAX_VALUES = 100_000
# An element that was sent as UN is read by the dictionary's VR if that is one of these.
_READABLE_VRS = TEXT_VRS | NUMBERS.keys() | {"AT", "US or SS"}


class ReturnKey(NamedTuple):
    """An attribute to return. For a sequence, `items` are the attributes of its items to return; empty means all."""

    tag: int
    vr: str
    items: "tuple[ReturnKey, ...]" = ()


# ------------------------------------------------------------------------------------ from bytes


def decode_data_set(data: bytes, transfer_syntax_uid: str, limit: int) -> dict[str, Any]:
    """Decode the data set in `data` to the DICOM JSON Model.

    Raises TranscodeError if the data set is malformed, is nested deeper than 16 levels, has more than 100,000 elements
    and items or more than 100,000 further values, or if a deflated one is longer than `limit` bytes after inflating.
    """
    if is_deflated(transfer_syntax_uid):
        # Inflating one byte more than the limit shows whether the data set is too long.
        data, _ = inflated(data, limit + 1)
        if len(data) > limit:
            raise TranscodeError("the data set is too long")
    encoding = encoding_of(transfer_syntax_uid)
    elements = read_elements(
        memoryview(data), encoding, max_depth=_MAX_NESTING, max_elements=_MAX_ELEMENTS, known_sequences=True
    )
    if _extra_values(elements) > _MAX_VALUES:
        raise TranscodeError("the data set has too many values")
    if not encoding.little_endian:
        elements = read_elements(memoryview(encode(elements, EXPLICIT_LE)), EXPLICIT_LE)
    return _data_set(elements, encodings_of(""), PixelDescription())


def _data_set(elements: tuple[Element, ...], encodings: tuple[str, ...], around: PixelDescription) -> dict[str, Any]:
    pixel = around.within(element for element in elements if not isinstance(element.value, tuple))
    found: dict[str, Any] = {}
    for element in elements:
        if element.tag == SPECIFIC_CHARACTER_SET:
            # PS3.5 7.5.3: an item's own character set applies to the item and to everything inside it.
            encodings = encodings_of("\\".join(text_values(element.content, "CS", ())))
        # PS3.5 7.1, 7.2: a data set begins at group 0008. Group lengths are retired, so they are left out.
        if element.tag >= SPECIFIC_CHARACTER_SET and element.tag & 0xFFFF:
            found[f"{element.tag:08X}"] = _json_element(element, encodings, pixel)
    return found


def _json_element(element: Element, encodings: tuple[str, ...], pixel: PixelDescription) -> dict[str, Any]:
    if isinstance(element.value, tuple):
        items = [_data_set(item.elements, encodings, pixel) for item in element.value]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    vr, raw = _vr(element, pixel), element.content
    if not raw:
        return {"vr": vr}
    values: list[Any]
    if vr in TEXT_VRS:
        return text_element(vr, text_values(raw, vr, encodings))
    if vr in NUMBERS:
        values = _numbers(raw, vr)
    elif vr == "AT":
        values = [f"{group:04X}{number:04X}" for group, number in _unpacked("HH", raw)]
    else:
        return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode("ascii")}
    return {"vr": vr, "Value": values}


def _extra_values(elements: Iterable[Element]) -> int:
    """An upper bound for the number of values beyond one per element. As objects, values take far more memory."""
    count = 0
    for element in elements:
        if isinstance(element.value, tuple):
            count += sum(_extra_values(item.elements) for item in element.value)
        elif (vr := _vr(element, PixelDescription())) in NUMBERS or vr == "AT":
            count += len(element.value) // 2
        else:
            count += element.content.count(b"\\")
    return count


def _vr(element: Element, pixel: PixelDescription) -> str:
    """The VR that was sent. An element that was sent as UN gets the dictionary's VR if that can be read."""
    if element.vr == "UN" and (known := implicit_vr(element.tag, {})) in _READABLE_VRS:
        element = element._replace(vr=known)
    return pixel.vr_of(element)


def _numbers(raw: bytes, vr: str) -> list[Any]:
    numbers = [number for (number,) in _unpacked(NUMBERS[vr], raw)]
    # JSON can express neither infinity nor NaN.
    return [number if math.isfinite(number) else str(number) for number in numbers]


def _unpacked(layout: str, raw: bytes) -> Iterable[tuple[Any, ...]]:
    code = struct.Struct("<" + layout)
    if len(raw) % code.size:
        raise TranscodeError("an element has a length that its VR cannot have")
    return code.iter_unpack(raw)


# ------------------------------------------------------------------------------------ to bytes


def encode_data_set(data_set: DataSet, transfer_syntax_uid: str, specific_character_set: str) -> bytes:
    """Encode a data set, in the given character set if that can represent all text, else in ISO_IR 192."""
    writer = writer_for(transfer_syntax_uid)
    return writer.encoded(
        writer.attempts(specific_character_set), lambda encode_text: encode_item(writer, data_set, (), encode_text)
    )


def encode_item(writer: Writer, item: Mapping[str, Any], keys: Iterable[ReturnKey], encode_text: Encode) -> bytes:
    """Encode the attributes of a data set or item that `keys` name, or all of them if `keys` is empty."""
    everything = (ReturnKey(int(tag, 16), str(item[tag].get("vr", "UN"))) for tag in sorted(item))
    parts = []
    for key in keys or everything:
        # An item is encoded in the character set of the whole data set, so it does not declare its own.
        if key.tag != SPECIFIC_CHARACTER_SET:
            stored = item.get(f"{key.tag:08X}", {})
            parts.append(_encoded(writer, key, stored, encode_text))
    return b"".join(parts)


def encode_sequence(writer: Writer, key: ReturnKey, items: Iterable[Mapping[str, Any]], encode_text: Encode) -> bytes:
    """Encode a sequence with the attributes of each item that `key.items` name, or with all of them if it is empty."""
    content = b"".join(writer.item(encode_item(writer, item, key.items, encode_text)) for item in items)
    return writer.element(key.tag, "SQ", content)


def _encoded(writer: Writer, key: ReturnKey, stored: Mapping[str, Any], encode_text: Encode) -> bytes:
    vr, values = stored.get("vr", key.vr), stored.get("Value", [])
    if vr == "SQ":
        return encode_sequence(writer, key, values, encode_text)
    if vr in NUMBERS:
        return writer.element(key.tag, vr, writer.numbers(vr, values))
    if vr == "AT":
        return writer.element(key.tag, vr, writer.tags(int(value, 16) for value in values))
    if "InlineBinary" in stored or vr in LONG_VRS - TEXT_VRS:
        return writer.element(key.tag, vr, _bytes(stored.get("InlineBinary", "")))
    return writer.text(key.tag, vr, element_text(stored), encode_text)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""
