"""The trash: what was deleted, by whom and why, until when it is kept, and bringing it back."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.lists import following
from pacs_server.web.pages.page import Entry, Pages

_SHOWN: Final = 50
LEVELS: Final = {"study": marked("Study"), "series": marked("One series"), "instance": marked("One image")}


class Trash:
    """The room /trash."""

    entries = (Entry(marked("Trash"), "/trash", "trash", Role.OPERATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, one deletion, and what its buttons do."""
        guarded = self._pages.guarded
        return [
            Route("/trash", guarded(self._list), methods=["GET"]),
            Route("/trash/{deletion}/purge", guarded(self._ask), methods=["GET"]),
            Route("/trash/{deletion}/purge", guarded(self._purge), methods=["POST"]),
            Route("/trash/{deletion}/restore", guarded(self._restore), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        given = request.query_params
        query = {"whose": True, "limit": _SHOWN, "after": given.get("after")}
        page = await self._pages.ask(request, "list_trash", query=query)
        said = {name: int(text) for name in ("restored", "left") if (text := given.get(name, "")).isdecimal()}
        return self._pages.show(
            request, "trash.html", rows=page.items, levels=LEVELS, following=following(request, page.next),
            said=said, purged="purged" in given,
        )  # fmt: skip

    async def _restore(self, request: Request) -> Response:
        await self._pages.form(request)
        done = await self._pages.ask(request, "restore", path=request.path_params)
        left = len(done.conflicts) + len(done.missing)
        return self._pages.go(request, "/trash", restored=str(done.instances), left=str(left))

    async def _ask(self, request: Request) -> Response:
        row = await self._pages.ask(request, "show_deletion", path=request.path_params)
        return self._pages.show(request, "purge.html", row=row, levels=LEVELS)

    async def _purge(self, request: Request) -> Response:
        await self._pages.form(request)
        await self._pages.ask(request, "purge_deletion", path=request.path_params)
        return self._pages.go(request, "/trash", purged="yes")
