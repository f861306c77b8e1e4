"""**The** list of the rooms that the pages have, in the order of the navigation."""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.web.api.operation import Operation
from pacs_server.web.forms import Forms
from pacs_server.web.pages.asking import Asking
from pacs_server.web.pages.assets import Assets
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.preferences import Preferences
from pacs_server.web.pages.studies import Studies
from pacs_server.web.pages.study import Study
from pacs_server.web.services import WebServices
from pacs_server.web.urls import base_url

# To add a room, add one line.
_ROOMS: Final = (
    Studies,
    Study,
    Preferences,
)


class Door:
    """The pages."""

    def __init__(self, services: WebServices, operations: Sequence[Operation], forms: Forms) -> None:
        asking = Asking(operations, lambda request: base_url(request, services.config().web))
        self._pages = Pages(services, asking, forms, Assets())
        self._rooms = [room(self._pages) for room in _ROOMS]
        self._pages.entries = [entry for room in self._rooms for entry in room.entries]

    def routes(self) -> list[Route]:
        """The routes of all rooms and files."""
        start = Route("/", self._pages.guarded(self._start), methods=["GET"])
        return [start, self._pages.assets.route(), *(route for room in self._rooms for route in room.routes())]

    async def _start(self, request: Request) -> Response:
        """The address that the server prints leads to the studies."""
        return self._pages.go(request, "/studies")
