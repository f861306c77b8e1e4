"""**The** definition of attribute matching (PS3.4 C.2.2.2), on decoded text.

Stored values are text as in `dicom.header`: without padding, several values joined by backslash, a sequence as DICOM
JSON. Where the Standard leaves a choice, this module decides:

* Unknown values: a stored value of zero length matches every key value of a Required Key (PS3.4 C.2.2.1.2), and
  likewise of a supported Optional Key (C.2.2.1.3). Unique Keys are the exception: they are never unknown (C.2.2.1.1),
  so an empty Patient ID matches no Patient ID. In Modality Worklist an unknown value never matches (K.2.2.1.1.1).
  Callers choose with `unknown`.
* Person names (C.2.2.2.1.1) are compared as `fold_name` returns them: case, accents, blanks around components and
  trailing empty components do not matter. A key without "=" matches any component group. A key with "=" matches group
  by group, and its empty groups match everything. `X^*` also finds `X`.
* Fuzzy names (extended negotiation): every word of the key is the beginning of some word of the name.
* Dates and times are compared by meaning (C.2.2.2.1.3). A short time in a key is a range: 10 means 10:00:00.000000 to
  10:59:59.999999. A short stored value means its first instant. A stored value that is not a valid date or time
  matches only under Universal Matching.
* Offsets from UTC in DT values are ignored.
* IS and DS are compared literally (C.2.2.2.1.4), US by value.
* A key with several values matches if one of them does, as in List of UID Matching. ST, LT, UT and UR have one value.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pacs_server.dicom.json_model import element_text
from pacs_server.dicom.person_name import GROUPS, fold_name, name_words
from pacs_server.dicom.vr import SINGLE_VALUED_VRS
from pacs_server.errors import InvalidIdentifier

# PS3.4 C.2.2.2.4: the VRs that take wild cards.
WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})

MAX_VALUES = 10_000
_MAX_LENGTH = 4096
_DATE = re.compile(r"(\d{4})(\.?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(?:\.(\d{1,6}))?)?)?", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4})(?:(0[1-9]|1[0-2])(?:(0[1-9]|[12]\d|3[01])([\d.]*))?)?(?:[+-]\d{4})?", re.ASCII)


def date_key(text: str) -> str:
    """A DA value as YYYYMMDD, also from the old form YYYY.MM.DD, or '' if it is not a date."""
    match = _DATE.fullmatch(text)
    return f"{match[1]}{match[3]}{match[4]}" if match else ""


def time_key(text: str, *, upper: bool = False) -> str:
    """The first (or last) instant of a TM value as HHMMSS.ffffff, also from HH:MM:SS, or '' if it is not a time."""
    match = _TIME.fullmatch(text)
    if match is None:
        return ""
    hour, minute, second, fraction = match.groups()
    rest, digit = ("59", "9") if upper else ("00", "0")
    return f"{hour}{minute or rest}{second or rest}.{(fraction or '').ljust(6, digit)}"


def date_time_key(text: str, *, upper: bool = False) -> str:
    """The first (or last) instant of a DT value as YYYYMMDDHHMMSS.ffffff, or '' if it is not a date and time."""
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        return ""
    year, month, day, time = match.groups()
    clock = time_key(time or ("23" if upper else "00"), upper=upper)
    return f"{year}{month or ('12' if upper else '01')}{day or ('31' if upper else '01')}{clock}" if clock else ""


@dataclass(frozen=True, slots=True)
class Values:
    """Single Value Matching, or List of UID Matching (PS3.4 C.2.2.2.1, C.2.2.2.2)."""

    values: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Whether `value` is one of the values."""
        return value in self.values


@dataclass(frozen=True, slots=True)
class WildCard:
    """Wild Card Matching, case sensitive (PS3.4 C.2.2.2.4)."""

    pattern: str

    def matches(self, value: str) -> bool:
        """Whether the whole of `value` fits the pattern."""
        return _compiled(self.pattern).fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class PersonName:
    """Single Value or Wild Card Matching of a name.

    `groups` are folded patterns, one per component group. A single pattern is matched against every group.
    """

    groups: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Whether a folded name matches."""
        # PS3.5 6.2.1: a name has three component groups at most.
        stored = value.split("=")[: len(GROUPS)]
        if len(self.groups) == 1:
            return any(_fits(self.groups[0], group) for group in stored)
        stored += [""] * len(self.groups)
        return all(_fits(pattern, group) for pattern, group in zip(self.groups, stored, strict=False) if pattern)


@dataclass(frozen=True, slots=True)
class FuzzyName:
    """Fuzzy semantic matching of a name (PS3.4 C.2.2.2.1.1)."""

    words: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Whether every word of the key is the beginning of some word of a folded name."""
        stored = name_words(value)
        return all(any(name.startswith(word) for name in stored) for word in self.words)


@dataclass(frozen=True, slots=True)
class Span:
    """Range Matching, and matching of single dates and times (PS3.4 C.2.2.2.5).

    Both bounds belong to the range; '' is an open end.
    """

    vr: str
    lower: str
    upper: str

    def matches(self, value: str) -> bool:
        """Whether the first instant of `value` lies within the range."""
        instant = _INSTANTS[self.vr](value)
        return bool(instant) and self.lower <= instant and (not self.upper or instant <= self.upper)


@dataclass(frozen=True, slots=True)
class DateTimeSpan:
    """Combined Range Matching of a date and a time attribute (PS3.4 C.2.2.2.5.4)."""

    date: Span
    time: Span

    def matches(self, date: str, time: str, *, unknown: bool) -> bool:
        """Whether date and time lie within the range.

        `unknown` is the result for an empty date, and for an empty time on a date within the range.
        """
        if not date:
            return unknown
        day, instant = date_key(date), time_key(time)
        if not day or not self.date.matches(day):
            return False
        if not instant:
            return unknown and not time
        moment, lower, upper = day + instant, self.date.lower + self.time.lower, self.date.upper + self.time.upper
        return lower <= moment and (not upper or moment <= upper)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A key with several values, of which one has to match."""

    matchers: "tuple[Matcher, ...]"

    def matches(self, value: str) -> bool:
        """Whether `value` matches one of the matchers."""
        return any(matcher.matches(value) for matcher in self.matchers)


@dataclass(frozen=True, slots=True)
class ItemKey:
    """A key inside the item of a sequence key."""

    tag: int
    multiple: bool
    matcher: "Matcher"


@dataclass(frozen=True, slots=True)
class Items:
    """Sequence Matching (PS3.4 C.2.2.2.6): one item has to match all keys."""

    keys: tuple[ItemKey, ...]
    unknown: bool

    def matches(self, value: str) -> bool:
        """Whether an item of a sequence, given as DICOM JSON text, matches all keys."""
        return any(self.matches_item(item) for item in json.loads(value))

    def matches_item(self, item: dict[str, Any]) -> bool:
        """Whether an item, given as a DICOM JSON object, matches all keys."""
        texts = ((key, element_text(item.get(f"{key.tag:08X}", {}))) for key in self.keys)
        return all(matches(key.matcher, text, multiple=key.multiple, unknown=self.unknown) for key, text in texts)


Matcher = Values | WildCard | PersonName | FuzzyName | Span | AnyOf | Items


def matches(matcher: Matcher, text: str, *, multiple: bool, unknown: bool) -> bool:
    """Whether the stored `text` matches; `unknown` is the result for an empty one.

    If `multiple`, the text is split at backslashes, and one of the values has to match (PS3.4 C.2.2.3).
    """
    if is_name(matcher):
        text = fold_name(text)
    if not text:
        return unknown
    return any(matcher.matches(value) for value in (text.split("\\") if multiple else (text,)))


def is_name(matcher: Matcher) -> bool:
    """Whether the matcher compares folded names."""
    return isinstance(matcher.matchers[0] if isinstance(matcher, AnyOf) else matcher, PersonName | FuzzyName)


def matcher_for(vr: str, text: str, *, fuzzy: bool = False) -> Matcher | None:
    """The matcher for the text of a key, or None for Universal Matching; raises InvalidIdentifier if it is invalid."""
    parts = [text.rstrip()] if vr in SINGLE_VALUED_VRS else [value.strip() for value in text.split("\\")]
    values = [value for value in parts if value]
    if len(values) > MAX_VALUES or any(len(value) > _MAX_LENGTH for value in values):
        raise InvalidIdentifier("too many or too long values")
    # PS3.4 C.2.2.2.3, C.2.2.2.4 note 1: zero length and "*" match everything.
    if not values or any(not value.strip("*") for value in values):
        return None
    if vr not in _INSTANTS and not (vr in WILDCARD_VRS and (vr == "PN" or re.search("[*?]", text))):
        return Values(tuple(dict.fromkeys(values)))
    matchers = [_matcher(vr, value, fuzzy) for value in values]
    if None in matchers:
        return None
    return matchers[0] if len(matchers) == 1 else AnyOf(tuple(m for m in matchers if m is not None))


def _matcher(vr: str, value: str, fuzzy: bool) -> Matcher | None:
    if vr in _INSTANTS:
        bounds = span(vr, value)
        # PS3.4 C.2.2.2.5: the lower bound comes first, and a range of times does not cross midnight.
        if bounds.upper and bounds.upper < bounds.lower:
            raise InvalidIdentifier("the range goes backwards")
        return bounds
    if vr != "PN":
        pattern = re.sub(r"\*+", "*", value)
        return WildCard(pattern) if re.search("[*?]", pattern) else Values((value,))
    folded = fold_name(value)
    if fuzzy:
        words = tuple(name_words(re.sub("[*?]", " ", folded)))
        return FuzzyName(words) if words else None
    groups = tuple(_name_pattern(group) for group in folded.split("=")[: len(GROUPS)])
    return PersonName(groups) if any(group not in ("", "*") for group in groups) else None


def _name_pattern(group: str) -> str:
    pattern = re.sub(r"\*+", "*", group)
    # A component that may be empty may also be absent, so "x*^*" means the same as "x*".
    letters = pattern.rstrip("*^")
    star = pattern.find("*", len(letters))
    return pattern[: star + 1] if star >= 0 else pattern


def span(vr: str, value: str) -> Span:
    """Parse a single date or time, or a range; raises InvalidIdentifier if it is neither.

    The order of the bounds is not checked.
    """
    key = _INSTANTS[vr]
    first, dash, last = (part.strip() for part in value.partition("-"))
    bounds = Span(vr, key(first), _last_instant(vr, last if dash else first))
    # PS3.4 C.2.2.2.5: only a range may lack a bound, and it may not lack both.
    missing = (not bounds.lower and (first or not dash)) or (not bounds.upper and (last or not dash))
    if missing or not (bounds.lower or bounds.upper):
        raise InvalidIdentifier("no valid date, time or range")
    return bounds


def _last_instant(vr: str, text: str) -> str:
    if vr == "DA":
        return date_key(text)
    return time_key(text, upper=True) if vr == "TM" else date_time_key(text, upper=True)


_INSTANTS: dict[str, Callable[[str], str]] = {"DA": date_key, "TM": time_key, "DT": date_time_key}


def _fits(pattern: str, group: str) -> bool:
    # "x^*" also matches "x", because all components after x may be empty.
    return _compiled(pattern).fullmatch(group) is not None or bare_name(pattern) == group


def bare_name(pattern: str) -> str | None:
    """For a name pattern like "x^*", the "x" that it matches too, because trailing components may be empty; or None."""
    bare = pattern.rstrip("^*")
    return bare if pattern.endswith("*") and pattern[len(bare) :].startswith("^") else None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    first, *rest = (_literal(part) for part in pattern.split("*"))
    if not rest:
        return re.compile(first, re.DOTALL)
    # Each part between stars is matched at its first place without backtracking, so that the time for hostile patterns
    # stays linear.
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def _literal(part: str) -> str:
    return "".join("." if c == "?" else re.escape(c) for c in part)
