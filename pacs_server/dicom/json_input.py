"""Checks DICOM JSON from outside (PS3.18 F.2) and converts it to the form in which this server stores it."""

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

from pacs_server.dicom.json_model import text_element
from pacs_server.dicom.person_name import text_of_groups
from pacs_server.dicom.text import values_of_text
from pacs_server.dicom.vr import BYTES_VRS, NUMBERS, VRS

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_MAX_NESTING = 16
# What Python takes for a number is more than what IS and DS hold (PS3.5 6.2).
_NUMBERS_AS_TEXT = {
    "IS": re.compile(r" *[+-]?[0-9]+ *"),
    "DS": re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([Ee][+-]?[0-9]+)? *"),
}
_HOLDERS = ("Value", "InlineBinary", "BulkDataURI")


def is_tag(name: str) -> bool:
    """Whether a name in DICOM JSON is a tag: eight hexadecimal digits."""
    return _TAG.fullmatch(name) is not None


def checked_data_set(document: Mapping[str, Any], *, depth: int = 0, bulk: bool = False) -> dict[str, Any]:
    """The data set or item in stored form; raises ValueError if it violates PS3.18 F.2 or is nested too deeply.

    Sequences may be nested 16 levels deep. With `bulk`, attributes may refer to bulk data elsewhere.
    """
    if depth > _MAX_NESTING:
        raise ValueError("sequences are nested too deep")
    if not all(map(is_tag, document)):
        raise ValueError("a name is no tag")
    return {name.upper(): checked_element(element, depth=depth, bulk=bulk) for name, element in document.items()}


def checked_element(element: object, *, depth: int = 0, bulk: bool = False) -> dict[str, Any]:
    """The attribute in stored form: DS and IS as text, no blanks around values; raises ValueError if it is invalid.

    Without `bulk` a BulkDataURI is refused too, because the server does not fetch bulk data from elsewhere.
    """
    vr = element.get("vr") if isinstance(element, dict) else None
    if not isinstance(element, dict) or not isinstance(vr, str) or vr not in VRS:
        raise ValueError("no VR")
    holders = [name for name in _HOLDERS if name in element]
    if len(holders) > 1 or ("BulkDataURI" in element and not bulk):
        raise ValueError("values in two places, or elsewhere")
    if "BulkDataURI" in element:
        return _bulk_element(vr, element["BulkDataURI"])
    if "InlineBinary" in element or vr in BYTES_VRS:
        return _bytes_element(vr, element)
    values = element.get("Value", [])
    if not isinstance(values, list):
        raise ValueError("the values are no array")
    if vr == "SQ":
        items = [checked_data_set(_object(item), depth=depth + 1, bulk=bulk) for item in values]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if vr in NUMBERS or vr == "AT":
        found = [_number(value, vr) for value in values if value is not None]
        return {"vr": vr, "Value": found} if found else {"vr": vr}
    return element_of_text(vr, "\\".join(_text(value, vr) for value in values))


def element_of_text(vr: str, text: str) -> dict[str, Any]:
    """An attribute of a text VR from text with its values joined by backslash; blanks around values are removed."""
    if vr == "PN":
        text = "=".join(group.strip() for group in text.split("="))
    return text_element(vr, values_of_text(text, vr))


def _bulk_element(vr: str, uri: object) -> dict[str, Any]:
    if vr == "SQ" or not isinstance(uri, str) or not uri:
        raise ValueError("a reference to bulk data that is none")
    return {"vr": vr, "BulkDataURI": uri}


def _bytes_element(vr: str, element: Mapping[str, Any]) -> dict[str, Any]:
    encoded = element.get("InlineBinary", "")
    if vr not in BYTES_VRS or element.get("Value") or not isinstance(encoded, str):
        raise ValueError("bytes are text in base 64")
    raw = base64.b64decode(encoded)
    return {"vr": vr, "InlineBinary": base64.b64encode(raw).decode("ascii")} if raw else {"vr": vr}


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an item is no object")
    return value


def _number(value: object, vr: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("no number")
    if vr == "AT":
        if not isinstance(value, str) or not is_tag(value):
            raise ValueError("no tag")
        return value.upper()
    return _finite(value) if vr in ("FL", "FD") else _integer(value)


def _finite(value: str | int | float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("no number of eight bytes") from error
    if not math.isfinite(number):
        raise ValueError("no number that JSON knows")
    return number


def _integer(value: str | int | float) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("no whole number")
    return int(value)


def _text(value: object, vr: str) -> str:
    if value is None:
        return ""
    if vr == "PN":
        groups = _object(value)
        if not all(isinstance(group, str) for group in groups.values()):
            raise ValueError("a component group is no text")
        return text_of_groups(groups)
    pattern = _NUMBERS_AS_TEXT.get(vr)
    if isinstance(value, str):
        if value and pattern and not pattern.fullmatch(value):
            raise ValueError("no number")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no text")
    if vr == "UI":
        raise ValueError("a number is no UID")
    if vr == "IS":
        return str(_integer(value))
    if vr == "DS":
        _finite(value)
    return str(value)
