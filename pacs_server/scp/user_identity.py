"""User Identity negotiation as the acceptor: check who the user is, if the settings ask for it (PS3.7 D.3.3.7)."""

import logging
from dataclasses import dataclass

from pacs_server.config.passwords import PasswordChecker, Verdict
from pacs_server.config.sections.user_identity import UserIdentityConfig
from pacs_server.dicom.caller import Caller, Role
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.kit.logs import Sparingly
from pacs_server.net.acceptor import Rejection
from pacs_server.net.negotiation import USERNAME_AND_PASSCODE, UserIdentity
from pacs_server.scp.rejections import TOO_MANY_WRONG_PASSWORDS, USER_NOT_AUTHENTICATED
from pacs_server.services.access import granted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IdentifiedUser:
    """The user who proposes an association; `name` is None if nobody has to be identified.

    `response` is the server response for the answer, None if the peer did not ask for one.
    """

    name: str | None = None
    response: bytes | None = None
    role: Role = Role.CONTRIBUTOR
    scope: Scope = EVERYTHING


_NOBODY = IdentifiedUser()


class UserIdentification:
    """Decides on the user identity of proposals."""

    def __init__(self, settings: UserIdentityConfig, users: PasswordChecker | None = None) -> None:
        """With `users`, wrong passwords at other doors count here too."""
        self._users = users or PasswordChecker()
        self._sparingly = Sparingly(log)
        self.configure(settings)

    def configure(self, settings: UserIdentityConfig) -> None:
        """Use new settings from now on; associations in force stay."""
        self._settings = settings

    def identify(self, identity: UserIdentity | None, caller: Caller) -> Rejection | IdentifiedUser:
        """Find out which user `identity` is, or reject the proposal; checking a password takes a while."""
        settings = self._settings
        if settings.mode == "off":
            return _NOBODY
        if identity is None or identity.kind != USERNAME_AND_PASSCODE:
            # A name without a passcode proves nothing, and the server cannot check tickets and tokens. As PS3.7 D.3.3.7
            # has it, the peer learns from the missing response that nobody has looked at them.
            if settings.mode == "optional":
                return _NOBODY
            self._log_refusal(caller, "no user name with a passcode")
            return USER_NOT_AUTHENTICATED
        # Bytes that are not UTF-8 become a text that is no user's name.
        name = identity.primary.decode("utf-8", "surrogateescape")
        verdict, user = self._users.identify(settings.users_path, name, identity.secondary, caller.address)
        if user is not None:
            # PS3.7 Table D.3-15: the server response to a user name has no length.
            return IdentifiedUser(name, b"" if identity.positive_response else None, *granted(user.rights))
        wrong = verdict is Verdict.WRONG
        self._log_refusal(caller, "wrong" if wrong else "too many wrong passwords", name)
        return USER_NOT_AUTHENTICATED if wrong else TOO_MANY_WRONG_PASSWORDS

    def _log_refusal(self, caller: Caller, reason: str, name: str = "") -> None:
        who = {"calling_ae": caller.ae_title, "user": name[:64]}
        self._sparingly.log(logging.WARNING, "user not identified", caller.address, reason, **who)
