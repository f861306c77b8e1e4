"""The audit trail: who did what with whose data, searched, and taken along as a file."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.web.pages.audit_words import KINDS, told
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.lists import following
from pacs_server.web.pages.page import Entry, Pages

_SHOWN: Final = 50
# The days that words mean: from so many days ago to so many days ago.
_DAYS: Final = {"today": (0, 0), "yesterday": (1, 1), "week": (6, 0), "month": (29, 0)}
WHEN: Final = {
    "today": marked("today"), "yesterday": marked("yesterday"),
    "week": marked("the last 7 days"), "month": marked("the last 30 days"),
}  # fmt: skip
# Searches are many, and say least of who has seen something.
NO_SEARCHES: Final = "no_query"
_TEXTS: Final = ("patient", "study", "user", "address", "first", "last")


class Audit:
    """The room /audit."""

    entries = (Entry(marked("Audit"), "/audit", "audit", Role.ADMINISTRATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list."""
        return [Route("/audit", self._pages.guarded(self._list), methods=["GET"])]

    async def _list(self, request: Request) -> Response:
        given = request.query_params
        search = {name: given.get(name, "").strip() for name in (*_TEXTS, "when", "event", "failed")}
        query = wanted(search, datetime.now(UTC).date())
        place = {"newest": True, "limit": _SHOWN, "after": given.get("after")}
        try:
            page = await self._pages.ask(request, "search_audit_trail", query={**query, **place})
        except NotFound:
            return self._pages.show(request, "audit.html", on=False)
        return self._pages.show(
            request, "audit.html", on=True, search=search, kinds=KINDS, no_searches=NO_SEARCHES, when=WHEN, query=query,
            rows=[(row, told(row.event)) for row in page.items], following=following(request, page.next),
            with_searches={**{name: text for name, text in search.items() if text}, "event": ""},
        )  # fmt: skip


def wanted(search: dict[str, str], today: date) -> dict[str, str]:
    """The parameters of the operation for what somebody searches; words for days become days."""
    query = {name: search[name] for name in (*_TEXTS, "event") if search.get(name)}
    if query.get("event") == NO_SEARCHES:
        del query["event"]
        query["without"] = "query"
    if (days := _DAYS.get(search.get("when", ""))) is not None:
        query |= {
            name: (today - timedelta(days=back)).isoformat() for name, back in zip(("first", "last"), days, strict=True)
        }
    if search.get("failed") in ("true", "false"):
        query["failed"] = search["failed"]
    return query
