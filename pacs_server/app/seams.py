"""Where a program that embeds the server may put something of its own around the protocol engine.

The server of the command line uses none of this. `pacs_server.testing` injects failures through it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pacs_server.net.transport import Transport
from pacs_server.scp.admission import Admission
from pacs_server.scp.dispatch import Handlers

WebApp = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: what answers the requests of the HTTP door."""


def _as_it_is(given: Any) -> Any:
    """Change nothing."""
    return given


@dataclass(frozen=True, slots=True)
class Seams:
    """Each function gets what the server would use, and returns what it uses instead; called once, at the start.

    `transport` makes the transport of each accepted connection, with the arguments of `Transport`.
    """

    transport: Callable[..., Transport] = Transport
    admission: Callable[[Admission], Admission] = _as_it_is
    handlers: Callable[[Handlers], Handlers] = _as_it_is
    web: Callable[[WebApp], WebApp] = _as_it_is
