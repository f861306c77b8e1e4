"""REST: what is known to be wrong with the stored files: what `pacs-server verify` and the scrub have found."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.upkeep.checking import FindingKind
from pacs_server.upkeep.known_faults import MOST_FAULTS
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "server"


class FaultRow(Answer):
    """A fault of an instance, of a stored file that the index does not know, or of a counter of the index."""

    kind: Annotated[FindingKind, Field(description="As in the report of `pacs-server verify`.")]
    study: Annotated[str, Field(description="Study Instance UID; empty if the index knows of none.")]
    uid: Annotated[str, Field(description="SOP Instance UID; empty if it is not known.")]
    path: Annotated[str, Field(description="The file, below `storage.directory`.")]
    detail: str
    found_by: Literal["verify", "scrub"]


class VerificationRow(Answer):
    """A `pacs-server verify` of the whole archive that came to its end."""

    ended: datetime
    digest: Annotated[bool, Field(description="Whether every byte was read, and not the headers only.")]
    files: int
    instances: int
    findings: int
    repaired: Annotated[int, Field(description="How many of the findings were repaired.")]


class Faults(Answer):
    """What is known to be wrong. What was deleted, sent again or put back since then is left out."""

    items: list[FaultRow]
    last_verification: Annotated[VerificationRow | None, Field(description="null if this archive knows of none.")]


class StorageFaults:
    """The resource storage/faults."""

    def __init__(self, services: WebServices) -> None:
        self._faults = services.faults

    def operations(self) -> list[Operation]:
        """The operation of the resource."""
        return [
            Operation(
                method="GET", path="/storage/faults", name="list_faults", tag=_TAG, role=Role.OPERATOR,
                summary="List the damaged and missing files that `pacs-server verify` and the scrub have found.",
                description=f"Of each of the two, the first {MOST_FAULTS:,}.", answer=Faults, run=self._list,
            )
        ]  # fmt: skip

    def _list(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        last = self._faults.last_verification()
        return Faults(
            items=[
                FaultRow(
                    kind=each.finding.kind, study=each.study, uid=each.finding.uid, path=each.finding.path,
                    detail=each.finding.detail, found_by=each.found_by,
                )
                for each in self._faults.faults()
            ],
            last_verification=None if last is None else VerificationRow(
                ended=datetime.fromisoformat(last.ended), digest=last.digest, files=last.files,
                instances=last.instances, findings=last.findings, repaired=last.repaired,
            ),
        )  # fmt: skip
