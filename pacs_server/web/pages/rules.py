"""The routing rules, and what they would do with a study."""

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_WHEN: Final = {
    "arrival": marked("when an image arrives"),
    "study_complete": marked("when a study is complete"),
    "finding": marked("when an analysis has found something"),
}
_ACCESSION: Final = re.compile(r"[^\\*?]{1,16}")


class Rules:
    """The room /rules."""

    entries = (Entry(marked("Routing rules"), "/rules", "send", Role.OPERATOR, marked("Network")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, with the trial of a study."""
        return [Route("/rules", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        rules = (await self._pages.ask(request, "list_rules")).items
        study = request.query_params.get("study", "").strip()
        trial, missing = None, False
        if study:
            try:
                uid = await self._uid(request, study)
                trial = await self._pages.ask(request, "test_rules", {"study": uid})
            except NotFound:
                missing = True
        verdicts = {each.rule.name: each for each in trial.items} if trial else {}
        return self._pages.show(
            request, "rules.html", rules=rules, when=_WHEN, study=study, trial=trial, missing=missing,
            verdicts=verdicts,
        )  # fmt: skip

    async def _uid(self, request: Request, text: str) -> str:
        """The Study Instance UID that was typed, or that of the study with this accession number."""
        if _ACCESSION.fullmatch(text):
            query = {"AccessionNumber": text, "limit": 1}
            found = (await self._pages.ask(request, "list_studies", query=query)).items
            if found:
                return str(found[0].StudyInstanceUID)
        return text
