"""The files that nobody can use, in `quarantine/`, each with a text file beside it that tells the reason."""

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from pacs_server.errors import StorageUnavailable
from pacs_server.kit.private_files import make_directory
from pacs_server.storage.disk_errors import storage_errors
from pacs_server.storage.filesystem.directories import Directories
from pacs_server.storage.keys import INCOMING, QUARANTINE, check_key

_REASON: Final = ".reason"
_LONGEST_NAME: Final = 200


class FileSystemQuarantine:
    """The quarantine of the archive in `directories`."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._folder = directories.root / QUARANTINE

    def add(self, key: str, reason: str) -> str:
        """Move an object into quarantine; see `Quarantine`."""
        check_key(key)
        return self.add_file(key, reason)

    def add_file(self, place: str, reason: str) -> str:
        """Move a file that lies at `place` below the root; raises and returns as `add`."""
        source, folder = Path(self._directories.path(place)), self._folder
        with storage_errors(f"move {place} to quarantine"):
            source.stat()
            make_directory(folder)
            # Whoever makes the file with the reason has the name.
            target, descriptor = _reserve(folder, place.removeprefix(f"{INCOMING}/").replace("/", "_")[-_LONGEST_NAME:])
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(f"{place}: {reason}\n")
                file.flush()
                if self._directories.fsync:
                    os.fsync(file.fileno())
            # The reason and the folder are durable before the file is there: after the rename nobody looks again.
            self._directories.sync(folder)
            self._directories.sync_above(self._directories.path(QUARANTINE))
            os.rename(source, target)
            self._directories.sync(folder)
            self._directories.sync(source.parent)
        return f"{QUARANTINE}/{target.name}"

    def sync(self) -> None:
        """Sync `quarantine/`; see `Quarantine`."""
        with storage_errors("sync the quarantine"), suppress(FileNotFoundError):
            self._directories.sync(self._folder)

    def count(self) -> int:
        """How many files are in `quarantine/`; see `Quarantine`."""
        try:
            with storage_errors("list the quarantine"), os.scandir(self._folder) as entries:
                return sum(not entry.name.endswith(_REASON) for entry in entries)
        except StorageUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return 0
            raise


def _reserve(folder: Path, name: str) -> tuple[Path, int]:
    """A name in `folder` that is free, and the new text file for its reason, open to be written."""
    for number in itertools.count(1):
        target = folder / (name if number == 1 else f"{name}.{number}")
        with suppress(FileExistsError):
            reason = target.with_name(target.name + _REASON)
            return target, os.open(reason, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    raise AssertionError("unreachable")
