"""The DICOMweb remotes that this server may call, as values."""

import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class SecretHeader:
    """A header that goes with each request and says who we are: a bearer token, a password, an API key."""

    name: str
    value: str = field(repr=False)

    @classmethod
    def bearer(cls, token: str) -> Self:
        """A bearer token (RFC 6750 2.1)."""
        return cls("Authorization", f"Bearer {token}")

    @classmethod
    def basic(cls, user: str, password: str) -> Self:
        """User and password in UTF-8 (RFC 7617)."""
        return cls("Authorization", f"Basic {b64encode(f'{user}:{password}'.encode()).decode('ascii')}")


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What is exchanged for access tokens at a token endpoint (RFC 6749 4.4)."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str = ""


@dataclass(frozen=True, slots=True)
class DICOMwebRemote:
    """A DICOMweb remote: its name, the base URL of its services, how we log in, and how long it may take, in seconds.

    `connect_timeout` limits a connection with its TLS handshake, `response_timeout` the wait for each answer. At most
    `max_associations` connections are open at the same time; together they send `rate` bytes a second at most. `tls` is
    used for https; without it the authorities of the system are trusted. Instances in other transfer syntaxes than
    `transfer_syntaxes` are transcoded before they are sent; empty means all.
    """

    name: str
    url: str
    auth: SecretHeader | ClientCredentials | None = None
    tls: ssl.SSLContext | None = None
    connect_timeout: float = 10.0
    response_timeout: float = 60.0
    max_associations: int = 2
    rate: int | None = None
    transfer_syntaxes: tuple[str, ...] = ()
