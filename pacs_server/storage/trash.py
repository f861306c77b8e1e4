"""What the archive asks of the trash: each deletion is a folder with a document, and the files that were deleted.

A file goes into the trash in two steps, so that at every moment it is in the storage, in the trash, or in both:
`add` puts it into the trash too, and `take_away` removes it from the storage. It comes back the same way, by
`bring_back` and `drop`. A file that has come to be stored under the same key meanwhile is told from it.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from pacs_server.storage.contract import ByteSource


class Trash(Protocol):
    """The trash of an archive. Every method raises StorageUnavailable, and those that write raise StorageFull."""

    def locked(self, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Work on the trash alone, in all processes; without `wait` gives False if somebody else works on it."""

    def folders(self) -> list[str]:
        """The folders that there are, the oldest first."""

    def read(self, folder: str) -> str:
        """The document of a folder."""

    def write(self, folder: str, document: str) -> None:
        """Write the document of a folder, durably, in the place of the one that is there."""

    def add(self, folder: str, keys: Iterable[str]) -> None:
        """Put objects into the trash that stay in the storage too, durably; one that is not stored is no error."""

    def take_away(self, folder: str, keys: Iterable[str]) -> None:
        """Remove the objects from the storage that are in the trash, and no others, durably."""

    def bring_back(self, folder: str, keys: Iterable[str]) -> None:
        """Store files of the trash under their keys again, durably; they stay in the trash too.

        Raises ObjectExists if another object is stored there, ObjectNotFound if a file is not in the trash.
        """

    def open(self, folder: str, key: str) -> ByteSource:
        """Open a file of the trash to read; raises as `Storage.open`."""

    def holds(self, folder: str, key: str) -> bool:
        """Whether a file is in the trash."""

    def is_stored(self, folder: str, key: str) -> bool:
        """Whether a file of the trash is stored under its key too."""

    def is_all_stored(self, folder: str) -> bool:
        """Whether every file of a folder is stored under its key too, so that nothing is lost with the folder."""

    def remove(self, folder: str, keys: Iterable[str]) -> None:
        """Remove files from the trash that are stored under their keys too; others stay."""

    def drop(self, folder: str) -> None:
        """Remove a folder with all that is in it, its document last; one that is not there is no error."""
