"""Search the audit trail: who accessed a patient or a study, or what a user did."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Final

from pacs_server.audit.events import Event, EventID, Outcome
from pacs_server.audit.files import Line, day_files, day_of, last_line, lines, lines_back, unavailable
from pacs_server.audit.reader import Promising
from pacs_server.audit.record import Record, read_record
from pacs_server.audit.trail import AuditTrail

# The Study Instance UIDs of the subjects, and the number of the record, as they are written in a line.
_STUDIES: Final = re.compile(rb'"study":"((?:[^"\\]|\\.)*)"')
_SEQUENCE: Final = re.compile(rb'\{"seq":(\d{1,18}),')


@dataclass(frozen=True, slots=True)
class Criteria:
    """What to search for. A criterion that is None matches every record. Days are in UTC, first and last included.

    `user` is a user name or an AE title; upper and lower case are the same. `failed` asks for what did not succeed.
    `without` leaves out events of one kind.
    """

    patient_id: str | None = None
    study_instance_uid: str | None = None
    user: str | None = None
    first: date | None = None
    last: date | None = None
    address: str | None = None
    event_id: EventID | None = None
    failed: bool | None = None
    without: EventID | None = None


def search(trail: AuditTrail, criteria: Criteria) -> Iterator[Record]:
    """The records that match all criteria, the oldest first; raises AuditUnavailable.

    A search for a patient ID also finds queries for that ID, and events that name no patient but a study which is the
    patient's in any other record.
    """
    studies = _studies_of(trail, criteria.patient_id) if criteria.patient_id is not None else frozenset()
    for record in trail.records_between(criteria.first, criteria.last, _promising(criteria, studies)):
        if _matches(record, criteria, studies):
            yield record


def search_back(trail: AuditTrail, criteria: Criteria, before: int | None = None) -> Iterator[Record]:
    """As `search`, but the newest first, and only records whose number is below `before`.

    The files are read from the last one on, and each from its end: what is not asked for is not looked at.
    """
    studies = _studies_of(trail, criteria.patient_id) if criteria.patient_id is not None else frozenset()
    promising = _promising(criteria, studies, before)
    for name in reversed(day_files(trail.directory)):
        # A record may be older than the day of its file, but never younger.
        if criteria.first is not None and day_of(name) < criteria.first:
            return
        if _is_later(trail, name, criteria.last, before):
            continue
        for record in _newest_of(trail, name, promising):
            if (before is None or record.sequence < before) and _matches(record, criteria, studies):
                yield record


def _is_later(trail: AuditTrail, name: str, last: date | None, before: int | None) -> bool:
    """Whether all records of a file come after what is searched, as its first and its last one tell."""
    ends = []
    with unavailable(f"read {name}"), suppress(FileNotFoundError):
        for line in (next(lines(trail.directory, name), None), last_line(trail.directory / name)[0]):
            data = line if isinstance(line, bytes) else line.data if line is not None else b""
            with suppress(ValueError):
                ends.append(read_record(data))
    if not ends:
        return False
    if before is not None and ends[0].sequence >= before:
        return True
    # A clock that was set back has written older records into a later file: then its last one is older too.
    return last is not None and all(record.time.date() > last for record in ends)


def _newest_of(trail: AuditTrail, name: str, promising: Promising) -> Iterator[Record]:
    """The records of one file whose lines are promising, the newest first."""
    with unavailable(f"read {name}"), suppress(FileNotFoundError):
        for _, end, data in lines_back(trail.directory / name):
            # The numbers of lines are not known from the end.
            if promising(data) and (record := trail.record_in(Line(name, 0, end, data))) is not None:
                yield record


def _promising(criteria: Criteria, studies: frozenset[str], before: int | None = None) -> Promising:
    """Whether a line may be one of a record that matches: most lines are not, and are not parsed then."""
    needles = [_quoted(text) for text in (criteria.address, criteria.event_id and criteria.event_id.value[0]) if text]
    if criteria.failed is not None:
        # Nothing but the fields of the event is written in this way.
        needles += [] if criteria.failed else [b'"outcome":0']
    if criteria.study_instance_uid is not None:
        needles.append(criteria.study_instance_uid.encode())
    some = [_quoted(criteria.patient_id)[1:-1], *(uid.encode() for uid in studies)] if criteria.patient_id else []
    user = (criteria.user or "").casefold()
    wanted = user.encode() if user.isascii() and user.isalnum() else b""

    def promising(line: bytes) -> bool:
        return (
            all(needle in line for needle in needles)
            and (not some or any(needle in line for needle in some))
            # Letters outside of ASCII are escaped, and some of them become ASCII when case does not count.
            and (not wanted or wanted in line.lower() or b"\\u" in line)
            and (before is None or _is_before(line, before))
        )

    return promising


def _is_before(line: bytes, number: int) -> bool:
    found = _SEQUENCE.match(line)
    return found is None or int(found[1]) < number


def _quoted(text: str) -> bytes:
    return json.dumps(text).encode("ascii")


def _matches(record: Record, criteria: Criteria, studies: frozenset[str]) -> bool:
    """Whether a record matches all criteria; `studies` are those of the patient."""
    event, day = record.event, record.time.date()
    return (
        (criteria.first is None or criteria.first <= day)
        and (criteria.last is None or day <= criteria.last)
        and (criteria.event_id is None or event.event_id is criteria.event_id)
        and (criteria.without is None or event.event_id is not criteria.without)
        and (criteria.failed is None or criteria.failed == (event.outcome is not Outcome.SUCCESS))
        and (criteria.patient_id is None or _is_about_patient(event, criteria.patient_id, studies))
        and (criteria.study_instance_uid is None or _is_about_study(event, criteria.study_instance_uid))
        and (criteria.user is None or _is_by(event, criteria.user))
        and (criteria.address is None or any(one.address == criteria.address for one in event.participants))
    )


def _studies_of(trail: AuditTrail, patient_id: str) -> frozenset[str]:
    needle, known, found = _quoted(patient_id), set[bytes](), set[str]()

    def promising(line: bytes) -> bool:
        # Most lines are about other patients, and a study may be in very many lines of its patient: one is enough.
        return needle in line and not known.issuperset(_STUDIES.findall(line))

    for record, _ in trail.records_after(None, promising=promising):
        of_patient = {
            subject.study_instance_uid for subject in record.event.subjects if subject.patient_id == patient_id
        }
        found |= of_patient - {""}
        known |= {_quoted(uid)[1:-1] for uid in of_patient}
    return frozenset(found)


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
