"""The viewer, OHIF, for servers that have it: its files, and the settings that lead it to this archive."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import NotFound
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.viewer_files import ViewerFile, viewer_files, viewer_folder, viewer_page
from pacs_server.web.streams import PiecewiseResponse
from pacs_server.web.threads import in_thread, iterate_in_threads

_PLACE: Final = "/viewer"
# It decodes images with WebAssembly that makes functions from text, in workers that it makes from text, writes styles
# into the page, and shows pictures, PDF and video that it has in memory. Nothing comes from, or goes to, other hosts.
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-eval' blob:; worker-src 'self' blob:;"
        " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
        " connect-src 'self' data: blob:; media-src 'self' blob:; object-src 'self' blob:; frame-src 'self' blob:;"
        " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    # Together with the opener policy that every answer has: workers may share memory.
    "cross-origin-embedder-policy": "require-corp",
}
_FOR_EVER: Final = "private, max-age=31536000, immutable"


class Viewer:
    """The room /viewer/."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The settings, and everything else that is below the path."""
        guarded = self._pages.guarded
        return [
            Route(f"{_PLACE}/app-config.js", guarded(self._settings), methods=["GET"]),
            Route(_PLACE + "/{name:path}", guarded(self._file), methods=["GET"]),
        ]

    async def _settings(self, request: Request) -> Response:
        """What the viewer reads first: where the archive is, and what it offers."""
        headers = {**_HEADERS, "content-type": "text/javascript; charset=utf-8"}
        return self._pages.show(request, "viewer_settings.js", headers=headers)

    async def _file(self, request: Request) -> Response:
        """A file; the page where there is none, because the viewer reads the rest of the path itself."""
        folder = viewer_folder(self._pages.services.config().web.viewer_path)
        if folder is None:
            raise NotFound("this server has no viewer; docs/web.md says how to get it")
        name = request.path_params["name"]
        if not name:
            # Its own list of studies is switched off.
            return self._pages.go(request, "/studies")
        file = (await in_thread(viewer_files, folder)).get(name)
        if file is not None:
            return _sent(request, file)
        if "." in name.rpartition("/")[2]:
            raise NotFound("the viewer has no such file")
        text = await in_thread(viewer_page, folder, self._pages.prefix(request) + _PLACE)
        return Response(text, media_type="text/html", headers={**_HEADERS, "cache-control": "no-cache"})


def _sent(request: Request, file: ViewerFile) -> Response:
    """A file for this client: compressed if it is and the client can read that; nothing if the client has it."""
    packed = file.packed and _takes_gzip(request.headers)
    headers = {
        **_HEADERS,
        "cache-control": _FOR_EVER if file.for_ever else "no-cache",
        "etag": f'"{file.tag}{"-gz" if packed else ""}"',
        "vary": "accept-encoding",
    }
    # RFC 9110 13.1.2.
    if headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if packed:
        headers["content-encoding"] = "gzip"
    length = file.path.stat().st_size if packed or not file.packed else None
    body = iterate_in_threads(file.content(packed=packed))
    return PiecewiseResponse(body, file.media_type, headers=headers, length=length)


def _takes_gzip(headers: Mapping[str, str]) -> bool:
    """Whether a client reads gzip (RFC 9110 12.5.3)."""
    for each in headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
