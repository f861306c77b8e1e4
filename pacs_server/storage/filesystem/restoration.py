"""The mark of an unfinished restore: a file that names the snapshot, in the directory that the restore works in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pacs_server.errors import StorageUnavailable
from pacs_server.storage.disk_errors import disk_errors
from pacs_server.storage.durable_files import DurableFiles, sync_file_system
from pacs_server.storage.keys import RESERVED, RESTORING

_MARK: Final = "snapshot"
# What an archive without a single object may hold.
_OF_AN_EMPTY_ARCHIVE: Final = RESERVED - {RESTORING}


class FileSystemRestoration:
    """The restore into the archive below `root`; see `Restoration`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.scratch = root / RESTORING
        self._mark = self.scratch / _MARK

    def unfinished(self) -> str | None:
        """The snapshot that the mark names; see `Restoration`."""
        with disk_errors(f"use storage.directory {self._root}"):
            return self._mark.read_text(encoding="utf-8") if self._mark.exists() else None

    def refuse_unfinished(self) -> None:
        """Refuse an archive with the mark; see `Restoration`."""
        if self._mark.exists():
            raise StorageUnavailable(
                f"a restore into {self._root} is unfinished: run `pacs-server restore` again, or empty the directory"
            )

    def is_archive_empty(self) -> bool:
        """Whether there is no file, not even in the folders of `RESERVED`; see `Restoration`."""
        with disk_errors(f"use storage.directory {self._root}"):
            return not any(self._files())

    def begin(self, snapshot: str) -> None:
        """Write the mark; see `Restoration`."""
        with DurableFiles(self.scratch) as writer:
            writer.write(self._mark, [snapshot.encode()])

    def finish(self) -> None:
        """Remove the directory of the restore; see `Restoration`."""
        with disk_errors(f"remove {self.scratch}"):
            for path in self.scratch.iterdir():
                if path != self._mark:
                    path.unlink()
            self._mark.unlink()
            self.scratch.rmdir()
            sync_file_system(self._root)

    def _files(self) -> Iterator[Path]:
        for entry in self._root.iterdir():
            if entry.name in _OF_AN_EMPTY_ARCHIVE and entry.is_dir():
                yield from (path for path in entry.rglob("*") if not path.is_dir())
            elif entry.name != RESTORING:
                yield entry
