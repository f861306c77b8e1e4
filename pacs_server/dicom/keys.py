"""Decodes a C-FIND identifier to keys (tag, VR, text) and makes a matcher for each key (PS3.4 C.2.2, K.2.2).

Query/Retrieve and Modality Worklist both use it. An invalid key raises InvalidIdentifier with a text that fits Error
Comment (0000,0902). A key is checked only when its value is used, so an invalid key that nothing uses does no harm.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VM, keyword_for_tag

from pacs_server.dicom.attributes import ATTRIBUTES
from pacs_server.dicom.element import Element
from pacs_server.dicom.encoding import encoding_of, inflated, is_deflated
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.matching import DateTimeSpan, ItemKey, Items, Matcher, Span, matcher_for, span
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.tags import (
    INSTANCE_AVAILABILITY,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    SPECIFIC_CHARACTER_SET,
    tag_text,
)
from pacs_server.dicom.text import encodings_of, plain_value, text_values
from pacs_server.dicom.vr import BYTES_VRS, NUMBERS, dictionary_vr
from pacs_server.errors import InvalidIdentifier, TranscodeError

# These attributes describe the request or the response itself and are never matched (PS3.4 C.2.2.2, C.4.1.1.3.2).
_NOT_KEYS = frozenset({SPECIFIC_CHARACTER_SET, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY})

MAX_BYTES = 1 << 20
"""The maximum length of an identifier in bytes, after inflating."""
# The maximum nesting of an identifier with its return keys. Keys that are matched may be nested `_MAX_DEPTH` deep.
_MAX_NESTING = 16
_MAX_ELEMENTS = 10_000
_MAX_DEPTH = 4
_ERROR_COMMENT_LENGTH = 64

_INTEGERS = frozenset({"US", "SS", "UL", "SL"})
OPAQUE_VRS = BYTES_VRS | {"AT"} | (NUMBERS.keys() - _INTEGERS)
"""VRs that are returned but not matched."""


class Key(NamedTuple):
    """One attribute of an identifier or of an item in it.

    `vr` is the VR in the data dictionary, or the VR that was sent if the dictionary does not know the tag. `text` holds
    the values joined by backslash, and is "" for sequences and opaque VRs. `has_value` tells whether the attribute was
    sent with a value, and `fault` what is wrong with that value, "" if nothing is.
    """

    tag: int
    vr: str
    text: str
    has_value: bool
    items: "tuple[Identifier, ...] | None" = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Identifier:
    """The attributes of an identifier or of an item in it, by tag, and its own Specific Character Set ("" if none)."""

    attributes: Mapping[int, Key]
    specific_character_set: str = ""

    @property
    def keys(self) -> list[Key]:
        """The attributes that are keys, in the order they were sent in."""
        return [key for key in self.attributes.values() if is_key(key.tag)]


# ------------------------------------------------------------------------------------ decoding


def decode_identifier(data: bytes, transfer_syntax_uid: str) -> Identifier:
    """Decode an identifier; raises InvalidIdentifier if it is malformed or too long."""
    try:
        if is_deflated(transfer_syntax_uid):
            # Inflating one byte more than the limit shows whether the identifier is too long.
            data, _ = inflated(data, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InvalidIdentifier("the identifier is too long")
        encoding = encoding_of(transfer_syntax_uid)
        elements = read_elements(memoryview(data), encoding, max_depth=_MAX_NESTING, max_elements=_MAX_ELEMENTS)
    except TranscodeError as error:
        raise InvalidIdentifier("the identifier cannot be decoded") from error
    return _identifier(elements, None)


def _identifier(elements: tuple[Element, ...], charset_around: str | None) -> Identifier:
    charset = ""
    for element in elements:
        if element.tag == SPECIFIC_CHARACTER_SET:
            key = _key(element, (), "")
            # Items are judged only if they are matched.
            charset = value_of(key) if charset_around is None else key.text
    # PS3.5 7.5.3: an item's own character set applies to the item and to everything inside it.
    in_force = charset or charset_around or ""
    encodings = encodings_of(in_force)
    return Identifier({element.tag: _key(element, encodings, in_force) for element in elements}, charset)


def _key(element: Element, encodings: tuple[str, ...], charset: str) -> Key:
    tag, value = element.tag, element.value
    if isinstance(value, tuple):
        return Key(tag, "SQ", "", bool(value), tuple([_identifier(item.elements, charset) for item in value]))
    vr, raw = dictionary_vr(tag) or element.vr, bytes(value)
    if not raw or vr in OPAQUE_VRS or vr == "SQ":
        return Key(tag, vr, "", bool(raw))
    if vr in _INTEGERS:
        numbers = struct.Struct(element.encoding.byte_order + NUMBERS[vr])
        if len(raw) % numbers.size:
            return Key(tag, vr, "", True, fault="has a wrong length")
        return Key(tag, vr, "\\".join(str(number) for (number,) in numbers.iter_unpack(raw)), True)
    text = plain_value(raw, vr.encode())
    return Key(tag, vr, "\\".join(text_values(raw, vr, encodings)) if text is None else text, True)


def is_key(tag: int) -> bool:
    """Whether an attribute of an identifier is a key."""
    # PS3.5 7.1, 7.2: a data set begins at group 0008. Group lengths are retired, so they are ignored.
    private = tag >> 16 & 1
    return tag >= 0x00080000 and not private and bool(tag & 0xFFFF) and tag not in _NOT_KEYS


# ------------------------------------------------------------------------------------ matching


def refused(sentence: str) -> InvalidIdentifier:
    """The error that refuses a request, with the text cut to the maximum length of Error Comment."""
    return InvalidIdentifier(sentence[:_ERROR_COMMENT_LENGTH])


def value_of(key: Key) -> str:
    """The values of a key as text, joined by backslash; raises InvalidIdentifier if they are not valid for its VR."""
    if key.items is not None or key.fault:
        raise refused(f"{_name(key.tag)} {key.fault or 'is no sequence'}")
    return key.text


def _name(tag: int) -> str:
    return ATTRIBUTES[tag].keyword if tag in ATTRIBUTES else tag_text(tag)


@lru_cache(maxsize=1024)
def _keyword(tag: int) -> str:
    return keyword_for_tag(tag) or _name(tag)


def return_keys(keys: Iterable[Key]) -> tuple[ReturnKey, ...]:
    """The `ReturnKey` of each key, in tag order."""
    return tuple(return_key(key) for key in sorted(keys))


def return_key(key: Key) -> ReturnKey:
    """The `ReturnKey` of a key; for a sequence, with the keys in the sequence's item (PS3.4 C.2.2.2.6)."""
    return ReturnKey(key.tag, key.vr, return_keys(key.items[0].keys) if key.items else ())


def key_matcher(name: str, vr: str, text: str, *, fuzzy: bool) -> Matcher | None:
    """The matcher for a key, or None for Universal Matching; raises InvalidIdentifier with a text that names `name`."""
    try:
        return matcher_for(vr, text, fuzzy=fuzzy)
    except InvalidIdentifier as error:
        raise refused(f"{name}: {error}") from None


def date_time_range(names: tuple[str, str], date: str, time: str) -> DateTimeSpan | None:
    """Date and time as one range if both are ranges with the same bounds given, else None; raises InvalidIdentifier."""
    if not all("-" in text and "\\" not in text for text in (date, time)):
        return None
    dates, times = _span(names[0], "DA", date), _span(names[1], "TM", time)
    # A bound of the date without one of the time, or the reverse, is no point in time. Such ranges are matched apart.
    if (bool(dates.lower), bool(dates.upper)) != (bool(times.lower), bool(times.upper)):
        return None
    if dates.upper and dates.upper + times.upper < dates.lower + times.lower:
        raise refused(f"{names[0]}: the range goes backwards")
    return DateTimeSpan(dates, times)


def _span(name: str, vr: str, text: str) -> Span:
    try:
        return span(vr, text)
    except InvalidIdentifier as error:
        raise refused(f"{name}: {error}") from None


def sequence_matcher(key: Key, *, fuzzy: bool, depth: int = 1) -> Items | None:
    """The matcher for a sequence key at `depth`, or None for Universal Matching; raises InvalidIdentifier."""
    if key.items is None:
        if key.has_value:
            raise refused(f"{_name(key.tag)} is a sequence")
        return None
    # PS3.4 C.2.2.2.6: a sequence key is structured as a sequence with a single item.
    if len(key.items) > 1 or depth > _MAX_DEPTH:
        raise refused(f"{_name(key.tag)} has too many or too deep items")
    found = [item_key(inner, fuzzy=fuzzy, depth=depth) for item in key.items for inner in item.keys]
    asked = tuple(each for each in found if each is not None)
    return Items(asked, unknown=True) if asked else None


def item_key(key: Key, *, fuzzy: bool, depth: int = 0) -> ItemKey | None:
    """The `ItemKey` for one key of an item, or None for Universal Matching; raises InvalidIdentifier."""
    matcher: Matcher | None
    if key.vr == "SQ":
        matcher = sequence_matcher(key, fuzzy=fuzzy, depth=depth + 1)
    else:
        matcher = key_matcher(_name(key.tag), key.vr, value_of(key), fuzzy=fuzzy)
    if matcher is None:
        return None
    multiple = key.vr != "SQ" and dictionary_has_tag(key.tag) and dictionary_VM(key.tag) != "1"
    return ItemKey(key.tag, multiple, matcher)


def strict_items(items: Items) -> Items:
    """The matcher, changed so that at every depth unknown values do not match."""
    return Items(tuple(map(_strict_key, items.keys)), unknown=False)


def _strict_key(key: ItemKey) -> ItemKey:
    return ItemKey(key.tag, key.multiple, strict_items(key.matcher)) if isinstance(key.matcher, Items) else key


def key_texts(keys: Iterable[Key], within: str = "") -> Iterator[tuple[str, str]]:
    """The name of each key that has a value, with the value as text. A key in a sequence is named Sequence.Key.

    The texts are for people to read: values that are not text are left out, and an invalid key raises nothing.
    """
    for key in keys:
        if not key.has_value:
            continue
        name = within + _keyword(key.tag)
        if key.items is not None:
            if name.count(".") < _MAX_DEPTH:
                yield from key_texts(key.items[0].keys, f"{name}.")
        elif key.vr not in OPAQUE_VRS and key.vr not in _INTEGERS and key.vr != "SQ":
            yield name, key.text
