"""Let a refused peer in: the access rule for it, shown before it is written."""

from http import HTTPStatus
from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.config.sections.access_control import PeerService
from pacs_server.errors import Conflict
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages

SERVICES: Final = {
    "echo": marked("check that the archive answers"),
    "store": marked("send objects here"),
    "find": marked("search"),
    "move": marked("have objects sent to other systems"),
    "get": marked("retrieve objects"),
    "worklist": marked("read the worklist"),
    "mpps": marked("report what was done with a patient"),
    "commitment": marked("ask whether objects are stored safely"),
}


class Allow:
    """The room /network/allow."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The rule, and writing it."""
        return [
            Route("/network/allow", self._pages.guarded(self._page), methods=["GET"]),
            Route("/network/allow", self._pages.guarded(self._write), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        asked = request.query_params
        peer = {"calling_ae": asked.get("calling_ae", ""), "address": asked.get("address", "")}
        allow = asked.getlist("allow") or list(get_args(PeerService))
        return await self._show(request, peer, allow)

    async def _show(self, request: Request, peer: dict[str, str], allow: list[str], problem: str = "") -> Response:
        """The rule; with a `problem`, why it could not be written a moment ago."""
        rule = await self._pages.ask(request, "suggest_peer_rule", query={**peer, "allow": allow})
        if problem:
            rule = rule.model_copy(update={"problem": problem})
        return self._pages.show(
            request, "allow.html", HTTPStatus.CONFLICT if problem else HTTPStatus.OK,
            peer=peer, allow=allow, services=SERVICES, rule=rule,
        )  # fmt: skip

    async def _write(self, request: Request) -> Response:
        form = await self._pages.form(request)
        peer = {"calling_ae": form.get("calling_ae", ""), "address": form.get("address", "")}
        allow = form.getlist("allow")
        try:
            await self._pages.ask(request, "add_peer_rule", body={**peer, "allow": allow})
        except Conflict as error:
            return await self._show(request, peer, allow, str(error))
        return self._pages.go(request, "/network/allow", **peer, allow=allow)
