"""REST: sample studies for those who try the archive out."""

from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.services.samples import SampleService
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "samples"


class SampleStudies(Answer):
    """Sample studies, by their Study Instance UIDs."""

    studies: Annotated[list[str], Field(description="Those that are in the archive, or were added or removed.")]


class Samples:
    """The resource samples."""

    def __init__(self, services: WebServices) -> None:
        self._samples = SampleService(
            services.store, services.marks, services.retrieve, services.deletions, services.auditor
        )

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/samples", name="list_samples", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="List the sample studies that are in the archive.", answer=SampleStudies, run=self._list,
            ),
            Operation(
                method="POST", path="/samples", name="add_samples", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Store the sample studies: a CT, an MR and a radiograph of nobody, drawn by the server.",
                answer=SampleStudies, status=201, run=self._add,
            ),
            Operation(
                method="DELETE", path="/samples", name="remove_samples", tag=_TAG, role=Role.OPERATOR,
                summary="Move the sample studies into the trash.", answer=SampleStudies, run=self._remove,
            ),
        ]  # fmt: skip

    def _list(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return SampleStudies(studies=self._samples.there())

    def _add(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return SampleStudies(studies=self._samples.add(call.caller))

    def _remove(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return SampleStudies(studies=self._samples.remove(call.caller))
