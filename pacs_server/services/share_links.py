"""Links that show one study to somebody without an account: for a while, as a reader, and nothing else.

The token of a link is kept nowhere. Who opens a link gets a session that ends with it.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pacs_server.audit.auditor import participant_of
from pacs_server.audit.events import Action, Event, EventID, EventType, Participant
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.caller import Caller, Role
from pacs_server.dicom.scope import scope_of
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.share_links import ShareLinkIndex, ShareLinkRow
from pacs_server.services.sessions import Session, SessionService, hash_of

# How somebody has logged in who has opened a link, and whom the audit trail names then.
WAY: Final = "share"
_USER: Final = "share:"
_LONGEST_PURPOSE: Final = 100
# Longer texts are no tokens, and are not looked up.
_MOST_CHARACTERS: Final = 100
_OFF: Final = "share links are switched off (web.share_links.enabled)"


@dataclass(frozen=True, slots=True)
class SharingTerms:
    """Whether there are share links, and how long one works at most, in seconds."""

    enabled: bool
    lifetime: float


@dataclass(frozen=True, slots=True)
class Opened:
    """What who has opened a link gets: a session with its token, and the study to look at."""

    session: Session
    token: str
    study_instance_uid: str
    made_by: str


class ShareLinkService:
    """Makes, opens and revokes links; may be shared by all threads. Every method raises IndexUnavailable."""

    def __init__(
        self,
        index: ShareLinkIndex,
        sessions: SessionService,
        recorder: Recorder,
        terms: Callable[[], SharingTerms],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._index = index
        self._sessions = sessions
        self._recorder = recorder
        self._terms = terms
        self._clock = clock

    @property
    def enabled(self) -> bool:
        """Whether there are share links."""
        return self._terms().enabled

    @property
    def longest(self) -> timedelta:
        """How long a link works at most."""
        return timedelta(seconds=self._terms().lifetime)

    def make(self, subject: Subject, lasts: timedelta | None, purpose: str, caller: Caller) -> tuple[ShareLinkRow, str]:
        """Make a link to the study of `subject` and return it with its token.

        It shows no more of the study than `caller` sees. Raises NotFound if there are no share links, InvalidRequest,
        AuditUnavailable.
        """
        self._refuse_off()
        purpose = purpose.strip()
        if len(purpose) > _LONGEST_PURPOSE or not purpose.isprintable():
            raise InvalidRequest(f"say in up to {_LONGEST_PURPOSE} printable characters for whom the link is")
        if lasts is not None and not timedelta(0) < lasts <= self.longest:
            raise InvalidRequest("a link works no longer than web.share_links.lifetime says")
        now, token, uid = self._clock(), secrets.token_urlsafe(32), subject.study_instance_uid
        scope = replace(caller.scope, studies=(uid,)).as_json()
        by = participant_of(caller)
        expires = now + (lasts or self.longest)
        row = ShareLinkRow(secrets.token_hex(4), hash_of(token), uid, scope, by.user_id, now, expires, purpose)
        told = f"made for {purpose}" if purpose else "made"
        self._record(by, row, subject, f"{told}, works until {expires:%Y-%m-%d %H:%M} UTC")
        self._index.add(row)
        return row, token

    def of_study(self, study_instance_uid: str) -> list[ShareLinkRow]:
        """The links to a study that work, the last made first."""
        now = self._clock()
        return [row for row in self._index.of_study(study_instance_uid) if now < row.expires]

    def open(self, token: str, address: str) -> Opened | None:
        """Begin the session of somebody who has opened a link; None if it does not work. Raises NotFound."""
        self._refuse_off()
        row = self._index.get(hash_of(token)) if token and len(token) <= _MOST_CHARACTERS else None
        now = self._clock()
        if row is None or now >= row.expires:
            return None
        session = Session(user_of(row), Role.READER, scope_of(row.scope), WAY, WAY)
        begun = self._sessions.begin(session, address, until=row.expires)
        self._index.opened(row.link, now)
        return Opened(session, begun, row.study_instance_uid, row.made_by)

    def revoke(self, link: str, subject: Subject, by: Participant, *, others: bool) -> None:
        """Have a link to the study of `subject` work no longer, also for those who have opened it.

        Links that somebody else has made only with `others`. Raises NotFound, InvalidRequest, AuditUnavailable.
        """
        row = next((each for each in self.of_study(subject.study_instance_uid) if each.link == link), None)
        if row is None:
            raise NotFound("there is no such link")
        if row.made_by != by.user_id and not others:
            raise InvalidRequest("only who made a link, or an operator, can revoke it")
        self._record(by, row, subject, "revoked")
        self._index.remove(link)
        self._sessions.end_all(user_of(row), WAY)

    def _refuse_off(self) -> None:
        if not self.enabled:
            raise NotFound(_OFF)

    def _record(self, who: Participant, row: ShareLinkRow, subject: Subject, done: str) -> None:
        self._recorder.write(
            Event(
                EventID.SECURITY_ALERT,
                Action.EXECUTE,
                (who, Participant(user_of(row))),
                event_type=EventType.USER_SECURITY_ATTRIBUTES_CHANGED,
                subjects=(subject,),
                detail=f"share link {row.link} {done}",
            )
        )


def user_of(row: ShareLinkRow) -> str:
    """Whom the audit trail names when somebody looks at the study by a link."""
    return f"{_USER}{row.link}"
