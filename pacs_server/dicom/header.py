"""Reads the header of an instance: the attributes that the index stores, from the first bytes of the data set.

Malformed input of any kind raises `InvalidInstance` and nothing else.
"""

import json
import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pacs_server.dicom.attributes import BY_KEYWORD, INDEXED, Attribute
from pacs_server.dicom.encoding import encoding_of, inflated, is_deflated
from pacs_server.dicom.person_name import groups_of
from pacs_server.dicom.skim import MAX_DEPTH, Cut, ElementPosition, Skimmed, Skimmer
from pacs_server.dicom.tags import PIXEL_DATA, SPECIFIC_CHARACTER_SET, UNDEFINED_LENGTH
from pacs_server.dicom.text import encodings_of, plain_value, text_values
from pacs_server.dicom.uids import InstanceUIDs, are_uids, clean_uid, is_uid
from pacs_server.dicom.vr import CHARACTER_SET_VRS, NUMBERS, SINGLE_VALUED_VRS, TEXT_VRS, dictionary_vr
from pacs_server.errors import InvalidInstance, TranscodeError

MAX_INFLATED_BYTES = 8 * 1024 * 1024
MAX_SEQUENCE_BYTES = 65_536
# In characters. Short texts go into database indexes, and an entry of those holds about 2,700 bytes (PostgreSQL).
MAX_SHORT_TEXT = 256
MAX_LONG_TEXT = 10_240

_BY_TAG = {attribute.tag: attribute for attribute in INDEXED}
_COLUMNS = {attribute.tag: attribute.column for attribute in INDEXED}
_UIDS = {
    keyword: BY_KEYWORD[keyword].column
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
}
_SOP_CLASS_UID, _SOP_INSTANCE_UID = BY_KEYWORD["SOPClassUID"].tag, BY_KEYWORD["SOPInstanceUID"].tag
# The elements to keep while skimming, with the VR to use in Implicit VR; b"" for sequences, which are not text.
_WANTED = {SPECIFIC_CHARACTER_SET: b"CS"} | {tag: b"" if a.vr == "SQ" else a.vr.encode() for tag, a in _BY_TAG.items()}
# Skimming ends after the last indexed attribute. Past group 0040 only the label of a presentation state is indexed:
# if long groups push that label beyond the bytes at hand, the instance is accepted without its label.
_LAST_TAG = max(_BY_TAG)
# These are read the same in every character set, whose encodings are then of no account.
_WITHOUT_CHARACTER_SET = {vr.encode() for vr in (TEXT_VRS | NUMBERS.keys()) - CHARACTER_SET_VRS}
_ANY = ("",)
_LAST_NEEDED_TAG = max(tag for tag in _BY_TAG if tag <= 0x0040FFFF)


@dataclass(frozen=True, slots=True)
class Header:
    """The indexed part of an instance.

    `values` maps `Attribute.column` to the decoded text of every indexed attribute that is present and not empty:
    without padding, several values joined by backslash, sequences as DICOM JSON text.
    """

    uids: InstanceUIDs
    sop_class_uid: str
    transfer_syntax_uid: str
    values: Mapping[str, str]


def read_header(head: bytes, transfer_syntax_uid: str, *, complete: bool, size: int | None = None) -> Header:
    """Read the indexed attributes from `head`, the first bytes of a data set; if `complete`, it is the whole data set.

    `size` is the length of the whole data set in bytes. Raises InvalidInstance if the data set is malformed or has no
    valid UIDs, if its indexed part is longer than `head`, or if `size` is given and Pixel Data does not end within it.
    """
    if is_deflated(transfer_syntax_uid):
        head, complete = _inflate(head, complete)
        size = None
    skimmer = Skimmer(head, encoding_of(transfer_syntax_uid))
    found, rest = _find(skimmer, complete)
    if size is not None and _is_cut_off(skimmer, rest, size):
        # If half an image were stored, the complete one could later be refused as a different object of the same UID.
        raise InvalidInstance("the data set ends in the middle of Pixel Data")
    values = _values(skimmer, found)
    uids = [values.get(column, "") for column in _UIDS.values()]
    if not are_uids(uids):
        uids = [_uid(values, keyword) for keyword in _UIDS]
    study, series, sop, sop_class = uids
    return Header(InstanceUIDs(study, series, sop), sop_class, transfer_syntax_uid, values)


def _values(skimmer: Skimmer, found: dict[int, Any]) -> dict[str, str]:
    """The texts of what was found that are not empty, by column."""
    positions = [tag for tag, value in found.items() if value.__class__ is ElementPosition]
    if positions:
        encodings = _encodings(skimmer, found)
        for tag in positions:
            element, attribute = found[tag], _BY_TAG.get(tag)
            found[tag] = "" if attribute is None else _indexed_text(skimmer, element, attribute, encodings)
    found.pop(SPECIFIC_CHARACTER_SET, None)
    return {_COLUMNS[tag]: text for tag, text in found.items() if text}


def read_sop_uids(head: bytes, transfer_syntax_uid: str) -> tuple[str, str]:
    """SOP Class UID and SOP Instance UID, from the first bytes of a data set; the rest is not looked at.

    Raises InvalidInstance if they are missing there or are no UIDs.
    """
    if is_deflated(transfer_syntax_uid):
        head, _ = _inflate(head, complete=False)
    skimmer = Skimmer(head, encoding_of(transfer_syntax_uid))
    values: dict[str, str] = {}
    with suppress(Cut):
        for element in skimmer.elements(0, len(head)):
            if element.tag > _SOP_INSTANCE_UID:
                break
            if element.tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID):
                values[_BY_TAG[element.tag].column] = skimmer.value(element).decode("latin-1")
    return _uid(values, "SOPClassUID"), _uid(values, "SOPInstanceUID")


def _inflate(head: bytes, complete: bool) -> tuple[bytes, bool]:
    try:
        plain, ended = inflated(head, MAX_INFLATED_BYTES)
    except TranscodeError as error:
        raise InvalidInstance("the deflated data set cannot be inflated") from error
    return plain, complete and ended


def _find(skimmer: Skimmer, complete: bool) -> tuple[Skimmed, int]:
    """The indexed elements of the top level, by tag, and the offset at which reading stopped."""
    found: Skimmed = {}
    size = len(skimmer.data)
    read = partial(_short_text, skimmer)
    tag = at = 0
    try:
        while size - at >= 8:
            at, skimmed = skimmer.skim(at, _LAST_TAG, _WANTED, found, read)
            tag = max(tag, skimmed)
            # `skim` stops at an element that is not plain. Step over that one here, then skim on.
            element = next(skimmer.elements(at, size), None)
            if element is None:
                break
            tag = element.tag
            if tag > _LAST_TAG:
                return found, at
            if element.length == UNDEFINED_LENGTH or element.start + element.length <= size:
                found[tag] = element
            at = skimmer.end(element)
            if at > size:
                raise Cut(tag)
        # The missing bytes may hold more elements. Tags ascend (PS3.5 7.1), so these come after `tag`.
        if not complete:
            raise Cut(tag)
    except Cut as cut:
        if complete:
            raise InvalidInstance("the data set ends in the middle of an element") from None
        if max(cut.tag, tag) <= _LAST_NEEDED_TAG:
            raise InvalidInstance(f"the header does not end within the first {size} bytes of the data set") from None
    return found, size


def _short_text(skimmer: Skimmer, element: ElementPosition, vr: bytes) -> str | None:
    """The text of an element that is the same in every character set, as `_indexed_text` has it; None for others."""
    text = plain_value(skimmer.value(element), vr)
    if text is None and vr in _WITHOUT_CHARACTER_SET and element.tag in _BY_TAG:
        return _indexed_text(skimmer, element, _BY_TAG[element.tag], _ANY)
    return text


def _is_cut_off(skimmer: Skimmer, at: int, size: int) -> bool:
    """Whether a data set of `size` bytes ends within its Pixel Data, as far as the bytes at hand show.

    Compressed Pixel Data is checked only if the whole data set is at hand, because only a delimiter marks its end.
    """
    end = len(skimmer.data)
    try:
        while end - at >= 8:
            element = next(skimmer.elements(at, end), None)
            if element is None or element.tag > PIXEL_DATA:
                return False
            if element.tag == PIXEL_DATA and element.length != UNDEFINED_LENGTH:
                return element.start + element.length > size
            at = skimmer.end(element)
    except Cut as cut:
        return cut.tag == PIXEL_DATA and end == size
    except InvalidInstance:
        # The fault is in elements that are not indexed, so it is no reason to refuse the instance.
        return False
    return False


def _encodings(skimmer: Skimmer, found: Mapping[int, ElementPosition | str]) -> tuple[str, ...]:
    value = found.get(SPECIFIC_CHARACTER_SET, "")
    return encodings_of(value if isinstance(value, str) else "\\".join(_texts(skimmer, value, "CS", ("",))))


def _uid(values: dict[str, str], keyword: str) -> str:
    column = BY_KEYWORD[keyword].column
    uid = clean_uid(values.get(column, ""))
    if not uid:
        raise InvalidInstance(f"{keyword} is missing")
    if not is_uid(uid):
        raise InvalidInstance(f"{keyword} is not a UID")
    return uid


def _indexed_text(skimmer: Skimmer, element: ElementPosition, attribute: Attribute, encodings: tuple[str, ...]) -> str:
    if attribute.vr == "SQ":
        return _sequence_text(skimmer, element, encodings)
    text = "\\".join(_texts(skimmer, element, attribute.vr, encodings))
    long = attribute.multiple or attribute.vr in SINGLE_VALUED_VRS
    return text[: MAX_LONG_TEXT if long else MAX_SHORT_TEXT].rstrip()


def _texts(skimmer: Skimmer, element: ElementPosition, dictionary_vr: str, encodings: tuple[str, ...]) -> list[str]:
    """The values as text, read by the VR that was sent if that is a VR of text or numbers, else by `dictionary_vr`."""
    vr = element.vr if element.vr in TEXT_VRS or element.vr in NUMBERS else dictionary_vr
    raw = skimmer.value(element)
    if vr not in NUMBERS:
        return text_values(raw, vr, encodings)
    code = struct.Struct(skimmer.order + NUMBERS[vr])
    if len(raw) % code.size:
        return []
    return [str(number) for (number,) in code.iter_unpack(raw)]


def _sequence_text(skimmer: Skimmer, element: ElementPosition, encodings: tuple[str, ...]) -> str:
    """The items as DICOM JSON (PS3.18 F.2); '' if there are none, or if they are too long or cut off."""
    if element.length != UNDEFINED_LENGTH and element.length > MAX_SEQUENCE_BYTES:
        return ""
    try:
        items = _json_items(skimmer, element, encodings, 1)
    except Cut:
        return ""
    text = json.dumps(items, ensure_ascii=False, separators=(",", ":")) if any(items) else ""
    return text if len(text) <= MAX_SEQUENCE_BYTES else ""


def _json_items(skimmer: Skimmer, sequence: ElementPosition, encodings: tuple[str, ...], depth: int) -> list[object]:
    if depth > MAX_DEPTH:
        raise InvalidInstance(f"sequences are nested deeper than {MAX_DEPTH} levels")
    return [_json_item(skimmer, start, end, encodings, depth) for start, end in skimmer.items(sequence)]


def _json_item(skimmer: Skimmer, start: int, end: int, encodings: tuple[str, ...], depth: int) -> dict[str, object]:
    item: dict[str, object] = {}
    for element in skimmer.elements(start, end):
        vr = element.vr if element.vr not in ("", "UN") else dictionary_vr(element.tag) or "UN"
        if element.tag == SPECIFIC_CHARACTER_SET:
            # PS3.5 7.5.3: an item's own character set applies to the item and to everything inside it.
            encodings = _encodings(skimmer, {SPECIFIC_CHARACTER_SET: element})
        if vr == "SQ":
            values = _json_items(skimmer, element, encodings, depth + 1)
        elif vr in TEXT_VRS or vr in NUMBERS:
            values = [_json_value(text, vr) for text in _texts(skimmer, element, vr, encodings)]
        else:
            continue
        item[f"{element.tag:08X}"] = {"vr": vr, "Value": values} if values else {"vr": vr}
    return item


def _json_value(text: str, vr: str) -> object:
    if text == "":
        return None
    if vr == "PN":
        return groups_of(text)
    if vr not in NUMBERS and vr not in ("DS", "IS"):
        return text
    try:
        if vr not in ("DS", "FL", "FD"):
            return int(text)
        number = float(text)
    except ValueError:
        return text
    # JSON can express neither infinity nor NaN.
    return number if math.isfinite(number) else text
