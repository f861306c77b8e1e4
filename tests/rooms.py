"""The web pages on an archive of their own, without a server process and without a browser."""

import re
from pathlib import Path

from httpx2 import Response
from restapi import RestAPI
from starlette.applications import Starlette
from starlette.testclient import TestClient

from pacs_server.web.credentials import CookieNames
from pacs_server.web.door import error_handlers
from pacs_server.web.forms import Forms
from pacs_server.web.middleware import Gate
from pacs_server.web.pages import door
from pacs_server.web.pages.asking import Asking
from pacs_server.web.pages.assets import Assets
from pacs_server.web.pages.page import Pages

_TOKEN = re.compile(r'<meta name="form-token" content="([^"]+)">')


class Rooms(RestAPI):
    """The REST API, and the pages that ask it; forms are sent as a browser would."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        super().__init__(directory, url)
        names = CookieNames(self.archive.sessions.archive_id(), False)
        asking = Asking(self.door.operations, lambda request: "http://127.0.0.1:8080")
        self.pages = Pages(self.services, asking, Forms(lambda request: names), Assets())
        app = Starlette(
            routes=[*self.door.routes(), *door.Rooms(self.pages).routes()],
            exception_handlers=error_handlers(self.services.auditor),
        )
        gate = Gate(app, lambda: self.config.web, self._identify)
        self.browser = TestClient(gate, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1))
        self._token = ""

    def page(self, path: str, status: int = 200) -> str:
        """The HTML of a page."""
        return self._html(self.browser.get(path), status)

    def submit(self, path: str, status: int = 200, **fields: str) -> str:
        """The page that a form leads to; the form comes from the page that was read last."""
        return self._html(self.browser.post(path, data={"token": self._token, **fields}), status)

    def _html(self, answer: Response, status: int) -> str:
        assert answer.status_code == status, (answer.status_code, answer.text)
        if (token := _TOKEN.search(answer.text)) is not None:
            self._token = token[1]
        return answer.text

    def close(self) -> None:
        """Close the archive."""
        self.browser.close()
        super().close()
