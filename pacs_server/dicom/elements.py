"""Elements of identifiers: decoded, as text, and as matching and return keys (PS3.4 C.2.2, K.2.2).

Shared by Query/Retrieve and the modality worklist; what is wrong is refused with a sentence that
fits Error Comment (0000,0902).
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacs_server.dicom.attributes import ATTRIBUTES
from pacs_server.dicom.deflate import inflated
from pacs_server.dicom.matching import DateTimeSpan, ItemKey, Items, Matcher, Span, matcher_for, span
from pacs_server.dicom.reencode import Element, encoding_of, parse
from pacs_server.dicom.text import encodings_of, text_values
from pacs_server.errors import InvalidIdentifier, TranscodeError

SPECIFIC_CHARACTER_SET = 0x00080005
QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054
INSTANCE_AVAILABILITY = 0x00080056
TIMEZONE_OFFSET_FROM_UTC = 0x00080201

# Told or answered in every response, and never matched (PS3.4 C.2.2.2, C.4.1.1.3.2).
_NOT_KEYS = frozenset({SPECIFIC_CHARACTER_SET, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY})

MAX_BYTES = 1 << 20
"""The greatest length of an identifier, inflated."""
# Of an identifier, return keys and all; what is matched may be less deep.
_MAX_NESTING = 16
_MAX_ELEMENTS = 10_000
_MAX_DEPTH = 4
_ERROR_COMMENT_LENGTH = 64

_INTEGERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i"}
OPAQUE_VRS = frozenset({"AT", "FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SV", "UN", "UV"})
"""VRs that are returned but not matched."""

Elements = Mapping[int, Element]
"""The elements of an identifier or item by tag."""


@dataclass(frozen=True, slots=True)
class ReturnKey:
    """An attribute to return; of the items of a sequence only `items`, or everything when that is empty."""

    tag: int
    vr: str
    items: "tuple[ReturnKey, ...]" = ()


def decode(data: bytes, transfer_syntax_uid: str) -> Elements:
    """The elements of an identifier by tag; raises InvalidIdentifier."""
    try:
        if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            # One byte more than allowed shows that it is too long.
            data, _ = inflated(data, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InvalidIdentifier("the identifier is too long")
        encoding = encoding_of(transfer_syntax_uid)
        elements = parse(memoryview(data), encoding, max_depth=_MAX_NESTING, max_elements=_MAX_ELEMENTS)
    except TranscodeError as error:
        raise InvalidIdentifier("the identifier cannot be decoded") from error
    return {element.tag: element for element in elements}


def refused(sentence: str) -> InvalidIdentifier:
    """The error for a request, cut to what Error Comment holds."""
    return InvalidIdentifier(sentence[:_ERROR_COMMENT_LENGTH])


def charset_of(elements: Elements) -> str:
    """Specific Character Set (0008,0005) as text, '' if it is absent."""
    element = elements.get(SPECIFIC_CHARACTER_SET)
    return key_text(element, "CS", ()) if element else ""


def is_key(tag: int) -> bool:
    """Whether an attribute of an identifier is a key."""
    # PS3.5 7.1, 7.2: a data set begins at group 0008; group lengths are retired and mean nothing.
    private = tag >> 16 & 1
    return tag >= 0x00080000 and not private and bool(tag & 0xFFFF) and tag not in _NOT_KEYS


def key_text(element: Element, vr: str, encodings: tuple[str, ...]) -> str:
    """The values of a key as text, joined by backslash; raises InvalidIdentifier when they are no values of `vr`."""
    if isinstance(element.value, tuple):
        raise refused(f"{_name(element.tag)} is no sequence")
    raw = bytes(element.value)
    if vr in OPAQUE_VRS:
        return ""
    if vr not in _INTEGERS:
        return "\\".join(text_values(raw, vr, encodings))
    numbers = struct.Struct(("<" if element.encoding.little_endian else ">") + _INTEGERS[vr])
    if len(raw) % numbers.size:
        raise refused(f"{_name(element.tag)} has a wrong length")
    return "\\".join(str(number) for (number,) in numbers.iter_unpack(raw))


def _name(tag: int) -> str:
    return ATTRIBUTES[tag].keyword if tag in ATTRIBUTES else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


@lru_cache(maxsize=1024)
def _keyword(tag: int) -> str:
    return keyword_for_tag(tag) or _name(tag)


def return_keys(elements: Iterable[Element]) -> tuple[ReturnKey, ...]:
    """The keys among the elements as keys to return, in tag order."""
    found = []
    for element in sorted(elements, key=lambda element: element.tag):
        if is_key(element.tag):
            items = element.value if isinstance(element.value, tuple) else ()
            nested = return_keys(items[0].elements) if items else ()
            found.append(ReturnKey(element.tag, vr_of(element), nested))
    return tuple(found)


def vr_of(element: Element) -> str:
    """The VR of a key: the dictionary's, or for a tag that it does not know the one that was sent."""
    if isinstance(element.value, tuple):
        return "SQ"
    return _dictionary_vr(element.tag) or element.vr


@lru_cache(maxsize=1024)
def _dictionary_vr(tag: int) -> str:
    return dictionary_VR(tag)[:2] if dictionary_has_tag(tag) else ""


def key_matcher(name: str, vr: str, text: str, *, fuzzy: bool) -> Matcher | None:
    """What a key asks for, or None for Universal Matching; raises InvalidIdentifier that begins with `name`."""
    try:
        return matcher_for(vr, text, fuzzy=fuzzy)
    except InvalidIdentifier as error:
        raise refused(f"{name}: {error}") from None


def date_time_range(names: tuple[str, str], date: str, time: str) -> DateTimeSpan | None:
    """Date and time as one range if both are ranges of the same form, else None; raises InvalidIdentifier."""
    if not all("-" in text and "\\" not in text for text in (date, time)):
        return None
    dates, times = _span(names[0], "DA", date), _span(names[1], "TM", time)
    # A bound of one without a bound of the other is no moment, so ranges of two forms count each on its own.
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


def sequence_items(element: Element, charset: str, *, fuzzy: bool, depth: int = 1) -> Items | None:
    """What a sequence key, nested `depth` deep, asks for; None for Universal Matching; raises InvalidIdentifier."""
    if not isinstance(element.value, tuple):
        if len(element.value):
            raise refused(f"{_name(element.tag)} is a sequence")
        return None
    # PS3.4 C.2.2.2.6: a sequence key is structured as a sequence with a single item.
    if len(element.value) > 1 or depth > _MAX_DEPTH:
        raise refused(f"{_name(element.tag)} has too many or too deep items")
    elements = {e.tag: e for item in element.value for e in item.elements}
    charset = charset_of(elements) or charset
    keys = (item_key(elements[tag], charset, fuzzy=fuzzy, depth=depth) for tag in filter(is_key, elements))
    found = tuple(key for key in keys if key is not None)
    return Items(found, unknown=True) if found else None


def key_texts(elements: Iterable[Element], charset: str, within: str = "") -> Iterator[tuple[str, str]]:
    """The name of each key that has a value, with the value as text; those in sequences as Sequence.Key.

    For people: values that are no text are left out, and nothing is refused.
    """
    encodings = encodings_of(charset)
    for element in elements:
        if not is_key(element.tag) or not len(element.value):
            continue
        name = within + _keyword(element.tag)
        if isinstance(element.value, tuple):
            if name.count(".") < _MAX_DEPTH:
                yield from key_texts(element.value[0].elements, charset, f"{name}.")
        elif (vr := vr_of(element)) not in OPAQUE_VRS and vr not in _INTEGERS:
            yield name, "\\".join(text_values(bytes(element.value), vr, encodings))


def item_key(element: Element, charset: str, *, fuzzy: bool, depth: int = 0) -> ItemKey | None:
    """What one key of an item asks for, or None for Universal Matching; raises InvalidIdentifier."""
    vr = vr_of(element)
    matcher: Matcher | None
    if vr == "SQ":
        matcher = sequence_items(element, charset, fuzzy=fuzzy, depth=depth + 1)
    else:
        matcher = key_matcher(_name(element.tag), vr, key_text(element, vr, encodings_of(charset)), fuzzy=fuzzy)
    if matcher is None:
        return None
    multiple = vr != "SQ" and dictionary_has_tag(element.tag) and dictionary_VM(element.tag) != "1"
    return ItemKey(element.tag, multiple, matcher)
