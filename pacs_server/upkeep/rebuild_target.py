"""The file of a SQLite index that was rebuilt: made beside the old one, and put in its place when it is whole."""

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pacs_server.kit.private_files import sync_directory
from pacs_server.storage.disk_errors import disk_errors

# What SQLite keeps beside a database, and finds by its name.
_BESIDE: Final = ("-wal", "-shm", "-journal")


def new_file(path: Path) -> Path:
    """Where the new database is made; what a rebuild that was stopped left there is removed."""
    new = path.with_name(f"{path.name}.rebuild")
    with disk_errors(f"write {new}"):
        for suffix in ("", *_BESIDE):
            new.with_name(new.name + suffix).unlink(missing_ok=True)
    return new


def put_in_place(new: Path, path: Path) -> Path | None:
    """Make a whole and closed database durable, and put it in the place of the one at `path`, which nobody may use.

    Returns where the old one is now, None if there was none. A crash leaves the one or the other at
    `path`, and never neither. Raises StorageFull, StorageUnavailable.
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
        # Left beside the new database, the log of the old one would be taken for its own.
        with suppress(FileNotFoundError):
            os.rename(path.with_name(path.name + suffix), old.with_name(old.name + suffix))
    sync_directory(path.parent)
    return old
