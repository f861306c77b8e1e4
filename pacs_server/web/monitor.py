"""The monitoring port: /metrics, /status, /healthz and /readyz over HTTP."""

import json
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from pacs_server.kit.metrics import CONTENT_TYPE, Metrics
from pacs_server.web.limits import WebLimits
from pacs_server.web.server import WebServer

# A client has to send its request, to take the answer, and to ask again within this time each, in seconds.
_REQUEST_SECONDS = 10.0
_MAX_CONNECTIONS = 16
_MAX_BODY = 1024
_STOP_SECONDS = 5.0

Page = tuple[HTTPStatus, str, bytes]


class Monitor(WebServer):
    """Serves the monitoring pages; a part of a running server."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        metrics: Metrics,
        status: Callable[[], Mapping[str, object]],
        not_ready: Callable[[], str | None],
    ) -> None:
        """Serve on the bound socket `sock`. `not_ready` returns why the server is not ready, or None."""
        pages: dict[str, Callable[[], Page]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.render()),
            "/status": lambda: (HTTPStatus.OK, "application/json", _json(status())),
            "/healthz": lambda: (HTTPStatus.OK, "text/plain", b"ok\n"),
            "/readyz": lambda: _readiness(not_ready()),
        }
        super().__init__(
            sock, _Pages(pages), name="monitoring", limits=_limits, metrics=metrics, stop_within=lambda: _STOP_SECONDS
        )

    def gauges(self) -> Mapping[str, float]:
        """None: connections are counted for the port of the archive."""
        return {}


class _Pages:
    """The ASGI application of the pages. They may have to wait for the database, so that a thread makes each."""

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self._pages.get(scope["path"])
        if scope["method"] not in ("GET", "HEAD"):
            answer: Response = PlainTextResponse("only GET and HEAD\n", 405, {"Allow": "GET, HEAD"})
        elif page is None:
            answer = PlainTextResponse("try /metrics /status /healthz /readyz\n", 404)
        else:
            scope["endpoint"] = page
            status, content_type, body = await run_in_threadpool(page)
            answer = Response(body, status, {"Content-Type": content_type})
        await answer(scope, receive, send)


def _limits() -> WebLimits:
    return WebLimits(
        connections=_MAX_CONNECTIONS,
        per_address=_MAX_CONNECTIONS,
        max_body=_MAX_BODY,
        head=_REQUEST_SECONDS,
        idle=_REQUEST_SECONDS,
        stall=_REQUEST_SECONDS,
    )


def _readiness(reason: str | None) -> Page:
    if reason is None:
        return HTTPStatus.OK, "text/plain", b"ready\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"not ready: {reason}\n".encode()


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
