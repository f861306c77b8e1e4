"""Carry out the rules of `testing/faults.py` in the HTTP door, around its ASGI application."""

import asyncio
import threading
import time
from typing import Any

from pacs_server.app.seams import WebApp
from pacs_server.testing.faults import Delay, Faults, HTTPCut, HTTPSlow, HTTPStatus, Request
from pacs_server.web.exchange import AnswerCut

# How often a slow answer sends something, in seconds.
_TICK = 0.05


def faulty_app(app: WebApp, faults: Faults, stopping: threading.Event) -> WebApp:
    """The application, with the rules around it. Nothing waits any more once the server is `stopping`."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope.get("method", ""), path=scope["path"])
        for delay in faults.take(request, Delay):
            await _pause(delay.seconds, stopping)
        for status in faults.take(request, HTTPStatus):
            await _answer(status, send)
            return
        for slow in faults.take(request, HTTPSlow):
            send = _slowly(send, slow.bytes_per_second, stopping)
        for end in faults.take(request, HTTPCut):
            send = _cut(send, end.after_bytes)
        await app(scope, receive, send)

    return answer


async def _pause(seconds: float, stopping: threading.Event) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stopping.is_set():
        await asyncio.sleep(min(left, _TICK))


async def _answer(status: HTTPStatus, send: Any) -> None:
    body = status.body.encode()
    headers = {"content-type": "text/plain; charset=utf-8", **status.headers, "content-length": str(len(body))}
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _cut(send: Any, after_bytes: int) -> Any:
    """A `send` that ends the connection after so many bytes of the body."""
    left = after_bytes

    async def cut(message: Any) -> None:
        nonlocal left
        if message["type"] != "http.response.body":
            await send(message)
            return
        piece = _body(message)[:left]
        left -= len(piece)
        over = not left
        await send({"type": "http.response.body", "body": piece, "more_body": over or message.get("more_body", False)})
        if over:
            # The loop hands what was sent to the network before the connection ends.
            await asyncio.sleep(_TICK)
            raise AnswerCut("cut by a rule")

    return cut


def _slowly(send: Any, bytes_per_second: int, stopping: threading.Event) -> Any:
    """A `send` that sends bodies in small pieces, with so many bytes a second."""
    size = max(1, int(bytes_per_second * _TICK))

    async def slow(message: Any) -> None:
        body = _body(message) if message["type"] == "http.response.body" else b""
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await _pause(len(piece) / bytes_per_second, stopping)
        if not body or not message.get("more_body"):
            await send(message if not body else {"type": "http.response.body", "body": b"", "more_body": False})

    return slow


def _body(message: Any) -> bytes:
    """The body of a message; those of this server may be in several pieces."""
    body = message.get("body", b"")
    return b"".join(body) if isinstance(body, tuple) else bytes(body)
