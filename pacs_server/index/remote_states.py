"""What is known of remotes apart from their settings: whether they are paused, and whether they fail.

A remote has no row until something happens to it. All processes of one database see the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.dicom.implementations import Implementation
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.outgoing_models import remote_state as table
from pacs_server.index.prepared import Prepared


@dataclass(frozen=True, slots=True)
class RemoteState:
    """The state of a remote; the table says what each field means."""

    remote: str
    paused: bool = False
    paused_by: str = ""
    failures: int = 0
    last_error: str = ""
    openings: int = 0
    open_until: datetime | None = None
    probe_owner: str = ""
    probe_until: datetime | None = None
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    changed: datetime | None = None

    @property
    def implementation(self) -> Implementation:
        """What it said of its software when it was called last."""
        return Implementation(self.implementation_class_uid, self.implementation_version_name)

    @property
    def is_clean(self) -> bool:
        """Whether a success would change nothing."""
        return not self.failures and self.open_until is None


_ALL = Prepared(select(table))

Change = Callable[[RemoteState], RemoteState]


class RemoteStateIndex:
    """The states of the remotes of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, RemoteState]:
        """The states of the remotes to which something has happened, by their names."""
        with self._database.connect() as connection:
            return {row.remote: _state(row) for row in _ALL.all(connection, {})}

    def change(self, remote: str, change: Change, now: datetime) -> RemoteState:
        """Change the state of a remote by a function; no other change comes in between."""
        with self._database.begin() as connection:
            known = _locked(connection, remote, now)
            changed = change(known)
            if changed != known:
                changed = replace(changed, changed=now)
                values = {name: getattr(changed, name) for name in RemoteState.__dataclass_fields__}
                connection.execute(update(table).where(table.c.remote == remote).values(**values))
            return changed

    def take_probe(
        self, remote: str, owner: str, now: datetime, until: datetime, *, ahead: tuple[datetime, datetime]
    ) -> bool:
        """Become the one who finds out, up to `until`, whether a remote is there again; whether nobody else is.

        No `open_until` and no `probe_until` can lie further ahead than these two, unless the clock was set back.
        """
        opened, asked = table.c.open_until, table.c.probe_until
        half_open = (
            or_(opened <= now, opened > ahead[0]),
            or_(asked.is_(None), asked <= now, asked > ahead[1]),
        )
        mine = update(table).where(table.c.remote == remote, *half_open).values(probe_owner=owner, probe_until=until)
        with self._database.begin() as connection:
            return connection.execute(mine).rowcount == 1

    def succeeded(self, remote: str, now: datetime) -> None:
        """A remote works: close its breaker, if it was not."""
        unclean = or_(table.c.failures > 0, table.c.open_until.is_not(None))
        closed: dict[str, Any] = {"failures": 0, "openings": 0, "probe_owner": "", "changed": now}
        nothing = {"open_until": null(), "probe_until": null()}
        with self._database.begin() as connection:
            connection.execute(update(table).where(table.c.remote == remote, unclean).values(**closed, **nothing))


def _locked(connection: Connection, remote: str, now: datetime) -> RemoteState:
    insert: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    connection.execute(insert.values(remote=remote, changed=now).on_conflict_do_nothing())
    return _state(connection.execute(select(table).where(table.c.remote == remote).with_for_update()).one())


def _state(row: Row[Any]) -> RemoteState:
    values = dict(row._mapping)
    for name in ("open_until", "probe_until", "changed"):
        values[name] = values[name] and in_utc(values[name])
    return RemoteState(**values)
