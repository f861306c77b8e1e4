"""Export records as JSON lines, as CSV or as PS3.15 audit messages, one record after the other."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

from pacs_server.audit.record import Record
from pacs_server.audit.xml import audit_message
from pacs_server.dicom.subject import Subject
from pacs_server.kit.csv_rows import csv_row

_COLUMNS: Final = (
    *("sequence", "time", "host", "process", "event", "type", "action", "outcome", "users", "ae_titles"),
    *("addresses", "patient_id", "issuer_of_patient_id", "study_instance_uid", "accession_number", "instances"),
    *("sop_class_uid", "query", "detail"),
)
Format = Literal["json", "csv", "xml"]


def export(records: Iterable[Record], form: Format) -> Iterator[bytes]:
    """The exported document in pieces."""
    return _WRITERS[form](records)


def as_json(record: Record) -> str:
    """A record as one line of JSON."""
    return json.dumps({**record.fields(), "mac": record.mac})


def _json(records: Iterable[Record]) -> Iterator[bytes]:
    for record in records:
        yield as_json(record).encode("ascii") + b"\n"


def _csv(records: Iterable[Record]) -> Iterator[bytes]:
    """One row for each subject of a record, and one row for a record without subjects."""
    yield _row(_COLUMNS)
    for record in records:
        for subject in record.event.subjects or (Subject(""),):
            yield _row(_cells(record, subject))


def _cells(record: Record, subject: Subject) -> tuple[str, ...]:
    event, participants = record.event, record.event.participants
    return (
        *(str(record.sequence), record.time.isoformat(), record.host, str(record.process)),
        *(event.event_id.value[1], event.event_type.value[1] if event.event_type else ""),
        *(event.action.value, event.outcome.name.lower()),
        "; ".join(one.user_id for one in participants),
        "; ".join(one.ae_title for one in participants),
        "; ".join(one.address for one in participants),
        *(subject.patient_id, subject.issuer_of_patient_id, subject.study_instance_uid, subject.accession_number),
        str(sum(subject.sop_classes.values())) if subject.sop_classes else "",
        event.sop_class_uid,
        "; ".join(f"{key}={value}" for key, value in event.query.items()),
        event.detail,
    )


def _row(cells: Iterable[str]) -> bytes:
    return csv_row(cells).encode("utf-8", "backslashreplace")


def _xml(records: Iterable[Record]) -> Iterator[bytes]:
    yield b'<?xml version="1.0" encoding="UTF-8"?>\n<AuditMessages>\n'
    for record in records:
        document = audit_message(record.event, at=record.time, source=record.host)
        yield re.sub(rb"^<\?xml[^>]*\?>\s*", b"", document) + b"\n"
    yield b"</AuditMessages>\n"


_WRITERS: Final[dict[Format, Callable[[Iterable[Record]], Iterator[bytes]]]] = {
    "json": _json,
    "csv": _csv,
    "xml": _xml,
}
