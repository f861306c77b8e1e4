"""The quick look at the images of a study: a small viewer in the page, which is not for diagnosis."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import NotFound
from pacs_server.web.pages.page import Pages

# Modalities of objects without pixels (PS3.3 C.7.3.1.1.1). A study is opened at what can be seen.
_WITHOUT_PIXELS: Final = frozenset(
    "SR PR KO DOC REG RTPLAN RTSTRUCT RTRECORD RWV FID PLAN ECG HD EPS AU SRF M3D TEXTUREMAP".split()
)
_MOST_SERIES: Final = 1000


class Look:
    """The room /look/{study}."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/look/{study}", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        """The study, opened at the series that the address names, else at the first one with images."""
        uid = request.path_params["study"]
        study = await self._pages.ask(request, "show_study", {"study": uid})
        query = {"StudyInstanceUID": uid, "limit": _MOST_SERIES}
        found = (await self._pages.ask(request, "list_series", query=query)).items
        rows = sorted(found, key=lambda row: (int(row.SeriesNumber or 0), row.SeriesInstanceUID))
        begin = _named(rows, request.query_params.get("series")) or _first(rows)
        compared = _named(rows, request.query_params.get("compare"))
        return self._pages.show(
            request, "look.html", study=study, series=rows, begin=begin, compared=compared, without=_WITHOUT_PIXELS
        )


def _named(rows: list[Any], uid: str | None) -> str | None:
    """The series that an address names, if it names one. Raises NotFound."""
    if uid and uid not in (row.SeriesInstanceUID for row in rows):
        raise NotFound("the study has no such series")
    return uid or None


def _first(rows: list[Any]) -> str:
    """The first series with images, else the first one."""
    if not rows:
        raise NotFound("the study has no series")
    return str(next((row for row in rows if row.Modality not in _WITHOUT_PIXELS), rows[0]).SeriesInstanceUID)
