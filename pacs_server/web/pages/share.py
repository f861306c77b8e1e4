"""Links that show one study: making and revoking them, and the page where they lead."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.web.addresses import visitor_of
from pacs_server.web.caller import caller_of
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.study import whole
from pacs_server.web.policy import SESSION, SHARE, caller_of_visitor
from pacs_server.web.threads import in_thread

# How long links may work, in hours; those that are longer than the configuration allows are not offered.
_HOURS: Final = (1, 24, 72, 168, 720)
_SECONDS: Final = 3600
_MOST_BYTES: Final = 16_384


class Share:
    """The rooms /studies/{study}/share and /share."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._services = pages.services

    def routes(self) -> list[Route]:
        """The pages, and where their forms go."""
        guarded = self._pages.guarded
        return [
            Route("/studies/{study}/share", guarded(self._page), methods=["GET"]),
            Route("/studies/{study}/share", guarded(self._change), methods=["POST"]),
            Route(SHARE, guarded(self._ask), methods=["GET"]),
            Route(SHARE, guarded(self._open), methods=["POST"]),
        ]

    # ---------------------------------------------------------------- for those who share

    async def _page(self, request: Request, made: Any = None) -> Response:
        ask, path = self._pages.ask, {"study": request.path_params["study"]}
        if not self._services.share_links.enabled:
            raise NotFound("share links are switched off (web.share_links.enabled)")
        study = await ask(request, "show_study", path)
        longest = self._services.share_links.longest.total_seconds() / _SECONDS
        return self._pages.show(
            request,
            "study_share.html",
            study=study,
            tab="share",
            links=(await ask(request, "list_share_links", path)).items,
            hours=[each for each in _HOURS if each <= longest] or [int(longest)],
            made=made,
            me=participant_of(caller_of(request)).user_id,
        )

    async def _change(self, request: Request) -> Response:
        form, path = await self._pages.form(request), {"study": request.path_params["study"]}
        if revoke := form.get("revoke", ""):
            await self._pages.ask(request, "revoke_share_link", {**path, "link": revoke})
            return self._pages.go(request, f"/studies/{path['study']}/share")
        body = {"hours": whole(form.get("hours")) or None, "purpose": form.get("purpose", "")}
        # The address is told only now: it is in no place that a redirection could lead to.
        return await self._page(request, await self._pages.ask(request, "make_share_link", path, body=body))

    # ---------------------------------------------------------------- for those who got a link

    async def _ask(self, request: Request) -> Response:
        """The page where a link leads; its script sends what is behind # by the form, which works by hand as well."""
        return self._pages.show(request, "share.html", problem=False)

    async def _open(self, request: Request) -> Response:
        form = await self._pages.forms.read(request, _MOST_BYTES)
        services, config = self._services, self._services.config()
        visitor = visitor_of(request, config.web)
        secret = form.get("secret", "").rpartition("#")[2].strip()
        opened = await in_thread(services.share_links.open, secret, visitor.address)
        if opened is None:
            caller = caller_of_visitor(visitor)
            await in_thread(services.auditor.login_failed, caller, "", "the share link is not valid, or no longer")
            return self._pages.show(request, "share.html", 404, problem=True)
        names = self._pages.forms.names(request)
        if before := request.cookies.get(names.of(SESSION)):
            await in_thread(services.sessions.end, before)
        guest = caller_of_visitor(visitor, opened.session.user, Role.READER, opened.session.scope)
        await in_thread(services.auditor.logged_in, guest, f"a link made by {opened.made_by}")
        answer = self._pages.go(request, f"/studies/{opened.study_instance_uid}")
        names.set(answer, SESSION, opened.token, config.web.sessions.lifetime)
        return answer
