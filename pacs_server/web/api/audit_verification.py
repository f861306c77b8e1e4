"""REST: whether the audit trail is as it was written."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.verification import TrailVerification, Verification
from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "audit"
_OFF: Final = {404: "The audit trail is switched off."}


class FinishedVerification(Answer):
    """A verification of the audit trail that came to its end."""

    ended: datetime
    by: Annotated[str, Field(description="Who asked for it.")]
    in_order: Annotated[bool, Field(description="Whether no record was changed, removed or added.")]
    problem: Annotated[str, Field(description="Where the trail is not as it was written, and how; empty if in order.")]
    records: Annotated[int, Field(description="How many records were checked; 0 if it is not in order.")]
    files: int
    first: Annotated[int, Field(description="The number of the first record.")]
    last: Annotated[int, Field(description="The number of the last record.")]
    mac: Annotated[str, Field(description="The MAC of the last record, to be noted elsewhere.")]


class AuditVerification(Answer):
    """The verification of the audit trail."""

    running: bool
    checked: Annotated[int, Field(description="How many records the one that runs has checked.")]
    last: Annotated[FinishedVerification | None, Field(description="null if none was ever begun here.")]


class AuditVerifications:
    """The resource audit/verification."""

    def __init__(self, services: WebServices) -> None:
        self._found = services.verification

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/audit/verification", name="show_audit_verification", tag=_TAG,
                role=Role.ADMINISTRATOR, summary="Show whether the audit trail is being verified, and the last result.",
                answer=AuditVerification, run=self._show, errors=_OFF,
            ),
            Operation(
                method="POST", path="/audit/verification", name="verify_audit_trail", tag=_TAG,
                role=Role.ADMINISTRATOR, status=202, summary="Begin to verify the audit trail, unless that goes on.",
                description="It runs in the background. Both it and its result are recorded in the trail.",
                answer=AuditVerification, run=self._start, errors=_OFF,
            ),
        ]  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        return _answer(self._verification(call))

    def _start(self, call: Call[Any, None]) -> Answer:
        verification = self._verification(call)
        verification.start(call.caller)
        return _answer(verification)

    def _verification(self, call: Call[Any, None]) -> TrailVerification:
        unlimited(call)
        if self._found is None:
            raise NotFound("the audit trail is switched off (audit.enabled)")
        return self._found


def _answer(verification: TrailVerification) -> AuditVerification:
    # In this order: one that ends in between is told as running, and not as the last one before it.
    running, last = verification.running, verification.last()
    return AuditVerification(
        running=running, checked=verification.checked if running else 0, last=None if last is None else _finished(last)
    )


def _finished(last: Verification) -> FinishedVerification:
    return FinishedVerification(
        ended=datetime.fromtimestamp(last.ended, UTC), by=last.by, in_order=not last.problem, problem=last.problem,
        records=last.records, files=last.files, first=last.first, last=last.last, mac=last.mac,
    )  # fmt: skip
