"""Conditional requests and byte ranges (RFC 9110 13 and 14)."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from pacs_server.web.status import problem

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class ByteRange(NamedTuple):
    """The bytes from `start` to before `stop`."""

    start: int
    stop: int

    def headers(self, size: int) -> dict[str, str]:
        """What tells the client which part of the whole it gets."""
        return {"content-range": f"bytes {self.start}-{self.stop - 1}/{size}"}


def conditions(request: Request, headers: Mapping[str, str]) -> Response | None:
    """The answer 304 if the client has what `headers` describe already."""
    known = request.headers.get("if-none-match")
    if known is not None:
        tags = [each.strip().removeprefix("W/") for each in known.split(",")]
        fresh = "*" in tags or headers["etag"].removeprefix("W/") in tags
    else:
        fresh = _is_not_newer(headers.get("last-modified"), request.headers.get("if-modified-since"))
    if not fresh:
        return None
    kept = {name: value for name, value in headers.items() if name in ("etag", "last-modified", "vary")}
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)


def byte_range(request: Request, headers: Mapping[str, str], size: int | None) -> ByteRange | Response | None:
    """The part of `size` bytes that the client asks for; None for all of them, 416 if there is no such part.

    Without a `size` there are no parts. Several ranges at once, and other units, are answered with everything (RFC 9110
    14.2).
    """
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if size is None or request.method != "GET" or found is None or found[1] == found[2] == "":
        return None
    # RFC 9110 13.1.5: the range counts only for the bytes that the client has part of already.
    if request.headers.get("if-range", headers["etag"]) not in (headers["etag"], headers.get("last-modified")):
        return None
    if not found[1]:
        start, stop = max(0, size - int(found[2])), size
    else:
        start, stop = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or start >= stop:
        told = {"content-range": f"bytes */{size}"}
        return problem(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"there are {size} bytes", told)
    return ByteRange(start, stop)


def _is_not_newer(modified: str | None, since: str | None) -> bool:
    if modified is None or since is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False
