"""Peers that requested an association: one row for each calling AE title, called AE title and address."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.index.database import Database
from pacs_server.index.workflow_models import peer_seen as table

ACCEPTED = "accepted"
# Invented titles must not grow the database without limit.
MAX_PEERS = 1000
_PEERS_LOCK = 0x50414353_50454552  # any number, the same everywhere: "PACSPEER"
_KEY = ("calling_ae", "called_ae", "address")


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """A peer that requested `count` associations; `outcome` is ACCEPTED or the reason of the last rejection."""

    calling_ae: str
    called_ae: str
    address: str
    first_seen_at: datetime
    last_seen_at: datetime
    count: int
    outcome: str
    tls: bool
    implementation_version_name: str


class PeerIndex:
    """The peers seen, in one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        new: Any = (sqlite if database.is_sqlite else postgresql).insert(table)
        self._upsert = new.on_conflict_do_update(
            index_elements=_KEY,
            set_={
                "count": table.c["count"] + new.excluded["count"],
                **{name: new.excluded[name] for name in ("last_seen_at", "outcome", "tls")},
                "implementation_version_name": new.excluded.implementation_version_name,
            },
        )

    def add(self, peers: Sequence[PeerSeen]) -> None:
        """Add or update peers; above MAX_PEERS the oldest are removed, rejected ones first."""
        kept = (
            select(table.c.id)
            .order_by((table.c.outcome == ACCEPTED).desc(), table.c.last_seen_at.desc(), table.c.id.desc())
            .limit(MAX_PEERS)
        )
        with self._database.begin(lock=_PEERS_LOCK) as connection:
            connection.execute(self._upsert, [asdict(peer) for peer in peers])
            connection.execute(delete(table).where(table.c.id.not_in(kept)))

    def list(self, *, rejected: bool = False, calling_ae: str | None = None) -> list[PeerSeen]:
        """The peers, last seen first; optionally only those whose last request was rejected, or those of a title."""
        query = select(*(column for column in table.c if column.name != "id"))
        query = query.order_by(table.c.last_seen_at.desc(), table.c.id.desc())
        if rejected:
            query = query.where(table.c.outcome != ACCEPTED)
        if calling_ae is not None:
            query = query.where(table.c.calling_ae == calling_ae)
        with self._database.connect() as connection:
            return [_peer(dict(row)) for row in connection.execute(query).mappings()]


def _peer(row: dict[Any, Any]) -> PeerSeen:
    for name in ("first_seen_at", "last_seen_at"):
        moment: datetime = row[name]
        # SQLite stores no time zone; the times are UTC.
        row[name] = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return PeerSeen(**row)
