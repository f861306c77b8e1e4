"""A-ASSOCIATE-RQ -> accept or reject: AE title rules and the limit of associations (PS3.8 Table 9-21)."""

import threading
from fnmatch import fnmatchcase

from pacs_server.config import AccessControlConfig, ServerConfig
from pacs_server.net.acceptor import Rejection
from pacs_server.net.negotiation import Proposal

CALLING_AE_NOT_RECOGNIZED = Rejection(1, 1, 3, "calling_ae_title")
CALLED_AE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called_ae_title")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "associations")


class Admission:
    """Decides on proposals, and holds a place for each association that it admits."""

    def __init__(self, server: ServerConfig, access: AccessControlConfig) -> None:
        self._lock = threading.Lock()
        self._admitted = 0
        self.configure(server, access)

    def configure(self, server: ServerConfig, access: AccessControlConfig) -> None:
        """Take new rules; associations in force stay."""
        self._rules = (server, access)

    def admit(self, proposal: Proposal) -> Rejection | None:
        """Return why `proposal` is rejected, or None and hold a place, which `leave` gives back."""
        server, access = self._rules
        if server.check_called_ae_title and proposal.called_ae != server.ae_title:
            return CALLED_AE_NOT_RECOGNIZED
        if not any(_matches(proposal.calling_ae, pattern) for pattern in access.allowed_ae_titles):
            return CALLING_AE_NOT_RECOGNIZED
        with self._lock:
            if self._admitted >= server.max_associations:
                return LOCAL_LIMIT_EXCEEDED
            self._admitted += 1
        return None

    def leave(self) -> None:
        """Give back the place of an association that is over."""
        with self._lock:
            self._admitted -= 1


def _matches(title: str, pattern: str) -> bool:
    # Only * and ? are special; an AE title may hold brackets.
    return fnmatchcase(title, pattern.replace("[", "[[]"))
