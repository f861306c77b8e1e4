"""Audit events as XML: valid by the schema, and every value is there again."""

import re
import struct
from base64 import b64decode
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from audit_schema import check
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from pydicom.datadict import tag_for_keyword

from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.audit.xml import audit_message, shortened
from pacs_server.dicom.subject import Subject

AT = datetime(2026, 11, 23, 9, 30, 0, 123456, tzinfo=UTC)
QUERY_KEYS = ("PatientID", "StudyInstanceUID", "PatientName", "ModalitiesInStudy", "StudyDate")

# Anything, controls, half surrogates and markup too.
texts = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ["", "]]>", "<a b='\"&", "\r\n\t", "\ud800\x00"]
)
participants = st.builds(Participant, texts, texts, texts, st.sampled_from([None, *Role]), st.booleans())
counts = st.dictionaries(texts, st.integers(0, 10**6), max_size=3)
subjects = st.builds(Subject, texts, texts, texts, texts, counts)
queries = st.dictionaries(
    st.sampled_from([*QUERY_KEYS, "Rows", "SpecificCharacterSet", "No such"])
    | texts.filter(lambda text: tag_for_keyword(text) is None),
    texts,
    max_size=5,
)
events = st.builds(
    Event,
    st.sampled_from(EventID),
    st.sampled_from(Action),
    st.lists(participants, max_size=3).map(tuple),
    st.sampled_from(Outcome),
    st.sampled_from([None, *EventType]),
    st.lists(subjects, max_size=3).map(tuple),
    texts,
    queries,
    texts,
)


def legal(text: str) -> str:
    """The text as XML can carry it."""
    return re.sub("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def said(event: Event, **changes: Any) -> etree._Element:
    return check(audit_message(event, at=AT, source="pacs1", **changes))


def objects(root: etree._Element, code: str) -> list[etree._Element]:
    found = root.findall("ParticipantObjectIdentification")
    return [item for item in found if item.find("ParticipantObjectIDTypeCode").get("csd-code") == code]


def details(item: etree._Element) -> dict[str, str]:
    return {d.get("type"): b64decode(d.get("value")).decode() for d in item.findall("ParticipantObjectDetail")}


def elements(data: bytes) -> dict[int, bytes]:
    """A data set in Implicit VR Little Endian, taken apart."""
    found, position = {}, 0
    while position < len(data):
        group, element, length = struct.unpack_from("<HHI", data, position)
        found[group << 16 | element] = data[position + 8 : position + 8 + length]
        position += 8 + length
    assert list(found) == sorted(found)
    return found


def test_characters_that_xml_cannot_carry() -> None:
    participants = (Participant("\x1b[1m\ud800", "\x00"),)
    root = said(Event(EventID.IMPORT, Action.CREATE, participants, detail="a\x00b\r\n\ufffe"))
    assert root.find("ActiveParticipant").get("UserID") == "�[1m�"
    assert root.findtext("EventIdentification/EventOutcomeDescription") == "a�b�\n�"


@pytest.mark.slow
@given(events)
def test_any_event_is_valid_and_reads_back(event: Event) -> None:
    root = said(event)
    identification = root.find("EventIdentification")
    assert identification.get("EventActionCode") == event.action.value
    assert identification.get("EventOutcomeIndicator") == str(int(event.outcome))
    assert datetime.fromisoformat(identification.get("EventDateTime")) == AT
    assert identification.find("EventID").get("csd-code") == event.event_id.value[0]
    codes = [code.get("csd-code") for code in identification.findall("EventTypeCode")]
    assert codes == ([event.event_type.value[0]] if event.event_type else [])
    assert identification.findtext("EventOutcomeDescription", "") == legal(event.detail)
    check_participants(root, event)
    check_subjects(root, event)


def check_participants(root: etree._Element, event: Event) -> None:
    found = root.findall("ActiveParticipant")
    assert len(found) == max(len(event.participants), 1)
    for element, participant in zip(found, event.participants, strict=False):
        assert element.get("UserID") == legal(participant.user_id)
        ae_title = f"AETITLES={legal(participant.ae_title)}" if participant.ae_title else None
        assert element.get("AlternativeUserID") == ae_title
        assert element.get("NetworkAccessPointID", "") == legal(participant.address)
        roles = [role.get("csd-code") for role in element.findall("RoleIDCode")]
        assert roles == ([participant.role.value[0]] if participant.role else [])
    requestors = [element.get("UserIsRequestor") for element in found].count("true")
    assert requestors == any(participant.requestor for participant in event.participants)


def check_subjects(root: etree._Element, event: Event) -> None:
    studies = [subject for subject in event.subjects if subject.study_instance_uid]
    for element, subject in zip(objects(root, "110180"), studies, strict=True):
        assert element.get("ParticipantObjectID") == legal(subject.study_instance_uid)
        counts = {sop.get("UID"): int(sop.get("NumberOfInstances")) for sop in element.iter("SOPClass")}
        assert counts == {legal(uid): count for uid, count in subject.sop_classes.items()}
        numbers = [accession.get("Number") for accession in element.iter("Accession")]
        lone = details(element).get("AccessionNumber", "").encode()
        assert (numbers or [lone.decode()])[0] in (legal(subject.accession_number), replaced(subject.accession_number))
    patients = dict.fromkeys((s.patient_id, s.issuer_of_patient_id) for s in event.subjects)
    identities = [legal(f"{patient}^^^{issuer}" if issuer else patient) for patient, issuer in patients]
    assert [element.get("ParticipantObjectID") for element in objects(root, "2")] == identities


def replaced(text: str) -> str:
    return text.encode(errors="replace").decode()


@given(queries, texts)
def test_any_query_reads_back(query: dict[str, str], sop_class_uid: str) -> None:
    event = Event(EventID.QUERY, Action.EXECUTE, (), query=query, sop_class_uid=sop_class_uid)
    [item] = objects(said(event), "110181")
    assert item.get("ParticipantObjectID") == legal(sop_class_uid)
    found = elements(b64decode(item.findtext("ParticipantObjectQuery")))
    assert found.pop(0x00080005) == b"ISO_IR 192"
    others = details(item)
    assert others.pop("TransferSyntax") == "1.2.840.10008.1.2"
    for keyword, value in query.items():
        if keyword in QUERY_KEYS:
            raw = found.pop(tag_for_keyword(keyword))
            assert len(raw) % 2 == 0
            assert raw.rstrip(b"\0 ") == value.encode(errors="replace").rstrip(b"\0 ")
    assert found == {}
    if all(keyword.isprintable() for keyword in query):
        assert others == {key: replaced(value) for key, value in query.items() if key not in QUERY_KEYS}


@pytest.mark.slow
@given(events)
def test_a_shortened_event_is_valid(event: Event) -> None:
    said(shortened(event))


def test_a_shortened_event_fits_into_a_datagram() -> None:
    # The worst that can be: each character takes six bytes.
    worst = '"' * 100_000
    event = Event(
        EventID.SECURITY_ALERT,
        Action.EXECUTE,
        (Participant(worst, worst, worst, Role.SOURCE),) * 1000,
        subjects=(Subject(worst, worst, worst, worst, {worst: 1}),) * 1000,
        sop_class_uid=worst,
        query={"PatientID": worst},
        detail=worst,
    )
    short = audit_message(shortened(event), at=AT, source="pacs1")
    assert len(short) < 60_000
    assert "the audit trail holds the whole record" in short.decode()


def test_a_transfer_says_who_and_whose_study() -> None:
    root = said(
        Event(
            EventID.INSTANCES_TRANSFERRED,
            Action.CREATE,
            (
                Participant("CT1", "CT1", "10.0.0.7", Role.SOURCE, requestor=True),
                Participant("PACS", "PACS", "pacs.example.org", Role.DESTINATION),
            ),
            subjects=(Subject("4711", "HOSPITAL", "1.2.3", "A1", {"1.2.840.10008.5.1.4.1.1.2": 40}),),
        )
    )
    source, destination = root.findall("ActiveParticipant")
    assert dict(source.attrib) == {
        "UserID": "CT1",
        "UserIsRequestor": "true",
        "AlternativeUserID": "AETITLES=CT1",
        "NetworkAccessPointID": "10.0.0.7",
        "NetworkAccessPointTypeCode": "2",
    }
    assert destination.get("NetworkAccessPointTypeCode") == "1"
    assert root.find("AuditSourceIdentification").get("AuditSourceID") == "pacs1"
    [study], [patient] = objects(root, "110180"), objects(root, "2")
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == ("2", "3")
    assert (patient.get("ParticipantObjectTypeCode"), patient.get("ParticipantObjectTypeCodeRole")) == ("1", "1")
    assert patient.get("ParticipantObjectID") == "4711^^^HOSPITAL"
    assert study.find("ParticipantObjectDescription/Accession").get("Number") == "A1"


def test_an_alert_names_the_node_and_says_what() -> None:
    asked = Participant("BAD", "BAD", "10.0.0.9", requestor=True)
    event = Event(EventID.SECURITY_ALERT, Action.EXECUTE, (Participant("PACS", "PACS", "10.0.0.1"), asked), detail="no")
    [node] = objects(said(event), "110182")
    assert node.get("ParticipantObjectID") == "10.0.0.9"
    assert details(node) == {"Alert Description": "no"}


def test_the_use_of_the_audit_log_names_it() -> None:
    event = Event(EventID.AUDIT_LOG_USED, Action.READ, (Participant("root"),))
    [log] = objects(check(audit_message(event, at=AT, source="a b/ü")), "12")
    assert log.get("ParticipantObjectID") == "file://a%20b%2F%C3%BC/audit"
    assert log.findtext("ParticipantObjectName") == "Security Audit Log"


def test_the_time_is_utc() -> None:
    local = AT.astimezone(timezone(timedelta(hours=9)))
    root = check(audit_message(Event(EventID.QUERY, Action.EXECUTE, ()), at=local, source="pacs1"))
    assert root.find("EventIdentification").get("EventDateTime") == "2026-11-23T09:30:00.123456+00:00"


@pytest.mark.parametrize(
    "broken",
    [
        b"<AuditMessage/>",
        audit_message(Event(EventID.QUERY, Action.EXECUTE, ()), at=AT, source="x").replace(b'="E"', b'="X"'),
        audit_message(Event(EventID.QUERY, Action.EXECUTE, ()), at=AT, source="x").replace(b"2026-11-23T", b""),
    ],
)
def test_the_schema_finds_what_is_wrong(broken: bytes) -> None:
    with pytest.raises(AssertionError):
        check(broken)
