"""Reads the Native DICOM Model (PS3.19 A.1), data sets as XML, into the DICOM JSON Model.

What is read is not checked further: `json_input` checks it like any DICOM JSON from outside. Document type definitions
are refused, so that a short text can stand for no long one and nothing is fetched from elsewhere.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from pacs_server.dicom.native_xml import COMPONENTS
from pacs_server.dicom.person_name import GROUPS
from pacs_server.dicom.vr import NUMBERS, dictionary_vr

_MAX_ELEMENTS: Final = 200_000
_MAX_DEPTH: Final = 64
_MAX_VALUES: Final = 100_000
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
# Which elements may stand in which, and the elements whose text counts.
_CHILDREN: Final = {
    "": {"NativeDicomModel"},
    "NativeDicomModel": {"DicomAttribute"},
    "Item": {"DicomAttribute"},
    "DicomAttribute": {"Value", "PersonName", "Item", "InlineBinary", "BulkData"},
    "PersonName": set(GROUPS),
    **{group: set(COMPONENTS) for group in GROUPS},
}
_TEXTS: Final = {"Value", "InlineBinary", *COMPONENTS}


@dataclass(slots=True)
class _Attribute:
    """An attribute that is being read; values and items by their number."""

    tag: str
    vr: str
    values: dict[int, Any] = field(default_factory=dict)
    inline: str = ""
    uri: str = ""

    def element(self) -> dict[str, Any]:
        if self.uri:
            return {"vr": self.vr, "BulkDataURI": self.uri}
        if self.inline:
            return {"vr": self.vr, "InlineBinary": self.inline}
        if not self.values:
            return {"vr": self.vr}
        last = max(self.values)
        return {"vr": self.vr, "Value": [self.values.get(number) for number in range(1, last + 1)]}


def read_native_xml(document: bytes) -> dict[str, Any]:
    """The data set of a document in the DICOM JSON Model. Raises ValueError if it is none.

    Bulk data that is told by UUID only is told as the URI urn:uuid: of that UUID.
    """
    reader = _Reader()
    try:
        reader.parse(document)
    except expat.ExpatError as error:
        raise ValueError(f"no well-formed XML: {error}") from None
    except (LookupError, UnicodeError):
        raise ValueError("an encoding that is not known") from None
    return reader.root


class _Reader:
    """Builds data sets from the events of the parser."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._path: list[str] = []
        self._data_sets: list[dict[str, Any]] = []
        self._attributes: list[_Attribute] = []
        self._name: dict[str, dict[str, str]] = {}
        self._numbers: list[int] = []
        self._text: list[str] = []
        self._seen = 0
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = _refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def parse(self, document: bytes) -> None:
        self._parser.Parse(document, True)

    def _start(self, qualified: str, attributes: dict[str, str]) -> None:
        name = qualified.rpartition(" ")[2]
        self._seen += 1
        if self._seen > _MAX_ELEMENTS or len(self._path) >= _MAX_DEPTH:
            raise ValueError("too many elements, or nested too deep")
        if name not in _CHILDREN.get(self._path[-1] if self._path else "", ()):
            raise ValueError(f"{name[:40]} has no place there in the Native DICOM Model")
        self._path.append(name)
        self._text = []
        if name in ("NativeDicomModel", "Item"):
            self._data_sets.append({})
        if name in ("Item", "Value", "PersonName"):
            self._numbers.append(_number(attributes, len(self._attributes[-1].values)))
        if name == "PersonName":
            self._name = {}
        elif name in GROUPS:
            self._name[name] = {}
        elif name == "DicomAttribute":
            self._attributes.append(_attribute(attributes, self._data_sets[-1]))
        elif name == "BulkData":
            uuid = attributes.get("uuid", "")
            self._attributes[-1].uri = attributes.get("uri") or (f"urn:uuid:{uuid}" if uuid else "")

    def _characters(self, text: str) -> None:
        if self._path and self._path[-1] in _TEXTS:
            self._text.append(text)

    def _end(self, _qualified: str) -> None:
        name = self._path.pop()
        if name == "NativeDicomModel":
            self.root = self._data_sets.pop()
        elif name == "DicomAttribute":
            attribute = self._attributes.pop()
            self._data_sets[-1][attribute.tag] = attribute.element()
        elif name == "InlineBinary":
            self._attributes[-1].inline = "".join(self._text)
        elif name in COMPONENTS:
            self._name[self._path[-1]][name] = "".join(self._text)
        elif name in ("Item", "Value", "PersonName"):
            self._attributes[-1].values[self._numbers.pop()] = self._value(name)

    def _value(self, name: str) -> Any:
        if name == "Item":
            return self._data_sets.pop()
        if name == "PersonName":
            return {group: _components(found) for group, found in self._name.items() if any(found.values())} or None
        text = "".join(self._text)
        vr = self._attributes[-1].vr
        return (float(text) if vr in ("FL", "FD") else int(text)) if vr in NUMBERS and text else text or None


def _refuse(*_declaration: object) -> None:
    raise ValueError("a document type definition is not allowed")


def _number(attributes: dict[str, str], seen: int) -> int:
    """The position of a value or item; the next one if the document does not tell."""
    text = attributes.get("number", str(seen + 1))
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= _MAX_VALUES:
        raise ValueError("a number of a value or item that cannot be")
    return number


def _attribute(attributes: dict[str, str], data_set: dict[str, Any]) -> _Attribute:
    tag = attributes.get("tag", "").upper()
    if not _TAG.fullmatch(tag):
        raise ValueError("an attribute without a tag")
    creator = attributes.get("privateCreator", "")
    if creator and int(tag[:4], 16) & 1:
        tag = _in_block(tag, creator, data_set)
    return _Attribute(tag, attributes.get("vr", "") or dictionary_vr(int(tag, 16)) or "UN")


def _in_block(tag: str, creator: str, data_set: dict[str, Any]) -> str:
    """The tag of a private attribute in the block of its creator, for which a block is reserved if there is none.

    PS3.5 7.8.1: the Private Creator of block bb is (gggg,00bb).
    """
    group, told = tag[:4], int(tag[4:6], 16)
    for block in [told] if told >= 0x10 else range(0x10, 0x100):
        reserved = data_set.setdefault(f"{group}00{block:02X}", {"vr": "LO", "Value": [creator]})
        if reserved.get("Value") == [creator]:
            return f"{group}{block:02X}{tag[6:]}"
    raise ValueError("a private attribute in the block of another creator")


def _components(found: dict[str, str]) -> str:
    return "^".join(found.get(component, "") for component in COMPONENTS).rstrip("^")
