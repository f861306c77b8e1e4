"""One study: its patient, its series with pictures, and what can be done with it."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.web.pages.page import Pages


class Study:
    """The room /studies/{study}."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/studies/{study}", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        uid = request.path_params["study"]
        study = await self._pages.ask(request, "show_study", {"study": uid})
        series = await self._pages.ask(request, "list_series", query={"StudyInstanceUID": uid, "limit": 1000})
        rows = sorted(series.items, key=lambda row: (int(row.SeriesNumber or 0), row.SeriesInstanceUID))
        return self._pages.show(request, "study.html", study=study, series=rows)
