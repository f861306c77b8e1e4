"""**The** list of the rooms that the pages have, in the order of the navigation."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.web.pages.about import About
from pacs_server.web.pages.allow import Allow
from pacs_server.web.pages.audit import Audit
from pacs_server.web.pages.audit_verification import AuditVerification
from pacs_server.web.pages.conflicts import Conflicts
from pacs_server.web.pages.look import Look
from pacs_server.web.pages.network import Network
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.polling import Polling
from pacs_server.web.pages.preferences import Preferences
from pacs_server.web.pages.queue import Queue
from pacs_server.web.pages.remote import RemotePage
from pacs_server.web.pages.remotes import Remotes
from pacs_server.web.pages.rules import Rules
from pacs_server.web.pages.settings import Settings
from pacs_server.web.pages.share import Share
from pacs_server.web.pages.storage import Storage
from pacs_server.web.pages.studies import Studies
from pacs_server.web.pages.study import Study
from pacs_server.web.pages.study_download import StudyDownload
from pacs_server.web.pages.study_history import StudyHistory
from pacs_server.web.pages.study_selection import StudySelection
from pacs_server.web.pages.study_tags import StudyTags
from pacs_server.web.pages.tasks import Tasks
from pacs_server.web.pages.trash import Trash
from pacs_server.web.pages.upload import Upload
from pacs_server.web.pages.users import Users
from pacs_server.web.pages.viewer import Viewer
from pacs_server.web.pages.welcome import Welcome
from pacs_server.web.pages.worklist import Worklist

# To add a room, add one line.
_ROOMS: Final = (
    Studies,
    Worklist,
    Upload,
    StudySelection,
    Study,
    StudyDownload,
    StudyHistory,
    StudyTags,
    Share,
    Look,
    Viewer,
    Conflicts,
    Trash,
    Tasks,
    Storage,
    Audit,
    AuditVerification,
    Users,
    Settings,
    Network,
    Allow,
    Remotes,
    RemotePage,
    Queue,
    Polling,
    Rules,
    About,
    Welcome,
    Preferences,
)


class Rooms:
    """All rooms."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._rooms = [room(pages) for room in _ROOMS]
        pages.entries = [entry for room in self._rooms for entry in room.entries]

    def routes(self) -> list[Route]:
        """The routes of all rooms and files."""
        start = Route("/", self._pages.guarded(self._start), methods=["GET"])
        found = [start, *(route for room in self._rooms for route in room.routes())]
        self._pages.routes = [route for route in found if route.methods is None or "GET" in route.methods]
        return [*found, self._pages.assets.route()]

    async def _start(self, request: Request) -> Response:
        """The address that the server prints leads to the studies, and to the first page while there are none."""
        found = await self._pages.ask(request, "list_studies", query={"limit": 1})
        return self._pages.go(request, "/studies" if found.items else "/welcome")
