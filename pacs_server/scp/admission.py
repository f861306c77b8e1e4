"""Admission: decide whether a proposed association is accepted, by access rules, user identity and limits."""

import threading
from collections.abc import Callable

from pacs_server.config.sections.access_control import AccessControlConfig
from pacs_server.config.sections.server import ServerConfig
from pacs_server.dicom.caller import Caller
from pacs_server.net.acceptor import Admitted, Rejection
from pacs_server.net.limits import ConnectionRateLimiter
from pacs_server.net.negotiation import UserIdentity
from pacs_server.scp.rejections import (
    CALLED_AE_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    LOCAL_LIMIT_OF_AE_EXCEEDED,
    REJECTION_OF,
)
from pacs_server.scp.user_identity import IdentifiedUser
from pacs_server.services.access import Refusal, rule_for


class Admission:
    """Decides on proposals, and holds a place for each association that it admits."""

    def __init__(
        self,
        server: ServerConfig,
        access: AccessControlConfig,
        *,
        identify: Callable[[UserIdentity | None, Caller], Rejection | IdentifiedUser] = lambda *_: IdentifiedUser(),
    ) -> None:
        """`identify` finds out which user a proposal comes from, or rejects it; this may take a while."""
        self._identify = identify
        self._lock = threading.Lock()
        # The number of associations in force, and by calling AE title; titles without any are removed.
        self._in_force = 0
        self._admitted: dict[str, int] = {}
        self._rates = ConnectionRateLimiter()
        self.configure(server, access)

    def configure(self, server: ServerConfig, access: AccessControlConfig) -> None:
        """Use new rules from now on; associations in force keep the rule that admitted them."""
        self._rules = (server, access)

    def comes_too_often(self, address: str) -> bool:
        """Whether a connection from `address` exceeds the allowed rate; counts the connection if it does not."""
        access = self._rules[1]
        rate = access.association_rate
        return rate is not None and not self._rates.allows(address, rate, access.association_burst)

    def admit(self, caller: Caller, identity: UserIdentity | None) -> Rejection | Admitted:
        """Decide on a proposal of `caller`; `identity` is the User Identity item of the proposal.

        The admitted caller has a user and a rule, and holds a place, which `leave` gives back.
        """
        server, access = self._rules
        if server.check_called_ae_title and caller.called_ae != server.ae_title:
            return CALLED_AE_NOT_RECOGNIZED
        rule = rule_for(caller, access)
        if isinstance(rule, Refusal):
            return REJECTION_OF[rule]
        # Before a place is held: peers that try passwords must not take the places of others.
        identified = self._identify(identity, caller)
        if isinstance(identified, Rejection):
            return identified
        per_ae = rule.max_associations or access.max_associations_per_ae
        with self._lock:
            if self._in_force >= server.max_associations:
                return LOCAL_LIMIT_EXCEEDED
            admitted = self._admitted.get(caller.ae_title, 0)
            if per_ae is not None and admitted >= per_ae:
                return LOCAL_LIMIT_OF_AE_EXCEEDED
            self._in_force += 1
            self._admitted[caller.ae_title] = admitted + 1
        who = caller.admitted(identified.name, rule, identified.role, identified.scope)
        return Admitted(who, identified.response)

    def leave(self, caller: Caller) -> None:
        """Give back the place of a caller whose association is over."""
        with self._lock:
            self._in_force -= 1
            left = self._admitted[caller.ae_title] - 1
            if left:
                self._admitted[caller.ae_title] = left
            else:
                del self._admitted[caller.ae_title]
