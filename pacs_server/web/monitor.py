"""The monitoring port: /metrics, /status, /healthz and /readyz over HTTP."""

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pacs_server.kit.logs import Sparingly
from pacs_server.kit.metrics import CONTENT_TYPE
from pacs_server.net.transport import cut

log = logging.getLogger(__name__)

# A client has to send its request and to take the answer within this time, in seconds, whatever its pace.
_REQUEST_SECONDS = 10.0
_MAX_CONNECTIONS = 16
_POLL_SECONDS = 0.5


class Monitor:
    """Serves the monitoring pages; a part of a running server."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        metrics: Callable[[], bytes],
        status: Callable[[], Mapping[str, object]],
        not_ready: Callable[[], str | None],
    ) -> None:
        """Serve on the bound socket `sock`. `not_ready` returns why the server is not ready, or None."""
        self._pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics()),
            "/status": lambda: (HTTPStatus.OK, "application/json", _json(status())),
            "/healthz": lambda: (HTTPStatus.OK, "text/plain", b"ok\n"),
            "/readyz": lambda: _readiness(not_ready()),
        }
        self._server = _HTTPServer(sock.getsockname(), _handler(self._pages), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="monitor", daemon=True
        )

    def start(self) -> None:
        """Listen, and serve requests in background threads."""
        self._server.server_activate()
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _HTTPServer(ThreadingHTTPServer):
    """Serves at most 16 connections at the same time, each until its deadline. Further connections are closed."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._sparingly = Sparingly(log)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._deadlines) >= _MAX_CONNECTIONS
            if not full:
                self._deadlines[request] = time.monotonic() + _REQUEST_SECONDS
        if full:
            self._sparingly.log(logging.WARNING, "monitoring connection refused", client_address[0], "connections")
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection; called for every connection, also after a failure."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut the connections that are past their deadline; called every half second."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, deadline in self._deadlines.items() if deadline <= now]
            for request in late:
                # Do not close the socket: the thread that serves the connection does that, perhaps right now.
                cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the exception; a client that goes away in the middle of its answer is not an error."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        log.log(level, "monitoring request failed", exc_info=True, extra={"peer": client_address[0]})


def _handler(pages: Mapping[str, Callable[[], tuple[HTTPStatus, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        server_version = "pacs-server"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"try /metrics /status /healthz /readyz\n")
            else:
                self._answer(*page())

        do_HEAD = do_GET

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug("monitoring request", extra={"peer": self.client_address[0], "request": format % args})

    return Handler


def _readiness(reason: str | None) -> tuple[HTTPStatus, str, bytes]:
    if reason is None:
        return HTTPStatus.OK, "text/plain", b"ready\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"not ready: {reason}\n".encode()


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
