"""What a process has left in `incoming/`, for recovery and for checkpoints."""

import os
from dataclasses import dataclass

from pacs_server.storage.contract import ByteSource
from pacs_server.storage.file_source import FileSource
from pacs_server.storage.filesystem.directories import Directories
from pacs_server.storage.filesystem.quarantine import FileSystemQuarantine
from pacs_server.storage.keys import check_key


@dataclass(frozen=True, slots=True)
class FileSystemLeftover:
    """An entry that a dead process left in `incoming/`; `placed` if its file has another name too, or was moved."""

    name: str
    size: int
    placed: bool
    key: str | None
    _directories: Directories
    _quarantine: FileSystemQuarantine

    def open(self) -> ByteSource:
        """Open the file; see `Leftover`."""
        place = self._place()
        return FileSource(self._directories.path(place), place)

    def is_stored_as(self, key: str) -> bool:
        """Whether the file of a key is this file; see `Leftover`."""
        try:
            return os.path.samefile(self._directories.path(self._place()), self._directories.path(key))
        except OSError:
            return False

    def quarantine(self, reason: str) -> str:
        """Move the file into quarantine; see `Leftover`."""
        return self._quarantine.add_file(self._place(), reason)

    def _place(self) -> str:
        """Where the file is, below the root."""
        if self.key is None:
            return self.name
        # A crash may have left half a key in the note.
        check_key(self.key)
        return self.key


def own_leftover(entry: object) -> FileSystemLeftover:
    """A leftover of this kind of storage. Raises TypeError for any other."""
    if not isinstance(entry, FileSystemLeftover):
        raise TypeError("a file of another storage")
    return entry
