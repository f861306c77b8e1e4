"""SQLite databases that have all tables already: copying one takes a fraction of the time of its migrations."""

import os
from contextlib import suppress
from pathlib import Path

from sqlalchemy import make_url

from pacs_server.testing import template


def prepare(path: Path) -> None:
    """Make a database with all tables and no rows at `path`, unless there is a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), open(path, "xb", opener=_for_its_owner) as file:
        file.write(template.content())


def prepare_at(url: str) -> None:
    """The same for the URL of a database; one on PostgreSQL stays as it is."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        prepare(Path(str(parsed.database)))


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
