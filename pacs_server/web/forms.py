"""Forms that only the pages of this server can send: a token in the form, and the same one in a cookie."""

import hmac
import secrets
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from pacs_server.errors import InvalidRequest
from pacs_server.web.credentials import CookieNames

# The name of the field, and of the header that scripts send instead.
FIELD: Final = "token"
HEADER: Final = "x-form-token"
_PURPOSE: Final = "form"
_MOST_BYTES: Final = 262_144
_MOST_FIELDS: Final = 5000


class Forms:
    """Gives tokens to pages, and reads the forms that come back. A page elsewhere knows neither token nor cookie."""

    def __init__(self, names: Callable[[HTTPConnection], CookieNames]) -> None:
        self.names = names

    def token(self, request: HTTPConnection) -> str:
        """The token for the forms of a page: the one that the browser keeps already, or a new one."""
        return request.cookies.get(self.names(request).of(_PURPOSE)) or secrets.token_urlsafe(32)

    def keep(self, request: HTTPConnection, answer: Response, token: str, seconds: float) -> None:
        """Have the browser keep the token."""
        self.names(request).set(answer, _PURPOSE, token, seconds)

    def has(self, request: HTTPConnection, token: str) -> bool:
        """Whether the browser keeps this token already."""
        return request.cookies.get(self.names(request).of(_PURPOSE)) == token

    def drop(self, request: HTTPConnection, answer: Response) -> None:
        """Have the browser forget the token."""
        self.names(request).drop(answer, _PURPOSE)

    async def read(self, request: Request, most: int = _MOST_BYTES) -> ImmutableMultiDict[str, str]:
        """The fields of a form that this server has shown to this browser. Raises InvalidRequest."""
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise InvalidRequest("the form is too long")
        try:
            fields = ImmutableMultiDict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
        except ValueError:
            raise InvalidRequest("the form cannot be read") from None
        self.check(request, fields.get(FIELD, ""))
        return fields

    def check(self, request: HTTPConnection, given: str = "") -> None:
        """Raise InvalidRequest unless the token is the one in the cookie; without one that of the header counts."""
        given = given or request.headers.get(HEADER, "")
        kept = request.cookies.get(self.names(request).of(_PURPOSE), "")
        if not kept or not hmac.compare_digest(given.encode(), kept.encode()):
            raise InvalidRequest("the form is too old, or the browser keeps no cookies: open the page again")
