"""Let a refused peer in: the access rule for it, shown before it is written."""

from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.config.sections.access_control import PeerService
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages

SERVICES: Final = {
    "echo": marked("ask whether the archive is there"),
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
        rule = await self._pages.ask(request, "suggest_peer_rule", query={**peer, "allow": allow})
        return self._pages.show(request, "allow.html", peer=peer, allow=allow, services=SERVICES, rule=rule)

    async def _write(self, request: Request) -> Response:
        form = await self._pages.form(request)
        values = {
            "calling_ae": form.get("calling_ae", ""),
            "address": form.get("address", ""),
            "allow": form.getlist("allow"),
        }
        await self._pages.ask(request, "add_peer_rule", body=values)
        return self._pages.go(request, "/network/allow", **values)
