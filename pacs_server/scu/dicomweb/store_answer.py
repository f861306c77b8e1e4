"""**The** table from what a remote answers to STOW-RS to an answer for each instance (PS3.18 10.5.3, Annex I)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from pacs_server.dicom.json_model import items_of, text_of
from pacs_server.dicom.native_xml_input import read_native_xml
from pacs_server.dicom.status import Status, is_warning
from pacs_server.dicom.uids import clean_uid
from pacs_server.kit.media_types import media_type_of
from pacs_server.kit.multipart import MalformedMultipart, parts
from pacs_server.scu.dicomweb.client import Document
from pacs_server.scu.dicomweb.statuses import status_text
from pacs_server.scu.sending import Answer

_FAILED, _STORED, _OTHERS = "00081198", "00081199", "0008119A"
_SOP_INSTANCE, _WARNING, _FAILURE = "00081155", "00081196", "00081197"
WARNED: Final = 0xB000
_NOT_SUPPORTED: Final = 0x0122
# PS3.18 Table I.2-2, PS3.4 Table B.2-1 and PS3.7 Annex C: failures that may pass. Others stay what they are.
_PASSING: Final = (Status.PROCESSING_FAILURE, Status.RESOURCE_LIMITATION)
_MEANINGS: Final = {
    int(Status.PROCESSING_FAILURE): "processing failure",
    int(Status.DUPLICATE_SOP_INSTANCE): "another object is stored there under this UID",
    int(Status.NO_SUCH_SOP_INSTANCE): "no such object instance",
    int(Status.NO_SUCH_SOP_CLASS): "no such SOP class",
    _NOT_SUPPORTED: "SOP class not supported",
    int(Status.NOT_AUTHORISED): "not authorised",
    int(Status.RESOURCE_LIMITATION): "resource limitation",
}
_MEANINGS_OF_C_STORE: Final = {0xA7: "out of resources", 0xA9: "data set does not match SOP class"}


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """The Store Instances Response Module: reasons by SOP Instance UID, as far as the remote tells them.

    `warnings` has all instances that were stored, with 0 for those without a warning. `others` are the reasons of
    failures whose instance is not named.
    """

    status: int
    warnings: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    others: tuple[int, ...] = ()

    def answer(self, sop_instance_uid: str, association: str, *, alone: bool) -> Answer | None:
        """The answer about an instance; None if the remote does not tell. `alone`: nothing else was sent."""
        failure = self.failures.get(sop_instance_uid)
        if failure is None and alone and self.others:
            failure = self.others[0]
        if failure is not None:
            return failed(failure, association)
        warning = self.warnings.get(sop_instance_uid)
        if warning is None:
            return None
        if not warning:
            return Answer(Status.SUCCESS, association=association)
        status = warning if is_warning(warning) else WARNED
        return Answer(status, detail=f"stored with a warning: {meaning(warning)}", association=association)


def failed(reason: int, association: str) -> Answer:
    """The answer that a Failure Reason stands for."""
    passing = reason in _PASSING or reason >> 8 == 0xA7
    return Answer(reason or Status.PROCESSING_FAILURE, not passing, f"refused: {meaning(reason)}", association)


def meaning(reason: int) -> str:
    """What a Failure Reason or Warning Reason says, for people."""
    found = _MEANINGS.get(reason) or _MEANINGS_OF_C_STORE.get(reason >> 8)
    if found is None:
        found = (
            "it cannot be understood" if reason >> 12 == 0xC else "its data were changed" if is_warning(reason) else ""
        )
    return f"{reason:04X} {found}".strip()


def refused(status: int, association: str) -> Answer:
    """The answer that an HTTP status stands for, if the remote says nothing of the instance.

    Of those that speak of the request, only 408 is worth another try; 429 is dealt with before.
    """
    permanent = 400 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT
    full = status == HTTPStatus.INSUFFICIENT_STORAGE
    reason = Status.OUT_OF_RESOURCES if full else Status.PROCESSING_FAILURE
    return Answer(reason, permanent, f"refused: HTTP {status_text(status)}", association)


def read_answer(document: Document) -> StoreAnswer:
    """What an answer tells; nothing of any instance if it is empty or cannot be read."""
    media_type, parameters = media_type_of(document.headers.get("content-type", ""))
    try:
        module = _module(media_type, parameters, document.body)
        return StoreAnswer(
            document.status,
            _reasons(module, _STORED, _WARNING),
            _reasons(module, _FAILED, _FAILURE),
            tuple(_reason(item, _FAILURE) for item in items_of(module, _OTHERS)),
        )
    except (ValueError, AttributeError, TypeError, RecursionError, MalformedMultipart):
        return StoreAnswer(document.status)


def _module(media_type: str, parameters: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    if not body.strip():
        return {}
    if media_type == "multipart/related":
        # Some remotes wrap the one document.
        part = next(parts([body], parameters.get("boundary", "")))
        inner, _ = media_type_of(part.headers.get("content-type", parameters.get("type", "")))
        return _module(inner, {}, b"".join(part)) if inner != media_type else {}
    if media_type.endswith(("+xml", "/xml")):
        return read_native_xml(body)
    found = json.loads(body)
    found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, dict) else {}


def _reasons(module: Mapping[str, Any], sequence: str, tag: str) -> dict[str, int]:
    """The reasons that the items of a sequence tell, by SOP Instance UID."""
    return {clean_uid(text_of(item, _SOP_INSTANCE)): _reason(item, tag) for item in items_of(module, sequence)}


def _reason(item: Mapping[str, Any], tag: str) -> int:
    """A reason as a number; 0 if there is none."""
    text = text_of(item, tag)
    return int(text) & 0xFFFF if text.isdecimal() and len(text) < 10 else 0
