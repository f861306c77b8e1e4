"""Decodes identifiers of C-FIND, C-MOVE and C-GET and checks them against the information model (PS3.4 C.4, C.6).

Any bytes either become a `Query` or `RetrieveKeys`, or raise InvalidIdentifier with a text that fits Error Comment
(0000,0902). Keys that are not in the attribute table are listed in `Query.unsupported` and left out of the response
(PS3.4 C.2.2.1.3). Private keys are ignored.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD, UNIQUE_KEYS, Attribute
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.keys import (
    Identifier,
    Key,
    date_time_range,
    decode_identifier,
    key_matcher,
    key_texts,
    refused,
    return_key,
    sequence_matcher,
    strict_items,
    value_of,
)
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.matching import MAX_VALUES, DateTimeSpan, Items, Matcher, matches
from pacs_server.dicom.tags import QUERY_RETRIEVE_LEVEL, TIMEZONE_OFFSET_FROM_UTC
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidIdentifier


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """The options agreed on in extended negotiation (PS3.4 C.5.1.1). C-MOVE and C-GET use only `relational`."""

    relational: bool = False
    combined_date_time: bool = False
    fuzzy: bool = False


@dataclass(frozen=True, slots=True)
class MatchingKey:
    """A key to match against an attribute, or against a pair of date and time.

    `unknown` tells whether a zero-length stored value matches.
    """

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
class Query:
    """The query of a C-FIND: the `keys` to match, and in `returns` the keys to return, in tag order.

    `unsupported` lists the tags of keys that cannot be matched or returned as requested. `texts` holds the keys that
    were sent with a value, keyword to value.
    """

    model: InformationModel
    level: Level
    keys: tuple[MatchingKey, ...]
    returns: tuple[ReturnKey, ...]
    unsupported: tuple[int, ...]
    specific_character_set: str
    options: QueryOptions
    texts: Mapping[str, str] = field(default_factory=dict, compare=False)

    def answered_items(self, tag: int, text: str) -> list[dict[str, Any]]:
        """The items of a sequence to return in a response. `text` is the sequence as the index stores it."""
        items: list[dict[str, Any]] = json.loads(text) if text else []
        for key in self.keys:
            if isinstance(key.matcher, Items) and key.attributes[0].tag == tag:
                # PS3.4 C.2.2.2.6: only the items that match are returned.
                return [item for item in items if key.matcher.matches_item(item)]
        return items


@dataclass(frozen=True, slots=True)
class RetrieveKeys:
    """The unique keys of a C-MOVE or C-GET. An empty tuple means that the key does not restrict the request."""

    level: Level
    patient_ids: tuple[str, ...] = ()
    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


def parse_find(data: bytes, transfer_syntax_uid: str, model: InformationModel, options: QueryOptions) -> Query:
    """The query in a C-FIND identifier; raises InvalidIdentifier."""
    identifier = decode_identifier(data, transfer_syntax_uid)
    return query_of_keys(identifier, _level(identifier, model), model, options)


def query_of_keys(identifier: Identifier, level: Level, model: InformationModel, options: QueryOptions) -> Query:
    """The query for the keys of an identifier at a level; raises InvalidIdentifier."""
    known = sorted(identifier.keys)
    asked = [(ATTRIBUTES[key.tag], key) for key in known if key.tag in ATTRIBUTES]
    _check_levels({a: value_of(key) for a, key in asked if a.vr != "SQ"}, level, model, options)
    asked = [(a, key) for a, key in asked if _is_answered(a, level, model)]
    texts = {a: key.text for a, key in asked if a.vr != "SQ"}
    unsupported = {key.tag for key in known} - {a.tag for a, _ in asked}
    unsupported |= {a.tag for a, text in texts.items() if _is_count(a) and text.strip("*")}
    returns = [return_key(key) for a, key in asked if a.tag != TIMEZONE_OFFSET_FROM_UTC or level >= Level.STUDY]
    keys = [*_combined(texts, options), *_plain_keys(texts, options), *_sequence_keys(asked, options)]
    charset, sent = identifier.specific_character_set, dict(key_texts(identifier.keys))
    return Query(model, level, tuple(keys), tuple(returns), tuple(sorted(unsupported)), charset, options, sent)


def parse_retrieve(
    data: bytes, transfer_syntax_uid: str, model: InformationModel, options: QueryOptions
) -> RetrieveKeys:
    """The unique keys in a C-MOVE or C-GET identifier; other keys are ignored; raises InvalidIdentifier."""
    identifier = decode_identifier(data, transfer_syntax_uid)
    level = _level(identifier, model)
    uids = []
    for at in Level:
        key = identifier.attributes.get(BY_KEYWORD[UNIQUE_KEYS[at]].tag)
        text = value_of(key) if key else ""
        # PS3.4 C.6.2.1: Study Root has no patient level, so Patient ID is not a unique key in it.
        values = _unique_values(at, text) if at in model.levels else ()
        if at in model.levels:
            _check_unique(at, values, level, options)
        uids.append(values)
    return RetrieveKeys(level, *uids)


def level_of(attribute: Attribute, model: InformationModel) -> Level:
    """The level of an attribute in the model; in Study Root, patient attributes are of the study (PS3.4 C.6.2.1)."""
    return max(attribute.level, model.levels[0])


def without_unknown(key: MatchingKey) -> MatchingKey:
    """The same key, except that a stored value of zero length does not match, nor does one in a sequence."""
    matcher = strict_items(key.matcher) if isinstance(key.matcher, Items) else key.matcher
    return MatchingKey(key.attributes, matcher, unknown=False)


def _unique_values(at: Level, text: str) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(value for value in text.split("\\") if value))
    # In a retrieve request a UID names what to send. So a wild card or an invalid UID is an error, where a query
    # would only find no match.
    valid = ("*" not in text and "?" not in text) if at is Level.PATIENT else all(is_uid(value) for value in values)
    if not valid:
        raise refused(f"{UNIQUE_KEYS[at]} is not valid to retrieve by")
    return values


def _check_unique(at: Level, values: tuple[str, ...], level: Level, options: QueryOptions) -> None:
    name = UNIQUE_KEYS[at]
    if values and at > level:
        raise refused(f"{name} lies below the level")
    if not values and (at is level or (at < level and not options.relational)):
        raise refused(f"{name} is missing")
    # PS3.4 C.4.2.1.4.1, C.4.2.2.1: one value at every level above the query level; at the query level itself a list,
    # but only of UIDs: Patient ID has one value.
    single = (at is Level.PATIENT or at < level) and not options.relational
    if len(values) > (1 if single else MAX_VALUES):
        raise refused(f"{name} has too many values")


def _level(identifier: Identifier, model: InformationModel) -> Level:
    key = identifier.attributes.get(QUERY_RETRIEVE_LEVEL)
    name = value_of(key) if key else ""
    if not name:
        raise InvalidIdentifier("QueryRetrieveLevel is missing")
    level = Level.__members__.get(name)
    if level not in model.levels:
        raise InvalidIdentifier("QueryRetrieveLevel is not one of this model's")
    return level


def _is_count(attribute: Attribute) -> bool:
    return attribute.computed and attribute.vr == "IS"


def _is_answered(attribute: Attribute, level: Level, model: InformationModel) -> bool:
    return level_of(attribute, model) <= level or attribute.tag == TIMEZONE_OFFSET_FROM_UTC


def _check_levels(texts: Mapping[Attribute, str], level: Level, model: InformationModel, options: QueryOptions) -> None:
    for attribute, text in texts.items():
        # Many workstations send return keys of levels below the query level. A key without a value does no harm.
        if not text or attribute.tag == TIMEZONE_OFFSET_FROM_UTC:
            continue
        at = level_of(attribute, model)
        if at > level:
            raise refused(f"{attribute.keyword} lies below the level")
        # PS3.4 C.4.1.2.1: above the query level only unique keys are allowed, unless relational queries were agreed on.
        if at < level and attribute.keyword != UNIQUE_KEYS[at] and not options.relational:
            raise refused(f"{attribute.keyword} lies above the level")
    if not options.relational:
        for at in model.levels[: model.levels.index(level)]:
            text = texts.get(BY_KEYWORD[UNIQUE_KEYS[at]], "")
            if not text or any(c in text for c in "*?\\"):
                raise refused(f"{UNIQUE_KEYS[at]} needs a single value")


def _combined(texts: dict[Attribute, str], options: QueryOptions) -> Iterator[MatchingKey]:
    """The pairs of date and time ranges to match as one range; they are removed from `texts` (PS3.4 C.2.2.2.5.4)."""
    if not options.combined_date_time:
        return
    for date in [attribute for attribute in texts if attribute.vr == "DA"]:
        time = BY_KEYWORD.get(date.keyword.replace("Date", "Time"))
        if time not in texts:
            continue
        pair = date_time_range((date.keyword, time.keyword), texts[date], texts[time])
        if pair is not None:
            del texts[date], texts[time]
            yield MatchingKey((date, time), pair, unknown=True)


def _plain_keys(texts: Mapping[Attribute, str], options: QueryOptions) -> Iterator[MatchingKey]:
    for attribute, text in texts.items():
        if not text or attribute.tag == TIMEZONE_OFFSET_FROM_UTC or _is_count(attribute):
            continue
        matcher = key_matcher(attribute.keyword, attribute.vr, text, fuzzy=options.fuzzy)
        if matcher is not None:
            yield MatchingKey((attribute,), matcher, unknown=attribute.keyword not in UNIQUE_KEYS.values())


def _sequence_keys(asked: Iterable[tuple[Attribute, Key]], options: QueryOptions) -> Iterator[MatchingKey]:
    for attribute, key in asked:
        if attribute.vr == "SQ":
            matcher = sequence_matcher(key, fuzzy=options.fuzzy)
            if matcher is not None:
                yield MatchingKey((attribute,), matcher, unknown=True)
