"""The remotes: which work, whether one is there, pause and resume."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import PacsError
from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.delivery_words import failure
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

# What can be done by a button, and the operation that does it.
_DEEDS: Final = {"pause": "pause_remote", "resume": "resume_remote"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of an echo: the milliseconds, or why there was no answer."""

    milliseconds: int = 0
    implementation: str = ""
    reason: str = ""
    words: Explained | None = None


class Remotes:
    """The room /remotes."""

    entries = (Entry(marked("Remotes"), "/remotes", "link", Role.OPERATOR, marked("Network")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, and what its buttons do."""
        guarded = self._pages.guarded
        return [
            Route("/remotes", guarded(self._page), methods=["GET"]),
            Route("/remotes/{remote}/echo", guarded(self._echo), methods=["POST"]),
            Route("/remotes/{remote}/state", guarded(self._decide), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        return await self._show(request, {})

    async def _echo(self, request: Request) -> Response:
        await self._pages.form(request)
        name = request.path_params["remote"]
        try:
            answer = await self._pages.ask(request, "echo_remote", {"remote": name})
        except PacsError as error:
            asked = Asked(reason=str(error), words=failure(str(error)))
        else:
            asked = Asked(max(1, round(answer.seconds * 1000)), answer.implementation_version_name)
        return await self._show(request, {name: asked})

    async def _decide(self, request: Request) -> Response:
        form = await self._pages.form(request)
        operation = _DEEDS.get(form.get("deed", ""), "resume_remote")
        await self._pages.ask(request, operation, {"remote": request.path_params["remote"]})
        return self._pages.go(request, "/remotes")

    async def _show(self, request: Request, asked: Mapping[str, Asked]) -> Response:
        ask = self._pages.ask
        settings = await ask(request, "list_remotes")
        states = {each.name: each for each in (await ask(request, "outgoing")).items}
        peers = _by_title((await ask(request, "list_peers")).items)
        return self._pages.show(
            request, "remotes.html", asked=asked,
            remotes=[
                (each, state, failure(state.reason) if state.reason else None, peers.get(each.ae_title))
                for each in settings.items if (state := states.get(each.name)) is not None
            ],
        )  # fmt: skip


def _by_title(peers: list[Any]) -> dict[str, Any]:
    """The peers by AE title, the last seen of each."""
    return {each.calling_ae: each for each in reversed(peers) if each.calling_ae}
