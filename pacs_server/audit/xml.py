"""Audit messages: events as XML in the format of PS3.15 A.5.1. Nothing is sent or kept here."""

import ipaddress
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs_server.audit.events import Event, EventID, Participant
from pacs_server.dicom.patient_id import patient_text
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.tags import SPECIFIC_CHARACTER_SET
from pacs_server.dicom.vr import TEXT_VRS
from pacs_server.dicom.writer import writer_for

# XML 1.0 section 2.2; a carriage return would come out as a line feed.
_ILLEGAL: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# PS3.15 A.5.1.2: the kinds of participant objects, and their roles in the event.
_PERSON: Final = "1"
_SYSTEM_OBJECT: Final = "2"
_PATIENT: Final = "1"
_REPORT: Final = "3"
_SECURITY_RESOURCE: Final = "13"

_PATIENT_NUMBER: Final = ("2", "RFC-3881", "Patient Number")
_URI: Final = ("12", "RFC-3881", "URI")
_STUDY_INSTANCE_UID: Final = ("110180", "DCM", "Study Instance UID")
_SOP_CLASS_UID: Final = ("110181", "DCM", "SOP Class UID")
_NODE_ID: Final = ("110182", "DCM", "Node ID")

_IMPLICIT_VR: Final = "1.2.840.10008.1.2"
_writer: Final = writer_for(_IMPLICIT_VR)

# The longest text and the longest list in a shortened message.
_SHORT_TEXT: Final = 128
_SHORT_LIST: Final = 8


@dataclass(frozen=True, slots=True)
class _Object:
    """A ParticipantObjectIdentification; `details` are pairs of a type and a value."""

    object_id: str
    id_type: tuple[str, str, str]
    type_code: str
    role: str
    name: str = ""
    query: bytes | None = None
    details: tuple[tuple[str, str], ...] = ()
    subject: Subject | None = None


def audit_message(event: Event, *, at: datetime, source: str) -> bytes:
    """The audit message of an event that happened at the time `at` and is reported by the system `source`.

    Characters that XML cannot hold become U+FFFD (PS3.15 A.5.1, A.5.2).
    """
    root = Element("AuditMessage")
    _event_identification(root, event, at)
    requestor = next((p for p in event.participants if p.requestor), None)
    for participant in event.participants or (Participant(source),):
        # PS3.15 A.5.2: no more than one is the requestor.
        _active_participant(root, participant, requestor=participant is requestor)
    origin = _add(root, "AuditSourceIdentification", {"AuditSourceID": source})
    # PS3.15 A.5.1.2.1: an application server process.
    _add(origin, "AuditSourceTypeCode", {"csd-code": "4"})
    for item in _objects(event, source):
        _participant_object(root, item)
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return xml


def shortened(event: Event) -> Event:
    """The event with short texts and lists, for a message that would be too large; its `detail` says so."""
    return replace(
        event,
        participants=tuple(
            Participant(_cut(p.user_id), _cut(p.ae_title), _cut(p.address), p.role, p.requestor)
            for p in event.participants[:_SHORT_LIST]
        ),
        subjects=tuple(
            Subject(_cut(s.patient_id), _cut(s.issuer_of_patient_id), _cut(s.study_instance_uid))
            for s in event.subjects[:_SHORT_LIST]
        ),
        sop_class_uid=_cut(event.sop_class_uid),
        query={},
        detail=f"shortened, the audit trail holds the whole record; {_cut(event.detail)}",
    )


def _cut(text: str) -> str:
    return text[:_SHORT_TEXT]


def _add(parent: Element, tag: str, attributes: Mapping[str, str], text: str | None = None) -> Element:
    child = SubElement(parent, tag, {name: _ILLEGAL.sub("�", value) for name, value in attributes.items()})
    if text is not None:
        child.text = _ILLEGAL.sub("�", text)
    return child


def _code(parent: Element, tag: str, code: str, system: str, meaning: str) -> None:
    _add(parent, tag, {"csd-code": code, "codeSystemName": system, "originalText": meaning})


def _event_identification(root: Element, event: Event, at: datetime) -> None:
    attributes = {
        "EventActionCode": event.action.value,
        "EventDateTime": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "EventOutcomeIndicator": str(event.outcome.value),
    }
    identification = _add(root, "EventIdentification", attributes)
    code, meaning = event.event_id.value
    _code(identification, "EventID", code, "DCM", meaning)
    if event.event_type is not None:
        code, meaning = event.event_type.value
        _code(identification, "EventTypeCode", code, "DCM", meaning)
    if event.detail:
        _add(identification, "EventOutcomeDescription", {}, event.detail)


def _active_participant(root: Element, participant: Participant, *, requestor: bool) -> None:
    attributes = {"UserID": participant.user_id, "UserIsRequestor": "true" if requestor else "false"}
    if participant.ae_title:
        # PS3.15 A.5.2.2.
        attributes["AlternativeUserID"] = f"AETITLES={participant.ae_title}"
    if participant.address:
        attributes["NetworkAccessPointID"] = participant.address
        attributes["NetworkAccessPointTypeCode"] = "2" if _is_ip(participant.address) else "1"
    element = _add(root, "ActiveParticipant", attributes)
    if participant.role is not None:
        code, meaning = participant.role.value
        _code(element, "RoleIDCode", code, "DCM", meaning)


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _objects(event: Event, source: str) -> Iterator[_Object]:
    if event.event_id is EventID.AUDIT_LOG_USED:
        # PS3.15 A.5.3.2.
        uri = f"file://{quote(source.encode(errors='replace'), safe='')}/audit"
        yield _Object(uri, _URI, _SYSTEM_OBJECT, _SECURITY_RESOURCE, "Security Audit Log")
    if event.event_id is EventID.SECURITY_ALERT:
        yield _alert_subject(event, source)
    if event.event_id is EventID.QUERY or event.query:
        yield _query(event)
    for subject in event.subjects:
        if subject.study_instance_uid:
            yield _study(subject)
    # Each patient once, in the order of the subjects.
    for patient in dict.fromkeys((s.patient_id, s.issuer_of_patient_id) for s in event.subjects):
        yield _patient(*patient)


def _alert_subject(event: Event, source: str) -> _Object:
    """The node an alert is about: the requestor, else another participant, else this system (PS3.15 A.5.3.11)."""
    nodes = sorted((p for p in event.participants if p.address), key=lambda p: not p.requestor)
    node = nodes[0].address if nodes else source
    details = (("Alert Description", event.detail),)
    return _Object(node, _NODE_ID, _SYSTEM_OBJECT, _SECURITY_RESOURCE, details=details)


def _query(event: Event) -> _Object:
    """The SOP class of the query with the text keys as a data set, and the other keys as details (PS3.15 A.5.3.10)."""
    elements = {SPECIFIC_CHARACTER_SET: _writer.element(SPECIFIC_CHARACTER_SET, "CS", b"ISO_IR 192")}
    others = []
    for keyword, value in event.query.items():
        tag = tag_for_keyword(keyword)
        if tag is None or tag <= SPECIFIC_CHARACTER_SET or (vr := dictionary_VR(tag)) not in TEXT_VRS:
            others.append((keyword, value))
        else:
            elements[tag] = _writer.element(tag, vr, value.encode(errors="replace"))
    dataset = b"".join(elements[tag] for tag in sorted(elements))
    details = (("TransferSyntax", _IMPLICIT_VR), *others)
    return _Object(event.sop_class_uid, _SOP_CLASS_UID, _SYSTEM_OBJECT, _REPORT, query=dataset, details=details)


def _study(subject: Subject) -> _Object:
    # PS3.15 A.5.2: an Accession element asks for a SOPClass element beside it.
    lone = subject.accession_number and not subject.sop_classes
    return _Object(
        subject.study_instance_uid,
        _STUDY_INSTANCE_UID,
        _SYSTEM_OBJECT,
        _REPORT,
        details=(("AccessionNumber", subject.accession_number),) if lone else (),
        subject=subject if subject.sop_classes else None,
    )


def _patient(patient_id: str, issuer: str) -> _Object:
    # Repositories search for this form. The patient's name is not recorded.
    return _Object(patient_text(patient_id, issuer), _PATIENT_NUMBER, _PERSON, _PATIENT)


def _participant_object(root: Element, item: _Object) -> None:
    attributes = {
        "ParticipantObjectID": item.object_id,
        "ParticipantObjectTypeCode": item.type_code,
        "ParticipantObjectTypeCodeRole": item.role,
    }
    element = _add(root, "ParticipantObjectIdentification", attributes)
    _code(element, "ParticipantObjectIDTypeCode", *item.id_type)
    # PS3.15 A.5.1: either a name, which may be empty, or a query.
    if item.query is None:
        _add(element, "ParticipantObjectName", {}, item.name)
    else:
        _add(element, "ParticipantObjectQuery", {}, b64encode(item.query).decode())
    for kind, value in item.details:
        encoded = b64encode(value.encode(errors="replace")).decode()
        _add(element, "ParticipantObjectDetail", {"type": kind, "value": encoded})
    if item.subject is not None:
        _description(element, item.subject)


def _description(element: Element, subject: Subject) -> None:
    description = _add(element, "ParticipantObjectDescription", {})
    if subject.accession_number:
        _add(description, "Accession", {"Number": subject.accession_number})
    for uid, count in subject.sop_classes.items():
        _add(description, "SOPClass", {"UID": uid, "NumberOfInstances": str(count)})
