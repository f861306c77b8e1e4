"""DICOM attributes in answers and parameters, by keyword: models made from the table of attributes."""

from typing import Annotated, Any, Final

from pydantic import Field, create_model
from pydicom.datadict import dictionary_description

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD, Attribute
from pacs_server.dicom.levels import Level
from pacs_server.dicom.text_query import plain_value
from pacs_server.services.listing import ListedRow
from pacs_server.services.study_list import ListedStudy
from pacs_server.web.api.operation import Answer, Paging

_VRS: Final = {
    "DA": "YYYYMMDD",
    "TM": "HHMMSS.FFFFFF",
    "PN": "as Family^Given",
}
_KEYS: Final = {
    "DA": "a date YYYYMMDD, or a range with a hyphen",
    "TM": "a time HHMMSS, or a range with a hyphen",
    "PN": "a name; * and ? stand for other characters, upper and lower case are the same",
    "UI": "a UID, or several with a backslash between them",
}


def shown_at(level: Level) -> tuple[Attribute, ...]:
    """The attributes that a list at `level` shows: its own, and those of the levels above."""
    return tuple(each for each in ATTRIBUTES.values() if each.level <= level and each.vr != "SQ" and _told(each, level))


def _told(attribute: Attribute, level: Level) -> bool:
    # Counters of levels above are for the lists there.
    return attribute.level is level or not (attribute.computed and attribute.vr == "IS")


def attributes_model(name: str, level: Level, base: type[Answer]) -> type[Any]:
    """The model of a row at `level`: the attributes by keyword, after the fields of `base`."""
    fields: dict[str, Any] = {each.keyword: (Annotated[_type(each), Field(description=_said(each))], ...)
                              for each in shown_at(level)}  # fmt: skip
    return create_model(name, __base__=base, __doc__=base.__doc__, **fields)


def search_model(name: str, level: Level, base: type[Paging] = Paging) -> type[Any]:
    """The query parameters of a list at `level`: a key to match for each attribute, and those of `base`, a page."""
    fields: dict[str, Any] = {each.keyword: (Annotated[str | None, Field(description=_asked(each))], None)
                              for each in shown_at(level) if _is_key(each)}  # fmt: skip
    fuzzy = Field(description="Match names by their words, as fuzzymatching of QIDO-RS does.")
    fields["fuzzymatching"] = (Annotated[bool, fuzzy], False)
    return create_model(name, __base__=base, __doc__="What to search for.", **fields)


def _is_key(attribute: Attribute) -> bool:
    return not (attribute.computed and attribute.vr == "IS")


def keys_of(query: Any) -> dict[str, str]:
    """The keys to match that a query has, keyword to text."""
    return {name: value for name, value in query.model_dump(exclude_none=True).items() if name in BY_KEYWORD and value}


def values_of(row: ListedRow | ListedStudy) -> dict[str, Any]:
    """The attributes of a row as plain values."""
    return {keyword: plain_value(keyword, text) for keyword, text in row.texts.items()}


def _type(attribute: Attribute) -> Any:
    if attribute.multiple:
        return list[str]
    return int | None if attribute.computed and attribute.vr == "IS" else str


def _said(attribute: Attribute) -> str:
    form = _VRS.get(attribute.vr)
    name = dictionary_description(attribute.tag)
    return f"{name}, {form}; empty if it has no value." if form else f"{name}."


def _asked(attribute: Attribute) -> str:
    form = _KEYS.get(attribute.vr, "a text; * and ? stand for other characters")
    return f"{dictionary_description(attribute.tag)}: {form}."
