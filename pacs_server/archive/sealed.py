"""Files that were placed in slots, as their heads and names tell of them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from pacs_server.dicom.part10 import decode_head
from pacs_server.errors import InvalidInstance, ObjectNotFound
from pacs_server.storage.keys import version_of
from pacs_server.storage.spool import Leftover

# The head that this server writes is shorter.
_LONGEST_HEAD: Final = 16 * 1024


class Sealed(NamedTuple):
    """A file that was placed in a slot, of any process."""

    leftover: Leftover
    uid: str
    version: int

    def is_done(self, path: str | None) -> bool:
        """Whether the row of its UID, which has `path`, is its own or that of a later version."""
        return path is not None and (self.version < version_of(path) or self.leftover.is_stored_as(path))


def sealed(leftovers: Iterator[Leftover]) -> list[Sealed]:
    """Those of the leftovers that have a seal. Raises StorageUnavailable."""
    found: list[Sealed] = []
    for leftover in leftovers:
        with suppress(ObjectNotFound, InvalidInstance):
            with leftover.open() as file:
                head = decode_head(file.read(0, _LONGEST_HEAD))
            if head is not None and head.seal is not None:
                found.append(Sealed(leftover, head.media_storage_sop_instance_uid, head.seal.version))
    return found
