"""REST: what happened to a study."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.services.history import Happened
from pacs_server.web.api.marks import subjects_of_study
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_PARTS: Final = {"study": "Study Instance UID."}


class Occurrence(Answer):
    """Something that happened to a study."""

    what: Annotated[Happened, Field(description="waiting, delivered, dead and cancelled are states of deliveries.")]
    at: datetime
    since: Annotated[datetime | None, Field(description="When it began; null if it was at one moment.")]
    who: Annotated[str, Field(description="The user, the AE title that sent it, or the remote that it was sent to.")]
    where: Annotated[str, Field(description="The address that sent it.")]
    instances: int
    bytes: int
    detail: Annotated[str, Field(description="The reason, or the answer of the remote.")]
    before: Annotated[str, Field(description="The Patient ID before a merge or reassignment.")]
    after: Annotated[str, Field(description="The Patient ID after it.")]
    reference: Annotated[str, Field(description="The `id` of a deletion.")]


class StudyHistory(Answer):
    """What happened to a study, the last first."""

    items: list[Occurrence]


class History:
    """The resource history of a study."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/studies/{study}/history", name="show_history", tag="studies", role=Role.READER,
                summary="Show what happened to a study: received, sent, merged, reassigned, deleted in parts.",
                description="Who has seen it is in the audit trail.", parts=_PARTS, answer=StudyHistory,
                run=self._show, errors={404: "There is no such study."},
            )
        ]  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        uid = subjects_of_study(self._services, call)[0].study_instance_uid
        names = Occurrence.model_fields
        return StudyHistory(
            items=[
                Occurrence(**{name: getattr(each, name) for name in names}) for each in self._services.history.of(uid)
            ]
        )
