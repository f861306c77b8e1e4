"""A-ASSOCIATE-RQ -> accept or reject: access rules and the limit of associations (PS3.8 Table 9-21)."""

import threading
from collections import Counter
from collections.abc import Callable

from pacs_server.config.sections.access_control import AccessControlConfig
from pacs_server.config.sections.server import ServerConfig
from pacs_server.net.acceptor import Rejection
from pacs_server.net.limits import ConnectionRateLimiter
from pacs_server.net.negotiation import Proposal
from pacs_server.net.peer import Admitted, Caller
from pacs_server.scp.access import rule_for
from pacs_server.scp.identity import Identified

CALLED_AE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called_ae_title")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "association_rate")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "associations")
LOCAL_LIMIT_OF_AE_EXCEEDED = Rejection(2, 3, 2, "associations_per_ae")


class Admission:
    """Decides on proposals, and holds a place for each association that it admits."""

    def __init__(
        self,
        server: ServerConfig,
        access: AccessControlConfig,
        *,
        identify: Callable[[Proposal, Caller], Rejection | Identified] = lambda proposal, caller: Identified(),
    ) -> None:
        """`identify` says who a proposal comes from, or objects; it may take a while."""
        self._identify = identify
        self._lock = threading.Lock()
        # Associations in force by calling AE title, for as long as there are any.
        self._admitted: Counter[str] = Counter()
        self._rates = ConnectionRateLimiter()
        self.configure(server, access)

    def configure(self, server: ServerConfig, access: AccessControlConfig) -> None:
        """Take new rules; associations in force stay, and keep the rule that they were admitted by."""
        self._rules = (server, access)

    def comes_too_often(self, address: str) -> bool:
        """Whether a connection from `address` is over the rate; counts it if not."""
        access = self._rules[1]
        rate = access.association_rate
        return rate is not None and not self._rates.allows(address, rate, access.association_burst)

    def admit(self, proposal: Proposal, caller: Caller) -> Rejection | Admitted:
        """Return why `proposal` is rejected, or that it is admitted and holds a place, which `leave` gives back."""
        server, access = self._rules
        if server.check_called_ae_title and proposal.called_ae != server.ae_title:
            return CALLED_AE_NOT_RECOGNIZED
        rule = rule_for(proposal.calling_ae, caller, access)
        if isinstance(rule, Rejection):
            return rule
        # Before a place is held: those who try passwords must not take the places of others.
        who = self._identify(proposal, caller)
        if isinstance(who, Rejection):
            return who
        per_ae = rule.max_associations or access.max_associations_per_ae
        with self._lock:
            if self._admitted.total() >= server.max_associations:
                return LOCAL_LIMIT_EXCEEDED
            if per_ae is not None and self._admitted[proposal.calling_ae] >= per_ae:
                return LOCAL_LIMIT_OF_AE_EXCEEDED
            self._admitted[proposal.calling_ae] += 1
        return Admitted(rule, who.user, who.response)

    def leave(self, calling_ae: str) -> None:
        """Give back the place of an association of `calling_ae` that is over."""
        with self._lock:
            self._admitted[calling_ae] -= 1
            if not self._admitted[calling_ae]:
                del self._admitted[calling_ae]
