"""Which statements reach the embedded database, as it tells them itself."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from servers import server_threads
from sqlalchemy import event

from pacs_server.index.database import Database

_WORD = re.compile(r"\w+")


@contextmanager
def statements(database: Database, *, of_peers: bool = False) -> Iterator[list[str]]:
    """The statements of SQLite connections that are taken from the pool within, with what their values are.

    With `of_peers` only those that the threads make that serve peers, at the DICOM port or over HTTP.
    """
    sent: list[str] = []

    def note(statement: str) -> None:
        name = threading.current_thread().name
        if not of_peers or name in server_threads() or name.startswith(("AnyIO worker", "web-thread")):
            sent.append(statement)

    def listen(connection: Any, *_: object) -> None:
        connection.set_trace_callback(note)

    def leave(connection: Any, *_: object) -> None:
        connection.set_trace_callback(None)

    event.listen(database.engine, "checkout", listen)
    event.listen(database.engine, "checkin", leave)
    try:
        yield sent
    finally:
        event.remove(database.engine, "checkout", listen)
        event.remove(database.engine, "checkin", leave)


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """How many statements begin with each word, of those that peers cause within; complete at the end."""
    counter: Counter[str] = Counter()
    with statements(database, of_peers=True) as sent:
        yield counter
    counter.update(found[0].upper() for statement in sent if (found := _WORD.search(statement)))
