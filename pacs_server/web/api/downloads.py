"""REST: several studies as one ZIP file with a DICOMDIR, made while it is sent."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Final

from pydantic import Field
from starlette.responses import Response

from pacs_server.dicom.caller import Caller, Role
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.web.api.operation import Body, Call, Operation, Parameters
from pacs_server.web.dicomweb.media_types import ZIP
from pacs_server.web.dicomweb.transfers import Transfer
from pacs_server.web.dicomweb.zip_contents import ZipContents, zip_contents
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse
from pacs_server.web.threads import in_thread, iterate_in_threads, soon_in_thread

# The instances are listed in memory, some hundred bytes each.
MOST_STUDIES: Final = 200
MOST_INSTANCES: Final = 100_000
FILES_MISSING: Final = (
    "Stored files are missing or incomplete; `missing` has the SOP Instance UIDs, `of` says of how many."
)

_UID = Annotated[str, Field(max_length=64, description="A Study Instance UID.")]


class Download(Body):
    """Which studies to download."""

    studies: Annotated[tuple[_UID, ...], Field(min_length=1, max_length=MOST_STUDIES)]


class DownloadOptions(Parameters):
    """What to do if something cannot be had."""

    without_missing: Annotated[
        bool, Field(description="Download what is there if stored files are missing; README.TXT then says which.")
    ] = False


class Downloads:
    """The resource downloads. A limited caller gets what its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operation of the resource."""
        return [
            Operation(
                method="POST", path="/downloads", name="download_studies", tag="studies", role=Role.READER,
                summary="Download studies as one ZIP file with a DICOMDIR.",
                description=f"Up to {MOST_STUDIES} studies with {MOST_INSTANCES:,} instances together.",
                query=DownloadOptions, body=Download, media_type=ZIP, respond=self._respond,
                errors={404: "None of these studies is in the archive.", 409: FILES_MISSING},
            )
        ]  # fmt: skip

    async def _respond(self, call: Call[DownloadOptions, Download]) -> Response:
        zip_of = partial(zipped, without_missing=call.query.without_missing)
        return await in_thread(zip_of, self._services, call.caller, call.body.studies)


def zipped(services: WebServices, caller: Caller, studies: Sequence[str], *, without_missing: bool) -> Response:
    """The answer with these studies in one ZIP file; recorded in the audit trail before the first byte.

    Raises NotFound, InvalidRequest if that is too much, FilesMissing, AuditUnavailable, IndexUnavailable,
    StorageUnavailable.
    """
    uids = tuple(uid for uid in dict.fromkeys(studies) if is_uid(uid))
    keys = RetrieveKeys(Level.STUDY, study_instance_uids=uids)
    found = services.retrieve.select_with_subjects(keys, caller.scope) if uids else None
    if found is None or not found.instances:
        raise NotFound("there is no study of these UIDs")
    if len(found.instances) > MOST_INSTANCES:
        raise InvalidRequest(f"these are {len(found.instances)} instances, and one file holds {MOST_INSTANCES}")
    contents = zip_contents(services.retrieve, found.instances, without_missing=without_missing)
    transfer = Transfer(services.auditor, caller, found.instances, lambda: found.subjects)
    name = f"{uids[0] if len(uids) == 1 else 'studies'}.zip"
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    body = _pieces(services, contents, transfer)
    return PiecewiseResponse(iterate_in_threads(body), ZIP, headers=headers, close=_end_of(transfer))


def _pieces(services: WebServices, contents: ZipContents, transfer: Transfer) -> Iterator[bytes]:
    contents.note(transfer)
    yield from services.exports.zipped(contents.there, transfer.completed, lost=contents.lost)
    transfer.end()


def _end_of(transfer: Transfer) -> Callable[[], None]:
    # A thread writes the record, so that nobody waits for it.
    return partial(soon_in_thread, transfer.end)
