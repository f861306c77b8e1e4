"""Uploading: files, folders and ZIP archives from the reader's machine, each stored by a Store transaction (STOW-RS).

The script of the page sends one file after the other, so that each has a result of its own, and a break costs one file.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.services.access import require
from pacs_server.web.caller import caller_of
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages


class Upload:
    """The room /upload."""

    entries = (Entry(marked("Upload"), "/upload", "upload", Role.CONTRIBUTOR),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/upload", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        require(caller_of(request), Role.CONTRIBUTOR)
        return self._pages.show(request, "upload.html")
