"""Writes data sets of the DICOM JSON Model in XML, in the Native DICOM Model (PS3.19 A.1)."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from pacs_server.dicom.json_model import DataSet, first_value
from pacs_server.dicom.person_name import GROUPS
from pacs_server.dicom.tags import is_private_creator

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
# PS3.5 6.2.1: the components of a name in their order.
COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
# XML 1.0, 2.2: these are not characters of a document, not even when they are escaped.
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def native_model(data_set: DataSet) -> str:
    """A whole document with one data set."""
    return f"{_HEAD}{''.join(_attributes(data_set))}</NativeDicomModel>\n"


def _attributes(data_set: DataSet) -> Iterator[str]:
    for name in sorted(data_set):
        element, tag = data_set[name], int(name, 16)
        content = "".join(_content(element))
        vr = quoteattr(str(element.get("vr", "UN")))
        head = f"<DicomAttribute vr={vr} {_identity(data_set, tag)}"
        # PS3.19 Table A.1.5-2: an attribute of zero length has no content.
        yield f"{head}>{content}</DicomAttribute>" if content else f"{head}/>"


def _identity(data_set: DataSet, tag: int) -> str:
    """The tag, and the keyword or the private creator."""
    if not tag >> 16 & 1 or is_private_creator(tag):
        return _standard(tag)
    # PS3.19 Table A.1.5-2: the creator stands for the block that it reserves, whose number is left out of the tag.
    creator = first_value(data_set, f"{tag >> 16:04X}00{tag >> 8 & 0xFF:02X}")
    if not creator:
        return _standard(tag)
    return f'tag="{tag & 0xFFFF00FF:08X}" privateCreator={quoteattr(_in_xml(creator))}'


@lru_cache(maxsize=2048)
def _standard(tag: int) -> str:
    keyword = keyword_for_tag(tag)
    return f'tag="{tag:08X}"' + (f' keyword="{keyword}"' if keyword else "")


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    elif "BulkDataURI" in element:
        yield f"<BulkData uri={quoteattr(str(element['BulkDataURI']))}/>"
    vr = element.get("vr")
    for number, value in enumerate(element.get("Value", ()), 1):
        if vr == "SQ":
            yield f'<Item number="{number}">{"".join(_attributes(value or {}))}</Item>'
        elif value is None:
            # The numbers of the others tell that a value is empty.
            continue
        elif vr == "PN":
            groups = "".join(_name(value))
            yield f'<PersonName number="{number}">{groups}</PersonName>' if groups else ""
        else:
            yield f'<Value number="{number}">{_text(value)}</Value>'


def _name(groups: Mapping[str, str]) -> Iterator[str]:
    for group in GROUPS:
        parts = str(groups.get(group) or "").split("^")
        content = "".join(
            f"<{component}>{_text(part)}</{component}>"
            for component, part in zip(COMPONENTS, parts, strict=False)
            if part
        )
        if content:
            yield f"<{group}>{content}</{group}>"


def _text(value: object) -> str:
    # A reader would turn a carriage return into a line feed.
    return escape(_in_xml(str(value))).replace("\r", "&#13;")


def _in_xml(text: str) -> str:
    return _NOT_IN_XML.sub("", text)
