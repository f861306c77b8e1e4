"""Queries from texts: for doors that name attributes by keyword and have no encoded identifier."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.identifier import Query, QueryOptions, parse_find, without_unknown
from pacs_server.dicom.json_codec import encode_data_set
from pacs_server.dicom.json_input import element_of_text
from pacs_server.dicom.levels import InformationModel, Level
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN

_UTF_8 = "ISO_IR 192"


def query_of(level: Level, keys: Mapping[str, str], returned: Iterable[str], *, fuzzy: bool = False) -> Query:
    """The query at `level` for what matches `keys`, keyword to text as in a C-FIND, that returns `returned` as well.

    Keys of the levels above may be matched too. Other than in a C-FIND, an empty value does not match every key: who
    asks for an accession number gets no studies without one. Raises InvalidIdentifier.
    """
    texts = dict.fromkeys(returned, "") | dict(keys)
    data_set: dict[str, Any] = {"00080052": {"vr": "CS", "Value": [level.name]}}
    for keyword, text in texts.items():
        attribute = BY_KEYWORD[keyword]
        data_set[f"{attribute.tag:08X}"] = element_of_text(attribute.vr, text) if text else {"vr": attribute.vr}
    data = encode_data_set(dict(sorted(data_set.items())), EXPLICIT_VR_LITTLE_ENDIAN, _UTF_8)
    options = QueryOptions(relational=True, fuzzy=fuzzy)
    # In Study Root there are no patients to list (PS3.4 C.6.2.1).
    model = InformationModel.PATIENT_ROOT if level is Level.PATIENT else InformationModel.STUDY_ROOT
    query = parse_find(data, EXPLICIT_VR_LITTLE_ENDIAN, model, options)
    return replace(query, keys=tuple(map(without_unknown, query.keys)))


def plain_value(keyword: str, text: str) -> Any:
    """The text of an attribute as JSON: counts as numbers, attributes that may have several values as arrays."""
    attribute = BY_KEYWORD[keyword]
    if attribute.multiple:
        return text.split("\\") if text else []
    return int(text) if text and attribute.computed and attribute.vr == "IS" else text
