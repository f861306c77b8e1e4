"""What happens to every request before a door sees it, and to every answer before it leaves.

The Host and Origin headers are checked, the caller is found out, and every answer gets the headers that keep browsers
from misusing it. An error of the program is logged, and answered without telling what it was.
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pacs_server.config.sections.web import WebConfig
from pacs_server.config.types import is_loopback
from pacs_server.dicom.caller import Caller
from pacs_server.errors import PacsError
from pacs_server.web.caller import IDENTIFY, KEY
from pacs_server.web.exchange import AnswerCut, ClientGone
from pacs_server.web.head import SAFE_METHODS
from pacs_server.web.logged import logged_path
from pacs_server.web.status import fault, problem, status_of
from pacs_server.web.urls import base_url, from_trusted_proxy, is_contradictory, is_same_origin

log = logging.getLogger(__name__)

Identify = Callable[[HTTPConnection], Awaitable[Caller | Response]]
"""Finds out who makes a request; a Response refuses it."""

_HEADERS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"cache-control", b"private, no-cache"),
]
_NAMES: Final = frozenset(name for name, _ in _HEADERS)
_ALLOWED: Final = {
    "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "access-control-allow-headers": "accept, authorization, content-type, if-none-match, if-match, range",
    "access-control-max-age": "600",
}
_EXPOSED: Final = b"content-location, content-range, etag, link, location, retry-after, warning, www-authenticate"


class Gate:
    """The ASGI application around all doors."""

    def __init__(self, app: ASGIApp, settings: Callable[[], WebConfig], identify: Identify) -> None:
        self._app = app
        self._settings = settings
        self._identify = identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        request, settings = HTTPConnection(scope), self._settings()
        sending = _Sending(send, _cors(request, settings) if settings.cors_origins else [])
        try:
            answer = _refusal(request, settings) or await self._identified(request)
            await (answer or self._app)(scope, receive, sending)
        except PacsError as error:
            if sending.started:
                log.warning("answer cut short", extra={"path": logged_path(scope), "reason": str(error)})
                raise AnswerCut from error
            await problem(status_of(error), str(error))(scope, receive, sending)
        except (ClientGone, ClientDisconnect, AnswerCut):
            raise
        except Exception:
            log.exception("request failed", extra={"path": logged_path(scope)})
            if sending.started:
                raise AnswerCut from None
            await fault(request.headers.get("accept", ""))(scope, receive, sending)

    async def _identified(self, request: HTTPConnection) -> Response | None:
        """Find out the caller; an answer if that refuses the request, or if the request is a preflight of CORS."""
        if request.scope["method"] == "OPTIONS" and "access-control-request-method" in request.headers:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=_ALLOWED)
        caller = await self._identify(request)
        if isinstance(caller, Response):
            return caller
        request.scope[KEY], request.scope[IDENTIFY] = caller, self._identify
        return None


class _Sending:
    """Sends an answer, with the headers that every answer has."""

    def __init__(self, send: Send, cors: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._cors = cors
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            present = _NAMES.intersection([name for name, _ in headers])
            ours = [each for each in _HEADERS if each[0] not in present] if present else _HEADERS
            message["headers"] = [*headers, *ours, *self._cors]
        await self._send(message)


def _refusal(request: HTTPConnection, settings: WebConfig) -> Response | None:
    """The answer to a request whose origin is in doubt, or is a page of somebody else; None if all is well."""
    if is_contradictory(request, settings):
        detail = "the proxy passes on both Forwarded and X-Forwarded-*: it has to take away the kind it does not write"
        return problem(HTTPStatus.BAD_REQUEST, detail)
    host = request.headers.get("host", "")
    if not all(map(_is_url, (f"//{host}", base_url(request, settings)))):
        # RFC 9112 3.2: a Host header that is none.
        return problem(HTTPStatus.BAD_REQUEST, "the Host header names no host")
    if not _is_known_host(request, host, settings):
        detail = "the Host header does not name this server: set web.public_url if it has another name"
        return problem(HTTPStatus.MISDIRECTED_REQUEST, detail)
    if request.scope["method"] in SAFE_METHODS or is_same_origin(request, settings):
        return None
    return problem(HTTPStatus.FORBIDDEN, "a page of another origin may not do this: see web.cors_origins")


def _is_url(text: str) -> bool:
    """Whether the brackets of IPv6 in a URL are where they may be; without them it is one."""
    if "[" in text or "]" in text:
        try:
            urlsplit(text)
        except ValueError:
            return False
    return True


def _is_known_host(request: HTTPConnection, host: str, settings: WebConfig) -> bool:
    """Whether the Host header may be one of ours. On loopback anything else comes from a rebound DNS name."""
    server: tuple[str, Any] = request.scope.get("server") or ("", None)
    if not is_loopback(server[0]) or from_trusted_proxy(request, settings):
        return True
    if host == server[0] or host == f"{server[0]}:{server[1]}":
        return True
    name = urlsplit(f"//{host}").hostname or ""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return name == public or is_loopback(name)


def _cors(request: HTTPConnection, settings: WebConfig) -> list[tuple[bytes, bytes]]:
    """The headers that let the scripts of an allowed origin read the answer."""
    origin = request.headers.get("origin", "")
    if not origin:
        return []
    vary = (b"vary", b"origin")
    exposed = (b"access-control-expose-headers", _EXPOSED)
    if origin.lower() in settings.cors_origins:
        credentials = (b"access-control-allow-credentials", b"true")
        return [(b"access-control-allow-origin", origin.encode("latin-1")), credentials, vary, exposed]
    # For every origin, but without cookies: otherwise any page could read the archive of somebody who has logged in.
    return [(b"access-control-allow-origin", b"*"), vary, exposed] if "*" in settings.cors_origins else [vary]
