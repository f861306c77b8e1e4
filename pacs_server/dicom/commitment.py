"""Storage Commitment Push Model data sets: requests as values, reports as bytes (PS3.4 J.3, PS3.3 C.14).

A request may name a hundred thousand instances, so neither way goes through a data set object for
each of them.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from pacs_server.dicom.deflate import deflated, inflated
from pacs_server.dicom.header import Cut, Element, Walker
from pacs_server.dicom.uids import clean_uid, is_uid
from pacs_server.errors import InvalidArgumentValue, InvalidInstance, ResourceLimitation, TranscodeError

PUSH_MODEL = "1.2.840.10008.1.20.1"
# PS3.4 J.3.5: the one well-known instance that every action and event is about.
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_STORAGE_COMMITMENT = 1

MAX_REFERENCES = 100_000
MAX_REQUEST_BYTES = 24 * 1024 * 1024
# An item with its delimiter and two attributes, and room for an optional one.
_MAX_ELEMENTS = 5 * MAX_REFERENCES

_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_RETRIEVE_AE_TITLE = 0x00080054
_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID = 0x00081150, 0x00081155
_TRANSACTION_UID, _FAILURE_REASON = 0x00081195, 0x00081197
_FAILED_SOP_SEQUENCE, _REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199
_ITEM = 0xFFFEE000
_READ = frozenset({_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID, _TRANSACTION_UID, _REFERENCED_SOP_SEQUENCE})


class CommitmentEvent(IntEnum):
    """What a report says (PS3.4 Table J.3-2)."""

    SUCCESSFUL = 1
    FAILURES_EXIST = 2


class FailureReason(IntEnum):
    """Why an instance is not committed to, or that it is (PS3.3 C.14.1.1)."""

    NONE = 0
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119


class Reference(NamedTuple):
    """An instance that commitment is asked for."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A transaction as requested; no reference is in it twice."""

    transaction_uid: str
    references: tuple[Reference, ...]


def parse_request(data: bytes, transfer_syntax_uid: str) -> CommitmentRequest:
    """Read the data set of an N-ACTION (PS3.4 Table J.3-1).

    Raises InvalidArgumentValue naming what is missing or wrong, ResourceLimitation when it is too much.
    """
    if transfer_syntax_uid == _DEFLATED:
        data = _inflated(data)
    walker = Walker(
        data,
        explicit=transfer_syntax_uid != _IMPLICIT,
        order=">" if transfer_syntax_uid == _BIG_ENDIAN else "<",
        max_elements=_MAX_ELEMENTS,
    )
    try:
        found = _wanted(walker.elements(0, len(data)))
        transaction = _uid(walker, found, _TRANSACTION_UID, "Transaction UID")
        sequence = found.get(_REFERENCED_SOP_SEQUENCE)
        references = tuple(dict.fromkeys(_references(walker, sequence))) if sequence else ()
    except (Cut, InvalidInstance):
        raise InvalidArgumentValue("the action information cannot be decoded") from None
    if not references:
        # PS3.4 Table J.3-1: type 1, so an empty request is none.
        raise InvalidArgumentValue("Referenced SOP Sequence is missing or empty")
    return CommitmentRequest(transaction, references)


def _inflated(data: bytes) -> bytes:
    try:
        plain, ended = inflated(data, MAX_REQUEST_BYTES)
    except TranscodeError:
        raise InvalidArgumentValue("the action information cannot be inflated") from None
    if not ended:
        raise ResourceLimitation(f"the action information is cut or longer than {MAX_REQUEST_BYTES} bytes")
    return plain


def _references(walker: Walker, sequence: Element) -> Iterator[Reference]:
    classes: dict[str, str] = {}
    for number, (start, end) in enumerate(walker.items(sequence)):
        if number == MAX_REFERENCES:
            raise ResourceLimitation(f"more than {MAX_REFERENCES} references")
        item = _wanted(walker.elements(start, end))
        sop_class = _uid(walker, item, _REFERENCED_SOP_CLASS_UID, "Referenced SOP Class UID")
        sop_instance = _uid(walker, item, _REFERENCED_SOP_INSTANCE_UID, "Referenced SOP Instance UID")
        # There are few classes: one text for each is enough.
        yield Reference(classes.setdefault(sop_class, sop_class), sop_instance)


def _wanted(elements: Iterable[Element]) -> dict[int, Element]:
    """Those of the elements that are read here; what else a peer sends takes no memory."""
    return {element.tag: element for element in elements if element.tag in _READ}


def _uid(walker: Walker, elements: dict[int, Element], tag: int, name: str) -> str:
    element = elements.get(tag)
    uid = clean_uid(walker.value(element).decode("latin-1")) if element else ""
    if not is_uid(uid):
        raise InvalidArgumentValue(f"{name} is {'not a UID' if uid else 'missing'}")
    return uid


def encode_report(
    transaction_uid: str,
    retrieve_ae_title: str,
    results: Iterable[tuple[Reference, int]],
    transfer_syntax_uid: str,
) -> tuple[CommitmentEvent, bytes]:
    """The event type and data set of an N-EVENT-REPORT; `results` give each instance its failure reason or 0.

    All instances of the request are in it, in its order (PS3.4 J.3.3.1.2).
    """
    writer = _Writer(transfer_syntax_uid)
    committed, failed = bytearray(), bytearray()
    for reference, reason in results:
        (failed if reason else committed).extend(writer.item(reference, reason))
    data = writer.element(_RETRIEVE_AE_TITLE, b"AE", retrieve_ae_title.encode("ascii", "replace"))
    data += writer.element(_TRANSACTION_UID, b"UI", transaction_uid.encode())
    if failed:
        data += writer.element(_FAILED_SOP_SEQUENCE, b"SQ", failed)
    if committed:
        data += writer.element(_REFERENCED_SOP_SEQUENCE, b"SQ", committed)
    event = CommitmentEvent.FAILURES_EXIST if failed else CommitmentEvent.SUCCESSFUL
    return event, deflated(data) if transfer_syntax_uid == _DEFLATED else data


class _Writer:
    """Encodes elements in one transfer syntax."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        self._explicit = transfer_syntax_uid != _IMPLICIT
        order = ">" if transfer_syntax_uid == _BIG_ENDIAN else "<"
        self._plain = struct.Struct(f"{order}HHL")
        self._short = struct.Struct(f"{order}HH2sH")
        self._long = struct.Struct(f"{order}HH2sxxL")
        self._us = struct.Struct(f"{order}H")

    def element(self, tag: int, vr: bytes, value: bytes | bytearray) -> bytes:
        if len(value) % 2:
            value = value + (b"\0" if vr == b"UI" else b" ")
        group, number = tag >> 16, tag & 0xFFFF
        if not self._explicit or tag == _ITEM:
            return self._plain.pack(group, number, len(value)) + value
        head = self._long if vr == b"SQ" else self._short
        return head.pack(group, number, vr, len(value)) + value

    def item(self, reference: Reference, reason: int) -> bytes:
        content = self.element(_REFERENCED_SOP_CLASS_UID, b"UI", reference.sop_class_uid.encode())
        content += self.element(_REFERENCED_SOP_INSTANCE_UID, b"UI", reference.sop_instance_uid.encode())
        if reason:
            content += self.element(_FAILURE_REASON, b"US", self._us.pack(reason))
        return self.element(_ITEM, b"", content)
