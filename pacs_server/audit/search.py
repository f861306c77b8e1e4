"""Search the audit trail: who accessed a patient or a study, or what a user did."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from pacs_server.audit.events import Event
from pacs_server.audit.record import Record
from pacs_server.audit.trail import AuditTrail


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to search for. A criterion that is None matches every record. Days are in UTC, first and last included.

    `user` is a user name or an AE title; upper and lower case are the same.
    """

    patient_id: str | None = None
    study_instance_uid: str | None = None
    user: str | None = None
    first: date | None = None
    last: date | None = None


def search(trail: AuditTrail, criteria: Criteria) -> Iterator[Record]:
    """The records that match all criteria, the oldest first; raises AuditUnavailable.

    A search for a patient ID also finds queries for that ID, and events that name no patient but a study which is the
    patient's in any other record.
    """
    studies = _studies_of(trail, criteria.patient_id) if criteria.patient_id is not None else frozenset()
    for record in trail.records_between(criteria.first, criteria.last):
        event = record.event
        if (
            (criteria.patient_id is None or _is_about_patient(event, criteria.patient_id, studies))
            and (criteria.study_instance_uid is None or _is_about_study(event, criteria.study_instance_uid))
            and (criteria.user is None or _is_by(event, criteria.user))
        ):
            yield record


def _studies_of(trail: AuditTrail, patient_id: str) -> frozenset[str]:
    # Most lines are about other patients, so they are not parsed unless they contain the ID as text.
    needle = json.dumps(patient_id).encode("ascii")
    return frozenset(
        subject.study_instance_uid
        for record, _ in trail.records_after(None, containing=needle)
        for subject in record.event.subjects
        if subject.patient_id == patient_id and subject.study_instance_uid
    )


def _is_about_patient(event: Event, patient_id: str, studies: frozenset[str]) -> bool:
    keys = event.query
    return (
        any(
            subject.patient_id == patient_id or (not subject.patient_id and subject.study_instance_uid in studies)
            for subject in event.subjects
        )
        or patient_id in _values(keys.get("PatientID", ""))
        or not studies.isdisjoint(_values(keys.get("StudyInstanceUID", "")))
    )


def _is_about_study(event: Event, uid: str) -> bool:
    if any(subject.study_instance_uid == uid for subject in event.subjects):
        return True
    return uid in _values(event.query.get("StudyInstanceUID", ""))


def _values(text: str) -> set[str]:
    return {value.strip() for value in text.split("\\")}


def _is_by(event: Event, user: str) -> bool:
    wanted = user.casefold()
    return any(wanted in (one.user_id.casefold(), one.ae_title.casefold()) for one in event.participants)
