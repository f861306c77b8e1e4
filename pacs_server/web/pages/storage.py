"""The storage: how long it will last, how it grew, what takes the room, and whether everything is in order."""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.plots import bars, growth, months


class Storage:
    """The room /storage."""

    entries = (Entry(marked("Storage"), "/storage", "storage", Role.OPERATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/storage", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        storage = await self._pages.ask(request, "show_storage")
        server = await self._pages.ask(request, "show_server")
        counted = await self._pages.ask(request, "show_statistics")
        scrub, today = server.sections.get("scrub") or {}, datetime.now(UTC).date()
        ended = scrub.get("last_pass")
        return self._pages.show(
            request, "storage.html",
            storage=storage, counts=server.sections.get("counts") or {}, counted=counted,
            database=server.sections.get("database") or {}, findings=scrub.get("findings"),
            last_pass=None if ended is None else datetime.fromisoformat(ended),
            growth=growth(counted.days, today), bars=bars(counted.days, today), months=months(counted.days),
        )  # fmt: skip
