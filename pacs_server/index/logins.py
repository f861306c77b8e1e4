"""Sessions and API keys in the database, found by the hashes of their tokens; every method raises IndexUnavailable."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, insert, select, update

from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.login_models import api_key, web_session

# A program that logs in for each request must not grow the database without limit.
_MOST_OF_USER: Final = 100
_KEYS_LOCK: Final = 0x50414353_4B455953  # any number, the same everywhere: "PACSKEYS"


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as it is kept; all times are in UTC."""

    token_hash: str
    user: str
    role: str
    scope: str
    way: str
    stamp: str
    address: str
    created: datetime
    last_seen: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key as it is kept; all times are in UTC."""

    token_hash: str
    name: str
    role: str
    scope: str
    created: datetime
    created_by: str
    expires: datetime | None = None
    last_used: datetime | None = None
    revoked: datetime | None = None


class SessionIndex:
    """The sessions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: SessionRow) -> None:
        """Keep a session; the oldest of a user who has very many end, and those whose time is over."""
        columns = web_session.c
        kept = (
            select(columns.id).where(columns.user == row.user).order_by(columns.created.desc(), columns.id.desc())
            .limit(_MOST_OF_USER)
        )  # fmt: skip
        with self._database.begin() as connection:
            connection.execute(delete(web_session).where(columns.expires <= row.created))
            connection.execute(insert(web_session), asdict(row))
            connection.execute(delete(web_session).where(columns.user == row.user, columns.id.not_in(kept)))

    def get(self, token_hash: str) -> SessionRow | None:
        """The session of a token; None if there is none."""
        statement = select(*(column for column in web_session.c if column.name != "id"))
        with self._database.connect() as connection:
            found = connection.execute(statement.where(web_session.c.token_hash == token_hash)).mappings().one_or_none()
        return None if found is None else SessionRow(**_in_utc(found))

    def any_of(self, way: str) -> bool:
        """Whether there is a session of somebody who has logged in in this way, also one whose time is over."""
        with self._database.connect() as connection:
            found = connection.execute(select(web_session.c.id).where(web_session.c.way == way).limit(1))
            return found.first() is not None

    def saw(self, token_hash: str, moment: datetime) -> None:
        """Note that a session was used."""
        with self._database.begin() as connection:
            matching = web_session.c.token_hash == token_hash
            connection.execute(update(web_session).where(matching).values(last_seen=moment))

    def remove(self, token_hash: str) -> None:
        """End a session, if it is there."""
        with self._database.begin() as connection:
            connection.execute(delete(web_session).where(web_session.c.token_hash == token_hash))

    def remove_of(self, user: str, way: str) -> None:
        """End all sessions of a user who has logged in in this way."""
        with self._database.begin() as connection:
            theirs = (web_session.c.user == user, web_session.c.way == way)
            connection.execute(delete(web_session).where(*theirs))


class KeyIndex:
    """The API keys of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: KeyRow) -> bool:
        """Keep a key; False, and nothing is kept, if a key that works has the same name."""
        same = (api_key.c.name == row.name, _works(row.created))
        with self._database.begin(lock=_KEYS_LOCK) as connection:
            if connection.execute(select(api_key.c.id).where(*same)).first() is not None:
                return False
            connection.execute(insert(api_key), asdict(row))
        return True

    def get(self, token_hash: str) -> KeyRow | None:
        """The key of a token; None if there is none."""
        with self._database.connect() as connection:
            found = connection.execute(_KEYS.where(api_key.c.token_hash == token_hash)).mappings().one_or_none()
        return None if found is None else KeyRow(**_in_utc(found))

    def list(self) -> list[KeyRow]:
        """All keys in the order in which they were made, those that no longer work too."""
        with self._database.connect() as connection:
            return [KeyRow(**_in_utc(row)) for row in connection.execute(_KEYS.order_by(api_key.c.id)).mappings()]

    def any(self, now: datetime) -> bool:
        """Whether any key works."""
        with self._database.connect() as connection:
            return connection.execute(select(api_key.c.id).where(_works(now)).limit(1)).first() is not None

    def exist(self) -> bool:
        """Whether there is any key that was not revoked, also one that has expired."""
        with self._database.connect() as connection:
            found = connection.execute(select(api_key.c.id).where(api_key.c.revoked.is_(None)).limit(1))
            return found.first() is not None

    def used(self, token_hash: str, moment: datetime) -> None:
        """Note when a key was used."""
        with self._database.begin() as connection:
            connection.execute(update(api_key).where(api_key.c.token_hash == token_hash).values(last_used=moment))

    def revoke(self, name: str, moment: datetime) -> bool:
        """Have the keys of a name work no longer; whether there was one that was not revoked."""
        matching = (api_key.c.name == name, api_key.c.revoked.is_(None))
        with self._database.begin() as connection:
            return connection.execute(update(api_key).where(*matching).values(revoked=moment)).rowcount > 0


_KEYS: Final = select(*(column for column in api_key.c if column.name != "id"))


def _works(now: datetime) -> ColumnElement[bool]:
    return api_key.c.revoked.is_(None) & (api_key.c.expires.is_(None) | (api_key.c.expires > now))


def _in_utc(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): in_utc(value) if isinstance(value, datetime) else value for name, value in row.items()}
