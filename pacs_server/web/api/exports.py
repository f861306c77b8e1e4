"""REST: studies exported into a directory of the server."""

from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.services.directory_exports import MOST_INSTANCES, MOST_STUDIES
from pacs_server.web.api.operation import Answer, Body, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_UID = Annotated[str, Field(max_length=64, description="A Study Instance UID.")]
_ERRORS: Final = {
    404: "None of these studies is in the archive, or `web.export_directory` is not set.",
    409: "A folder of this name is there, or another task exports into it.",
    507: "The disk has not enough room.",
}


class Export(Body):
    """What to export, and into which folder."""

    studies: Annotated[tuple[_UID, ...], Field(min_length=1, max_length=MOST_STUDIES)]
    folder: Annotated[
        str,
        Field(
            max_length=64,
            description="The name of a new folder in `web.export_directory`: letters, digits, dots, - and _.",
        ),
    ]


class ExportTask(Answer):
    """The task that exports."""

    task: Annotated[int, Field(description="Its `id`, for /tasks.")]


class Exports:
    """The resource exports."""

    def __init__(self, services: WebServices) -> None:
        self._exports = services.directory_exports

    def operations(self) -> list[Operation]:
        """The operation of the resource."""
        return [
            Operation(
                method="POST", path="/exports", name="export_studies", tag="studies", role=Role.OPERATOR, status=202,
                summary="Have studies written with a DICOMDIR into a new folder of `web.export_directory`.",
                description=f"Up to {MOST_STUDIES} studies with {MOST_INSTANCES:,} instances together. A task does it.",
                body=Export, answer=ExportTask, run=self._export, errors=_ERRORS,
            )
        ]  # fmt: skip

    def _export(self, call: Call[Any, Export]) -> Answer:
        unlimited(call)
        return ExportTask(task=self._exports.request(call.caller, call.body.studies, call.body.folder))
