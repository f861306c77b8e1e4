"""Encodes the matches of a search directly from index rows as DICOM JSON text (PS3.18 F.2, 10.6.3.3).

No objects are built for attributes. What is the same in all matches of a form of search is prepared once.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from pacs_server.dicom.identifier import Query
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.json_model import DataSet, empty_element
from pacs_server.dicom.levels import Level
from pacs_server.dicom.person_name import groups_of
from pacs_server.dicom.search_attributes import ONLY_IF_KNOWN
from pacs_server.dicom.tags import INSTANCE_AVAILABILITY, RETRIEVE_URL, SPECIFIC_CHARACTER_SET
from pacs_server.dicom.vr import NUMBERS, SINGLE_VALUED_VRS

# The parts of a Retrieve URL, each with the attribute that follows it.
_PLACES = (("/studies/", 0x0020000D), ("/series/", 0x0020000E), ("/instances/", 0x00080018))
# What every match has, as a format for Retrieve URL.
_FIXED = (
    (SPECIFIC_CHARACTER_SET, f'"{SPECIFIC_CHARACTER_SET:08X}":{{"vr":"CS","Value":["ISO_IR 192"]}}'),
    (INSTANCE_AVAILABILITY, f',"{INSTANCE_AVAILABILITY:08X}":{{"vr":"CS","Value":["ONLINE"]}}'),
    (RETRIEVE_URL, f',"{RETRIEVE_URL:08X}":{{"vr":"UR","Value":["%s"]}}'),
)
# PS3.18 F.2.3: IS may be a JSON number. One that JSON would write in another way, such as 007, stays as it is.
_JSON_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,14})", re.ASCII)

Write = Callable[[str], str]


class RowEncoder:
    """Encodes the rows of one search. A row holds the texts of the attributes in `query.returns`, in the same order."""

    def __init__(self, query: Query, service_url: str) -> None:
        """`service_url` is the base URL of the service, for Retrieve URL (0008,1190)."""
        self._query = query
        self._service_url = encode_basestring(service_url)[1:-1]
        self._form = _form(query.level, query.returns)
        self._writers = [
            self._sequence(key) if write is None else write
            for key, write in zip(query.returns, self._form.writers, strict=True)
        ]

    def encode(self, row: Sequence[str]) -> str:
        """One match as a JSON object."""
        form = self._form
        parts = [write(text) if text else "" for write, text in zip(self._writers, row, strict=True)]
        url = self._service_url + "".join([place + row[at] for place, at in form.places])
        parts.insert(form.url_at, url)
        return form.template % tuple(parts)

    def _sequence(self, key: ReturnKey) -> Write:
        def write(text: str) -> str:
            items = [_item(item, key.items) for item in self._query.answered_items(key.tag, text)]
            return f',"Value":{json.dumps(items, ensure_ascii=False, separators=(",", ":"))}' if items else ""

        return write


class _Form(NamedTuple):
    """What the matches of all searches of one form have in common.

    `template` has a place for each attribute, and one for Retrieve URL before that of number `url_at`. `writers` make
    of the text of an attribute what belongs there; for a sequence that depends on the query. Each of `places` is a part
    of the URL and the column that follows.
    """

    template: str
    writers: tuple[Write | None, ...]
    url_at: int
    places: tuple[tuple[str, int], ...]


@lru_cache(maxsize=256)
def _form(level: Level, returns: tuple[ReturnKey, ...]) -> _Form:
    # PS3.18 F.2.2: attributes are in the order of their tags.
    fields = sorted([*_FIXED, *((key.tag, _format(key)) for key in returns)])
    at = {key.tag: number for number, key in enumerate(returns)}
    places = tuple((place, at[tag]) for place, tag in _PLACES[:level])
    url_at = sum(key.tag < RETRIEVE_URL for key in returns)
    template = "{" + "".join(text for _, text in fields) + "}"
    return _Form(template, tuple(_writer(key) for key in returns), url_at, places)


def _start(key: ReturnKey) -> str:
    return f',"{key.tag:08X}":{{"vr":"{key.vr}"'


def _format(key: ReturnKey) -> str:
    return "%s" if key.tag in ONLY_IF_KNOWN else _start(key) + "%s}"


def _writer(key: ReturnKey) -> Write | None:
    """What writes the value of an attribute that is not empty, or the whole attribute if it is there only if known."""
    if key.vr == "SQ":
        return None
    write = _values(key.vr)
    if key.tag in ONLY_IF_KNOWN:
        start = _start(key)
        return lambda text: f'{start},"Value":[{write(text)}]}}'
    return lambda text: f',"Value":[{write(text)}]'


def _values(vr: str) -> Write:
    if vr == "PN":
        return _names
    if vr in NUMBERS or vr == "IS":
        return _numbers
    return encode_basestring if vr in SINGLE_VALUED_VRS else _texts


def _texts(text: str) -> str:
    if "\\" not in text:
        return encode_basestring(text)
    # PS3.18 F.2.5: an empty value among others is null.
    return ",".join(encode_basestring(value) if value else "null" for value in text.split("\\"))


def _numbers(text: str) -> str:
    if _JSON_INTEGER.fullmatch(text):
        return text
    return ",".join(_number(value) for value in text.split("\\"))


def _number(value: str) -> str:
    if not value:
        return "null"
    return value if _JSON_INTEGER.fullmatch(value) else encode_basestring(value)


def _names(text: str) -> str:
    if "=" not in text and "\\" not in text:
        return f'{{"Alphabetic":{encode_basestring(text)}}}'
    return ",".join(_name(value) for value in text.split("\\"))


def _name(value: str) -> str:
    groups = groups_of(value)
    return json.dumps(groups, ensure_ascii=False, separators=(",", ":")) if groups else "null"


def _item(item: DataSet, keys: tuple[ReturnKey, ...]) -> DataSet:
    """The attributes of an item that `keys` ask for, all if there are none."""
    if not keys:
        return item
    found: dict[str, Any] = {}
    for key in keys:
        name = f"{key.tag:08X}"
        element = item.get(name, empty_element(key.tag))
        if key.items and element.get("Value"):
            element = {**element, "Value": [_item(inner, key.items) for inner in element["Value"]]}
        found[name] = element
    return found
