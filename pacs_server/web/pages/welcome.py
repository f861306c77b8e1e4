"""The first page: how images get here, how workstations get at them, and sample studies to try it with."""

import shlex
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import InvalidRequest
from pacs_server.web.caller import caller_of
from pacs_server.web.pages.association_words import ending, refusal
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_LAST: Final = 5


class Welcome:
    """The room /welcome."""

    entries = (Entry(marked("Get started"), "/welcome", "welcome"),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page, and its button for samples."""
        return [
            Route("/welcome", self._pages.guarded(self._page), methods=["GET"]),
            Route("/welcome/samples", self._pages.guarded(self._samples), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        ask = self._pages.ask
        here = await ask(request, "show_connection")
        caller = caller_of(request)
        unlimited = not caller.scope.is_limited
        adds = unlimited and ask.may(request, "add_samples")
        arrivals = await self._arrivals(request) if unlimited and ask.may(request, "list_recent_associations") else None
        draft, wrong = await self._draft(request)
        return self._pages.show(
            request, "welcome.html", here=here, arrivals=arrivals, draft=draft, wrong=wrong,
            open_mode=unlimited and caller.user is None and not caller.certificate,
            asked=request.query_params, commands=_commands(here), may_add=adds,
            may_remove=unlimited and ask.may(request, "remove_samples"),
            samples=(await ask(request, "list_samples")).studies if adds else [],
            studies=(await ask(request, "list_studies", query={"limit": 3})).items,
        )  # fmt: skip

    async def _arrivals(self, request: Request) -> list[tuple[Any, str, bool]]:
        """The last associations, each with how it went in words, and whether that was well."""
        found = (await self._pages.ask(request, "list_recent_associations", query={"limit": 100})).items
        # What asked for no association tells a newcomer nothing.
        rows = [each for each in found if each.calling_ae][:_LAST]
        return [(each, refusal(each.outcome).why, False) if each.refused else _ended(each) for each in rows]

    async def _draft(self, request: Request) -> tuple[list[str], str]:
        """The lines for a new workstation, or what is wrong with what was typed."""
        asked = request.query_params
        if not (asked.get("ae_title") and asked.get("host")) or not self._pages.ask.may(request, "draft_remote"):
            return [], ""
        names = ("ae_title", "host", "port", "name")
        query = {name: asked.get(name, "").strip() for name in names} | {"tls": "tls" in asked}
        try:
            return (await self._pages.ask(request, "draft_remote", query=query)).lines, ""
        except InvalidRequest as error:
            return [], str(error)

    async def _samples(self, request: Request) -> Response:
        form = await self._pages.form(request)
        if form.get("deed") == "remove":
            await self._pages.ask(request, "remove_samples")
            return self._pages.go(request, "/welcome", said="removed")
        await self._pages.ask(request, "add_samples")
        return self._pages.go(request, "/studies")


def _ended(each: Any) -> tuple[Any, str, bool]:
    how, well = ending(each.outcome)
    return each, how, well and not each.refusals


def _commands(here: Any) -> list[tuple[str, str]]:
    """Commands of DCMTK that reach this archive, each with what it does."""
    host = here.addresses[0] if here.addresses else "127.0.0.1"
    # Where only some AE titles are let in, DCMTK's own are not.
    calling = "" if here.lets_everybody_in else "-aet AE_TITLE "
    to = f"{calling}-aec {shlex.quote(here.ae_title)} {host} {here.port}"
    study = "-k QueryRetrieveLevel=STUDY -k PatientName -k StudyInstanceUID"
    return [
        (marked("Check that the archive answers"), f"echoscu {to}"),
        (marked("Send all files of a folder"), f"storescu +sd +r {to} FOLDER"),
        (marked("List the studies"), f"findscu -S {study} {to}"),
        (marked("Retrieve a study into this folder"),
         f"getscu -S -k QueryRetrieveLevel=STUDY -k StudyInstanceUID=UID {to}"),
    ]  # fmt: skip
