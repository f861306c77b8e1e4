"""Sessions of people who have logged in at the HTTP door: they end by time, without use, and when rights change."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pacs_server.dicom.caller import Role
from pacs_server.dicom.scope import Scope, scope_of
from pacs_server.index.logins import SessionIndex, SessionRow
from pacs_server.index.state import StateIndex
from pacs_server.kit.recent import Recent

# When a session was last used is written at most so often, in seconds, and a few times within the time it may idle.
_NOTED_EACH: Final = 60.0
_NOTES_WHILE_IDLE: Final = 4
# A session, or an API key, is looked up again after so many seconds: so long it may outlive its end in another process.
RECENT_SECONDS: Final = 2.0
_ARCHIVE_ID: Final = "web.archive_id"


@dataclass(frozen=True, slots=True)
class Lasting:
    """How long sessions last, in seconds: `lifetime` at most, `idle` without use."""

    lifetime: float
    idle: float


@dataclass(frozen=True, slots=True)
class Session:
    """Who has logged in, and what this user may do.

    `way` is how: password, oidc or share; `stamp` is that of `User`.
    """

    user: str
    role: Role
    scope: Scope
    way: str
    stamp: str = ""


class SessionService:
    """Begins, finds and ends sessions; may be shared by all threads. Every method raises IndexUnavailable."""

    def __init__(
        self,
        index: SessionIndex,
        lasting: Callable[[], Lasting],
        state: StateIndex,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._index = index
        self._lasting = lasting
        self._state = state
        self._archive_id: str | None = None
        self._clock = clock
        self._recent: Recent[Session] = Recent(RECENT_SECONDS, clock)

    def archive_id(self) -> str:
        """A short text that tells this archive from others on the same host, the same for all its nodes."""
        if self._archive_id is None:
            self._archive_id = self._state.put_once(_ARCHIVE_ID, secrets.token_hex(4))
        return self._archive_id

    def had_users(self) -> bool:
        """Whether somebody has logged in with a password, as far as sessions are still kept."""
        return self._index.any_of("password")

    def begin(self, session: Session, address: str, *, until: datetime | None = None) -> str:
        """Keep a new session and return its token, which is kept nowhere; it ends at the moment `until` at last."""
        token, now = secrets.token_urlsafe(32), self._clock()
        expires = now + timedelta(seconds=self._lasting().lifetime)
        self._index.add(
            SessionRow(
                token_hash=hash_of(token),
                user=session.user,
                role=session.role.name.lower(),
                scope=session.scope.as_json(),
                way=session.way,
                stamp=session.stamp,
                address=address,
                created=now,
                last_seen=now,
                expires=expires if until is None else min(expires, until),
            )
        )
        return token

    def recent(self, token: str) -> Session | None:
        """The session of a token, if it was found a moment ago; never waits for the database."""
        return self._recent.get(hash_of(token))

    def find(self, token: str, *, used: bool = True) -> Session | None:
        """The session of a token, and note that it is `used`; None if there is none, or its time is over."""
        hashed = hash_of(token)
        row = self._index.get(hashed)
        if row is None:
            return None
        now, lasting = self._clock(), self._lasting()
        unused = (now - row.last_seen).total_seconds()
        # The settings may be shorter now than they were when the session began.
        ends = min(row.expires, row.created + timedelta(seconds=lasting.lifetime))
        if now >= ends or unused >= lasting.idle:
            self._index.remove(hashed)
            return None
        if used and unused >= min(_NOTED_EACH, lasting.idle / _NOTES_WHILE_IDLE):
            self._index.saw(hashed, now)
        session = Session(row.user, Role[row.role.upper()], scope_of(row.scope), row.way, row.stamp)
        self._recent.put(hashed, session)
        return session

    def end(self, token: str) -> None:
        """End a session."""
        self._index.remove(hash_of(token))
        self._recent.clear()

    def end_all(self, user: str, way: str) -> None:
        """End all sessions of a user who has logged in in this way."""
        self._index.remove_of(user, way)
        self._recent.clear()


def hash_of(token: str) -> str:
    """The hash of a token of 256 random bits: nobody can try all of them, so that it need not be a slow one."""
    return hashlib.sha256(token.encode()).hexdigest()
