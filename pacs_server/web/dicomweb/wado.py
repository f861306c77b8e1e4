"""WADO-RS: stored instances (PS3.18 10.4)."""

from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.part10 import encode_head
from pacs_server.errors import NotFound
from pacs_server.services.retrieve import DataSetSource
from pacs_server.web.accept import choose
from pacs_server.web.caller import caller_of
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse, pieces

DICOM = "application/dicom"


class WADO:
    """Answers retrievals of whole instances."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The resources."""
        return [Route("/dicom-web/studies/{study}/series/{series}/instances/{instance}", self.instance)]

    async def instance(self, request: Request) -> Response:
        """One instance as it is stored."""
        choose(request, [DICOM])
        caller = caller_of(request)
        uids = request.path_params
        keys = RetrieveKeys(Level.IMAGE, (), (uids["study"],), (uids["series"],), (uids["instance"],))
        found = await run_in_threadpool(self._services.retrieve.select, keys, caller.scope)
        if not found:
            raise NotFound("there is no such instance")
        [instance] = found
        source = await run_in_threadpool(self._services.retrieve.open, instance)
        head = encode_head(instance.sop_class_uid, instance.uids.sop, instance.transfer_syntax_uid, "")
        return PiecewiseResponse(_file(head, source), DICOM, length=len(head) + source.size, close=source.close)


async def _file(head: bytes, source: DataSetSource) -> AsyncIterator[bytes]:
    """A DICOM file of a stored data set."""
    yield head
    async for piece in pieces(source):
        yield piece
