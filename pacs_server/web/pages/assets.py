"""The style sheet, the scripts and the pictures of the pages. Their address holds a digest, so browsers keep them."""

import hashlib
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import NotFound
from pacs_server.web.policy import ASSETS

FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".webmanifest":
                 "application/manifest+json"}  # fmt: skip
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Assets:
    """All files of the folder `static`, in memory: they are small. Scripts import each other by relative paths."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {
            path.relative_to(folder).as_posix(): (path.read_bytes(), _TYPES[path.suffix])
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in _TYPES
        }
        digest = hashlib.sha256()
        for name, (data, _) in self._files.items():
            digest.update(name.encode() + b"\0" + data)
        # One digest for all, because scripts name each other without one.
        self.version = digest.hexdigest()[:12]

    def path(self, name: str) -> str:
        """The path of a file, below that of the server."""
        assert name in self._files, f"there is no {name} in {FOLDER.name}"
        return f"{ASSETS}{self.version}/{name}"

    def route(self) -> Route:
        """The route of all files; the digest of another version gives the file as it is now, and is not kept."""
        return Route(ASSETS + "{version}/{name:path}", self._file, methods=["GET"])

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params["name"])
        if found is None:
            raise NotFound("there is no such file")
        kept = _FOR_EVER if request.path_params["version"] == self.version else "no-cache"
        return Response(found[0], media_type=found[1], headers={"cache-control": kept})
