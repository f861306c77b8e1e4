"""Identifiers of C-FIND, C-MOVE and C-GET requests, decoded and held against their model (PS3.4 C.4, C.6).

Any bytes become a `Query` or `RetrieveKeys`, or raise InvalidIdentifier with a sentence that fits
Error Comment (0000,0902). Keys that the attribute table does not know are named in
`Query.unsupported` and left out of the response (PS3.4 C.2.2.1.3); private ones are ignored.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD, UNIQUE_KEYS, Attribute
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.matching import (
    MAX_VALUES,
    DateTimeSpan,
    ItemKey,
    Items,
    Matcher,
    Span,
    matcher_for,
    matches,
    span,
)
from pacs_server.dicom.reencode import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, Element, parse
from pacs_server.dicom.text import encodings_of, text_values
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidIdentifier, TranscodeError

SPECIFIC_CHARACTER_SET = 0x00080005
QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054
INSTANCE_AVAILABILITY = 0x00080056
TIMEZONE_OFFSET_FROM_UTC = 0x00080201

# Told or answered in every response, and never matched (PS3.4 C.2.2.2, C.4.1.1.3.2).
_NOT_KEYS = frozenset({SPECIFIC_CHARACTER_SET, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY})

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 4
_ERROR_COMMENT_LENGTH = 64

_INTEGERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i"}
_OPAQUE_VRS = frozenset({"AT", "FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SV", "UN", "UV"})


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What extended negotiation agreed on (PS3.4 C.5.1.1); for a retrieve only `relational` counts."""

    relational: bool = False
    combined_date_time: bool = False
    fuzzy: bool = False


@dataclass(frozen=True, slots=True)
class MatchingKey:
    """What an attribute, or a date and time pair, has to match; `unknown` is the answer for a zero-length value."""

    attributes: tuple[Attribute, ...]
    matcher: Matcher | DateTimeSpan
    unknown: bool

    def matches(self, *texts: str) -> bool:
        """Whether the stored values of the attributes match."""
        if isinstance(self.matcher, DateTimeSpan):
            date, time = texts
            return self.matcher.matches(date, time, unknown=self.unknown)
        return matches(self.matcher, texts[0], multiple=self.attributes[0].multiple, unknown=self.unknown)


@dataclass(frozen=True, slots=True)
class ReturnKey:
    """An attribute to return; of the items of a sequence only `items`, or everything when that is empty."""

    tag: int
    vr: str
    items: "tuple[ReturnKey, ...]" = ()


@dataclass(frozen=True, slots=True)
class Query:
    """What a C-FIND asks for: `keys` to match, `returns` in tag order, and tags that cannot be served as asked."""

    model: InformationModel
    level: Level
    keys: tuple[MatchingKey, ...]
    returns: tuple[ReturnKey, ...]
    unsupported: tuple[int, ...]
    specific_character_set: str
    options: QueryOptions


@dataclass(frozen=True, slots=True)
class RetrieveKeys:
    """The entities that a C-MOVE or C-GET names; an empty tuple does not narrow."""

    level: Level
    patient_ids: tuple[str, ...] = ()
    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


_Elements = Mapping[int, Element]


def parse_find(data: bytes, transfer_syntax_uid: str, model: InformationModel, options: QueryOptions) -> Query:
    """The query in a C-FIND identifier; raises InvalidIdentifier."""
    elements = _decode(data, transfer_syntax_uid)
    level = _level(elements, model)
    charset = _charset(elements)
    known = sorted(filter(_is_key, elements))
    asked = [(ATTRIBUTES[tag], elements[tag]) for tag in known if tag in ATTRIBUTES]
    texts = {a: _text(e, a.vr, encodings_of(charset)) for a, e in asked if a.vr != "SQ"}
    _check_levels(texts, level, model, options)
    asked = [(a, e) for a, e in asked if _is_answered(a, level, model)]
    texts = {a: texts[a] for a, _ in asked if a in texts}
    unsupported = set(known) - {a.tag for a, _ in asked}
    unsupported |= {a.tag for a in texts if _is_count(a) and texts[a].strip("*")}
    returns = [_return_key(a, e) for a, e in asked if a.tag != TIMEZONE_OFFSET_FROM_UTC or level >= Level.STUDY]
    keys = [*_combined(texts, options), *_plain_keys(texts, options), *_sequence_keys(asked, charset, options)]
    return Query(model, level, tuple(keys), tuple(returns), tuple(sorted(unsupported)), charset, options)


def parse_retrieve(
    data: bytes, transfer_syntax_uid: str, model: InformationModel, options: QueryOptions
) -> RetrieveKeys:
    """The unique keys in a C-MOVE or C-GET identifier; other keys are ignored; raises InvalidIdentifier."""
    elements = _decode(data, transfer_syntax_uid)
    level = _level(elements, model)
    encodings = encodings_of(_charset(elements))
    uids = []
    for at in Level:
        attribute = BY_KEYWORD[UNIQUE_KEYS[at]]
        text = _text(elements[attribute.tag], attribute.vr, encodings) if attribute.tag in elements else ""
        # PS3.4 C.6.2.1: Study Root has no patient level, so a Patient ID there is no unique key.
        values = _unique_values(at, text) if at in model.levels else ()
        if at in model.levels:
            _check_unique(at, values, level, options)
        uids.append(values)
    return RetrieveKeys(level, *uids)


def level_of(attribute: Attribute, model: InformationModel) -> Level:
    """The level an attribute belongs to in the model (PS3.4 C.6.2.1: patient attributes are the study's)."""
    return max(attribute.level, model.levels[0])


def _unique_values(at: Level, text: str) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(value for value in text.split("\\") if value))
    # A UID here names what to send, so a wild card or the like is a mistake and not a lack of matches.
    valid = ("*" not in text and "?" not in text) if at is Level.PATIENT else all(is_uid(value) for value in values)
    if not valid:
        raise _refused(f"{UNIQUE_KEYS[at]} is not valid to retrieve by")
    return values


def _check_unique(at: Level, values: tuple[str, ...], level: Level, options: QueryOptions) -> None:
    name = UNIQUE_KEYS[at]
    if values and at > level:
        raise _refused(f"{name} lies below the level")
    if not values and (at is level or (at < level and not options.relational)):
        raise _refused(f"{name} is missing")
    # PS3.4 C.4.2.1.4.1, C.4.2.2.1: one value at every level above, a list at the level itself, but of UIDs only.
    single = (at is Level.PATIENT or at < level) and not options.relational
    if len(values) > (1 if single else MAX_VALUES):
        raise _refused(f"{name} has too many values")


def _decode(data: bytes, transfer_syntax_uid: str) -> _Elements:
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        data = _inflated(data)
    if len(data) > _MAX_BYTES:
        raise InvalidIdentifier("the identifier is too long")
    encodings = {ImplicitVRLittleEndian: IMPLICIT_LE, ExplicitVRBigEndian: EXPLICIT_BE}
    try:
        elements = parse(memoryview(data), encodings.get(transfer_syntax_uid, EXPLICIT_LE))
    except TranscodeError as error:
        raise InvalidIdentifier("the identifier cannot be decoded") from error
    return {element.tag: element for element in elements}


def _inflated(data: bytes) -> bytes:
    try:
        # PS3.5 A.5: a raw deflate stream. One byte more than allowed shows that it is too long.
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _MAX_BYTES + 1)
    except zlib.error as error:
        raise InvalidIdentifier("the identifier cannot be decoded") from error


def _refused(sentence: str) -> InvalidIdentifier:
    return InvalidIdentifier(sentence[:_ERROR_COMMENT_LENGTH])


def _charset(elements: _Elements) -> str:
    element = elements.get(SPECIFIC_CHARACTER_SET)
    return _text(element, "CS", ()) if element else ""


def _level(elements: _Elements, model: InformationModel) -> Level:
    element = elements.get(QUERY_RETRIEVE_LEVEL)
    name = _text(element, "CS", ()) if element else ""
    if not name:
        raise InvalidIdentifier("QueryRetrieveLevel is missing")
    level = Level.__members__.get(name)
    if level not in model.levels:
        raise InvalidIdentifier("QueryRetrieveLevel is not one of this model's")
    return level


def _is_key(tag: int) -> bool:
    # PS3.5 7.1, 7.2: a data set begins at group 0008; group lengths are retired and mean nothing.
    private = tag >> 16 & 1
    return tag >= 0x00080000 and not private and bool(tag & 0xFFFF) and tag not in _NOT_KEYS


def _is_count(attribute: Attribute) -> bool:
    return attribute.computed and attribute.vr == "IS"


def _text(element: Element, vr: str, encodings: tuple[str, ...]) -> str:
    """The values of a key as text, joined by backslash; raises InvalidIdentifier when they are no values of `vr`."""
    if isinstance(element.value, tuple):
        raise _refused(f"{_name(element.tag)} is no sequence")
    raw = bytes(element.value)
    if vr in _OPAQUE_VRS:
        return ""
    if vr not in _INTEGERS:
        return "\\".join(text_values(raw, vr, encodings))
    numbers = struct.Struct(("<" if element.encoding.little_endian else ">") + _INTEGERS[vr])
    if len(raw) % numbers.size:
        raise _refused(f"{_name(element.tag)} has a wrong length")
    return "\\".join(str(number) for (number,) in numbers.iter_unpack(raw))


def _name(tag: int) -> str:
    return ATTRIBUTES[tag].keyword if tag in ATTRIBUTES else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _is_answered(attribute: Attribute, level: Level, model: InformationModel) -> bool:
    return level_of(attribute, model) <= level or attribute.tag == TIMEZONE_OFFSET_FROM_UTC


def _check_levels(texts: Mapping[Attribute, str], level: Level, model: InformationModel, options: QueryOptions) -> None:
    for attribute, text in texts.items():
        at = level_of(attribute, model)
        # Many workstations ask for more to be returned than their level has; without a value that harms nobody.
        if attribute.tag == TIMEZONE_OFFSET_FROM_UTC or not text:
            continue
        if at > level:
            raise _refused(f"{attribute.keyword} lies below the level")
        # PS3.4 C.4.1.2.1: above the level there are unique keys only, unless relational queries were agreed on.
        if at < level and attribute.keyword != UNIQUE_KEYS[at] and not options.relational:
            raise _refused(f"{attribute.keyword} lies above the level")
    if not options.relational:
        for at in model.levels[: model.levels.index(level)]:
            text = texts.get(BY_KEYWORD[UNIQUE_KEYS[at]], "")
            if not text or any(c in text for c in "*?\\"):
                raise _refused(f"{UNIQUE_KEYS[at]} needs a single value")


def _return_key(attribute: Attribute, element: Element) -> ReturnKey:
    items = element.value if isinstance(element.value, tuple) else ()
    return ReturnKey(attribute.tag, attribute.vr, _item_returns(items[0].elements) if items else ())


def _item_returns(elements: Iterable[Element]) -> tuple[ReturnKey, ...]:
    found = []
    for element in sorted(elements, key=lambda element: element.tag):
        if _is_key(element.tag):
            items = element.value if isinstance(element.value, tuple) else ()
            nested = _item_returns(items[0].elements) if items else ()
            found.append(ReturnKey(element.tag, _vr(element), nested))
    return tuple(found)


def _vr(element: Element) -> str:
    if isinstance(element.value, tuple):
        return "SQ"
    return dictionary_VR(element.tag)[:2] if dictionary_has_tag(element.tag) else element.vr


def _combined(texts: dict[Attribute, str], options: QueryOptions) -> Iterator[MatchingKey]:
    """The pairs of date and time ranges to match as one, which are taken out of `texts` (PS3.4 C.2.2.2.5.4)."""
    if not options.combined_date_time:
        return
    for date in [attribute for attribute in texts if attribute.vr == "DA"]:
        time = BY_KEYWORD.get(date.keyword.replace("Date", "Time"))
        if time not in texts or not all("-" in text and "\\" not in text for text in (texts[date], texts[time])):
            continue
        dates, times = _span(date, texts[date]), _span(time, texts[time])
        # Both have to specify the same form of range.
        if (bool(dates.lower), bool(dates.upper)) == (bool(times.lower), bool(times.upper)):
            if dates.upper and dates.upper + times.upper < dates.lower + times.lower:
                raise _refused(f"{date.keyword}: the range goes backwards")
            del texts[date], texts[time]
            yield MatchingKey((date, time), DateTimeSpan(dates, times), unknown=True)


def _span(attribute: Attribute, text: str) -> Span:
    try:
        return span(attribute.vr, text)
    except InvalidIdentifier as error:
        raise _refused(f"{attribute.keyword}: {error}") from None


def _matcher(name: str, vr: str, text: str, options: QueryOptions) -> Matcher | None:
    try:
        return matcher_for(vr, text, fuzzy=options.fuzzy)
    except InvalidIdentifier as error:
        raise _refused(f"{name}: {error}") from None


def _plain_keys(texts: Mapping[Attribute, str], options: QueryOptions) -> Iterator[MatchingKey]:
    for attribute, text in texts.items():
        if attribute.tag == TIMEZONE_OFFSET_FROM_UTC or _is_count(attribute):
            continue
        matcher = _matcher(attribute.keyword, attribute.vr, text, options)
        if matcher is not None:
            yield MatchingKey((attribute,), matcher, unknown=attribute.keyword not in UNIQUE_KEYS.values())


def _sequence_keys(
    asked: Iterable[tuple[Attribute, Element]], charset: str, options: QueryOptions
) -> Iterator[MatchingKey]:
    for attribute, element in asked:
        if attribute.vr == "SQ":
            matcher = _items(element, charset, options, depth=1)
            if matcher is not None:
                yield MatchingKey((attribute,), matcher, unknown=True)


def _items(element: Element, charset: str, options: QueryOptions, depth: int) -> Items | None:
    """What a sequence key asks for, or None for Universal Matching; raises InvalidIdentifier."""
    if not isinstance(element.value, tuple):
        if len(element.value):
            raise _refused(f"{_name(element.tag)} is a sequence")
        return None
    # PS3.4 C.2.2.2.6: a sequence key is structured as a sequence with a single item.
    if len(element.value) > 1 or depth > _MAX_DEPTH:
        raise _refused(f"{_name(element.tag)} has too many or too deep items")
    elements = {e.tag: e for item in element.value for e in item.elements}
    charset = _charset(elements) or charset
    keys = (_item_key(elements[tag], charset, options, depth) for tag in filter(_is_key, elements))
    found = tuple(key for key in keys if key is not None)
    return Items(found, unknown=True) if found else None


def _item_key(element: Element, charset: str, options: QueryOptions, depth: int) -> ItemKey | None:
    vr = _vr(element)
    matcher: Matcher | None
    if vr == "SQ":
        matcher = _items(element, charset, options, depth + 1)
    else:
        matcher = _matcher(_name(element.tag), vr, _text(element, vr, encodings_of(charset)), options)
    if matcher is None:
        return None
    multiple = vr != "SQ" and dictionary_has_tag(element.tag) and dictionary_VM(element.tag) != "1"
    return ItemKey(element.tag, multiple, matcher)
