"""The list of studies: where everybody begins."""

from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from pacs_server.kit.csv_rows import csv_row
from pacs_server.web.pages.formats import person
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.preferences import keep_choice
from pacs_server.web.pages.study import READINGS
from pacs_server.web.pages.study_columns import COLUMNS, COOKIE, columns_of, kept_as
from pacs_server.web.pages.study_search import DAYS, RECEIVED, StudySearch

# So many studies can be selected at a time.
MOST_SELECTED: Final = 200
_ROWS: Final = 50
# A table of so many rows is written, by pages.
_MOST_LINES: Final = 10_000
_LINES: Final = 1000
_CSV: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyDescription",
    "ModalitiesInStudy", "AccessionNumber", "ReferringPhysicianName", "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances", "labels", "reading", "StudyInstanceUID",
)  # fmt: skip


class Studies:
    """The room /studies."""

    entries = (Entry(marked("Studies"), "/studies", "studies"),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, the same as a table for spreadsheets, and the choice of columns."""
        guarded = self._pages.guarded
        return [
            Route("/studies", guarded(self._list), methods=["GET"]),
            Route("/studies/table.csv", guarded(self._table), methods=["GET"]),
            Route("/studies/columns", guarded(self._columns), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        search = StudySearch(request.query_params)
        page = await self._pages.ask(request, "search_studies", query={**search.asked(), "limit": _ROWS})
        return self._pages.show(
            request,
            "studies.html",
            search=search,
            rows=page.items,
            total=page.total,
            following=page.after and search.query(after=page.after),
            columns=columns_of(request),
            all_columns=COLUMNS,
            choices=await self._pages.ask(request, "study_choices"),
            days=DAYS,
            received_words=RECEIVED,
            readings=READINGS,
            most=MOST_SELECTED,
            said=request.query_params.get("said", ""),
        )

    async def _table(self, request: Request) -> Response:
        search = StudySearch(request.query_params)
        # Whatever is refused is refused before the first byte.
        first = await self._pages.ask(request, "search_studies", query={**search.asked(), "limit": _LINES})
        headers = {"content-disposition": 'attachment; filename="studies.csv"', "cache-control": "no-store"}
        return StreamingResponse(self._lines(request, search, first), 200, headers, "text/csv; charset=utf-8")

    async def _lines(self, request: Request, search: StudySearch, page: Any) -> AsyncIterator[str]:
        yield csv_row(_CSV)
        for _ in range(_MOST_LINES // _LINES):
            yield table_of(page.items)
            if page.after is None:
                return
            asked = {**search.asked(), "limit": _LINES, "after": page.after}
            page = await self._pages.ask(request, "search_studies", query=asked)

    async def _columns(self, request: Request) -> Response:
        form = await self._pages.form(request)
        answer: RedirectResponse = keep_choice(
            self._pages, request, form.get("back", ""), {COOKIE: kept_as(form.getlist("column"))}
        )
        return answer


def table_of(rows: list[Any]) -> str:
    """Studies as lines of CSV."""
    return "".join(csv_row([_cell(row, name) for name in _CSV]) for row in rows)


def csv_head() -> str:
    """The first line of such a table."""
    return csv_row(_CSV)


def _cell(row: Any, name: str) -> str:
    value = getattr(row, name)
    if name in ("PatientName", "ReferringPhysicianName"):
        return person(value)
    return ", ".join(value) if isinstance(value, list | tuple) else str("" if value is None else value)
