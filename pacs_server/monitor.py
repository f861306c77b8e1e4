"""The monitoring port: /metrics, /status, /healthz and /readyz over HTTP."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pacs_server.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

# A client that sends nothing, or reads nothing, is let go after this.
_REQUEST_SECONDS = 10
_POLL_SECONDS = 0.5


class Monitor:
    """Serves what its three callables tell; `not_ready` returns why the server is not ready, or None."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        metrics: Callable[[], bytes],
        status: Callable[[], Mapping[str, object]],
        not_ready: Callable[[], str | None],
    ) -> None:
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
        """Begin to serve."""
        self._server.server_activate()
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and close the port."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


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
