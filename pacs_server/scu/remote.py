"""The remote application entities that this server may call."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteAE:
    """A remote application entity: its AE title, where it listens, and how long it may take, in seconds.

    `connect_timeout` limits the connection with its TLS handshake, `response_timeout` the wait for
    each DIMSE response. `tls` is None for a remote AE that is called without TLS.
    """

    ae_title: str
    host: str
    port: int
    connect_timeout: float
    response_timeout: float
    tls: ssl.SSLContext | None = None
