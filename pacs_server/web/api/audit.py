"""REST: search in the audit trail. Reading it is recorded in it (PS3.15 A.5.3.2)."""

from datetime import date, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.record import Record, event_fields
from pacs_server.audit.search import Criteria, search
from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.web.api.binding import next_address
from pacs_server.web.api.operation import Answer, Call, Operation, Page, Paging, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "audit"


class AuditRecord(Answer):
    """A record of the audit trail; codes are those of PS3.15 A.5 and PS3.16 CID 400 to 402."""

    sequence: Annotated[int, Field(description="The number of the record; there is no gap between two of them.")]
    time: datetime
    host: str
    event_name: str
    event: Annotated[dict[str, Any], Field(description="The event with its participants and subjects.")]


class AuditSearch(Paging):
    """Which records to list, the oldest first."""

    patient: Annotated[str | None, Field(description="Only those about this Patient ID.")] = None
    study: Annotated[str | None, Field(description="Only those about this Study Instance UID.")] = None
    user: Annotated[str | None, Field(description="Only those of this user or AE title.")] = None
    first: Annotated[date | None, Field(description="The first day, in UTC.")] = None
    last: Annotated[date | None, Field(description="The last day, in UTC.")] = None


class AuditTrail:
    """The resource audit."""

    def __init__(self, services: WebServices) -> None:
        self._trail = services.trail
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/audit", name="search_audit_trail", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Search the audit trail: who did what to which patient's data; the oldest first.",
                description="The search is recorded itself. `after` is the number of a record.",
                query=AuditSearch, answer=Page[AuditRecord], run=self._search,
                errors={404: "The audit trail is switched off."},
            )
        ]  # fmt: skip

    def _search(self, call: Call[AuditSearch, None]) -> Answer:
        unlimited(call)
        if self._trail is None:
            raise NotFound("the audit trail is switched off (audit.enabled)")
        asked = call.query
        told = " ".join(f"{name}={value}" for name, value in asked.model_dump(exclude_none=True).items())
        self._auditor.trail_read(call.caller, f"search {told}")
        criteria = Criteria(asked.patient, asked.study, asked.user, asked.first, asked.last)
        found = (record for record in search(self._trail, criteria) if record.sequence > (asked.after or 0))
        records = list(islice(found, asked.limit + 1))
        shown = records[: asked.limit]
        return Page[AuditRecord](items=[_row(one) for one in shown], next=_next(call, shown, len(records)))


def _next(call: Call[AuditSearch, None], shown: list[Record], found: int) -> str | None:
    """The address of the next page; it begins with the day of the last record, so that no file before is read again."""
    if found <= len(shown):
        return None
    day = shown[-1].time.date() - timedelta(days=1)
    first = max(day, call.query.first) if call.query.first is not None else day
    return next_address(call, shown[-1].sequence, first=first.isoformat())


def _row(record: Record) -> AuditRecord:
    name = record.event.event_id.value[1]
    return AuditRecord(
        sequence=record.sequence, time=record.time, host=record.host, event_name=name, event=event_fields(record.event)
    )
