"""Background tasks: what the server promised to do later, what has become of it, and trying again."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.lists import following
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.task_words import KINDS, STATES, explained

_SHOWN: Final = 50
_DONE: Final = {"retry": marked("The task is tried again now."), "cancel": marked("The task is cancelled.")}


class Tasks:
    """The room /tasks."""

    entries = (Entry(marked("Tasks"), "/tasks", "tasks", Role.OPERATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, and what its buttons do."""
        guarded = self._pages.guarded
        return [
            Route("/tasks", guarded(self._list), methods=["GET"]),
            Route("/tasks/{task:int}/{deed}", guarded(self._do), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        asked, given = self._pages.ask, request.query_params
        state = given.get("state", "")
        search = {name: given.get(name, "").strip() for name in ("kind", "target")}
        states = [state] if state in STATES else list(STATES) if state == "all" else None
        page = await asked(
            request, "list_tasks", query={**search, "state": states, "limit": _SHOWN, "after": given.get("after")}
        )
        counts = await asked(request, "count_tasks")
        return self._pages.show(
            request, "tasks.html",
            search={**search, "state": state}, counts=counts.items, kinds=KINDS, states=STATES,
            rows=[(row, explained(row.last_error) if row.last_error else None) for row in page.items],
            following=following(request, page.next), said=_DONE.get(given.get("said", "")),
        )  # fmt: skip

    async def _do(self, request: Request) -> Response:
        deed = request.path_params["deed"]
        form = await self._pages.form(request)
        operation = "retry_task" if deed == "retry" else "cancel_task"
        await self._pages.ask(request, operation, path={"task": request.path_params["task"]})
        kept = {name: form.get(name, "") for name in ("state", "kind", "target")}
        return self._pages.go(request, "/tasks", **kept, said=deed)
