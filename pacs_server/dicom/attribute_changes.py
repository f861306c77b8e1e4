"""What differs between two versions of a data set, attribute by attribute, for people to read."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

# So much of a value is told.
_MOST_CHARACTERS: Final = 80
_MOST_VALUES: Final = 6


class Change(StrEnum):
    """What happened to an attribute."""

    REMOVED = "removed"
    EMPTIED = "emptied"
    REPLACED = "replaced"
    ADDED = "added"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What happened to one attribute; `path` has the tags of the sequences around it, from the outside in."""

    path: tuple[int, ...]
    name: str
    vr: str
    change: Change
    before: str
    after: str


def changes(before: Dataset, after: Dataset) -> Iterator[AttributeChange]:
    """The changes of all attributes, those of items once for each item. A removed sequence is told with its items."""
    return _changes(before, after, ())


def _changes(before: Dataset, after: Dataset, path: tuple[int, ...]) -> Iterator[AttributeChange]:
    for tag in sorted(before.keys() | after.keys()):
        old, new = before.get(tag), after.get(tag)
        one = old if old is not None else new
        assert isinstance(one, DataElement)
        here = (*path, int(tag))
        texts = _text(old), _text(new)
        yield AttributeChange(here, _name(one), one.VR, _change(old, new), *texts)
        if one.VR == "SQ":
            olds, news = list(old.value or ()) if old else [], list(new.value or ()) if new else []
            for number in range(max(len(olds), len(news))):
                pair = [items[number] if number < len(items) else Dataset() for items in (olds, news)]
                yield from _changes(pair[0], pair[1], here)


def _change(old: DataElement | None, new: DataElement | None) -> Change:
    if old is None:
        return Change.ADDED
    if new is None:
        return Change.REMOVED
    if new.VR == "SQ":
        return Change.EMPTIED if old.value and not new.value else Change.KEPT
    if new.value == old.value or (new.is_empty and old.is_empty):
        return Change.KEPT
    return Change.EMPTIED if new.is_empty else Change.REPLACED


def _name(element: DataElement) -> str:
    if element.tag.is_private:
        return str(element.name).strip("[]")
    try:
        return str(dictionary_description(element.tag))
    except KeyError:
        return ""


def _text(element: DataElement | None) -> str:
    if element is None or element.is_empty:
        return ""
    if element.VR == "SQ":
        return ""
    if isinstance(element.value, bytes):
        return f"{len(element.value)} bytes"
    values = list(element.value) if element.VM > 1 else [element.value]
    text = "\\".join(str(each) for each in values[:_MOST_VALUES])
    cut = len(text) > _MOST_CHARACTERS or len(values) > _MOST_VALUES
    return f"{text[:_MOST_CHARACTERS]}…" if cut else text
