"""The list of studies: where everybody begins."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages


class Studies:
    """The room /studies."""

    entries = (Entry(marked("Studies"), "/studies", "studies"),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list."""
        return [Route("/studies", self._pages.guarded(self._list), methods=["GET"])]

    async def _list(self, request: Request) -> Response:
        q, after = request.query_params.get("q", "").strip(), request.query_params.get("after")
        keys = {"PatientName": f"*{q}*"} if q else {}
        page = await self._pages.ask(request, "list_studies", query={**keys, "limit": 50, "after": after})
        following = None
        if page.next:
            last = page.next.rpartition("after=")[2]
            following = str(request.url.include_query_params(after=last).query)
        return self._pages.show(
            request, "studies.html", search={"q": q}, rows=page.items, following=following and f"?{following}"
        )
