"""Decodes requests and encodes reports of the Storage Commitment Push Model (PS3.4 J.3, PS3.3 C.14).

A request may name a hundred thousand instances, so neither direction builds a data set object per instance.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from pacs_server.dicom.encoding import encoding_of, inflated, is_deflated
from pacs_server.dicom.skim import Cut, ElementPosition, Skimmer
from pacs_server.dicom.tags import RETRIEVE_AE_TITLE
from pacs_server.dicom.uids import clean_uid, is_uid
from pacs_server.dicom.writer import writer_for
from pacs_server.errors import InvalidArgumentValue, InvalidInstance, ResourceLimitation, TranscodeError

PUSH_MODEL = "1.2.840.10008.1.20.1"
# PS3.4 J.3.5: the well-known SOP Instance that every N-ACTION and N-EVENT-REPORT names.
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_STORAGE_COMMITMENT = 1

MAX_REFERENCES = 100_000
MAX_REQUEST_BYTES = 24 * 1024 * 1024
# For each reference: the item, its delimiter, its two attributes, and one optional attribute.
_MAX_ELEMENTS = 5 * MAX_REFERENCES

_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID = 0x00081150, 0x00081155
_TRANSACTION_UID, _FAILURE_REASON = 0x00081195, 0x00081197
_FAILED_SOP_SEQUENCE, _REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199
_READ = frozenset(
    {_REFERENCED_SOP_CLASS_UID, _REFERENCED_SOP_INSTANCE_UID, _TRANSACTION_UID, _REFERENCED_SOP_SEQUENCE}
    | {_FAILED_SOP_SEQUENCE, _FAILURE_REASON}
)


class CommitmentEvent(IntEnum):
    """The event type of a report (PS3.4 Table J.3-2)."""

    SUCCESSFUL = 1
    FAILURES_EXIST = 2


class FailureReason(IntEnum):
    """Failure Reason of an instance (PS3.3 C.14.1.1); NONE if the instance is committed."""

    NONE = 0
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119


class Reference(NamedTuple):
    """An instance for which storage commitment is requested."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A requested transaction. `references` has no duplicates."""

    transaction_uid: str
    references: tuple[Reference, ...]


def parse_request(data: bytes, transfer_syntax_uid: str) -> CommitmentRequest:
    """Read the data set of an N-ACTION (PS3.4 Table J.3-1).

    Raises InvalidArgumentValue, which names the attribute that is missing or wrong, and ResourceLimitation if the
    request is too large.
    """
    if is_deflated(transfer_syntax_uid):
        data = _inflated(data)
    skimmer = Skimmer(data, encoding_of(transfer_syntax_uid), max_elements=_MAX_ELEMENTS)
    try:
        found = _wanted(skimmer.elements(0, len(data)))
        transaction = _uid(skimmer, found, _TRANSACTION_UID, "Transaction UID")
        sequence = found.get(_REFERENCED_SOP_SEQUENCE)
        references = tuple(dict.fromkeys(_references(skimmer, sequence))) if sequence else ()
    except (Cut, InvalidInstance):
        raise InvalidArgumentValue("the action information cannot be decoded") from None
    if not references:
        # PS3.4 Table J.3-1: the sequence is of type 1, so a request must not be empty.
        raise InvalidArgumentValue("Referenced SOP Sequence is missing or empty")
    return CommitmentRequest(transaction, references)


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a remote reports of a transaction: the SOP Instance UIDs it commits to, and reasons for the others."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]


def parse_report(data: bytes, transfer_syntax_uid: str) -> CommitmentReport:
    """Read the data set of an N-EVENT-REPORT (PS3.4 Table J.3-2); raises as `parse_request`."""
    if is_deflated(transfer_syntax_uid):
        data = _inflated(data)
    encoding = encoding_of(transfer_syntax_uid)
    skimmer = Skimmer(data, encoding, max_elements=_MAX_ELEMENTS)
    try:
        found = _wanted(skimmer.elements(0, len(data)))
        transaction = _uid(skimmer, found, _TRANSACTION_UID, "Transaction UID")
        committed = found.get(_REFERENCED_SOP_SEQUENCE)
        uids = [each.sop_instance_uid for each in _references(skimmer, committed)] if committed else []
        failed: dict[str, int] = {}
        if (sequence := found.get(_FAILED_SOP_SEQUENCE)) is not None:
            for number, (start, end) in enumerate(skimmer.items(sequence)):
                if number == MAX_REFERENCES:
                    raise ResourceLimitation(f"more than {MAX_REFERENCES} references")
                item = _wanted(skimmer.elements(start, end))
                uid = _uid(skimmer, item, _REFERENCED_SOP_INSTANCE_UID, "Referenced SOP Instance UID")
                reason = skimmer.value(item[_FAILURE_REASON]) if _FAILURE_REASON in item else b""
                order: Literal["little", "big"] = "little" if encoding.little_endian else "big"
                failed[uid] = int.from_bytes(reason[:2], order) or FailureReason.PROCESSING_FAILURE
    except (Cut, InvalidInstance):
        raise InvalidArgumentValue("the report cannot be decoded") from None
    return CommitmentReport(transaction, tuple(uid for uid in uids if uid not in failed), failed)


def _inflated(data: bytes) -> bytes:
    try:
        plain, ended = inflated(data, MAX_REQUEST_BYTES)
    except TranscodeError:
        raise InvalidArgumentValue("the action information cannot be inflated") from None
    if not ended:
        raise ResourceLimitation(f"the action information is cut or longer than {MAX_REQUEST_BYTES} bytes")
    return plain


def _references(skimmer: Skimmer, sequence: ElementPosition) -> Iterator[Reference]:
    classes: dict[str, str] = {}
    for number, (start, end) in enumerate(skimmer.items(sequence)):
        if number == MAX_REFERENCES:
            raise ResourceLimitation(f"more than {MAX_REFERENCES} references")
        item = _wanted(skimmer.elements(start, end))
        sop_class = _uid(skimmer, item, _REFERENCED_SOP_CLASS_UID, "Referenced SOP Class UID")
        sop_instance = _uid(skimmer, item, _REFERENCED_SOP_INSTANCE_UID, "Referenced SOP Instance UID")
        # A request names few SOP classes, so all references to a class share one string.
        yield Reference(classes.setdefault(sop_class, sop_class), sop_instance)


def _wanted(elements: Iterable[ElementPosition]) -> dict[int, ElementPosition]:
    """The elements that are read here. All others are dropped at once, so that they take no memory."""
    return {element.tag: element for element in elements if element.tag in _READ}


def _uid(skimmer: Skimmer, elements: dict[int, ElementPosition], tag: int, name: str) -> str:
    element = elements.get(tag)
    uid = clean_uid(skimmer.value(element).decode("latin-1")) if element else ""
    if not is_uid(uid):
        raise InvalidArgumentValue(f"{name} is {'not a UID' if uid else 'missing'}")
    return uid


def encode_report(
    transaction_uid: str,
    retrieve_ae_title: str,
    results: Iterable[tuple[Reference, int]],
    transfer_syntax_uid: str,
) -> tuple[CommitmentEvent, bytes]:
    """The event type and data set of an N-EVENT-REPORT; `results` pairs each instance with its Failure Reason or 0.

    `results` has to hold all instances of the request, in the order of the request (PS3.4 J.3.3.1.2).
    """
    writer = writer_for(transfer_syntax_uid)
    sop_class = writer.field(_REFERENCED_SOP_CLASS_UID, "UI").element
    sop_instance = writer.field(_REFERENCED_SOP_INSTANCE_UID, "UI").element
    committed, failed = bytearray(), bytearray()
    for (class_uid, instance_uid), reason in results:
        item = sop_class(class_uid.encode()) + sop_instance(instance_uid.encode())
        if reason:
            failed += writer.item(item + writer.element(_FAILURE_REASON, "US", writer.numbers("US", [reason])))
        else:
            committed += writer.item(item)
    data = writer.element(RETRIEVE_AE_TITLE, "AE", retrieve_ae_title.encode("ascii", "replace"))
    data += writer.element(_TRANSACTION_UID, "UI", transaction_uid.encode())
    if failed:
        data += writer.element(_FAILED_SOP_SEQUENCE, "SQ", bytes(failed))
    if committed:
        data += writer.element(_REFERENCED_SOP_SEQUENCE, "SQ", bytes(committed))
    event = CommitmentEvent.FAILURES_EXIST if failed else CommitmentEvent.SUCCESSFUL
    return event, writer.finished(data)
