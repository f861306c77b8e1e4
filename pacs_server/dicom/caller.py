"""The caller of an operation, as one value that does not depend on the door.

Each door makes a `Caller` from what it knows: the DIMSE door from an association, another door from its requests.
Access rules, limits, services and the audit trail take the `Caller`, never an association or a request.
"""

from dataclasses import dataclass
from enum import StrEnum

from pacs_server.config.sections.access_control import PeerRule

ANYBODY = PeerRule(ae_title="*")
"""The rule of callers that no rule of `access_control.peers` is about: every service, from anywhere."""


class Door(StrEnum):
    """The way into the archive that a caller or an instance took."""

    DIMSE = "dimse"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks the archive for something, from where, and what the caller may do.

    `user` is the name of a user who has logged in, and None if nobody has. `ae_title` is the AE title that the caller
    claims, and `called_ae` the one by which the caller knows this archive; both are empty at doors without AE titles.
    `certificate` holds the names in the caller's TLS certificate: the subject's common name and those of the subject
    alternative name extension. `rule` is the access rule that let the caller in.
    """

    door: Door
    address: str
    ae_title: str = ""
    called_ae: str = ""
    user: str | None = None
    tls: bool = False
    certificate: tuple[str, ...] = ()
    rule: PeerRule = ANYBODY
