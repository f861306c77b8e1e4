"""Sessions and API keys: how long they work, what is kept of them, and who hears of it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from trails import Kept, recorder_of

from pacs_server.audit.events import Participant
from pacs_server.config.rights import Rights
from pacs_server.dicom.caller import Role
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import AuditUnavailable, UserError
from pacs_server.index import logins
from pacs_server.index.database import Database
from pacs_server.index.login_models import api_key, web_session
from pacs_server.index.logins import KeyIndex, SessionIndex
from pacs_server.index.state import StateIndex
from pacs_server.services.api_keys import APIKeyService
from pacs_server.services.sessions import Lasting, Session, SessionService

ANNA = Session("anna", Role.READER, Scope(modalities=("CT",), patients=(("P1", "I"),)), "password", "stamp")
ADMIN = Participant("admin", address="10.0.0.1", requestor=True)


class Clock:
    """Time that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lasting() -> list[Lasting]:
    return [Lasting(lifetime=1000.0, idle=400.0)]


@pytest.fixture
def sessions(database: Database, clock: Clock, lasting: list[Lasting]) -> SessionService:
    return SessionService(SessionIndex(database), lambda: lasting[0], StateIndex(database), clock=clock)


@pytest.fixture
def trail() -> Kept:
    return Kept()


@pytest.fixture
def keys(database: Database, clock: Clock, trail: Kept) -> APIKeyService:
    return APIKeyService(KeyIndex(database), recorder_of(trail), clock=clock)


def kept(database: Database, table: object) -> list[dict[str, object]]:
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]  # type: ignore[call-overload]


def test_a_session_lasts_while_it_is_used_and_not_longer_than_its_lifetime(
    sessions: SessionService, clock: Clock
) -> None:
    token = sessions.begin(ANNA, "10.0.0.7")
    for _ in range(3):
        clock.passes(300)
        assert sessions.find(token) == ANNA
    clock.passes(99)
    assert sessions.find(token) == ANNA
    clock.passes(1)
    assert sessions.find(token) is None


def test_a_session_that_is_not_used_ends(sessions: SessionService, clock: Clock, database: Database) -> None:
    token = sessions.begin(ANNA, "10.0.0.7")
    clock.passes(399)
    assert sessions.find(token) == ANNA
    clock.passes(400)
    assert sessions.find(token) is None
    assert kept(database, web_session) == []


def test_shorter_settings_count_for_sessions_that_have_begun(
    sessions: SessionService, clock: Clock, lasting: list[Lasting]
) -> None:
    token = sessions.begin(ANNA, "10.0.0.7")
    lasting[0] = Lasting(lifetime=100.0, idle=400.0)
    clock.passes(101)
    assert sessions.find(token) is None


def test_a_session_ends_by_logging_out(sessions: SessionService) -> None:
    one, other = (sessions.begin(ANNA, "10.0.0.7") for _ in range(2))
    bert = sessions.begin(Session("bert", Role.OPERATOR, EVERYTHING, "oidc"), "10.0.0.8")
    sessions.end(one)
    assert (sessions.find(one), sessions.find(other)) == (None, ANNA)
    assert sessions.find(bert) == Session("bert", Role.OPERATOR, EVERYTHING, "oidc")
    assert sessions.find("") is None


def test_what_was_found_a_moment_ago_is_not_looked_up_and_not_longer(
    sessions: SessionService, keys: APIKeyService, clock: Clock
) -> None:
    token, key = sessions.begin(ANNA, "10.0.0.7"), keys.create("scripts", Rights("reader"), None, ADMIN)
    assert (sessions.recent(token), keys.recent(key)) == (None, None)
    found = sessions.find(token), keys.find(key)
    assert (sessions.recent(token), keys.recent(key)) == found
    clock.passes(2)
    assert (sessions.recent(token), keys.recent(key)) == (None, None)
    sessions.find(token), keys.find(key)
    sessions.end(token)
    keys.revoke("scripts", ADMIN)
    assert (sessions.recent(token), keys.recent(key)) == (None, None)
    assert keys.recent("x" * 5000) is None


def test_what_is_kept_of_a_session_opens_nothing(sessions: SessionService, database: Database) -> None:
    token = sessions.begin(ANNA, "10.0.0.7")
    assert token not in str(kept(database, web_session))
    assert sessions.find(str(kept(database, web_session)[0]["token_hash"])) is None


def test_looking_whether_a_session_lasts_does_not_prolong_it(sessions: SessionService, clock: Clock) -> None:
    token = sessions.begin(ANNA, "10.0.0.9")
    for _ in range(3):
        clock.passes(120)
        assert sessions.find(token, used=False) == ANNA
    clock.passes(120)
    assert sessions.find(token, used=False) is None


def test_use_is_written_now_and_then(sessions: SessionService, clock: Clock, database: Database) -> None:
    token = sessions.begin(ANNA, "10.0.0.7")
    before = kept(database, web_session)
    clock.passes(59)
    sessions.find(token)
    assert kept(database, web_session) == before
    clock.passes(1)
    sessions.find(token)
    assert kept(database, web_session) != before


def test_sessions_do_not_pile_up(
    sessions: SessionService, clock: Clock, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "_MOST_OF_USER", 3)
    tokens = []
    for _ in range(5):
        tokens.append(sessions.begin(ANNA, "10.0.0.7"))
        clock.passes(1)
    assert [sessions.find(token) is not None for token in tokens] == [False, False, True, True, True]
    clock.passes(1000)
    sessions.begin(ANNA, "10.0.0.7")
    assert len(kept(database, web_session)) == 1


def test_a_key_is_shown_once_and_works_until_it_expires(
    keys: APIKeyService, clock: Clock, database: Database, trail: Kept
) -> None:
    rights = Rights("reader", ("CT",), (), (("P1", ""),))
    key = keys.create("scripts", rights, timedelta(days=90), ADMIN)
    found = keys.find(key)
    assert found is not None
    assert (found.role, found.scope, found.created_by) == (Role.READER, Scope(("CT",), (), (("P1", ""),)), "admin")
    secret = key.removeprefix("pacs_")
    assert secret not in str(kept(database, api_key)) + str(trail.events) + str(keys.list())
    assert trail.events[0].detail == "API key scripts made, reader, expires 2026-04-05"
    clock.passes(90 * 86400 - 1)
    assert keys.find(key) is not None
    clock.passes(1)
    assert keys.find(key) is None
    assert [each.state for each in keys.list()] == ["expired"]
    assert not keys.any()


def test_a_revoked_key_works_no_longer_and_its_name_is_free(keys: APIKeyService, trail: Kept) -> None:
    key = keys.create("scripts", Rights("reader"), None, ADMIN)
    with pytest.raises(UserError, match="there is a key scripts already"):
        keys.create("scripts", Rights("reader"), None, ADMIN)
    keys.revoke("scripts", ADMIN)
    assert keys.find(key) is None
    with pytest.raises(UserError, match="there is no key scripts"):
        keys.revoke("scripts", ADMIN)
    again = keys.create("scripts", Rights("operator"), None, ADMIN)
    found = keys.find(again)
    assert found is not None
    assert found.role is Role.OPERATOR
    assert [each.state for each in keys.list()] == ["revoked", "working"]
    assert [event.participants[0].user_id for event in trail.events] == ["admin"] * 3


@pytest.mark.parametrize("text", ["", "pacs_", "pacs_" + "A" * 43, "pacs_" + "A" * 5000, "A" * 43])
def test_other_texts_are_no_keys(keys: APIKeyService, text: str) -> None:
    keys.create("scripts", Rights("reader"), None, ADMIN)
    assert keys.find(text) is None


def test_use_of_a_key_is_noted_to_the_hour(keys: APIKeyService, clock: Clock) -> None:
    key = keys.create("scripts", Rights("reader"), None, ADMIN)
    used = []
    for _ in range(3):
        clock.passes(1800)
        keys.find(key)
        used.append(keys.list()[0].last_used)
    assert used[0] == used[1] != used[2] == clock.now


@pytest.mark.parametrize(
    "change",
    [
        lambda keys: keys.create("a:b", Rights("reader"), None),
        lambda keys: keys.create("", Rights("reader"), None),
        lambda keys: keys.create("other", Rights("boss"), None),
        lambda keys: keys.create("other", Rights("operator", ("CT",)), None),
        lambda keys: keys.revoke("other"),
    ],
)
def test_what_cannot_be_done_leaves_no_trace(
    keys: APIKeyService, trail: Kept, change: Callable[[APIKeyService], object]
) -> None:
    with pytest.raises(UserError):
        change(keys)
    assert (keys.list(), trail.events) == ([], [])


def test_without_an_audit_trail_no_key_changes(keys: APIKeyService, trail: Kept) -> None:
    key = keys.create("scripts", Rights("reader"), None, ADMIN)
    trail.full = True
    with pytest.raises(AuditUnavailable):
        keys.create("other", Rights("reader"), None, ADMIN)
    with pytest.raises(AuditUnavailable):
        keys.revoke("scripts", ADMIN)
    assert len(keys.list()) == 1
    assert keys.find(key) is not None


def test_a_key_that_has_expired_still_says_that_there_are_keys(keys: APIKeyService, clock: Clock) -> None:
    assert (keys.recently_exist(), keys.exist(), keys.recently_exist()) == (None, False, False)
    keys.create("robot", Rights("reader"), timedelta(hours=1))
    assert (keys.recently_exist(), keys.exist()) == (None, True)
    clock.passes(3601)
    assert (keys.recently_exist(), keys.exist(), keys.any()) == (None, True, False)
    keys.revoke("robot")
    assert not keys.exist()
