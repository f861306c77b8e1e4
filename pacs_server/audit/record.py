"""Records of the audit trail as values, and their conversion to and from the fields of a line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final, NamedTuple

from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.audit.signing import fields_of
from pacs_server.dicom.subject import Subject

_JSON: Final = json.JSONEncoder(separators=(",", ":"))
_IDS: Final = {kind.value[0]: kind for kind in EventID}
_TYPES: Final = {kind.value[0]: kind for kind in EventType}
_ROLES: Final = {role.value[0]: role for role in Role}


class Mark(NamedTuple):
    """A place in the chain: the sequence number of a record and its MAC."""

    sequence: int
    mac: str


# The place before the first record.
BEGIN: Final = Mark(0, "0" * 64)


@dataclass(frozen=True, slots=True)
class Position:
    """The place right behind a record: the name of the file, the offset, and the sequence number of the record."""

    file: str
    offset: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it was kept. `before` is the MAC of the previous record, `time` is in UTC.

    `pruned` is set in the records about ended retention: it is the last record that was deleted.
    """

    sequence: int
    time: datetime
    host: str
    process: int
    event: Event
    before: str
    pruned: Mark | None = None
    mac: str = ""

    def fields(self) -> dict[str, object]:
        """The fields of the line, in their order; signing the line adds the MAC."""
        fields: dict[str, object] = {
            "seq": self.sequence,
            "time": self.time.astimezone(UTC).isoformat(timespec="microseconds"),
            "host": self.host,
            "pid": self.process,
            "prev": self.before,
            "event": event_fields(self.event),
        }
        return fields if self.pruned is None else {**fields, "pruned": list(self.pruned)}

    def text(self) -> str:
        """The JSON object of `fields`, at a fraction of its cost: each record is written in this way."""
        if self.pruned is not None:
            return _JSON.encode(self.fields())
        time = self.time if self.time.tzinfo is UTC else self.time.astimezone(UTC)
        return (
            f'{{"seq":{self.sequence},"time":"{time.isoformat(timespec="microseconds")}","host":{_quoted(self.host)},'
            f'"pid":{self.process},"prev":{_quoted(self.before)},"event":{_event_text(self.event)}}}'
        )


def read_record(line: bytes) -> Record:
    """The record in a line; the MAC of the line is not checked. Raises ValueError."""
    fields = fields_of(line)
    try:
        return Record(
            sequence=int(fields["seq"]),
            time=datetime.fromisoformat(fields["time"]),
            host=fields["host"],
            process=fields["pid"],
            event=_event(fields["event"]),
            before=fields["prev"],
            pruned=Mark(*fields["pruned"]) if "pruned" in fields else None,
            mac=fields["mac"],
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("no record") from error


def read_mark(line: bytes) -> Mark | None:
    """The place of a line in the chain, None if the line does not tell it."""
    try:
        fields = fields_of(line)
        return Mark(int(fields["seq"]), str(fields["mac"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def event_fields(event: Event) -> dict[str, object]:
    """An event as plain values for JSON, without its empty fields."""
    fields = {
        "id": event.event_id.value[0],
        "type": event.event_type.value[0] if event.event_type else "",
        "action": event.action.value,
        "outcome": int(event.outcome),
        "participants": [_participant_fields(one) for one in event.participants],
        "subjects": [_subject_fields(one) for one in event.subjects],
        "sop_class": event.sop_class_uid,
        "query": dict(event.query),
        "detail": event.detail,
    }
    return {name: value for name, value in fields.items() if value or name == "outcome"}


def _participant_fields(one: Participant) -> dict[str, object]:
    fields = {
        "user": one.user_id,
        "ae": one.ae_title,
        "address": one.address,
        "role": one.role.value[0] if one.role else "",
        "requestor": one.requestor,
    }
    return {name: value for name, value in fields.items() if value}


def _subject_fields(one: Subject) -> dict[str, object]:
    fields = {
        "patient": one.patient_id,
        "issuer": one.issuer_of_patient_id,
        "study": one.study_instance_uid,
        "accession": one.accession_number,
        "sop_classes": dict(one.sop_classes),
    }
    return {name: value for name, value in fields.items() if value}


def _event_text(event: Event) -> str:
    """The JSON object of `event_fields`."""
    text = f'{{"id":"{event.event_id.value[0]}"'
    if event.event_type:
        text += f',"type":"{event.event_type.value[0]}"'
    text += f',"action":"{event.action.value}","outcome":{event.outcome.value}'
    if event.participants:
        text += f',"participants":[{",".join(map(_participant_text, event.participants))}]'
    if event.subjects:
        text += f',"subjects":[{",".join(map(_subject_text, event.subjects))}]'
    if event.sop_class_uid:
        text += f',"sop_class":{_quoted(event.sop_class_uid)}'
    if event.query:
        text += f',"query":{_JSON.encode(dict(event.query))}'
    if event.detail:
        text += f',"detail":{_quoted(event.detail)}'
    return text + "}"


def _participant_text(one: Participant) -> str:
    text = _texts({"user": one.user_id, "ae": one.ae_title, "address": one.address})
    if one.role:
        text += f',"role":"{one.role.value[0]}"'
    if one.requestor:
        text += ',"requestor":true'
    return f"{{{text[1:]}}}"


def _subject_text(one: Subject) -> str:
    text = _texts(
        {
            "patient": one.patient_id,
            "issuer": one.issuer_of_patient_id,
            "study": one.study_instance_uid,
            "accession": one.accession_number,
        }
    )
    if one.sop_classes:
        text += f',"sop_classes":{_JSON.encode(dict(one.sop_classes))}'
    return f"{{{text[1:]}}}"


def _texts(fields: Mapping[str, str]) -> str:
    """The fields that are not empty, each with a comma before it."""
    return "".join([f',"{name}":{_quoted(value)}' for name, value in fields.items() if value])


def _event(fields: dict[str, Any]) -> Event:
    return Event(
        event_id=_IDS[fields["id"]],
        action=Action(fields["action"]),
        participants=tuple(_participant(one) for one in fields.get("participants", ())),
        outcome=Outcome(fields["outcome"]),
        event_type=_TYPES[fields["type"]] if "type" in fields else None,
        subjects=tuple(_subject(one) for one in fields.get("subjects", ())),
        sop_class_uid=fields.get("sop_class", ""),
        query=fields.get("query", {}),
        detail=fields.get("detail", ""),
    )


def _participant(fields: dict[str, Any]) -> Participant:
    return Participant(
        user_id=fields.get("user", ""),
        ae_title=fields.get("ae", ""),
        address=fields.get("address", ""),
        role=_ROLES[fields["role"]] if "role" in fields else None,
        requestor=fields.get("requestor", False),
    )


def _subject(fields: dict[str, Any]) -> Subject:
    return Subject(
        patient_id=fields.get("patient", ""),
        issuer_of_patient_id=fields.get("issuer", ""),
        study_instance_uid=fields.get("study", ""),
        accession_number=fields.get("accession", ""),
        sop_classes=fields.get("sop_classes", {}),
    )
