"""The remote application entities that this server may call."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteAE:
    """A remote application entity: its AE title, where it listens, and how long it may take, in seconds.

    `connect_timeout` limits the connection with its TLS handshake, `response_timeout` the wait for
    each DIMSE response. `tls` is None for a remote AE that is called without TLS. `name` is how people call it.
    `max_associations` limits the associations of the pool, `rate` the bytes a second that are sent to it. If there are
    `transfer_syntaxes`, instances are sent in no other. `vendor` says whose software it is, unless it is auto.
    """

    ae_title: str
    host: str
    port: int
    connect_timeout: float
    response_timeout: float
    tls: ssl.SSLContext | None = None
    name: str = ""
    max_associations: int = 2
    rate: int | None = None
    transfer_syntaxes: tuple[str, ...] = ()
    commitment: bool = False
    vendor: str = "auto"
