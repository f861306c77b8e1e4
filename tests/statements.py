"""Which statements reach the embedded database, as it tells them itself."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import server_threads
from sqlalchemy import Connection, Engine, event

from pacs_server.index.database import Database
from pacs_server.index.prepared import Prepared, Raw

_WORD = re.compile(r"\w+")
# A message of the client, as libpq writes it: time, direction, length and kind.
_SENT = re.compile(r"^[^\t]*\tF\t\d+\t(\w+)", re.MULTILINE)


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
        if connection is not None:  # one that is kept is closed before it is given back
            connection.set_trace_callback(None)

    event.listen(database.engine, "checkout", listen)
    event.listen(database.engine, "checkin", leave)
    # What is kept is not taken from the pool.
    database.give_back()
    try:
        yield sent
    finally:
        database.give_back()
        event.remove(database.engine, "checkout", listen)
        event.remove(database.engine, "checkin", leave)


@contextmanager
def before_each(engine: Engine, act: Callable[[Connection, str], object]) -> Iterator[None]:
    """Call `act` with the connection and the SQL of each statement before it is run, by SQLAlchemy or by its driver."""

    def executed(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        act(connection, statement)

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(prepared: Prepared, raw: Raw, values: Any) -> Any:
            act(raw.connection, prepared.sql(raw))
            return run(prepared, raw, values)

        return noted

    event.listen(engine, "before_cursor_execute", executed)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("run", "write"):
            patch.setattr(Prepared, name, noting(getattr(Prepared, name)))
        yield
    event.remove(engine, "before_cursor_execute", executed)


@contextmanager
def round_trips() -> Iterator[Counter[str]]:
    """How often each thread of this process waits within for an answer of a PostgreSQL server, by its name."""
    counter: Counter[str] = Counter()
    from pacs_server.index import postgresql  # its driver is an extra

    wait: Callable[..., Any] = postgresql._Connection.wait

    def noted(*arguments: Any, **named: Any) -> Any:
        counter[threading.current_thread().name] += 1
        return wait(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgresql._Connection, "wait", noted)
        yield counter


@contextmanager
def messages(database: Database, directory: Path) -> Iterator[Callable[[], Counter[str]]]:
    """What goes to a PostgreSQL server on connections that threads that serve peers take from the pool within.

    A function that gives how many messages of each kind of its protocol have gone so far.
    """
    traced: list[Path] = []
    files = ExitStack()

    def trace(connection: Any, *_: object) -> None:
        if threading.current_thread().name in server_threads():
            traced.append(directory / f"messages-{len(traced)}.txt")
            # It stays open, because libpq writes to the same descriptor.
            connection.pgconn.trace(files.enter_context(traced[-1].open("w")).fileno())

    def leave(connection: Any, *_: object) -> None:
        if connection is not None:
            connection.pgconn.untrace()

    event.listen(database.engine, "checkout", trace)
    event.listen(database.engine, "checkin", leave)
    database.give_back()
    try:
        yield lambda: Counter(kind for path in traced for kind in _SENT.findall(path.read_text()))
    finally:
        database.give_back()
        event.remove(database.engine, "checkout", trace)
        event.remove(database.engine, "checkin", leave)
        files.close()


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """How many statements begin with each word, of those that peers cause within; complete at the end."""
    counter: Counter[str] = Counter()
    with statements(database, of_peers=True) as sent:
        yield counter
    counter.update(found[0].upper() for statement in sent if (found := _WORD.search(statement)))
