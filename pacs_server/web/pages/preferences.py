"""What a reader chooses for this browser: language and colours, kept in cookies."""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pacs_server.web.pages.languages import COOKIE
from pacs_server.web.pages.page import THEME_COOKIE, THEMES, Pages
from pacs_server.web.urls import base_url, local_target

_YEAR: Final = 365 * 24 * 3600


class Preferences:
    """The room behind the form that every page has."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """Where the form goes."""
        return [Route("/preferences", self._pages.guarded(self._keep), methods=["POST"])]

    async def _keep(self, request: Request) -> Response:
        form = await self._pages.form(request)
        chosen = {
            cookie: value
            for cookie, value, known in (
                (COOKIE, form.get("language", ""), self._pages.languages.codes),
                (THEME_COOKIE, form.get("theme", ""), THEMES),
            )
            if value in known
        }
        return keep_choice(self._pages, request, form.get("back", ""), chosen)


def keep_choice(pages: Pages, request: Request, back: str, cookies: Mapping[str, str]) -> RedirectResponse:
    """Have the browser keep what somebody has chosen, and go back to the page where it was."""
    base = base_url(request, pages.services.config().web)
    answer = RedirectResponse(f"{base}{local_target(back)}", 303)
    secure = base.startswith("https:")
    for cookie, value in cookies.items():
        answer.set_cookie(cookie, value, max_age=_YEAR, secure=secure, httponly=True, samesite="lax")
    return answer
