"""The audit events of associations, and how long what is recorded of them lasts; the rest is `audit.auditor`'s."""

from dataclasses import replace

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.caller import Caller
from pacs_server.net.acceptor import Rejection
from pacs_server.net.association import Association
from pacs_server.net.negotiation import UserIdentity
from pacs_server.scp.rejections import TOO_MANY_WRONG_PASSWORDS, USER_NOT_AUTHENTICATED

# PS3.7 D.3.3.7.1: a user name, alone or with a passcode.
_USER_NAMES = (1, 2)


class AssociationAuditor:
    """Records in the audit trail which peers associate, or try to, and what comes in on an association.

    May be shared by all threads.
    """

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor
        self._arrivals: dict[Association, Arrivals] = {}

    def admitted(self, caller: Caller) -> None:
        """Record that the caller was let in, if a user logged in."""
        if caller.user is not None:
            self._auditor.logged_in(caller, often=True)

    def rejected(self, caller: Caller, identity: UserIdentity | None, rejection: Rejection) -> None:
        """Record that the caller was not let in; `identity` is the user identity that the caller proposed."""
        who = participant_of(caller)
        # The other kinds of identity are tickets and tokens, which are secrets.
        if identity is not None and identity.kind in _USER_NAMES:
            who = replace(who, user_id=identity.primary.decode(errors="replace"))
        detail = f"association to {caller.called_ae} rejected: {rejection.name}"
        of_user = rejection in (USER_NOT_AUTHENTICATED, TOO_MANY_WRONG_PASSWORDS)
        self._auditor.alert(who, rejection.name, _failed_login(detail) if of_user else _failed_node(detail))

    def handshake_failed(self, address: str, reason: str) -> None:
        """Record that a peer and the server could not agree on TLS."""
        who = Participant(address, address=address, requestor=True)
        self._auditor.alert(who, "tls", _failed_node(f"TLS handshake failed: {reason}"))

    def refused(self, association: Association, operation: str, reason: str) -> None:
        """Record that a peer asked for an operation that it may not use."""
        self._auditor.refused(association.caller, operation, reason)

    def arrivals(self, association: Association) -> Arrivals:
        """The arrivals on this association."""
        arrivals = self._arrivals.get(association)
        if arrivals is None:
            arrivals = self._arrivals[association] = self._auditor.arrivals(association.caller)
        return arrivals

    def ended(self, association: Association) -> None:
        """Record what came in on an association that is over."""
        arrivals = self._arrivals.pop(association, None)
        if arrivals is not None:
            arrivals.end()


def _failed_login(detail: str) -> Event:
    return Event(EventID.USER_AUTHENTICATION, Action.EXECUTE, (), Outcome.MINOR_FAILURE, EventType.LOGIN, detail=detail)


def _failed_node(detail: str) -> Event:
    kind = EventType.NODE_AUTHENTICATION
    return Event(EventID.SECURITY_ALERT, Action.EXECUTE, (), Outcome.MINOR_FAILURE, kind, detail=detail)
