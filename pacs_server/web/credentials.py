"""What a request shows of who makes it: the Authorization header (RFC 9110 11.6.2) and the cookie of a session."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

# Longer ones are not looked at.
_MOST_CHARACTERS: Final = 16_384
# The command line of the dicomweb-client of PyPI sends this when it was given no token.
_NOTHING: Final = "Bearer None"


@dataclass(frozen=True, slots=True)
class Password:
    """A user's name and password, by the Basic scheme (RFC 7617)."""

    name: str
    password: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """An API key or a token of the provider, by the Bearer scheme (RFC 6750)."""

    text: str


@dataclass(frozen=True, slots=True)
class CookieNames:
    """The names of this archive's cookies: cookies ignore ports, so another archive on this host has other ones.

    With HTTPS they begin with __Host-, so that no other host of the domain and no plain page can set them.
    """

    archive: str
    secure: bool

    def of(self, purpose: str) -> str:
        """The name of the cookie for a purpose."""
        return f"{'__Host-' if self.secure else ''}pacs-{purpose}-{self.archive}"

    def set(self, answer: Response, purpose: str, value: str, seconds: float) -> None:
        """Have the browser keep a cookie that no script can read."""
        answer.set_cookie(
            self.of(purpose), value, max_age=int(seconds), path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def drop(self, answer: Response, purpose: str) -> None:
        """Have the browser forget a cookie."""
        answer.delete_cookie(self.of(purpose), path="/", secure=self.secure, httponly=True, samesite="lax")


def shown(request: HTTPConnection) -> Password | Token | None:
    """What the Authorization header shows; None if it is of another kind, or broken."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    if len(text) > _MOST_CHARACTERS:
        return None
    if scheme.lower() == "bearer" and text:
        return Token(text)
    if scheme.lower() == "basic":
        return _password(text)
    return None


def has_token_to_show(request: HTTPConnection) -> bool:
    """Whether there is an Authorization header that is more than the name of nothing."""
    return request.headers.get("authorization", _NOTHING) != _NOTHING


def _password(text: str) -> Password | None:
    try:
        name, colon, password = base64.b64decode(text, validate=True).partition(b":")
        return Password(name.decode(), password) if colon else None
    except (binascii.Error, ValueError):
        return None
