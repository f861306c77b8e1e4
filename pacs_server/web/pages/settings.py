"""The settings: what is in force, where it comes from, what it does, and what waits for a restart."""

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages


class Settings:
    """The room /settings."""

    entries = (Entry(marked("Settings"), "/settings", "settings", Role.ADMINISTRATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/settings", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        q = request.query_params.get("q", "").strip()
        only_set = "set" in request.query_params
        found = await self._pages.ask(request, "show_configuration")
        shown = [each for each in found.settings if fits(each, q) and not (only_set and each.origin == "default")]
        reload = found.last_reload
        sections = groupby(shown, lambda each: each.key.partition(".")[0])
        return self._pages.show(
            request, "settings.html",
            search={"q": q, "set": only_set}, waiting=found.waiting_for_restart, reload=reload,
            reloaded=None if reload is None else datetime.fromisoformat(str(reload["at"])).astimezone(),
            sections=[(name, list(members)) for name, members in sections],
            written=written, told=told,
        )  # fmt: skip


def fits(setting: Any, q: str) -> bool:
    """Whether each word is in the key, the value, or the explanation of a setting."""
    text = f"{setting.key} {written(setting.value)} {setting.explanation}".casefold()
    return all(word in text for word in q.casefold().split())


def written(value: object) -> str:
    """A value as one would write it into the file: YAML takes JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    indent = 2 if isinstance(value, list | dict) and any(isinstance(each, dict) for each in value) else None
    return json.dumps(value, ensure_ascii=False, indent=indent)


def told(text: str) -> Markup:
    """A text of the documentation with its `code` as such."""
    return Markup("").join(_pieces(text))


def _pieces(text: str) -> Iterator[Markup]:
    for number, piece in enumerate(text.split("`")):
        yield Markup("<code>{}</code>").format(piece) if number % 2 else escape(piece)
