"""Which statements reach the embedded database, as it tells them itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from pacs_server.index.database import Database


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements of SQLite connections that are taken from the pool within, with what their values are."""
    sent: list[str] = []

    def listen(connection: Any, *_: object) -> None:
        connection.set_trace_callback(sent.append)

    def leave(connection: Any, *_: object) -> None:
        connection.set_trace_callback(None)

    event.listen(database.engine, "checkout", listen)
    event.listen(database.engine, "checkin", leave)
    try:
        yield sent
    finally:
        event.remove(database.engine, "checkout", listen)
        event.remove(database.engine, "checkin", leave)
