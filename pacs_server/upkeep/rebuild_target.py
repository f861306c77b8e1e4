"""The file of a rebuilt SQLite index: made beside the old one, and put in its place when it is complete."""

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pacs_server.kit.private_files import sync_directory
from pacs_server.storage.disk_errors import disk_errors

# SQLite keeps files with these endings beside a database, and finds them by their names.
_BESIDE: Final = ("-wal", "-shm", "-journal")


def new_file(path: Path) -> Path:
    """The path of the new database; what a stopped rebuild left there is removed. Raises StorageUnavailable."""
    new = path.with_name(f"{path.name}.rebuild")
    with disk_errors(f"write {new}"):
        for suffix in ("", *_BESIDE):
            new.with_name(new.name + suffix).unlink(missing_ok=True)
    return new


def put_in_place(new: Path, path: Path) -> Path | None:
    """Make a complete and closed database durable, and put it in the place of the one at `path`, which nobody may use.

    Returns the new path of the old database, None if there was none. A crash leaves the old or the new database at
    `path`, never none. Raises StorageFull, StorageUnavailable.
    """
    with disk_errors(f"put the new index at {path}"):
        with new.open("rb") as file:
            os.fsync(file.fileno())
        old = _keep(path) if path.exists() else None
        os.replace(new, path)
        sync_directory(path.parent)
        return old


def _keep(path: Path) -> Path:
    old = path.with_name(f"{path.name}.before-rebuild-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    os.link(path, old)
    for suffix in _BESIDE:
        # SQLite would take the log of the old database for that of the new one.
        with suppress(FileNotFoundError):
            os.rename(path.with_name(path.name + suffix), old.with_name(old.name + suffix))
    sync_directory(path.parent)
    return old
