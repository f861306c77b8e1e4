"""Who is at the other end of an association and what it was admitted to do: values that admission hands on."""

from dataclasses import dataclass, field

from pacs_server.config.sections.access_control import PeerRule

# For peers of whom nothing is said but that they may come: every service, from anywhere.
ANYBODY = PeerRule(ae_title="*")


@dataclass(frozen=True, slots=True)
class Caller:
    """What the connection tells of the peer, before it says anything: its address, and its certificate's names.

    `certificate` holds the subject's common name and the names of the subject alternative name
    extension; it is empty without TLS or without a certificate.
    """

    address: str
    tls: bool = False
    certificate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Admitted:
    """That a peer was admitted: under which rule, and as which user if it said so (PS3.7 D.3.3.7).

    `identity_response` is the server response of the User Identity answer, None if none was asked for.
    """

    rule: PeerRule = field(default=ANYBODY)
    user: str | None = None
    identity_response: bytes | None = None
