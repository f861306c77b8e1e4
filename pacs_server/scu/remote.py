"""Remote application entities, as values."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteAE:
    """Where a remote application entity listens; `connect_timeout` in seconds."""

    ae_title: str
    host: str
    port: int
    connect_timeout: float
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """A C-MOVE destination; `response_timeout` is how long one C-STORE may take it, in seconds."""

    remote: RemoteAE
    response_timeout: float
