"""A database with all tables and no rows: it is migrated once in a process, and every temporary server copies it."""

import os
import tempfile
import threading
from pathlib import Path

from pacs_server.index.database import Database

_lock = threading.Lock()
_made: dict[str, bytes] = {}


def copy_to(path: Path) -> None:
    """Make a database at `path`, where there may be no file."""
    with open(path, "xb", opener=_for_its_owner) as file:
        file.write(content())


def content() -> bytes:
    """The file of the database."""
    with _lock:
        if "sqlite" not in _made:
            _made["sqlite"] = _migrated()
        return _made["sqlite"]


def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="pacs-server-") as name:
        path = Path(name, "template.db")
        # Without the write-ahead log everything is in the one file.
        database = Database(f"sqlite:///{path}", wal_mode=False, fsync=False)
        database.migrate()
        database.close()
        return path.read_bytes()


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
