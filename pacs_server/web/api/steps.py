"""REST: performed procedure steps."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.events import Action
from pacs_server.dicom.caller import Role
from pacs_server.dicom.mpps import StepStatus, subjects_of
from pacs_server.index.mpps import StepRow
from pacs_server.web.api.binding import paged
from pacs_server.web.api.operation import Answer, Call, Operation, Page, Paging, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "steps"
# The SOP class by which steps are read, for the audit trail (PS3.4 F.8).
_MPPS_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"
_MOST_MISSING: Final = 1000


class Step(Answer):
    """A performed procedure step."""

    sop_instance_uid: str
    status: str
    performed_procedure_step_id: str
    performed_station_ae_title: str
    modality: str
    patient_id: str
    patient_name: str
    study_instance_uid: str
    start_date: Annotated[str, Field(description="YYYYMMDD.")]
    start_time: Annotated[str, Field(description="HHMMSS.")]
    calling_ae: Annotated[str, Field(description="The AE title that reported it.")]
    created_at: datetime
    updated_at: datetime
    referenced: Annotated[int, Field(description="How many instances it refers to.")]
    received: Annotated[int, Field(description="How many of them are in the archive.")]


class StepDetails(Step):
    """Everything that is known of a performed procedure step."""

    worklist_items: Annotated[list[int], Field(description="The ids of the worklist items that it refers to.")]
    missing: Annotated[
        list[str], Field(description=f"Up to {_MOST_MISSING} SOP Instance UIDs of instances that are not stored.")
    ]
    data_set: Annotated[dict[str, Any], Field(description="Its attributes in the DICOM JSON Model (PS3.18 F.2).")]


class StepSearch(Paging):
    """Which steps to list."""

    status: Annotated[StepStatus | None, Field(description="Only those of this status.")] = None
    study_instance_uid: Annotated[str | None, Field(description="Only those of this study.")] = None


class Steps:
    """The resource steps."""

    def __init__(self, services: WebServices) -> None:
        self._steps = services.mpps
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/steps", name="list_steps", tag=_TAG, role=Role.READER,
                summary="List performed procedure steps, the last that came first.",
                query=StepSearch, answer=Page[Step], run=self._list,
            ),
            Operation(
                method="GET", path="/steps/{step}", name="show_step", tag=_TAG, role=Role.READER,
                summary="Show a performed procedure step.", parts={"step": "Its SOP Instance UID."},
                answer=StepDetails, run=self._show, errors={404: "There is no such step."},
            ),
        ]  # fmt: skip

    def _list(self, call: Call[StepSearch, None]) -> Answer:
        unlimited(call)
        query = call.query
        keys = {"PerformedProcedureStepStatus": query.status, "StudyInstanceUID": query.study_instance_uid}
        with self._auditor.query(call.caller, _MPPS_RETRIEVE) as record:
            record.keys({keyword: str(value) for keyword, value in keys.items() if value is not None})
            rows = self._steps.page(query.limit + 1, query.after, status=query.status, study=query.study_instance_uid)
            shown, following = paged(call, rows)
            record.matched(len(shown), complete=True)
        return Page[Step](items=[Step(**_fields(row)) for row in shown], next=following)

    def _show(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        uid = call.path["step"]
        with self._auditor.procedure(call.caller, _MPPS_RETRIEVE, Action.READ, uid) as record:
            step = self._steps.show(uid)
            record.subjects = subjects_of(step.data_set)
        return StepDetails(
            **_fields(step.row),
            worklist_items=[key for key, _ in step.items],
            missing=list(step.missing[:_MOST_MISSING]),
            data_set=dict(step.data_set),
        )


def _fields(row: StepRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Step.model_fields}
