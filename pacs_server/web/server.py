"""Serves an HTTP application on a bound socket, in a thread of its own with its own event loop."""

import asyncio
import logging
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

log = logging.getLogger(__name__)


class WebServer:
    """A part of a running server."""

    def __init__(self, sock: socket.socket, app: ASGIApp, *, name: str) -> None:
        """Serve `app` on the bound socket `sock`."""
        self._socket = sock
        settings = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Listen, and serve requests in the background."""
        self._socket.listen(512)
        self._thread.start()

    def stop(self) -> None:
        """End what runs, and close the port."""
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
