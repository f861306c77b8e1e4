"""What the OpenID Connect provider tells: its endpoints, its keys, and its answers; in bounded time and size.

Nothing but the endpoints of the configured issuer is asked, and no redirect is followed.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus, urlsplit

if TYPE_CHECKING:
    import httpx2 as httpx

_TIMEOUT: Final = 5.0
# One answer may take so long in all, in seconds, and have so many bytes.
_DEADLINE: Final = 10.0
_MOST_BYTES: Final = 1 << 20
_MOST_KEYS: Final = 100
# How long documents are kept, in seconds, and how long it takes until one is asked for again after it could not be had,
# or after a key was not in it.
_KEPT: Final = 3600.0
_PAUSE: Final = 10.0


class ProviderError(Exception):
    """Why somebody could not log in; `is_unavailable` if the provider did not answer as it should."""

    def __init__(self, message: str, *, is_unavailable: bool = False) -> None:
        super().__init__(message)
        self.is_unavailable = is_unavailable


class Documents:
    """Asks the provider, and keeps its documents for a while; may be shared by all threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Held by the thread that asks for a document, never while somebody else holds `_lock`.
        self._asking = threading.Lock()
        self._under_way = ""
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._asked: dict[str, float] = {}

    def endpoint(self, issuer: str, name: str) -> str:
        """The address of an endpoint."""
        found = self._discovered(issuer).get(name)
        if not isinstance(found, str):
            raise ProviderError(f"the provider has no {name}", is_unavailable=True)
        # Codes, secrets and keys shall not travel with less protection than the issuer's own address promises.
        if urlsplit(issuer).scheme == "https" != urlsplit(found).scheme:
            raise ProviderError(f"the provider's {name} is not HTTPS", is_unavailable=True)
        return found

    def key(self, issuer: str, key_id: object, algorithm: str) -> Any:
        """The key that has signed a token; one that is not known is looked for again, though not all the time."""
        url = self.endpoint(issuer, "jwks_uri")
        for again in (False, True):
            found = _key_in(self._document(url, again=again), key_id, algorithm)
            if found is not None:
                return found
        raise ProviderError("a token is signed by a key that is not the provider's")

    def exchange(self, issuer: str, client_id: str, secret: str | None, form: Mapping[str, str]) -> dict[str, Any]:
        """What the token endpoint gives for a code."""
        url = self.endpoint(issuer, "token_endpoint")
        methods = self._discovered(issuer).get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if secret is None or "client_secret_basic" not in methods:
            given = {"client_id": client_id} | ({} if secret is None else {"client_secret": secret})
            return self._ask("POST", url, data={**form, **given})
        return self._ask("POST", url, data=dict(form), auth=_basic(client_id, secret))

    def userinfo(self, issuer: str, access_token: str) -> dict[str, Any]:
        """What the provider tells of the user of an access token."""
        url = self.endpoint(issuer, "userinfo_endpoint")
        return self._ask("GET", url, headers={"authorization": f"Bearer {access_token}"})

    def _discovered(self, issuer: str) -> dict[str, Any]:
        # OpenID Connect Discovery 1.0, 4.
        document = self._document(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != issuer:
            raise ProviderError("the provider has another issuer than web.oidc.issuer", is_unavailable=True)
        return document

    def _document(self, url: str, *, again: bool = False) -> dict[str, Any]:
        known = self._known(url, again=again)
        if known is not None:
            return known
        # One thread asks. Others wait for its answer only if nothing is known.
        with self._asking:
            known = self._known(url, again=again)
            if known is not None:
                return known
            with self._lock:
                self._under_way = url
            try:
                return self._fetched(url, again=again)
            finally:
                with self._lock:
                    self._under_way = ""
                    self._asked[url] = self._clock()

    def _known(self, url: str, *, again: bool) -> dict[str, Any] | None:
        """What is known of a document; None if the provider has to be asked, or is being asked."""
        with self._lock:
            now = self._clock()
            kept = self._kept.get(url)
            recently = now - self._asked.get(url, float("-inf")) < _PAUSE
            if kept is None:
                if recently:
                    raise ProviderError("the provider did not answer a moment ago", is_unavailable=True)
                return None
            is_fresh = not again and now - kept[0] < _KEPT
            return kept[1] if recently or is_fresh or self._under_way == url else None

    def _fetched(self, url: str, *, again: bool) -> dict[str, Any]:
        try:
            document = self._ask("GET", url)
        except ProviderError:
            with self._lock:
                kept = self._kept.get(url)
            if kept is not None and not again:
                return kept[1]
            raise
        with self._lock:
            self._kept[url] = (self._clock(), document)
        return document

    def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        import httpx2 as httpx

        try:
            with (
                httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client,
                client.stream(method, url, **options) as answer,
            ):
                body = _read(answer)
                status = answer.status_code
        except httpx.HTTPError as error:
            raise ProviderError(f"the provider does not answer: {type(error).__name__}", is_unavailable=True) from None
        except httpx.InvalidURL:
            raise ProviderError("an address of the provider is none", is_unavailable=True) from None
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if status != 200 or not isinstance(found, dict):
            raise ProviderError(f"the provider answers {status}", is_unavailable=status >= 500 or method == "GET")
        return found


def _read(answer: "httpx.Response") -> bytes:
    body = bytearray()
    ends = time.monotonic() + _DEADLINE
    for piece in answer.iter_bytes(65_536):
        body += piece
        if len(body) > _MOST_BYTES or time.monotonic() > ends:
            raise ProviderError("the answer of the provider is too long", is_unavailable=True)
    return bytes(body)


def _key_in(document: Mapping[str, Any], key_id: object, algorithm: str) -> Any:
    """The key of that id; without an id the only one that fits. None if there is none."""
    import jwt

    fitting = []
    keys = document.get("keys")
    for each in (keys if isinstance(keys, list) else [])[:_MOST_KEYS]:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig" or each.get("kty") == "oct":
            continue
        if key_id is not None and each.get("kid") != key_id:
            continue
        if each.get("alg", algorithm) != algorithm:
            continue
        try:
            fitting.append(jwt.PyJWK.from_dict(each, algorithm).key)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
    return fitting[0] if len(fitting) == 1 or (fitting and key_id is not None) else None


def _basic(client_id: str, secret: str) -> Any:
    import httpx2 as httpx

    # RFC 6749 2.3.1: both are encoded as in a form.
    return httpx.BasicAuth(quote_plus(client_id), quote_plus(secret))
