"""Reads data sets in the DICOM JSON Model (PS3.18 F.2): their attributes as text, values or items.

A data set is a mapping from tag ("00100010") to `{"vr": ..., "Value": [...]}` or `{"vr": ..., "InlineBinary": ...}`.
An attribute with neither is empty. DS and IS values are kept as text, so that their notation is preserved.
"""

import json
from collections.abc import Mapping
from typing import Any

from pacs_server.dicom.person_name import groups_of, text_of_groups
from pacs_server.dicom.vr import dictionary_vr

DataSet = Mapping[str, Any]
"""A data set or item in the DICOM JSON Model."""

SPECIFIC_CHARACTER_SET = "00080005"


def element_text(element: Mapping[str, Any]) -> str:
    """The text of an element: values joined by backslash, a sequence as JSON."""
    values = element.get("Value", [])
    if element.get("vr") == "SQ":
        return json.dumps(values) if values else ""
    return "\\".join(_text(value) for value in values)


def text_of(data_set: DataSet, tag: str) -> str:
    """The value of an attribute as text, values joined by backslash; '' if there is none."""
    return element_text(data_set.get(tag, {}))


def first_value(data_set: DataSet, tag: str) -> str:
    """The first value of a text attribute, '' if there is none."""
    return _text(next(iter(data_set.get(tag, {}).get("Value", ())), None))


def values_of(data_set: DataSet, tag: str) -> list[Any]:
    """The values of an attribute that are not empty; an empty list if the attribute is absent."""
    return [value for value in data_set.get(tag, {}).get("Value", ()) if value not in (None, "")]


def items_of(data_set: DataSet, tag: str) -> list[DataSet]:
    """The items of a sequence; an empty list if the attribute is absent, empty, or not a sequence."""
    element = data_set.get(tag, {})
    return list(element.get("Value", ())) if element.get("vr") == "SQ" else []


def empty_element(tag: int) -> dict[str, str]:
    """An attribute of zero length, with the VR from the data dictionary."""
    return {"vr": dictionary_vr(tag) or "UN"}


def text_element(vr: str, values: list[str]) -> dict[str, Any]:
    """An element of text values. An empty one among others becomes null; if all are empty, there is no "Value"."""
    found = [_value(text, vr) for text in values]
    return {"vr": vr, "Value": found} if any(value is not None for value in found) else {"vr": vr}


def _value(text: str, vr: str) -> Any:
    if vr == "PN":
        return groups_of(text) or None
    return text or None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return text_of_groups(value)
    return "" if value is None else str(value)
