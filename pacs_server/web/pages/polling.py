"""Polling: what the archive fetches by itself, how far each study has come, and a button that asks a remote now."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.delivery_words import OTHER, failure
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_SHOWN: Final = 200
STATES: Final = {
    "found": marked("waits"),
    "fetching": marked("is fetched"),
    "complete": marked("complete"),
    "failed": marked("given up"),
    "dropped": marked("removed from the cache"),
}


class Polling:
    """The room /polling."""

    entries = (Entry(marked("Polling"), "/polling", "download", Role.OPERATOR, marked("Network")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The lists, and what the buttons do."""
        guarded = self._pages.guarded
        return [
            Route("/polling", guarded(self._page), methods=["GET"]),
            Route("/polling/{polling}/now", guarded(self._now), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        ask, asked = self._pages.ask, request.query_params
        state, remote, before = asked.get("state", ""), asked.get("remote", ""), asked.get("before", "")
        query = {
            "state": state if state in STATES else None, "remote": remote[:64],
            "before": before if before.isdigit() else None, "limit": _SHOWN,
        }  # fmt: skip
        pollings = (await ask(request, "list_polling")).items
        found = await ask(request, "list_remote_studies", query=query)
        chosen = {"remote": remote, "state": state}
        return self._pages.show(
            request, "polling.html", states=STATES, chosen=chosen,
            pollings=[(each, failure(each.last_error) if each.failures else None) for each in pollings],
            rows=[(each, _words(each.last_error)) for each in found.items],
            remotes=sorted({each.remote for each in pollings}),
            older=None if found.complete else found.items[-1].id,
        )  # fmt: skip

    async def _now(self, request: Request) -> Response:
        await self._pages.form(request)
        await self._pages.ask(request, "poll_now", {"polling": request.path_params["polling"]})
        return self._pages.go(request, "/polling")


def _words(last_error: str) -> Explained | None:
    """Why a study was not fetched; None for what is no failure of the remote and says itself what it is."""
    words = failure(last_error) if last_error else None
    return None if words == OTHER else words
