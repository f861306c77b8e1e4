"""Private elements, found by the creator that reserved their block and never by a fixed tag (PS3.5 7.8.1).

Blocks move: archives that put a data set together anew give each creator the first block that is free.
"""

import base64
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydicom._private_dict import private_dictionaries

from pacs_server.dicom.json_model import DataSet, first_value
from pacs_server.dicom.vr import NUMBERS, SINGLE_VALUED_VRS, TEXT_VRS

_CREATOR: Final = re.compile(r"[0-9A-F]{3}[13579BDF]00[1-9A-F][0-9A-F]")


@dataclass(frozen=True, slots=True)
class PrivateElement:
    """A private element of a data set.

    `number` is its tag without the block, as 0019xx0C. `name` and `vr` are those of pydicom's dictionary of private
    elements; the name is empty, and the VR as it was sent, if the dictionary does not know the element.
    """

    tag: str
    creator: str
    number: str
    name: str
    vr: str
    element: Mapping[str, Any]

    def values(self) -> list[Any]:
        """The values; those of an element that was sent as UN are read by the VR of the dictionary."""
        if self.vr != self.element.get("vr") and "InlineBinary" in self.element:
            return _read(base64.b64decode(self.element["InlineBinary"]), self.vr)
        return list(self.element.get("Value", ()))


def is_creator(tag: str) -> bool:
    """Whether an element reserves a block (gggg,0010-00FF)."""
    return _CREATOR.fullmatch(tag) is not None


def creators_of(data_set: DataSet) -> dict[tuple[str, str], str]:
    """The creator of each reserved block of a data set, by group and block."""
    return {(tag[:4], tag[6:]): first_value(data_set, tag).strip() for tag in data_set if is_creator(tag)}


def creator_of(tag: str, creators: Mapping[tuple[str, str], str]) -> str:
    """Whose a private element is: '' for a standard element, a creator, or an element of a block nobody reserved."""
    return creators.get((tag[:4], tag[4:6]), "") if int(tag[3], 16) % 2 else ""


def name_of(tag: str, creator: str) -> str:
    """The name of a private element; '' if it is not known."""
    return _known(creator, number_of(tag))[1]


def vr_of(creator: str, number: str) -> str:
    """The VR of a private element; '' if it is not known."""
    return _known(creator, number)[0]


def element_by(data_set: DataSet, creator: str, number: str) -> PrivateElement | None:
    """The element of a creator with this number, wherever its block is; None if there is none."""
    found = (each for each in private_elements(data_set) if each.number == number)
    return next((each for each in found if each.creator.casefold() == creator.casefold()), None)


def number_of(tag: str) -> str:
    """A private tag without its block, as 0019xx0C."""
    return f"{tag[:4]}xx{tag[6:]}"


def private_elements(data_set: DataSet) -> Iterator[PrivateElement]:
    """The private elements of a data set whose creator it names, in the order of their tags; not those of its items."""
    creators = creators_of(data_set)
    for tag in sorted(data_set):
        if creator := creator_of(tag, creators):
            number, sent = number_of(tag), str(data_set[tag].get("vr", "UN"))
            vr, name = _known(creator, number)
            yield PrivateElement(tag, creator, number, name, vr if vr and sent == "UN" else sent, data_set[tag])


def _known(creator: str, number: str) -> tuple[str, str]:
    """VR and name of an element in the dictionary; both empty if it is not there."""
    found = _dictionary().get(creator.casefold(), {}).get(number)
    if found is None:
        return "", ""
    # The dictionary names what it has no name for Unknown.
    return str(found[0]).split(" ")[0], "" if found[2] == "Unknown" else str(found[2])


@cache
def _dictionary() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The dictionary by creators in lower case: some devices write theirs in upper case."""
    return {creator.casefold(): elements for creator, elements in private_dictionaries.items()}


def _read(raw: bytes, vr: str) -> list[Any]:
    """Values of bytes that were sent as UN: they are in little endian (PS3.5 6.2.2). Empty if they cannot be read."""
    if vr in NUMBERS:
        size = struct.calcsize(NUMBERS[vr])
        count = len(raw) // size
        return list(struct.unpack(f"<{count}{NUMBERS[vr]}", raw)) if count * size == len(raw) else []
    if vr not in TEXT_VRS:
        return []
    text = raw.decode("ascii", "replace").rstrip("\0 ")
    return [text] if vr in SINGLE_VALUED_VRS else [each.strip(" ") for each in text.split("\\")] if text else []
