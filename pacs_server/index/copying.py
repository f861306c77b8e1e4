"""Copy the whole index to a SQLite file and back, row by row, from and to either database.

A snapshot is an ordinary SQLite database with all tables, as they were at one moment. What is read of it
here without the tables of today works for every older schema.
"""

import hashlib
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, DateTime, Table, delete, func, insert, select, text, update

from pacs_server.errors import ConfigError, StorageUnavailable
from pacs_server.index import (
    archive_models,
    fetching_models,
    login_models,
    mark_models,
    models,
    outgoing_models,
    task_models,
    workflow_models,
)
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc

_BATCH_ROWS: Final = 1000
# All tables are in one collection; importing the modules puts them there.
assert archive_models.deletion.metadata is workflow_models.peer_seen.metadata is task_models.task.metadata
assert login_models.api_key.metadata is models.metadata is outgoing_models.delivery.metadata
assert mark_models.study_label.metadata is models.metadata is fetching_models.remote_study.metadata
# Tables come after those that they refer to.
_TABLES: Final = models.metadata.sorted_tables
# Columns that hold ids of a table's rows which consumers of the feed have seen, and which may be deleted since.
_SHOWN: Final = {
    models.instance: (
        archive_models.feed_cursor.c.instance_id,
        archive_models.change.c.after,
        outgoing_models.delivery.c.instance_id,
    ),
    archive_models.change: (archive_models.feed_cursor.c.change_id,),
}
# A new database may have rows in these tables; a restore replaces them by those of the snapshot.
_ABOUT_ITSELF: Final = {"archive_state"}
# SQLite's own tables are left out.
_TABLE_NAMES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
_FILES: Final = """
    SELECT sop_instance_uid, path, data_set_offset, size, digest, transfer_syntax_uid, received_at
    FROM instance ORDER BY id"""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """The file of an instance as a snapshot knows it: `path` below the archive's root, `size` and offset in bytes.

    `digest` is the SHA-256 of the data set. `name` tells it from every other file: the same data set received
    again has another head.
    """

    sop_instance_uid: str
    path: str
    data_set_offset: int
    size: int
    digest: str
    name: str


def take_snapshot(database: Database, file: Path) -> str:
    """Copy the index as it is at one moment into a new SQLite file, not synced; returns its revision.

    Writers go on meanwhile. Raises SchemaError unless the schema is exactly up to date, IndexUnavailable.
    """
    database.check_schema(exactly=True)
    if database.is_sqlite:
        with database.connect() as source, closing(sqlite3.connect(file)) as target:
            driver: Any = source.connection.driver_connection
            driver.backup(target)
            # The copy is in WAL mode as well, and such a file cannot be read from a read-only medium.
            target.execute("PRAGMA journal_mode = DELETE")
    else:
        with closing(_open(file)) as copy:
            copy.migrate()
            with copy.begin() as target_rows, database.connect() as source:
                source.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                copy_tables(source, target_rows)
    return str(database.revision())


def restore_snapshot(file: Path, database: Database) -> None:
    """Copy a snapshot into an empty database, whole or not at all; raises SchemaError, IndexUnavailable.

    An older schema is migrated first, in `file`, which has to be a copy that nobody else needs.
    """
    with closing(_open(file)) as snapshot:
        for each in (snapshot, database):
            each.migrate()
            each.check_schema(exactly=True)
        with snapshot.connect() as source, database.begin() as target:
            for table in _TABLES:
                if table.name in _ABOUT_ITSELF:
                    target.execute(delete(table))
            copy_tables(source, target)
            continue_numbering(target)
            # Whoever has logged out since the snapshot stays logged out.
            target.execute(delete(login_models.web_session))
            # Ids that were given after the snapshot are given again.
            target.execute(update(archive_models.feed_cursor).values(epoch=archive_models.new_epoch()))


def is_empty(database: Database) -> bool:
    """Whether no table that is there holds a row; raises IndexUnavailable."""
    if database.revision() is None:
        return True
    database.migrate()
    with database.connect() as connection:
        tables = [table for table in _TABLES if table.name not in _ABOUT_ITSELF]
        return all(connection.execute(select(table).limit(1)).first() is None for table in tables)


def has_instances_of(database: Database, snapshot: Path) -> bool:
    """Whether a database has the instances of a snapshot and no others. Raises StorageUnavailable, IndexUnavailable."""
    table = models.instance.c
    query = select(table.sop_instance_uid, table.path, table.digest).order_by(table.id)
    with (
        closing(indexed_files(snapshot)) as files,
        database.connect() as connection,
        connection.execute(query, execution_options={"yield_per": _BATCH_ROWS}) as rows,
    ):
        kept = ((file.sop_instance_uid, file.path, file.digest) for file in files)
        return all(row is not None and tuple(row) == file for row, file in zip_longest(rows, kept))


def row_counts(snapshot: Path) -> dict[str, int]:
    """How many rows each table of a snapshot has. Raises StorageUnavailable."""
    with _reading(snapshot) as connection:
        names = connection.execute(_TABLE_NAMES).fetchall()
        return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in names}  # noqa: S608


def indexed_files(snapshot: Path) -> Generator[IndexedFile]:
    """The files of all instances of a snapshot in the order of their arrival. Raises StorageUnavailable."""
    with _reading(snapshot) as connection:
        for uid, path, offset, size, digest, *head in connection.execute(_FILES):
            mark = hashlib.sha256("\n".join(map(str, head)).encode()).hexdigest()[:8]
            yield IndexedFile(uid, path, offset, size, digest, f"{digest}-{size}-{mark}")


def deleted_folders(snapshot: Path) -> set[str]:
    """The trash folders of the deletions in a snapshot. Raises StorageUnavailable."""
    with _reading(snapshot) as connection:
        return {folder for (folder,) in connection.execute("SELECT folder FROM deletion WHERE status = 'KEPT'")}


def _open(file: Path) -> Database:
    if "?" in str(file):
        raise ConfigError(f"{file}: the path may not hold a question mark")
    # The caller syncs the file when it is complete.
    return Database(f"sqlite:///{file}", wal_mode=False, fsync=False)


@contextmanager
def _reading(snapshot: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing, so that the medium may be read-only."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(snapshot))}?mode=ro&immutable=1", uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise StorageUnavailable(f"{snapshot} cannot be read: {error}") from error


def copy_tables(source: Connection, target: Connection, tables: Iterable[Table] = _TABLES) -> None:
    """Copy all rows of tables; each table has to come after those that it refers to."""
    source.execution_options(yield_per=_BATCH_ROWS)
    for table in tables:
        times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
        with source.execute(select(table).order_by(*table.primary_key)) as result:
            for rows in result.mappings().partitions():
                target.execute(insert(table), [_row(row, times) for row in rows])


def _row(row: Mapping[Any, Any], times: list[str]) -> dict[str, Any]:
    return {**row, **{name: row[name] and in_utc(row[name]) for name in times}}


def continue_numbering(connection: Connection, tables: Iterable[Table] = _TABLES) -> None:
    """Make new rows get ids above all copied rows, and above all ids that consumers of the feed have seen.

    The newest instance or change may have been deleted before the copy was made. A consumer whose cursor is behind it
    would never see another one of that number.
    """
    for table in tables:
        column = table.autoincrement_column
        if column is None:
            continue
        highest = [connection.scalar(select(func.max(each))) or 0 for each in (column, *_SHOWN.get(table, ()))]
        if not max(highest):
            continue
        if connection.dialect.name == "postgresql":
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(select(func.setval(sequence, max(highest))))
        elif table.dialect_options["sqlite"]["autoincrement"]:
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
            values = {"name": table.name, "seq": max(highest)}
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), values)
