"""About this server: its version, what it speaks, how programs reach it, and its conformance statement."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.markdown import document
from pacs_server.web.pages.page import Entry, Pages


class About:
    """The rooms /about and /about/conformance."""

    entries = (Entry(marked("About"), "/about", "about"),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The two pages."""
        guarded = self._pages.guarded
        return [
            Route("/about", guarded(self._about), methods=["GET"]),
            Route("/about/conformance", guarded(self._conformance), methods=["GET"]),
        ]

    async def _about(self, request: Request) -> Response:
        about = await self._pages.ask(request, "show_about")
        status = await self._pages.ask(request, "show_status")
        return self._pages.show(request, "about.html", about=about, server=status)

    async def _conformance(self, request: Request) -> Response:
        statement = await self._pages.ask(request, "show_conformance")
        return self._pages.show(request, "conformance.html", document=document(statement.markdown))
