"""User Identity negotiation on our side: is it who it says, and does it have to be anybody (PS3.7 D.3.3.7)."""

import logging
from dataclasses import dataclass

from pacs_server.config.sections.user_identity import UserIdentityConfig
from pacs_server.config.users import Users, Verdict
from pacs_server.kit.logs import Sparingly
from pacs_server.net.acceptor import Rejection
from pacs_server.net.negotiation import USERNAME_AND_PASSCODE, Proposal, UserIdentity
from pacs_server.net.peer import Caller

log = logging.getLogger(__name__)

# PS3.7 D.3.3.7.3: rejected permanent, by the service provider (ACSE); no reason fits but "no reason given".
USER_NOT_AUTHENTICATED = Rejection(1, 2, 1, "user_identity")
# Temporary congestion: a later attempt may succeed.
TOO_MANY_WRONG_PASSWORDS = Rejection(2, 3, 1, "user_identity_attempts")


@dataclass(frozen=True, slots=True)
class Identified:
    """Who it is, None if nobody has to know; `response` is the server response, None if none was asked for."""

    user: str | None = None
    response: bytes | None = None


class Identification:
    """Decides on the user identity of proposals."""

    def __init__(self, settings: UserIdentityConfig) -> None:
        self._users = Users()
        self._sparingly = Sparingly(log)
        self.configure(settings)

    def configure(self, settings: UserIdentityConfig) -> None:
        """Take new settings; associations in force stay."""
        self._settings = settings

    def identify(self, proposal: Proposal, caller: Caller) -> Rejection | Identified:
        """Return why `proposal` is rejected, or who it comes from; may take a while."""
        settings = self._settings
        identity = proposal.user.identity
        if settings.mode == "off":
            return Identified()
        if identity is None or identity.kind != USERNAME_AND_PASSCODE:
            # A name without a passcode proves nothing, and tickets and tokens we cannot check. As PS3.7 D.3.3.7 has it,
            # the peer learns from the missing response that nobody has looked at them.
            if settings.mode == "optional":
                return Identified()
            self._log_refusal(proposal, caller, "no user name with a passcode")
            return USER_NOT_AUTHENTICATED
        name = _name(identity)
        verdict = self._users.check(settings.users_path, name, identity.secondary, caller.address)
        if verdict is Verdict.RIGHT:
            # PS3.7 Table D.3-15: the server response to a user name has no length.
            return Identified(name, b"" if identity.positive_response else None)
        wrong = verdict is Verdict.WRONG
        self._log_refusal(proposal, caller, "wrong" if wrong else "too many wrong passwords", name)
        return USER_NOT_AUTHENTICATED if wrong else TOO_MANY_WRONG_PASSWORDS

    def _log_refusal(self, proposal: Proposal, caller: Caller, reason: str, name: str = "") -> None:
        who = {"calling_ae": proposal.calling_ae, "user": name[:64]}
        self._sparingly.log(logging.WARNING, "user not identified", caller.address, reason, **who)


def _name(identity: UserIdentity) -> str:
    # Bytes that are not UTF-8 become something that is no user's name.
    return identity.primary.decode("utf-8", "surrogateescape")
