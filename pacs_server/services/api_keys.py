"""API keys: what programs show instead of a user's password. Each has a name, a role, limits, and an end."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pacs_server.audit.events import Action, Event, EventID, EventType, Participant
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.config.rights import Rights, check_rights
from pacs_server.config.users import is_name
from pacs_server.dicom.caller import Role
from pacs_server.dicom.scope import Scope, scope_of
from pacs_server.errors import UserError
from pacs_server.index.logins import KeyIndex, KeyRow
from pacs_server.kit.recent import Recent
from pacs_server.services.access import granted
from pacs_server.services.sessions import RECENT_SECONDS, hash_of

# So that people, and programs that look for secrets, recognise a key.
PREFIX: Final = "pacs_"
_NOTED_EACH: Final = timedelta(hours=1)
# Longer ones are no keys, and are not looked up.
_MOST_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class APIKey:
    """An API key without its secret. `state` is working, expired or revoked; times are in UTC."""

    name: str
    role: Role
    scope: Scope
    state: str
    created: datetime
    created_by: str
    expires: datetime | None
    last_used: datetime | None


class APIKeyService:
    """Makes, finds and revokes API keys; may be shared by all threads. Every method raises IndexUnavailable.

    Methods that change something take `by`, who asks for it; without it, that is the user who runs this process. Each
    change is in the audit trail before it is made, or else AuditUnavailable is raised.
    """

    def __init__(
        self, index: KeyIndex, recorder: Recorder, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._index = index
        self._recorder = recorder
        self._clock = clock
        self._recent: Recent[APIKey] = Recent(RECENT_SECONDS, clock)
        self._exist: Recent[bool] = Recent(RECENT_SECONDS, clock)

    def create(self, name: str, rights: Rights, lasts: timedelta | None, by: Participant | None = None) -> str:
        """Make a key and return it: it is kept nowhere. `lasts` None is for ever. Raises UserError."""
        if not is_name(name):
            raise UserError(
                "the name of a key has 1 to 64 printable characters, no colon, and begins with no # or space"
            )
        check_rights(rights)
        now, key = self._clock(), PREFIX + secrets.token_urlsafe(32)
        role, scope = granted(rights)
        who = by or local_user()
        expires = None if lasts is None else now + lasts
        if any(each.name == name and each.state == "working" for each in self.list()):
            raise UserError(f"there is a key {name} already")
        self._record(who, name, f"made, {role.name.lower()}, expires {expires:%Y-%m-%d}" if expires else "made")
        row = KeyRow(hash_of(key), name, role.name.lower(), scope.as_json(), now, who.user_id, expires)
        if not self._index.add(row):
            raise UserError(f"there is a key {name} already")
        self._exist.clear()
        return key

    def recent(self, key: str) -> APIKey | None:
        """What is known of a key that was found a moment ago; never waits for the database."""
        return self._recent.get(hash_of(key)) if len(key) <= _MOST_CHARACTERS else None

    def find(self, key: str) -> APIKey | None:
        """What is known of a key that works, and note that it is used; None for every other text."""
        if not key.startswith(PREFIX) or len(key) > _MOST_CHARACTERS:
            return None
        hashed = hash_of(key)
        row = self._index.get(hashed)
        now = self._clock()
        if row is None or _state(row, now) != "working":
            return None
        if row.last_used is None or now - row.last_used >= _NOTED_EACH:
            self._index.used(hashed, now)
        found = _shown(row, now)
        self._recent.put(hashed, found)
        return found

    def list(self) -> list[APIKey]:
        """All keys in the order in which they were made, those that no longer work too."""
        now = self._clock()
        return [_shown(row, now) for row in self._index.list()]

    def any(self) -> bool:
        """Whether any key works."""
        return self._index.any(self._clock())

    def recently_exist(self) -> bool | None:
        """What `exist` said a moment ago; never waits for the database."""
        return self._exist.get("")

    def exist(self) -> bool:
        """Whether there is any key that was not revoked, also one that has expired."""
        found = self._index.exist()
        self._exist.put("", found)
        return found

    def revoke(self, name: str, by: Participant | None = None) -> None:
        """Have a key work no longer, from now on. Raises UserError."""
        known = [each for each in self.list() if each.name == name]
        if not any(each.state != "revoked" for each in known):
            raise UserError(f"there is no key {name if is_name(name) else 'of that name'}")
        self._record(by or local_user(), name, "revoked")
        self._index.revoke(name, self._clock())
        self._recent.clear()
        self._exist.clear()

    def _record(self, who: Participant, name: str, done: str) -> None:
        self._recorder.write(
            Event(
                EventID.SECURITY_ALERT,
                Action.EXECUTE,
                (who, Participant(name)),
                event_type=EventType.USER_SECURITY_ATTRIBUTES_CHANGED,
                detail=f"API key {name} {done}",
            )
        )


def _state(row: KeyRow, now: datetime) -> str:
    if row.revoked is not None:
        return "revoked"
    return "expired" if row.expires is not None and now >= row.expires else "working"


def _shown(row: KeyRow, now: datetime) -> APIKey:
    role, scope = Role[row.role.upper()], scope_of(row.scope)
    return APIKey(row.name, role, scope, _state(row, now), row.created, row.created_by, row.expires, row.last_used)
