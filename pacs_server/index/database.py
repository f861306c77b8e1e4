"""The database behind the index: connections, transactions, and the schema's version.

SQLite and PostgreSQL behave alike from here on: reads see a snapshot while the one writer works,
and every failure of the database is `IndexUnavailable`.
"""

import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pacs_server.errors import ConfigError, IndexUnavailable, SchemaError
from pacs_server.index import revisions
from pacs_server.index.brief import is_stop, stopped_after
from pacs_server.index.engines import Engines, FirstRow
from pacs_server.index.kept import KeptConnection
from pacs_server.index.prepared import Raw
from pacs_server.index.sqlite import is_damage, lack_of_room
from pacs_server.index.wakeups import Wakeups

if TYPE_CHECKING:
    from pacs_server.index.notifications import NotificationListener

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long a statement waits for a lock before the index counts as unavailable.
LOCK_WAIT_SECONDS = 10
# One writer at a time in all processes, as on SQLite: no deadlocks, counters add up, and ids of instances and changes
# are given in the order of the commits. Any number, the same everywhere: "PACSINDX".
WRITER_LOCK = 0x50414353_494E4458
# PostgreSQL notifies other processes of a commit on this channel. One statement takes the lock and notifies, which
# it does only if the feed has a consumer.
_CHANNEL = "pacs_server_feed"
_LOCK_AND_NOTIFY = (
    f"SELECT pg_advisory_xact_lock({WRITER_LOCK}), "  # noqa: S608
    f"CASE WHEN EXISTS (SELECT 1 FROM feed_cursor) THEN pg_notify('{_CHANNEL}', '')::text END"
)
_HOLD_WRITER_LOCK = text(_LOCK_AND_NOTIFY)
# The setting ends with the transaction: a pooler in between may give the session to somebody else.
_LOCK_AND_NOTIFY_RELAXED = f"{_LOCK_AND_NOTIFY}, set_config('synchronous_commit', 'off', true)"
_HOLD_WRITER_LOCK_RELAXED = text(_LOCK_AND_NOTIFY_RELAXED)
# In `Connection.info` while the transaction holds the writer's lock.
_HOLDS_WRITER_LOCK = "holds_writer_lock"
_CHUNK_ROWS = 256
_MIGRATION_LOCK = 0x50414353_4D494752  # any number, the same in every process: "PACSMIGR"
# Alembic keeps its context in module globals, so that only one thread may migrate at a time.
_migrating = threading.Lock()
# PostgreSQL's SQLSTATE for a full disk, and the prefixes of its connection errors. The prefixes are cut off: they
# would leave no room for the reason in a DIMSE response, and show addresses and paths to peers.
_DISK_FULL = "53100"
_WHERE = re.compile(r"^(connection (failed|is bad): )?(connection to server .*? failed: )?(FATAL: *)?")


class Database:
    """One database by URL; connects when first used, and may be shared by all threads.

    `wal_mode` and `fsync` are SQLite's: without `fsync` a power loss may take the last commits or
    the whole file. PostgreSQL has its own settings for that.
    """

    def __init__(self, url: str, *, wal_mode: bool = True, fsync: bool = True) -> None:
        self._url = _supported(url)
        # Whether this is the embedded database.
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._fsync = fsync
        self._damage: str | None = None
        self._closed = False
        self._engines = Engines(
            self._url,
            self.file,
            lock_wait=LOCK_WAIT_SECONDS,
            wal_mode=wal_mode,
            fsync=fsync,
            given_back=self._given_back,
        )
        self._engine = self._engines.ordinary
        # By whether they are relaxed.
        self._kept = {relaxed: self._new_kept(relaxed=relaxed) for relaxed in (False, True)}
        self._wakeups = Wakeups()
        self._listener: NotificationListener | None = None
        self._listener_lock = threading.Lock()

    @property
    def file(self) -> Path | None:
        """The file of the embedded database; None if it is on a server, or its URL gives no path."""
        return Path(str(self._url.database)) if self.is_sqlite and "uri" not in self._url.query else None

    @property
    def relaxes(self) -> bool:
        """Whether there are `relaxed` transactions; asks SQLite whether its file is in WAL mode, which they need."""
        if not self.is_sqlite or not self._fsync:
            return self._fsync
        with self.connect() as connection:
            return bool(connection.scalar(text("PRAGMA journal_mode")) == "wal")

    @cached_property
    def relaxes_alone(self) -> bool:
        """Whether there are `relaxed` transactions that nothing can take while this process lives.

        That is so on SQLite: a power loss ends the process as well. WRITER_LOCK is not needed for them.
        """
        return self.is_sqlite and self.relaxes

    def when_connected(self, check: Callable[[FirstRow], None]) -> None:
        """Have `check` look at each new connection to a database server before it is used; see `Engines`."""
        self._engines.check = check

    @property
    def engine(self) -> Engine:
        """The engine, for tests and tools; the index itself uses `connect` and `begin`."""
        return self._engine

    @property
    def url_without_password(self) -> str:
        """The URL without its password, to be shown."""
        return self._url.difference_update_query(["password", "sslpassword"]).render_as_string(hide_password=True)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turn errors of SQLAlchemy and of the driver into IndexUnavailable."""
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout, self._driver.Error) as error:
            named = self._named(error)
            if isinstance(named, IntegrityError):
                raise named from error
            raise self._unavailable(named) from named

    @property
    def _driver(self) -> Any:
        return self._engine.dialect.loaded_dbapi

    def _named(self, error: Exception) -> Exception:
        """An error of the driver as SQLAlchemy would raise it; any other as it is."""
        base = self._driver.Error
        if not isinstance(error, base):
            return error
        named: Exception = DBAPIError.instance(
            "", None, error, base, hide_parameters=True, dialect=self._engine.dialect
        )
        return named

    def _unavailable(self, error: Exception) -> IndexUnavailable:
        """What an error of SQLAlchemy or of the driver is for everybody else."""
        if is_damage(cause_of(error)):
            self._damage = f"the database is damaged: {_reason(error)}"
        return IndexUnavailable(f"the database failed: {_reason(error)}")

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection to read from, in one transaction that is rolled back at the end; raises IndexUnavailable."""
        with self._errors_named(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def rows(self, select: str, values: Sequence[str], *, few: bool = False) -> Iterator[Iterator[tuple[Any, ...]]]:
        """Run a SELECT with a `?` for each value and yield an iterator of its rows; raises IndexUnavailable.

        It goes to the driver as it is, at a fraction of the cost of a statement of SQLAlchemy's. Columns are
        texts and numbers only: they come back as the driver has them. With `few`, a database server sends all rows
        at once, which saves two round trips.
        """
        # Without context managers inside: this is what queries do most of the time.
        driver = self._engine.dialect.loaded_dbapi
        connection = None
        try:
            connection = self._engine.raw_connection()
            cursor = self._cursor(connection, few=few)
            try:
                cursor.execute(select if self.is_sqlite else select.replace("?", "%s"), values)
                yield iter(cursor)
            finally:
                cursor.close()
        except (DBAPIError, PoolTimeout, driver.Error) as error:
            if connection is not None and isinstance(error, driver.Error):
                # The connection may be broken, so it must not go back to the pool.
                connection.invalidate()
            raise self._unavailable(error) from error
        finally:
            if connection is not None:
                connection.close()

    def soon(self, select: str, values: Sequence[str], seconds: float) -> tuple[Any, ...] | None:
        """The first row of a SELECT, which `rows` would run; None if it takes longer than so many seconds.

        Raises IndexUnavailable.
        """
        with self._errors_named(), closing(self._engine.raw_connection()) as connection:
            try:
                with closing(connection.cursor()) as cursor, stopped_after(seconds, cursor):
                    cursor.execute(select if self.is_sqlite else select.replace("?", "%s"), values)
                    return cast("tuple[Any, ...]", cursor.fetchone())
            except self._engine.dialect.loaded_dbapi.Error as error:
                if is_stop(error):
                    return None
                connection.invalidate()
                raise

    def _cursor(self, connection: PoolProxiedConnection, *, few: bool) -> Any:
        if self.is_sqlite or few:
            return connection.cursor()
        # A server-side cursor: a million rows take no more memory than a few.
        cursor: Any = connection.cursor("rows")
        cursor.itersize = _CHUNK_ROWS
        return cursor

    @contextmanager
    def begin(self, *, lock: int | None = None, relaxed: bool = False, unchecked: bool = False) -> Iterator[Connection]:
        """A connection to write on, committed at the end and rolled back on any exception; raises IndexUnavailable.

        A `relaxed` commit, which holds WRITER_LOCK and is there where `relaxes` says so, does not wait for the disk: a
        power loss may take the last of them, and the next other commit that has written something makes all before it
        durable. An `unchecked` connection to a database server is a new one, which was not checked as `when_connected`
        says and which nobody gets afterwards. With `lock`, any number, no two transactions of that number run at a
        time, in all processes together; on SQLite that holds for every transaction. A commit of one that holds
        WRITER_LOCK wakes the consumers of the feed. An IntegrityError passes through as it is: what a taken key means
        is the caller's to say. Nothing is written to a file known to be damaged.
        """
        if self._damage is not None:
            raise IndexUnavailable(self._damage)
        engine = self._engines.relaxed() if relaxed else self._engines.unchecked() if unchecked else self._engine
        with (
            self._errors_named(),
            engine.connect() as connection,
            connection.execution_options(write=True).begin(),
        ):
            connection.info.pop(_HOLDS_WRITER_LOCK, None)
            if lock == WRITER_LOCK:
                hold_writer_lock(connection, relaxed=relaxed)
            elif lock is not None and not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(lock)))
            yield connection
            wakes = holds_writer_lock(connection)
        if wakes:
            self._wakeups.signal()

    def _new_kept(self, *, relaxed: bool) -> KeptConnection:
        engine = self._engines.relaxed if relaxed else lambda: self._engine
        lock = _LOCK_AND_NOTIFY_RELAXED if relaxed else _LOCK_AND_NOTIFY
        begin = ("BEGIN IMMEDIATE",) if self.is_sqlite else ("BEGIN", lock)
        return KeptConnection(engine, begin, self._engines.check_file, info={_HOLDS_WRITER_LOCK: True})

    def write(self, work: Callable[[Raw], T], *, relaxed: bool = False) -> T:
        """Call `work` in a transaction that holds WRITER_LOCK, and return what it returns; as `begin` otherwise.

        For what is written all the time: the connection is kept, so that a transaction costs little. If it turns out
        to be lost before the database has answered anything, `work` is called again with a new one.
        """
        if self._damage is not None:
            raise IndexUnavailable(self._damage)
        try:
            result = self._kept[relaxed].write(work)
        except (DBAPIError, PoolTimeout, self._driver.Error) as error:
            with self._errors_named():
                raise error
        self._wakeups.signal()
        return result

    @property
    def wakeups(self) -> int:
        """How often consumers of the feed were woken; read it before the feed, and pass it to `wait`."""
        return self._wakeups.count

    def wake(self) -> None:
        """Wake everybody who waits in this process."""
        self._wakeups.signal()

    def wait(self, seen: int, seconds: float) -> bool:
        """Wait until something that the feed shows may have been committed, in any process on PostgreSQL.

        `seen` is `wakeups` as it was before; False if nothing was committed in time.
        """
        if not self.is_sqlite:
            self._listen()
        return self._wakeups.wait(seen, seconds)

    def _listen(self) -> None:
        from pacs_server.index.notifications import NotificationListener  # its driver is an extra

        with self._listener_lock:
            if self._listener is None and not self._closed:
                self._listener = NotificationListener(self._engine, _CHANNEL, self._wakeups.signal)

    def migrate(self) -> None:
        """Bring the schema up to date; raises SchemaError if it belongs to another program or is too new.

        A schema that is one revision newer stays as it is: this program works with it.
        """
        with _migrating, self.begin() as connection, self._patient(connection):
            if not self.is_sqlite:
                # One process migrates, and the others wait without a time limit.
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            before, head = revisions.revision_of(connection), revisions.head()
            revisions.refuse_unknown(before)
            if before is None:
                revisions.refuse_foreign(connection)
            if revisions.is_one_step_ahead(before):
                revisions.tell_of_newer(before)
                return
            if before == head:
                return
            if before is not None:
                # A large index takes a while, and the server does not listen meanwhile.
                log.info("the database is being migrated", extra={"before": before, "to": head})
            revisions.upgrade(connection)
        if before is not None:
            log.info("the database was migrated", extra={"before": before, "to": head})

    def _patient(self, connection: Connection) -> AbstractContextManager[None]:
        if self.is_sqlite:
            return nullcontext()
        from pacs_server.index.postgresql import patient  # its driver is an extra

        return patient(connection)

    def check_schema(self, *, exactly: bool = False) -> None:
        """Raise SchemaError unless this program works with the schema: its own, or the next revision.

        Migrations only add, so that the servers of one index can be upgraded one after the other. Whoever copies
        all rows of all tables asks for `exactly` the own schema, because it knows no other tables.
        """
        current, head = self.revision(), revisions.head()
        revisions.refuse_unknown(current)
        if revisions.is_one_step_ahead(current):
            if exactly:
                raise SchemaError(
                    f"the database schema ({current}) is one step newer than this version ({head}); "
                    "do this with the newer pacs-server"
                )
            revisions.tell_of_newer(current)
            return
        if current != head:
            found = f"at revision {current}" if current else "empty"
            raise SchemaError(f"the database is {found}, this program needs {head}; run `pacs-server migrate`")

    def exists(self) -> bool:
        """Whether the database has the tables of an index; makes no file. Raises IndexUnavailable."""
        try:
            # A file without a byte is an empty database.
            if self.file is not None and not self.file.stat().st_size:
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise IndexUnavailable(f"the database cannot be looked at: {error.strerror}") from error
        return self.revision() is not None

    def revision(self) -> str | None:
        """The schema's revision, None for an empty database; raises IndexUnavailable."""
        with self.connect() as connection:
            return revisions.revision_of(connection)

    def problem(self) -> str | None:
        """Why the database cannot be used or written to; None if it can."""
        try:
            with self.connect() as connection:
                revisions.revision_of(connection)
                found = self._unwritable(connection)
        except IndexUnavailable as error:
            found = str(error)
        return self._damage or found

    def _unwritable(self, connection: Connection) -> str | None:
        """Why the database cannot be written to, as far as a reader can see; None if nothing is known."""
        if self.is_sqlite:
            return lack_of_room(self.file) if self.file else None
        # The server is a standby, or was set to read-only.
        return "the database is read-only" if connection.scalar(text("SHOW transaction_read_only")) == "on" else None

    def size_bytes(self) -> int:
        """The size of the database on disk, in bytes; raises IndexUnavailable."""
        if self.is_sqlite:
            files = [Path(f"{self._url.database}{suffix}") for suffix in ("", "-wal", "-shm")]
            return sum(path.stat().st_size for path in files if path.exists())
        with self.connect() as connection:
            return int(connection.scalar(select(func.pg_database_size(func.current_database()))) or 0)

    def close(self) -> None:
        """Close the connections, those in use when they are given back; it opens new ones if used again."""
        with self._listener_lock:
            self._closed = True
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
        self.give_back()
        self._engines.dispose()

    def give_back(self) -> None:
        """Close the connections that are kept for `write`, those in use when they are given back."""
        for kept in self._kept.values():
            kept.give_back()

    def _given_back(self, connection: Any, record: Any) -> None:
        # A thread used the connection for longer than the pool existed, so nothing else would close it.
        if self._closed and connection is not None:
            record.invalidate()


def holds_writer_lock(connection: Connection) -> bool:
    """Whether a transaction of `Database.begin` holds WRITER_LOCK."""
    return _HOLDS_WRITER_LOCK in connection.info


def hold_writer_lock(connection: Connection, *, relaxed: bool = False) -> None:
    """Have a transaction of `Database.begin` hold WRITER_LOCK until it ends, and its commit wake consumers."""
    if not holds_writer_lock(connection):
        connection.info[_HOLDS_WRITER_LOCK] = True
        if connection.dialect.name == "postgresql":
            connection.execute(_HOLD_WRITER_LOCK_RELAXED if relaxed else _HOLD_WRITER_LOCK)


def _supported(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("the database URL cannot be read; write sqlite:///FILE or postgresql://...") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError("the database must be sqlite:///FILE or postgresql://...")


def cause_of(error: BaseException | None) -> BaseException | None:
    """The error of the driver behind an error of SQLAlchemy, or the error itself."""
    return error.orig if isinstance(error, DBAPIError) else error


def is_input_output(error: BaseException | None) -> bool:
    """Whether the embedded database could not read or write its file."""
    cause = cause_of(error)
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def _reason(error: Exception) -> str:
    cause = cause_of(error)
    # The texts of these errors may quote values of a row, which are patient data.
    quotable = type(cause).__name__ not in ("DataError", "ProgrammingError", "IntegrityError")
    lines = str(cause).splitlines() if quotable else []
    if getattr(cause, "sqlstate", None) == _DISK_FULL:
        return "the database server has no space left"
    return _WHERE.sub("", lines[0]) if lines else type(cause).__name__
