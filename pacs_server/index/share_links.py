"""Links to one study in the database, found by the hashes of their tokens; every method raises IndexUnavailable."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update

from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.login_models import share_link as table


@dataclass(frozen=True, slots=True)
class ShareLinkRow:
    """A link as it is kept; all times are in UTC."""

    link: str
    token_hash: str
    study_instance_uid: str
    scope: str
    made_by: str
    made_at: datetime
    expires: datetime
    purpose: str = ""
    last_opened: datetime | None = None


class ShareLinkIndex:
    """The links of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: ShareLinkRow) -> None:
        """Keep a link; those whose time is over are forgotten."""
        with self._database.begin() as connection:
            connection.execute(delete(table).where(table.c.expires <= row.made_at))
            connection.execute(insert(table), asdict(row))

    def get(self, token_hash: str) -> ShareLinkRow | None:
        """The link of a token; None if there is none."""
        with self._database.connect() as connection:
            row = connection.execute(select(table).where(table.c.token_hash == token_hash)).one_or_none()
        return None if row is None else _row(row._mapping)

    def of_study(self, study_instance_uid: str) -> list[ShareLinkRow]:
        """The links to a study, the last made first."""
        of_study = select(table).where(table.c.study_instance_uid == study_instance_uid)
        with self._database.connect() as connection:
            rows = connection.execute(of_study.order_by(table.c.made_at.desc(), table.c.link)).mappings().all()
        return [_row(row) for row in rows]

    def opened(self, link: str, moment: datetime) -> None:
        """Note that a link was opened."""
        with self._database.begin() as connection:
            connection.execute(update(table).where(table.c.link == link).values(last_opened=moment))

    def remove(self, link: str) -> None:
        """Forget a link."""
        with self._database.begin() as connection:
            connection.execute(delete(table).where(table.c.link == link))


def _row(values: Mapping[Any, Any]) -> ShareLinkRow:
    found: dict[str, Any] = {
        str(name): in_utc(value) if isinstance(value, datetime) else value for name, value in values.items()
    }
    return ShareLinkRow(**found)
