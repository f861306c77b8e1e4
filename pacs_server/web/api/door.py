"""The REST API below /api/v1: **the** list of its resources, its OpenAPI document, and a page that shows it."""

import json
from functools import cached_property
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.services.access import require
from pacs_server.web.api.about import AboutServer
from pacs_server.web.api.associations import Associations
from pacs_server.web.api.audit import AuditRecords
from pacs_server.web.api.audit_verification import AuditVerifications
from pacs_server.web.api.binding import routes_of
from pacs_server.web.api.conflicts import Conflicts
from pacs_server.web.api.connection import ConnectionResource
from pacs_server.web.api.deidentification import Deidentification
from pacs_server.web.api.deliveries import Deliveries
from pacs_server.web.api.downloads import Downloads
from pacs_server.web.api.events import Events
from pacs_server.web.api.exports import Exports
from pacs_server.web.api.faults import StorageFaults
from pacs_server.web.api.history import History
from pacs_server.web.api.marks import Marks
from pacs_server.web.api.notes import Notes
from pacs_server.web.api.operation import PREFIX, Operation
from pacs_server.web.api.peer_rules import PeerRulesResource
from pacs_server.web.api.polling import Polling
from pacs_server.web.api.private import Private
from pacs_server.web.api.reference import STYLE, reference
from pacs_server.web.api.remotes import Remotes
from pacs_server.web.api.routing import Routing
from pacs_server.web.api.samples import Samples
from pacs_server.web.api.schema import openapi
from pacs_server.web.api.send_queue import SendQueueResource
from pacs_server.web.api.server import Server
from pacs_server.web.api.share_links import ShareLinks
from pacs_server.web.api.statistics import StorageStatistics
from pacs_server.web.api.steps import Steps
from pacs_server.web.api.stored import StoredObjects
from pacs_server.web.api.study_list import StudyList
from pacs_server.web.api.tags import Tags
from pacs_server.web.api.tasks import Tasks
from pacs_server.web.api.trash import Trash
from pacs_server.web.api.users import UsersAndKeys
from pacs_server.web.api.worklist import Worklist
from pacs_server.web.api.worklist_board import WorklistBoard
from pacs_server.web.caller import caller_of
from pacs_server.web.services import WebServices
from pacs_server.web.urls import base_url

# To add a resource, add one line.
_RESOURCES: Final = (
    StoredObjects,
    StudyList,
    Downloads,
    Exports,
    Tags,
    Private,
    Worklist,
    WorklistBoard,
    Steps,
    Tasks,
    Remotes,
    Polling,
    Deliveries,
    Associations,
    Conflicts,
    Trash,
    AuditRecords,
    AuditVerifications,
    UsersAndKeys,
    Server,
    Events,
    Routing,
    Marks,
    Notes,
    History,
    Deidentification,
    ShareLinks,
    AboutServer,
    StorageStatistics,
    StorageFaults,
    SendQueueResource,
    PeerRulesResource,
    Samples,
    ConnectionResource,
)
_CSP: Final = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class RESTAPI:
    """The REST API."""

    def __init__(self, services: WebServices) -> None:
        self._services = services
        self.operations: list[Operation] = []
        for resource in _RESOURCES:
            self.operations += resource(services).operations()

    def routes(self) -> list[Route]:
        """The routes of all operations, of the OpenAPI document and of the page."""
        return [
            Route(f"{PREFIX}/openapi.json", self._document),
            Route(f"{PREFIX}/reference.css", self._style),
            Route(PREFIX, self._page),
            Route(f"{PREFIX}/", self._page),
            *routes_of(self.operations, self._base),
        ]

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document, made when somebody asks for it first."""
        return openapi(self.operations)

    async def _document(self, request: Request) -> Response:
        require(caller_of(request), Role.READER)
        document = self.document | {"servers": [{"url": self._address(request)}]}
        return Response(json.dumps(document), media_type="application/json")

    async def _page(self, request: Request) -> Response:
        require(caller_of(request), Role.READER)
        headers = {"Content-Security-Policy": _CSP}
        return Response(reference(self.document, self._address(request)), 200, headers, "text/html")

    async def _style(self, request: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    def _base(self, request: Request) -> str:
        return base_url(request, self._services.config().web)

    def _address(self, request: Request) -> str:
        return self._base(request) + PREFIX
