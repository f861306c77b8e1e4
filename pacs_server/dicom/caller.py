"""The caller of an operation, as one value that does not depend on the door.

Each door makes a `Caller` from what it knows: the DIMSE door from an association, another door from its requests.
Access rules, limits, services and the audit trail take the `Caller`, never an association or a request.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from pacs_server.config.sections.access_control import PeerRule
from pacs_server.dicom.scope import EVERYTHING, Scope

ANYBODY = PeerRule(ae_title="*")
"""The rule for callers whose AE title is in no rule of `access_control.peers`: every service, from every address."""


class Door(StrEnum):
    """The way by which a caller or an instance reached the archive."""

    DIMSE = "dimse"
    IMPORT = "import"
    COMMAND = "command"
    WEB = "web"


class Role(IntEnum):
    """What a caller may do; each role may do what the roles before it may. Somebody who has yet to log in is nobody."""

    NOBODY = 0
    READER = 1
    CONTRIBUTOR = 2
    OPERATOR = 3
    ADMINISTRATOR = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller of the archive: who it is, where it calls from, and what it may do.

    `user` is the name of a user who has logged in, and None if nobody has. `ae_title` is the AE title that the caller
    claims, and `called_ae` the AE title that it used for this archive. Both are empty at doors without AE titles.
    `certificate` holds the names in the caller's TLS certificate: the subject's common name and those of the subject
    alternative name extension. `rule` is the access rule that let the caller in. `role` counts at doors that have
    roles, and `scope` limits what the caller sees.
    """

    door: Door
    address: str
    ae_title: str = ""
    called_ae: str = ""
    user: str | None = None
    tls: bool = False
    certificate: tuple[str, ...] = ()
    rule: PeerRule = ANYBODY
    role: Role = Role.CONTRIBUTOR
    scope: Scope = EVERYTHING

    def admitted(
        self, user: str | None, rule: PeerRule, role: Role = Role.CONTRIBUTOR, scope: Scope = EVERYTHING
    ) -> "Caller":
        """The same caller once it is known who it is and which rule lets it in."""
        # dataclasses.replace would take ten times as long, for each association.
        who = (self.door, self.address, self.ae_title, self.called_ae, user, self.tls, self.certificate)
        return Caller(*who, rule, role, scope)
