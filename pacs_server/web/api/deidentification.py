"""REST: a study without what identifies the patient (PS3.15 E.1), and what that changes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

from pydantic import Field
from starlette.responses import Response

from pacs_server.dicom.attribute_changes import Change
from pacs_server.dicom.caller import Role
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.tags import tag_text
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import NotFound
from pacs_server.index.instances import StoredInstance
from pacs_server.services.retrieve import counts_of
from pacs_server.web.api.downloads import FILES_MISSING, DownloadOptions
from pacs_server.web.api.operation import Answer, Call, Operation
from pacs_server.web.dicomweb.media_types import ZIP
from pacs_server.web.dicomweb.transfers import Transfer
from pacs_server.web.dicomweb.zip_contents import ZipContents, zip_contents
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse
from pacs_server.web.threads import in_thread, iterate_in_threads, soon_in_thread

_TAG: Final = "studies"
_PARTS: Final = {"study": "Study Instance UID."}
_GONE: Final = {404: "There is no such study."}
_HOW: Final = "By the Basic Application Level Confidentiality Profile (PS3.15 E.1), without changes to pixels."


class ChangeRow(Answer):
    """What happens to an attribute."""

    path: Annotated[list[str], Field(description="Its tag, behind those of the sequences around it.")]
    name: str
    vr: str
    change: Change
    before: Annotated[str, Field(description="The first value that was met; long ones are cut.")]
    after: Annotated[str, Field(description="What that becomes.")]
    series: Annotated[int, Field(description="In how many of the series.")]


class RefusedSeries(Answer):
    """A series that cannot be de-identified."""

    series: Annotated[str, Field(description="Series Instance UID.")]
    instances: Annotated[int, Field(description="How many instances it has. One of them was looked at.")]
    reason: str


class DeidentificationPreview(Answer):
    """What de-identification does to a study, seen in one instance of each series."""

    series: Annotated[int, Field(description="How many series there are.")]
    looked_at: Annotated[int, Field(description="How many of them were looked into.")]
    refused: list[RefusedSeries]
    items: Annotated[list[ChangeRow], Field(description="Every attribute, also what is kept.")]


class Deidentification:
    """The resources deidentification and deidentified of a study. A limited caller gets what its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resources."""
        return [
            Operation(
                method="GET", path="/studies/{study}/deidentification", name="preview_deidentification", tag=_TAG,
                role=Role.READER, summary="Show what de-identification would change in a study.", description=_HOW,
                parts=_PARTS, answer=DeidentificationPreview, run=self._preview, errors=_GONE,
            ),
            Operation(
                method="GET", path="/studies/{study}/deidentified", name="download_deidentified", tag=_TAG,
                role=Role.READER, summary="Download a study de-identified, as a ZIP file with a DICOMDIR.",
                description=f"{_HOW} What cannot be de-identified is left out; README.TXT says how many and why.",
                parts=_PARTS, query=DownloadOptions, media_type=ZIP, respond=self._download,
                errors=_GONE | {409: FILES_MISSING},
            ),
        ]  # fmt: skip

    def _preview(self, call: Call[Any, None]) -> Answer:
        services, instances = self._services, self._found(call)
        samples = services.deidentifying.samples(instances)
        subjects, counts = services.retrieve.subjects, counts_of(samples)
        sizes = Counter(each.uids.series for each in instances)
        with services.auditor.sending(call.caller, lambda: subjects(samples), counts) as sent:
            preview = services.deidentifying.preview(instances)
            for sample in samples:
                sent.completed[sample.uids.study][sample.sop_class_uid] += 1
        return DeidentificationPreview(
            series=preview.series, looked_at=preview.looked_at,
            refused=[
                RefusedSeries(series=series, instances=sizes[series], reason=reason)
                for series, reason in preview.refused
            ],
            items=[
                ChangeRow(
                    path=[tag_text(tag) for tag in row.change.path], name=row.change.name, vr=row.change.vr,
                    change=row.change.change, before=row.change.before, after=row.change.after, series=row.series,
                )
                for row in preview.rows
            ],
        )  # fmt: skip

    async def _download(self, call: Call[DownloadOptions, None]) -> Response:
        contents, transfer = await in_thread(self._begun, call)
        name = self._services.deidentifying.study_instance_uid(contents.there[0])
        headers = {"content-disposition": f'attachment; filename="{name}.zip"', "cache-control": "no-store"}
        body = iterate_in_threads(self._zipped(contents, transfer))
        return PiecewiseResponse(body, ZIP, headers=headers, close=lambda: soon_in_thread(transfer.end))

    def _begun(self, call: Call[DownloadOptions, None]) -> tuple[ZipContents, Transfer]:
        """What is going to leave, and the record of that. Raises NotFound, FilesMissing, AuditUnavailable."""
        instances, retrieve = self._found(call), self._services.retrieve
        contents = zip_contents(retrieve, instances, without_missing=call.query.without_missing)
        subjects = retrieve.subjects
        return contents, Transfer(self._services.auditor, call.caller, instances, lambda: subjects(instances))

    def _zipped(self, contents: ZipContents, transfer: Transfer) -> Iterator[bytes]:
        contents.note(transfer)
        packed = self._services.deidentifying.packed
        yield from self._services.exports.zipped(
            contents.there, transfer.completed, packed=packed, left_out=transfer.failed, lost=contents.lost
        )  # fmt: skip
        transfer.end()

    def _found(self, call: Call[Any, None]) -> Sequence[StoredInstance]:
        uid = call.path["study"]
        keys = RetrieveKeys(Level.STUDY, study_instance_uids=(uid,))
        found = self._services.retrieve.select(keys, call.caller.scope) if is_uid(uid) else []
        if not found:
            raise NotFound("there is no study of this UID")
        return found
