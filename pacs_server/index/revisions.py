"""The revisions of the schema, and the migrations that lead from one to the next.

Alembic is imported only when something is to be migrated: it takes a sixth of the time of a start.
"""

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

import pacs_server
from pacs_server.errors import SchemaError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

log = logging.getLogger(__name__)


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema, None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


def head() -> str:
    """The newest revision that this program knows."""
    return known()[-1]


def known() -> list[str]:
    """The revisions that this program knows, the newest last: their numbers, with which the files begin."""
    return _numbers_in(directory())


@cache
def _numbers_in(folder: Path) -> list[str]:
    return sorted(path.name.partition("_")[0] for path in (folder / "versions").glob("[0-9]*_*.py"))


def is_one_step_ahead(revision: str | None) -> bool:
    """Whether a revision is the next one after the newest that this program knows; revisions are numbered."""
    return revision is not None and revision.isdecimal() and int(revision) == int(head()) + 1


def tell_of_newer(revision: str | None) -> None:
    """Log that the schema is one step newer than this program."""
    log.warning("the database schema is one step newer than this program", extra={"schema": revision, "own": head()})


def refuse_unknown(revision: str | None) -> None:
    """Raise SchemaError for a revision with which this program does not work."""
    if revision is not None and revision not in known() and not is_one_step_ahead(revision):
        raise SchemaError(
            f"the database schema ({revision}) was made by a newer version; upgrade pacs-server or restore a backup "
            f"(this version works with revision {head()} and the next one)"
        )


def refuse_foreign(connection: Connection) -> None:
    """Raise SchemaError if the database holds tables of another program."""
    tables = sorted(set(inspect(connection).get_table_names()) - {"alembic_version"})
    if tables:
        raise SchemaError(
            f"the database holds what pacs-server has not made (table {tables[0]}): give it a database of its own, "
            "or put back the whole of a backup"
        )


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing, in the transaction of the connection."""
    from alembic import command

    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def scripts() -> "ScriptDirectory":
    """The migrations."""
    return _scripts_in(str(directory()))


@cache
def _scripts_in(folder: str) -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    # Alembic imports every script anew for each of these; they do not change while the program runs.
    return ScriptDirectory(folder)


def alembic_config() -> "Config":
    """Where Alembic finds the migrations."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(directory()).replace("%", "%%"))
    return config


def directory() -> Path:
    """Where the migrations are."""
    package = Path(pacs_server.__file__).parent
    # A wheel carries the migrations inside the package; a checkout has them beside it.
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
