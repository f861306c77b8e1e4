"""Reads the query parameters of a QIDO-RS search (PS3.18 8.3.4, 10.6.1.2).

Any text either becomes a `Search` or raises InvalidIdentifier with a sentence for the client. The keys of a search
match as those of a relational C-FIND with combined date and time, except that a stored value of zero length matches no
key. Parameters that are not supported are ignored and listed, as PS3.18 8.3 asks for.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import parse_qsl

from pydicom.datadict import dictionary_has_tag, keyword_for_tag, tag_for_keyword

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD, UNIQUE_KEYS
from pacs_server.dicom.identifier import (
    MatchingKey,
    Query,
    QueryOptions,
    level_of,
    query_of_keys,
    without_unknown,
)
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.keys import Identifier, Key, is_key, return_key
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.matching import Values
from pacs_server.dicom.page import Order, Page
from pacs_server.dicom.search_attributes import returned
from pacs_server.dicom.tags import INSTANCE_AVAILABILITY, RETRIEVE_URL, SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET_FROM_UTC
from pacs_server.dicom.text import values_of_text
from pacs_server.dicom.vr import NUMBERS, dictionary_vr
from pacs_server.errors import InvalidIdentifier

Tags = tuple[int, ...]
"""The tags of an attribute and, before it, of the sequences that it is in."""

# Every match has these, so asking for them changes nothing.
_ALWAYS_RETURNED = frozenset({SPECIFIC_CHARACTER_SET, INSTANCE_AVAILABILITY, RETRIEVE_URL})
# PS3.18 8.3.3: parameters of every request, which are not about what to search for.
_OF_ANY_REQUEST = frozenset({"accept", "charset"})
_PLAIN = frozenset({"limit", "offset", "orderby", "fuzzymatching", "emptyvaluematching", "multiplevaluematching"})
_ATTRIBUTE_ID = re.compile(r"[A-Za-z][A-Za-z0-9]*|[0-9A-Fa-f]{8}", re.ASCII)
_TAG = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_UINT = re.compile(r"[0-9]{1,20}", re.ASCII)
_INTEGER = re.compile(r" *[+-]?[0-9]{1,20} *", re.ASCII)
_MAX_PARAMETERS = 1000
_MAX_DEPTH = 4
# More matches than any archive has.
_MAX_COUNT = 10**15


@dataclass(frozen=True, slots=True)
class Search:
    """A search: its query, the page of the matches to return, and what of the request was not done, as sentences."""

    query: Query
    page: Page
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Node:
    """The value to match for one attribute, or the attributes to match inside a sequence."""

    text: str = ""
    inside: "dict[int, _Node]" = field(default_factory=dict)


@dataclass(slots=True)
class _Request:
    """What the parameters of a request say, before it is known whether it makes sense."""

    plain: dict[str, str] = field(default_factory=dict)
    matched: dict[int, _Node] = field(default_factory=dict)
    included: list[Tags] = field(default_factory=list)
    everything: bool = False
    ignored: list[str] = field(default_factory=list)


def parse_search(level: Level, path: Mapping[Level, str], query_string: bytes) -> Search:
    """The search at `level` for the query component of a URL; raises InvalidIdentifier.

    `path` holds the UIDs that the path of the request names, which are valid.
    """
    request = _read(_parameters(query_string), level)
    fuzzy = _flag(request, "fuzzymatching")
    options = QueryOptions(relational=True, combined_date_time=True, fuzzy=fuzzy)
    keys = {tag: _key(tag, node) for tag, node in request.matched.items()}
    query = query_of_keys(Identifier(keys), level, InformationModel.STUDY_ROOT, options)
    request.ignored += map(_name, query.unsupported)
    included = (*(_nested(tags) for tags in request.included), *query.returns)
    returns = returned(level, max(path, default=None), included, request.everything)
    uids = {UNIQUE_KEYS[at]: uid for at, uid in path.items()}
    of_path = (MatchingKey((BY_KEYWORD[name],), Values((uid,)), unknown=False) for name, uid in uids.items())
    query = replace(
        query,
        keys=(*of_path, *map(without_unknown, query.keys)),
        returns=returns,
        texts={**uids, **query.texts},
    )
    return Search(query, _page(request, level, path), tuple(_warnings(request)))


# ------------------------------------------------------------------------------------ parameters


def _parameters(query_string: bytes) -> list[tuple[str, str]]:
    try:
        # PS3.18 8.3: parameters are percent-encoded UTF-8. Some clients send UTF-8 as it is.
        return parse_qsl(
            query_string.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except UnicodeDecodeError:
        raise InvalidIdentifier("a query parameter is not in UTF-8") from None
    except ValueError:
        raise InvalidIdentifier(f"there are more than {_MAX_PARAMETERS} query parameters") from None


def _read(parameters: Iterable[tuple[str, str]], level: Level) -> _Request:
    request = _Request()
    for name, value in parameters:
        if name == "includefield":
            _include(request, value)
        elif name in _PLAIN:
            if name in request.plain:
                raise InvalidIdentifier(f"the parameter {name} is given twice")
            request.plain[name] = value
        elif name not in _OF_ANY_REQUEST:
            _match(request, name, value, level)
    return request


def _include(request: _Request, value: str) -> None:
    for name in filter(None, map(str.strip, value.split(","))):
        if name == "all":
            request.everything = True
            continue
        if not all(map(_ATTRIBUTE_ID.fullmatch, name.split("."))):
            raise InvalidIdentifier(f"includefield: {shown(name)} is neither a tag nor a keyword")
        tags = _tags(name)
        if tags is None:
            request.ignored.append(f"includefield={name}")
        elif tags[0] not in _ALWAYS_RETURNED:
            request.included.append(tags)


def _match(request: _Request, name: str, value: str, level: Level) -> None:
    tags = _tags(name)
    if tags is None or not _is_matched(tags[0], level):
        request.ignored.append(name)
        return
    node, inside = _Node(), request.matched
    for tag in tags:
        node = inside.setdefault(tag, _Node())
        inside = node.inside
    value = _listed(dictionary_vr(tags[-1]), value)
    node.text = f"{node.text}\\{value}" if node.text and value else node.text or value


def _listed(vr: str, value: str) -> str:
    """The values of a parameter, joined by backslash: UIDs and codes contain no comma, so a comma separates them."""
    # PS3.18 8.3.4.1 has a list of UIDs separated by commas. Viewers send lists of modalities in the same form.
    return value.replace(",", "\\") if vr in ("UI", "CS") else value


def _is_matched(tag: int, level: Level) -> bool:
    attribute = ATTRIBUTES.get(tag)
    return (
        attribute is not None
        and is_key(tag)
        and tag != TIMEZONE_OFFSET_FROM_UTC
        and level_of(attribute, InformationModel.STUDY_ROOT) <= level
    )


@lru_cache(maxsize=1024)
def _tags(name: str) -> Tags | None:
    """The tags that a name of an attribute consists of; None if it is not a name of a known attribute."""
    parts = name.split(".")
    tags = [int(part, 16) if _TAG.fullmatch(part) else tag_for_keyword(part) for part in parts]
    known = tuple(tag for tag in tags if tag is not None and dictionary_has_tag(tag))
    sequences = all(dictionary_vr(tag) == "SQ" for tag in known[:-1])
    return known if len(known) == len(parts) <= _MAX_DEPTH and sequences else None


def _flag(request: _Request, name: str) -> bool:
    value = request.plain.get(name, "false").lower()
    if value not in ("true", "false"):
        raise InvalidIdentifier(f"{name} is neither true nor false")
    return value == "true"


# ------------------------------------------------------------------------------------ query


def _key(tag: int, node: _Node) -> Key:
    if node.inside:
        if node.text:
            raise InvalidIdentifier(f"{_name(tag)} is a sequence")
        item = Identifier({inner: _key(inner, each) for inner, each in sorted(node.inside.items())})
        return Key(tag, "SQ", "", True, (item,))
    vr = dictionary_vr(tag)
    if vr == "SQ":
        return Key(tag, vr, "", bool(node.text))
    text = "\\".join(values_of_text(node.text, vr))
    if vr in NUMBERS and text:
        text = "\\".join(_integer(tag, value) for value in text.split("\\"))
    return Key(tag, vr, text, bool(text))


def _integer(tag: int, text: str) -> str:
    if not _INTEGER.fullmatch(text):
        raise InvalidIdentifier(f"{_name(tag)}: {shown(text)} is no whole number")
    return str(int(text))


def _nested(tags: Tags) -> ReturnKey:
    return return_key(_key(tags[0], _node_of(tags[1:])))


def _node_of(tags: Tags) -> _Node:
    return _Node(inside={tags[0]: _node_of(tags[1:])}) if tags else _Node()


def _page(request: _Request, level: Level, path: Mapping[Level, str]) -> Page:
    limit, offset = (_count(request, name) for name in ("limit", "offset"))
    orders = tuple(_order(term.strip(), level) for term in request.plain.get("orderby", "").split(",") if term.strip())
    # What lies in a study comes in the order of arrival, so that pages stay the same while the study is received.
    return Page(limit, offset or 0, orders, newest_first=not path)


def _count(request: _Request, name: str) -> int | None:
    text = request.plain.get(name)
    if text is None:
        return None
    if not _UINT.fullmatch(text):
        raise InvalidIdentifier(f"{name}: {shown(text)} is not an unsigned integer")
    return min(int(text), _MAX_COUNT)


def _order(term: str, level: Level) -> Order:
    name = term.lstrip("+-")
    tags = _tags(name)
    attribute = ATTRIBUTES.get(tags[0]) if tags is not None and len(tags) == 1 else None
    if attribute is None or attribute.vr == "SQ" or level_of(attribute, InformationModel.STUDY_ROOT) > level:
        raise InvalidIdentifier(f"orderby: matches cannot be sorted by {shown(name)}")
    return Order(attribute, descending=term.startswith("-"))


# ------------------------------------------------------------------------------------ warnings


def _warnings(request: _Request) -> Iterator[str]:
    if request.ignored:
        names = ", ".join(map(shown, request.ignored[:_MOST_NAMES]))
        left_out = len(request.ignored) - _MOST_NAMES
        more = f" and {left_out} more" if left_out > 0 else ""
        yield f"These parameters are not supported and were ignored: {names}{more}"
    # PS3.18 8.3.4.5, 8.3.4.6
    if _flag(request, "emptyvaluematching"):
        yield "The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed."
    if _flag(request, "multiplevaluematching"):
        yield "The multiplevaluematching parameter is not supported. Multiple Value Matching has not been performed."


_MOST_NAMES = 10


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"{tag:08X}"


def shown(text: str) -> str:
    """What a client sent, fit for a sentence in a header: printable ASCII, without quotes, and not long."""
    plain = re.sub(r"[^ -~]|[\"\\]", "?", text)
    return plain if len(plain) <= 40 else f"{plain[:37]}..."
