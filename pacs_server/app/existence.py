"""Whether the archive of the settings is there. Opening it would make what is missing, so commands ask first."""

import os
from contextlib import closing
from pathlib import Path

from pacs_server.app.assembly import refuse_instances
from pacs_server.config.model import Config
from pacs_server.errors import IndexUnavailable, StorageUnavailable
from pacs_server.index.database import Database
from pacs_server.storage.assembly import files_of

# Some file systems have this directory in their root.
_NOT_OURS = "lost+found"


def is_archive_there(config: Config) -> bool:
    """Whether index and storage are there; False if neither is. Nothing is created.

    Raises IndexUnavailable or StorageUnavailable if only one of them is there, or if a restore is unfinished.
    """
    files, directory = files_of(config.storage), config.storage.directory
    files.restoration.refuse_unfinished()
    has_index, has_files = parts_there(config)
    if has_index and not has_files:
        raise StorageUnavailable(
            f"the index is there, and the storage {directory} is not there or empty: is its file system mounted?"
        )
    if has_files and not has_index:
        refuse_instances(files)
        raise IndexUnavailable(
            f"the storage {directory} is there, and the index {config.database.name} is not: is it the right database?"
        )
    return has_index


def parts_there(config: Config) -> tuple[bool, bool]:
    """Whether the index is there, and whether the storage is. Raises IndexUnavailable, StorageUnavailable."""
    settings = config.database
    with closing(Database(settings.sqlalchemy_url, wal_mode=settings.wal_mode)) as database:
        return database.exists(), _holds_anything(config.storage.directory)


def _holds_anything(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entry.name != _NOT_OURS for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageUnavailable(f"cannot look into {directory}: {error.strerror}") from error
