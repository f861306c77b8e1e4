"""OpenID Connect: who a provider says that somebody is (code flow with PKCE), and which role that gives.

The libraries for it are imported only when a provider is configured and somebody logs in. Whatever goes wrong is told
without any part of a token.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from pacs_server.config.sections.web import OIDCConfig
from pacs_server.dicom.caller import Role
from pacs_server.web.oidc_provider import Documents, ProviderError

# Only signatures that the provider alone can make: with HS256 whoever can check one can make one.
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
# How far clocks may differ, in seconds.
_LEEWAY: Final = 30
_MOST_NAME: Final = 100
_MOST_SUBJECT: Final = 255
# What ID tokens and logout tokens have, and access tokens do not.
_OF_ID_TOKENS: Final = ("nonce", "at_hash", "c_hash", "s_hash", "events")
# The client that a token was made for, as RFC 9068, OpenID Connect, Entra ID and Okta call it.
_CLIENTS: Final = ("client_id", "azp", "appid", "cid")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has logged in at the provider; the name cannot be that of a local user, which has no colon.

    The provider may give the name to another person one day, but never the `subject`.
    """

    user: str
    role: Role
    subject: str

    @property
    def origin(self) -> str:
        """Who it is, for the audit trail."""
        return f"OpenID Connect subject {self.subject}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one login needs, made of one random secret that only the browser of this login keeps, in a cookie."""

    secret: str

    @property
    def state(self) -> str:
        """Ties the answer of the provider to this browser."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """Ties the ID token to this login."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """The code verifier of PKCE (RFC 7636)."""
        return self._derived("verifier")

    @property
    def challenge(self) -> str:
        """The code challenge that belongs to the verifier."""
        return _encoded(hashlib.sha256(self.verifier.encode()).digest())

    def _derived(self, purpose: str) -> str:
        return _encoded(hmac.digest(self.secret.encode(), purpose.encode(), hashlib.sha256))


class Provider:
    """The provider of the settings; may be shared by all threads. Methods that ask it raise ProviderError."""

    def __init__(self, documents: Documents | None = None) -> None:
        self._documents = documents or Documents()

    def stamp(self, settings: OIDCConfig) -> str:
        """Changes when logins at the provider may give other rights than before."""
        roles = json.dumps([settings.roles_claim, sorted(settings.role_map.items())])
        return hashlib.sha256("\n".join((settings.issuer, settings.client_id, roles)).encode()).hexdigest()[:32]

    def address(self, settings: OIDCConfig, attempt: Attempt, back: str) -> str:
        """Where to send the browser; the provider sends it to `back` afterwards."""
        asked = {
            "response_type": "code",
            "client_id": settings.client_id,
            "redirect_uri": back,
            "scope": "openid profile email",
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        endpoint = self._documents.endpoint(settings.issuer, "authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(asked)}"

    def finish(self, settings: OIDCConfig, attempt: Attempt, back: str, code: str) -> Person:
        """Exchange the code for tokens, check them, and say who it is. Raises ProviderError if it is nobody of ours."""
        issuer = settings.issuer
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": back, "code_verifier": attempt.verifier,
        }  # fmt: skip
        answer = self._documents.exchange(issuer, settings.client_id, _secret(settings.client_secret_file), form)
        claims = self._claims(str(answer.get("id_token", "")), settings)
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), attempt.nonce.encode()):
            raise ProviderError("the ID token is of another login")
        audience = claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != settings.client_id:
            raise ProviderError("the ID token is for another client")
        if _at(claims, settings.roles_claim) is None and answer.get("access_token"):
            # The access token may be opaque; the provider tells what it stands for.
            told = self._documents.userinfo(issuer, str(answer["access_token"]))
            if told.get("sub") != claims["sub"]:
                raise ProviderError("the provider's user information is of somebody else")
            claims = {**told, **claims}
        return _person(claims, settings)

    def of_token(self, token: str, settings: OIDCConfig) -> Person | None:
        """Who shows a signed token of the provider that is for this server; None if it is no such token.

        Opaque tokens are not taken: nobody can tell for whom the provider has made them.
        """
        if token.count(".") != 2:
            return None
        try:
            claims = self._claims(token, settings)
            _check_access(claims, settings)
            return _person(claims, settings)
        except ProviderError as error:
            if error.is_unavailable:
                raise
            return None

    def _claims(self, token: str, settings: OIDCConfig) -> dict[str, Any]:
        """The claims of a signed token, checked: signature, algorithm, issuer, audience and times."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in _ALGORITHMS:
                raise ProviderError("a token is signed in a way that does not count")
            key = self._documents.key(settings.issuer, header.get("kid"), str(algorithm))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],
                audience=settings.client_id,
                issuer=settings.issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            raise ProviderError(f"a token is not valid: {type(error).__name__}") from None
        return claims


def _check_access(claims: Mapping[str, Any], settings: OIDCConfig) -> None:
    """Raise ProviderError unless a token is for calling this server, and was made for our client.

    An ID token tells a client who has logged in. Whoever gets one, or an access token of another client, could use it
    here in the name of that person.
    """
    if any(name in claims for name in _OF_ID_TOKENS) or claims.get("typ") == "ID":
        raise ProviderError("an ID token is no access token")
    if any(claims[name] != settings.client_id for name in _CLIENTS if name in claims):
        raise ProviderError("the token was made for another client")


def _person(claims: Mapping[str, Any], settings: OIDCConfig) -> Person:
    names = (claims.get(name) for name in ("preferred_username", "email", "sub"))
    name = next((str(each) for each in names if each and str(each).isprintable() and len(str(each)) <= _MOST_NAME), "")
    found = _at(claims, settings.roles_claim)
    values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    roles = [
        Role[settings.role_map[each].upper()] for each in values if isinstance(each, str) and each in settings.role_map
    ]
    if not name or not roles:
        raise ProviderError("the provider gives this user no role here")
    return Person(f"oidc:{name}", max(roles), ascii(claims["sub"])[1:-1][:_MOST_SUBJECT])


def _at(claims: Mapping[str, Any], path: str) -> object:
    """The value of a claim, which may lie within others: `realm_access.roles`."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def _secret(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise ProviderError("web.oidc.client_secret_file cannot be read") from None


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
