"""REST: search in the audit trail, and export of it. Reading it is recorded in it (PS3.15 A.5.3.2)."""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from pacs_server.audit.events import EventID
from pacs_server.audit.export import export
from pacs_server.audit.record import Record, event_fields
from pacs_server.audit.search import Criteria, search, search_back
from pacs_server.audit.trail import AuditTrail
from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.web.api.binding import next_address
from pacs_server.web.api.operation import Answer, Call, Operation, Page, Paging, Parameters, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "audit"
_OFF: Final = {404: "The audit trail is switched off."}
_JSON_LINES: Final = "application/jsonl"
_CHUNK: Final = 65_536


class AuditRecord(Answer):
    """A record of the audit trail; codes are those of PS3.15 A.5 and PS3.16 CID 400 to 402."""

    sequence: Annotated[int, Field(description="The number of the record; there is no gap between two of them.")]
    time: datetime
    host: str
    event_name: str
    event: Annotated[dict[str, Any], Field(description="The event with its participants and subjects.")]


class EventKind(StrEnum):
    """The kinds of events: those of PS3.16 CID 400, in words."""

    APPLICATION_ACTIVITY = "application_activity"
    AUDIT_LOG_USED = "audit_log_used"
    BEGIN_TRANSFERRING = "begin_transferring"
    INSTANCES_ACCESSED = "instances_accessed"
    INSTANCES_TRANSFERRED = "instances_transferred"
    STUDY_DELETED = "study_deleted"
    EXPORT = "export"
    IMPORT = "import"
    ORDER_RECORD = "order_record"
    PATIENT_RECORD = "patient_record"
    PROCEDURE_RECORD = "procedure_record"
    QUERY = "query"
    SECURITY_ALERT = "security_alert"
    USER_AUTHENTICATION = "user_authentication"


class Form(StrEnum):
    """How records are exported."""

    CSV = "csv"
    JSON = "json"


class Wanted(Parameters):
    """Which records."""

    patient: Annotated[str | None, Field(description="Only those about this Patient ID.")] = None
    study: Annotated[str | None, Field(description="Only those about this Study Instance UID.")] = None
    user: Annotated[str | None, Field(description="Only those of this user or AE title.")] = None
    address: Annotated[str | None, Field(description="Only those of this address.")] = None
    event: Annotated[EventKind | None, Field(description="Only events of this kind.")] = None
    without: Annotated[EventKind | None, Field(description="No events of this kind.")] = None
    failed: Annotated[bool | None, Field(description="Only what failed, or only what succeeded.")] = None
    first: Annotated[date | None, Field(description="The first day, in UTC.")] = None
    last: Annotated[date | None, Field(description="The last day, in UTC.")] = None

    def criteria(self) -> Criteria:
        """The same as a value."""
        event = None if self.event is None else EventID[self.event.name]
        without = None if self.without is None else EventID[self.without.name]
        days = self.first, self.last
        return Criteria(self.patient, self.study, self.user, *days, self.address, event, self.failed, without)

    def told(self) -> str:
        """The same in words, for the audit trail."""
        given = self.model_dump(exclude_none=True).items()
        return " ".join(f"{name}={value}" for name, value in given if value is not False)


class AuditSearch(Paging, Wanted):
    """Which records to list, the oldest first unless `newest`."""

    newest: Annotated[bool, Field(description="Whether the newest come first.")] = False


class AuditExport(Wanted):
    """What to export, and how."""

    form: Annotated[Form, Field(description="csv for spreadsheets, or json with one record on each line.")] = Form.CSV


class AuditRecords:
    """The resource audit."""

    def __init__(self, services: WebServices) -> None:
        self._found = services.trail
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/audit", name="search_audit_trail", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Search the audit trail: who did what to which patient's data.",
                description="The search is recorded itself. `after` is the number of a record.",
                query=AuditSearch, answer=Page[AuditRecord], run=self._search, errors=_OFF,
            ),
            Operation(
                method="GET", path="/audit/export", name="export_audit_trail", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Export records of the audit trail as CSV or as lines of JSON, the oldest first.",
                description="The export is recorded itself.",
                query=AuditExport, respond=self._export, media_type="application/octet-stream", errors=_OFF,
            ),
        ]  # fmt: skip

    def _search(self, call: Call[AuditSearch, None]) -> Answer:
        trail, asked = self._trail(call), call.query
        self._auditor.trail_read(call.caller, f"search {asked.told()}")
        found: Iterator[Record]
        if asked.newest:
            found = search_back(trail, asked.criteria(), asked.after)
        else:
            found = (record for record in search(trail, asked.criteria()) if record.sequence > (asked.after or 0))
        records = list(islice(found, asked.limit + 1))
        shown = records[: asked.limit]
        return Page[AuditRecord](items=[_row(one) for one in shown], next=_next(call, shown, len(records)))

    async def _export(self, call: Call[AuditExport, None]) -> Response:
        trail, asked = self._trail(call), call.query
        await run_in_threadpool(self._auditor.trail_read, call.caller, f"export {asked.told()}")
        pieces = _together(export(search(trail, asked.criteria()), asked.form.value))
        kind, ending = ("text/csv; charset=utf-8", "csv") if asked.form is Form.CSV else (_JSON_LINES, "jsonl")
        name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{ending}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return StreamingResponse(pieces, headers=headers, media_type=kind)

    def _trail(self, call: Call[Any, None]) -> AuditTrail:
        unlimited(call)
        if self._found is None:
            raise NotFound("the audit trail is switched off (audit.enabled)")
        return self._found


def _together(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Small pieces put together, because each costs a step between threads."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= _CHUNK:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _next(call: Call[AuditSearch, None], shown: list[Record], found: int) -> str | None:
    """The address of the next page; it begins with the day of the last record, so that no file before is read again."""
    if found <= len(shown):
        return None
    if call.query.newest:
        return next_address(call, shown[-1].sequence)
    day = shown[-1].time.date() - timedelta(days=1)
    first = max(day, call.query.first) if call.query.first is not None else day
    return next_address(call, shown[-1].sequence, first=first.isoformat())


def _row(record: Record) -> AuditRecord:
    name = record.event.event_id.value[1]
    return AuditRecord(
        sequence=record.sequence, time=record.time, host=record.host, event_name=name, event=event_fields(record.event)
    )
