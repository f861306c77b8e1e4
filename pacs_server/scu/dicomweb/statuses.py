"""**The** table of what HTTP statuses say of a remote: which error each stands for, and when to come back."""

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable

_LONGEST_PAUSE: Final = 3600.0
_GONE: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


def refusal(name: str, status: int, headers: Mapping[str, str], what: str) -> RemoteError:
    """The error that an answer of the remote of this name stands for, if it is no success; `what` was asked for."""
    told, pause = status_text(status), pause_of(headers.get("retry-after", ""))
    asks_to_wait = status == HTTPStatus.SERVICE_UNAVAILABLE and pause is not None
    if status == HTTPStatus.TOO_MANY_REQUESTS or asks_to_wait:
        return RemoteBusy(f"{name} asks to come back later: {told}", seconds=pause)
    if status == HTTPStatus.UNAUTHORIZED:
        return RemoteUnreachable(f"{name} does not accept how this server logs in: {told}")
    if status in _GONE:
        return RemoteUnreachable(f"{name} does not work: {told}")
    return RemoteError(f"{name} answers {told} to {what}")


def status_text(status: int) -> str:
    """A status with its name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def pause_of(text: str) -> float | None:
    """The seconds that a header Retry-After asks for, an hour at most; None if it does not tell (RFC 9110 10.2.3)."""
    text = text.strip()
    if text.isdecimal() and len(text) < 10:
        return min(float(text), _LONGEST_PAUSE)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(at - time.time(), 0.0), _LONGEST_PAUSE)
