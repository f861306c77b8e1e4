"""How requests prove who we are: a header that stays the same, or access tokens by OAuth2 client credentials."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote_plus

import httpx2 as httpx

from pacs_server.errors import RemoteUnreachable
from pacs_server.scu.dicomweb.remote import ClientCredentials, DICOMwebRemote, SecretHeader
from pacs_server.scu.dicomweb.wire import FAILURES, Patience, Transport, Wire

# RFC 6749 5.1: without expires_in the server tells the lifetime elsewhere. Most give an hour.
_USUAL_LIFETIME: Final = 300.0
# A token is not used in the last seconds of its life, so that it does not expire on its way.
_MARGIN: Final = 30.0
# After a failure the token endpoint is left alone for a moment, so that threads do not ask it one after the other.
_PAUSE: Final = 5.0
_MOST_BYTES: Final = 1 << 16


class FixedHeader:
    """A header that is the same in all requests, or none."""

    def __init__(self, header: SecretHeader | None) -> None:
        self._headers = {} if header is None else {header.name: header.value}

    def headers(self) -> Mapping[str, str]:
        """The headers to log in."""
        return self._headers

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones can be had."""
        return False


class AccessTokens:
    """Access tokens of a token endpoint, each kept until shortly before it expires; may be shared by all threads."""

    def __init__(
        self,
        credentials: ClientCredentials,
        ask: Callable[[ClientCredentials], Mapping[str, Any]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` gives the answer of the token endpoint, and raises RemoteUnreachable."""
        self._credentials = credentials
        self._ask = ask
        self._clock = clock
        # Held while the endpoint is asked: others wait for the one answer.
        self._lock = threading.Lock()
        self._token = ""
        self._good_until = 0.0
        self._failure = ""
        self._ask_after = 0.0

    def headers(self) -> Mapping[str, str]:
        """The headers to log in. Raises RemoteUnreachable if no token can be had."""
        with self._lock:
            if not self._token or self._clock() >= self._good_until:
                self._fetch()
            return _bearer(self._token)

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Drop the refused token, unless another thread has a new one already; then the next one is asked for."""
        with self._lock:
            if refused == _bearer(self._token):
                self._token = ""
        return True

    def _fetch(self) -> None:
        if self._failure and self._clock() < self._ask_after:
            raise RemoteUnreachable(self._failure)
        try:
            self._token, lifetime = _token_of(self._ask(self._credentials))
        except RemoteUnreachable as error:
            self._failure, self._ask_after = str(error), self._clock() + _PAUSE
            raise
        self._failure = ""
        self._good_until = self._clock() + lifetime - min(_MARGIN, lifetime / 5)


Login = FixedHeader | AccessTokens


def login_of(remote: DICOMwebRemote) -> Login:
    """How requests to `remote` prove who we are."""
    if isinstance(remote.auth, ClientCredentials):
        return AccessTokens(remote.auth, lambda credentials: ask_token_endpoint(remote, credentials))
    return FixedHeader(remote.auth)


def ask_token_endpoint(remote: DICOMwebRemote, credentials: ClientCredentials) -> dict[str, Any]:
    """What the token endpoint answers to the client credentials grant (RFC 6749 4.4.2).

    No redirect is followed. Raises RemoteUnreachable.
    """
    form = {"grant_type": "client_credentials"} | ({"scope": credentials.scope} if credentials.scope else {})
    # RFC 6749 2.3.1: every server takes the secret of a client like this; both are encoded as in a form.
    login = httpx.BasicAuth(quote_plus(credentials.client_id), quote_plus(credentials.client_secret))
    waits = dict.fromkeys(("connect", "pool"), remote.connect_timeout)
    waits |= {"read": Patience(remote.response_timeout), "write": Patience(remote.response_timeout)}
    try:
        with (
            httpx.Client(transport=Transport(Wire(), remote.tls, 1), trust_env=False) as client,
            client.stream(
                "POST", credentials.token_url, data=form, auth=login, extensions={"timeout": waits},
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            ) as answer,
        ):  # fmt: skip
            status, body = answer.status_code, _read(answer)
    except (*FAILURES, httpx.InvalidURL) as error:
        raise RemoteUnreachable(f"the token endpoint of {remote.name} does not answer: {error}") from None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if status != 200 or not isinstance(found, dict):
        raise RemoteUnreachable(f"the token endpoint of {remote.name} gives no token: {_why(status, found)}")
    return found


def _read(answer: httpx.Response) -> bytes:
    body = bytearray()
    for piece in answer.iter_raw():
        body += piece
        if len(body) > _MOST_BYTES:
            raise httpx.ReadError("its answer is too long")
    return bytes(body)


def _why(status: int, document: object) -> str:
    # RFC 6749 5.2: the error is a word such as invalid_client.
    error = document.get("error") if isinstance(document, dict) else None
    is_word = isinstance(error, str) and error.isascii() and error.replace("_", "").isalnum() and len(error) < 50
    return f"{status} {error}" if is_word else str(status)


def _token_of(answer: Mapping[str, Any]) -> tuple[str, float]:
    """Access token and lifetime in seconds, from an answer (RFC 6749 5.1)."""
    token, kind, lifetime = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
    # RFC 6750 2.1: what a token may consist of. Anything else could break the header.
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise RemoteUnreachable("the token endpoint answers without an access token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise RemoteUnreachable("the token endpoint gives a token that is no bearer token")
    try:
        seconds = float(lifetime) if lifetime is not None else _USUAL_LIFETIME
    except (TypeError, ValueError):
        seconds = _USUAL_LIFETIME
    return token, seconds if 0 < seconds < 1e9 else _USUAL_LIFETIME


def _bearer(token: str) -> dict[str, str]:
    header = SecretHeader.bearer(token)
    return {header.name: header.value}
