"""Taking a study along: as it is stored, or without what identifies the patient, with a look at what that changes."""

from collections import Counter
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages

# What happens to attributes, in the order in which it is shown; what is kept comes last.
CHANGES: Final = {
    "removed": marked("removed"), "emptied": marked("emptied"), "replaced": marked("replaced"),
    "added": marked("added"), "kept": marked("kept"),
}  # fmt: skip


class StudyDownload:
    """The rooms /studies/{study}/download and /studies/{study}/deidentification."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The pages."""
        guarded = self._pages.guarded
        return [
            Route("/studies/{study}/download", guarded(self._page), methods=["GET"]),
            Route("/studies/{study}/deidentification", guarded(self._preview), methods=["GET"]),
        ]

    async def _page(self, request: Request) -> Response:
        study = await self._pages.ask(request, "show_study", {"study": request.path_params["study"]})
        return self._pages.show(request, "study_download.html", study=study, tab="download")

    async def _preview(self, request: Request) -> Response:
        path = {"study": request.path_params["study"]}
        study = await self._pages.ask(request, "show_study", path)
        preview = await self._pages.ask(request, "preview_deidentification", path)
        counts = Counter(each.change.value for each in preview.items)
        return self._pages.show(
            request,
            "study_deidentification.html",
            study=study,
            tab="download",
            preview=preview,
            counts=counts,
            words=CHANGES,
            groups={change: [each for each in preview.items if each.change == change] for change in CHANGES},
        )
