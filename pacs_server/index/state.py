"""The state that background tasks keep between runs: texts by key. The keys of a task begin with its own name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.index.archive_models import archive_state as table
from pacs_server.index.changes import NewChange, record
from pacs_server.index.database import WRITER_LOCK, Database

_PAGE = 500


class StateIndex:
    """The texts of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        new: Any = (sqlite if database.is_sqlite else postgresql).insert(table)
        self._upsert = new.on_conflict_do_update(index_elements=["key"], set_={"value": new.excluded.value})

    def get(self, key: str) -> str | None:
        """The text of that key, None if there is none."""
        with self._database.connect() as connection:
            return connection.scalar(select(table.c.value).where(table.c.key == key))

    def put(self, values: Mapping[str, str], changes: Sequence[NewChange] = ()) -> None:
        """Store all texts or none, and tell the consumers of the feed of `changes`."""
        if values:
            with self._database.begin() as connection:
                record(connection, changes)
                # In one order everywhere, so that two processes do not wait for each other.
                rows = [{"key": key, "value": values[key]} for key in sorted(values)]
                connection.execute(self._upsert, rows)

    def put_once(self, key: str, value: str) -> str:
        """Store the text of a key that has none yet, and return the text that the key has then, in all processes."""
        with self._database.begin(lock=WRITER_LOCK) as connection:
            found = connection.scalar(select(table.c.value).where(table.c.key == key))
            if found is None:
                connection.execute(self._upsert, {"key": key, "value": value})
        return value if found is None else str(found)

    def remove(self, keys: Iterable[str], changes: Sequence[NewChange] = ()) -> None:
        """Remove the texts of these keys, and tell the consumers of the feed of `changes`."""
        with self._database.begin() as connection:
            record(connection, changes)
            connection.execute(delete(table).where(table.c.key.in_(list(keys))))

    def clear(self, prefix: str) -> None:
        """Remove the texts of all keys that begin with `prefix`."""
        with self._database.begin() as connection:
            connection.execute(delete(table).where(table.c.key.startswith(prefix, autoescape=True)))

    def items(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Keys that begin with `prefix` with their texts, in order, read page by page: they may change meanwhile."""
        last = prefix
        while True:
            page = (
                select(table.c.key, table.c.value)
                .where(table.c.key > last, table.c.key.startswith(prefix, autoescape=True))
                .order_by(table.c.key)
                .limit(_PAGE)
            )
            with self._database.connect() as connection:
                rows = [(str(key), str(value)) for key, value in connection.execute(page)]
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]
