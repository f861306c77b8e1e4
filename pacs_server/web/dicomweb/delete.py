"""Studies, series and instances are moved to the trash: DELETE on their resources.

PS3.18 has no such transaction. The resources are those of WADO-RS, so that whoever may retrieve one knows how to delete
it.
"""

from contextlib import suppress
from http import HTTPStatus
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Caller, Role
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.errors import InstanceMismatch, InstanceNotFound, NotAuthorised
from pacs_server.services.access import require
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.resources import BELOW_A_STUDY
from pacs_server.web.dicomweb.viewing import keys_of
from pacs_server.web.services import WebServices

REASON_HEADER: Final = "x-delete-reason"
_DEFAULT_REASON: Final = "DICOMweb delete"
_LONGEST_REASON: Final = 200
_NAMES: Final = {Level.STUDY: "study", Level.SERIES: "series", Level.IMAGE: "instance"}


class Delete:
    """Answers DELETE."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The resources."""
        return [Route(path, self.delete, methods=["DELETE"]) for path in BELOW_A_STUDY]

    async def delete(self, request: Request) -> Response:
        """Move what the URL names to the trash, with the reason that the header X-Delete-Reason gives."""
        caller = caller_of(request)
        require(caller, Role.OPERATOR)
        await run_in_threadpool(self._delete, caller, request.path_params, _reason(request))
        return Response(status_code=HTTPStatus.NO_CONTENT)

    def _delete(self, caller: Caller, uids: dict[str, str], reason: str) -> None:
        keys = keys_of(uids)
        level, named = keys.level, uids[_NAMES[keys.level]]
        select = self._services.retrieve.select
        visible = select(keys, caller.scope)
        if not visible:
            raise InstanceNotFound("there is nothing of these UIDs")
        if caller.scope.is_limited and len(select(keys)) > len(visible):
            raise NotAuthorised("it holds more than you may see, so you may not delete it")
        if level is Level.SERIES and len(select(RetrieveKeys(level, (), (), (named,)))) > len(visible):
            raise InstanceMismatch("other studies have a series of this UID too: delete its instances one by one")
        self._services.deletions.delete(level, named, reason, participant_of(caller))


def _reason(request: Request) -> str:
    """The reason on one line. Headers are latin-1 by the letter of HTTP, and UTF-8 from most clients."""
    text = request.headers.get(REASON_HEADER, "")
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    return " ".join(text.split())[:_LONGEST_REASON] or _DEFAULT_REASON
