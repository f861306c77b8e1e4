"""What requests to remotes share: identifiers of keys and values, and how failures are told."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs_server.dicom.json_codec import encode_data_set
from pacs_server.dicom.json_input import checked_element, element_of_text
from pacs_server.dicom.json_model import DataSet, items_of, text_of
from pacs_server.dicom.private_elements import creators_of, element_by, vr_of
from pacs_server.dicom.vr import NUMBERS
from pacs_server.errors import InvalidIdentifier, RemoteError
from pacs_server.net.association import Association
from pacs_server.net.message import Command
from pacs_server.scu.remote import RemoteAE

EXPLICIT: Final = "1.2.840.10008.1.2.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
SYNTAXES: Final = (EXPLICIT, IMPLICIT)
UTF_8: Final = "ISO_IR 192"
# A private attribute by its creator, as in "SIEMENS MR HEADER:0019xx0C".
_PRIVATE: Final = re.compile(r"([^:]{1,64}):([0-9A-Fa-f]{3}[13579BDFbdf])xx([0-9A-Fa-f]{2})")
_TAG: Final = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")


def tag_of(name: str) -> int:
    """The tag of an attribute given by keyword or as 0008,0060. Raises InvalidIdentifier."""
    found = _TAG.fullmatch(name)
    tag = int(found[1] + found[2], 16) if found else (tag_for_keyword(name) if name else None)
    if tag is None:
        raise InvalidIdentifier(f"{name[:64]!r} is no attribute: give its keyword, or its tag as 0008,0060")
    return tag


def data_set_of(texts: Mapping[str, str]) -> dict[str, Any]:
    """A data set in the DICOM JSON Model from texts by keyword or tag; a dot leads into the item of a sequence.

    A private attribute is named by creator and number, as "SIEMENS MR HEADER:0019xx0C", and the block of the creator
    is reserved with it (PS3.5 7.8.1). An empty text is an empty value. Raises InvalidIdentifier.
    """
    data_set: dict[str, Any] = {}
    for path, text in texts.items():
        if (private := private_of(path)) is not None:
            _add_private(data_set, *private, text)
            continue
        *sequences, name = path.split(".")
        item = data_set
        for sequence in sequences:
            element = item.setdefault(f"{tag_of(sequence):08X}", {"vr": "SQ"})
            item = element.setdefault("Value", [{}])[0]
        tag = tag_of(name)
        item.setdefault(f"{tag:08X}", {}).update(_element(tag, name, text))
    return _sorted(data_set)


def value_at(data_set: DataSet, path: str) -> str:
    """The text of an attribute, '' without one, by a path as `data_set_of` takes it; of a sequence the first item.

    A private attribute is found by its creator, in whichever block the remote has it.
    """
    if (private := private_of(path)) is not None:
        found = element_by(data_set, *private)
        return "" if found is None else "\\".join(map(str, found.values()))
    *sequences, name = path.split(".")
    item = data_set
    for sequence in sequences:
        item = next(iter(items_of(item, f"{tag_of(sequence):08X}")), {})
    return text_of(item, f"{tag_of(name):08X}")


def private_of(path: str) -> tuple[str, str] | None:
    """Creator and number of a private attribute that is named by them; None if something else is named."""
    found = _PRIVATE.fullmatch(path)
    return None if found is None else (found[1].strip(), f"{found[2].upper()}xx{found[3].upper()}")


def _add_private(data_set: dict[str, Any], creator: str, number: str, text: str) -> None:
    """Add a private element, in the block that its creator has in this data set or gets now."""
    group = number[:4]
    creators = creators_of(data_set)
    blocks = {block: name for (of, block), name in creators.items() if of == group}
    block = next((block for block, name in blocks.items() if name == creator), f"{0x10 + len(blocks):02X}")
    if len(block) > 2:
        raise InvalidIdentifier(f"group {group} has no block left for {creator}")
    data_set[f"{group}00{block}"] = {"vr": "LO", "Value": [creator]}
    vr = vr_of(creator, number)
    try:
        if text and not vr:
            raise ValueError
        element = checked_element({"vr": vr, "Value": [text]}) if text and vr in NUMBERS else element_of_text(vr, text)
    except (KeyError, ValueError):
        raise InvalidIdentifier(f"{number} of {creator}: {text[:64]!r} is no value that can be asked for") from None
    data_set[f"{group}{block}{number[6:]}"] = element if text else {"vr": vr or "UN"}


def _element(tag: int, name: str, text: str) -> dict[str, Any]:
    try:
        # VRs such as "US or SS" depend on other attributes; queries match no such values.
        vr = dictionary_VR(tag).split(" ")[0]
        if not text or vr == "SQ":
            return {"vr": vr}
        return checked_element({"vr": vr, "Value": [text]}) if vr in NUMBERS else element_of_text(vr, text)
    except (KeyError, ValueError):
        raise InvalidIdentifier(f"{name[:64]}: {text[:64]!r} is no value of it that can be asked for") from None


def _sorted(data_set: Mapping[str, Any]) -> dict[str, Any]:
    """A data set in the order of its tags, as it has to be sent (PS3.5 7.1)."""
    return {
        tag: {**element, "Value": [_sorted(item) for item in element["Value"]]}
        if element["vr"] == "SQ" and "Value" in element
        else element
        for tag, element in sorted(data_set.items())
    }


def encoded(data_set: Mapping[str, Any], transfer_syntax: str) -> bytes:
    """A data set to be sent. Its text is in UTF-8, so that remotes that can do so answer in all characters."""
    return encode_data_set(data_set, transfer_syntax, UTF_8)


def context_of(association: Association, remote: RemoteAE, *sop_classes: str) -> tuple[int, str, str]:
    """The context to send a request on, its SOP class and transfer syntax: those of the first one that was accepted.

    Raises RemoteError.
    """
    for sop_class in sop_classes:
        for transfer_syntax in SYNTAXES:
            context_id = association.contexts_as_scu.get((sop_class, transfer_syntax))
            if context_id is not None:
                return context_id, sop_class, transfer_syntax
    raise RemoteError(f"{remote.name} does not offer this service")


def refusal(remote: RemoteAE, operation: str, response: Command) -> RemoteError:
    """The error for a response that tells of a failure."""
    status = "no status" if response.status is None else f"{response.status:04X}"
    comment = f": {response.error_comment}" if response.error_comment else ""
    return RemoteError(f"{remote.name} answered {operation} with {status}{comment}")
