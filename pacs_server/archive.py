"""Keeps storage and index in step.

The order is fixed: file durable under its final name -> index row committed -> only then does
`add` return. So a crash may leave a file without a row, never a row without its file. When a step
fails, what the earlier ones did is undone, unless nobody can tell whether the row was committed:
then the file stays.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.errors import DuplicateInstance, IndexUnavailable, PacsError, StorageUnavailable
from pacs_server.index.instances import Counts, InstanceIndex, StoredInstance
from pacs_server.storage.base import IncomingFile, Storage
from pacs_server.storage.paths import relative_path

log = logging.getLogger(__name__)

_VERIFY_CHUNK = 1024 * 1024


class StoreOutcome(Enum):
    """What became of an instance that was not refused; all of it is success to the sender."""

    STORED = "stored"
    REPLACED = "replaced"
    ALREADY_STORED = "already stored"
    DUPLICATE_IGNORED = "duplicate ignored"


@dataclass(frozen=True, slots=True)
class Received:
    """An instance that has been received whole and checked, not yet placed.

    `digest` is the SHA-256 of the data set in hex, `data_set_offset` where it begins in the file.
    """

    file: IncomingFile
    header: Header
    digest: str
    data_set_offset: int
    origin: Origin


class Archive:
    """The files and their index, as one."""

    def __init__(self, storage: Storage, index: InstanceIndex, *, naming: str, duplicate_policy: str) -> None:
        """`naming` and `duplicate_policy` are the values of the settings of that name in section storage."""
        self.storage = storage
        self.duplicate_policy = duplicate_policy
        self._index = index
        self._naming = naming
        self._claims = _Claims()

    def receive(self) -> IncomingFile:
        """Begin to receive a file; the caller discards it in the end, placed or not."""
        return self.storage.incoming()

    def add(self, received: Received) -> StoreOutcome:
        """Place the file and commit its row; when this returns, power may fail.

        The same bytes again are success and change nothing. Other bytes under a known UID go by the
        duplicate policy. Raises DuplicateInstance, StorageFull, StorageUnavailable, IndexUnavailable.
        """
        uid = received.header.uids.sop
        path = relative_path(received.header, self._naming)
        with self._claims.hold(uid):
            try:
                self.storage.place(received.file, path)
            except FileExistsError:
                known = self._index.get(uid)
                if known is not None:
                    return self._again(received, known)
                # A file without a row: a crash came between the two, and nobody was told of success.
                self.storage.place(received.file, path, replace=True)
            return self._commit(received, path)

    def open(self, instance: StoredInstance) -> BinaryIO:
        """Open the file of an instance to read. Raises StorageUnavailable."""
        return self.storage.open(instance.path)

    def find(self, sop_instance_uid: str) -> StoredInstance | None:
        """The instance of that UID as the index knows it. Raises IndexUnavailable."""
        return self._index.get(sop_instance_uid)

    def verify(self, instance: StoredInstance, interrupted: Callable[[], bool] = lambda: False) -> bool | None:
        """Whether the file of an instance is there and its data set is the one that was received, by its digest.

        None when `interrupted`, asked before each chunk, says so.
        """
        digest = hashlib.sha256()
        try:
            with self.storage.open(instance.path) as file:
                file.seek(instance.data_set_offset)
                while data := file.read(_VERIFY_CHUNK):
                    if interrupted():
                        return None
                    digest.update(data)
        except (StorageUnavailable, OSError) as error:
            log.warning("file not verified", extra={"sop_instance_uid": instance.uids.sop, "reason": str(error)})
            return False
        return digest.hexdigest() == instance.digest

    def counts(self) -> Counts:
        """How many patients, studies, series and instances there are. Raises IndexUnavailable."""
        return self._index.counts()

    def _commit(self, received: Received, path: str) -> StoreOutcome:
        try:
            self._index.add(_stored(received, path, 1), received.header, received.origin)
        except DuplicateInstance:
            # Known, but its file lies elsewhere (another study or series), or was lost.
            known = self._index.get(received.header.uids.sop)
            if known is None:
                self.storage.remove(path)
                raise
            return self._misplaced(received, known, path)
        except PacsError as error:
            if not (isinstance(error, IndexUnavailable) and error.uncertain):
                self.storage.remove(path)
            raise
        return StoreOutcome.STORED

    def _again(self, received: Received, known: StoredInstance) -> StoreOutcome:
        """The UID is known and a file lies where this one would: decide before anything is touched."""
        if _same(received, known):
            if not self.storage.exists(known.path):
                # A later version that was lost; an earlier one lies under the plain name.
                self._restored(known)
                self.storage.place(received.file, known.path)
            return StoreOutcome.ALREADY_STORED
        if self.duplicate_policy != "replace":
            return self._conflict(received)
        path = relative_path(received.header, self._naming, known.version + 1)
        self.storage.place(received.file, path, replace=True)
        return self._replace(received, known, path)

    def _misplaced(self, received: Received, known: StoredInstance, path: str) -> StoreOutcome:
        """The UID is known and this file has been placed already, since nothing lay there."""
        if _same(received, known):
            if path != known.path and self.storage.exists(known.path):
                self.storage.remove(path)
                return StoreOutcome.ALREADY_STORED
            self._restored(known)
            if path != known.path:
                self._replace(received, known, path)
            return StoreOutcome.ALREADY_STORED
        if self.duplicate_policy == "replace":
            return self._replace(received, known, path)
        self.storage.remove(path)
        return self._conflict(received)

    def _restored(self, known: StoredInstance) -> None:
        log.warning("lost file restored by its sender", extra={"sop_instance_uid": known.uids.sop})

    def _replace(self, received: Received, known: StoredInstance, path: str) -> StoreOutcome:
        """Point the row at the new version; the file of the old one stays where it is."""
        try:
            self._index.replace(_stored(received, path, known.version + 1), received.header, received.origin)
        except PacsError as error:
            if not (isinstance(error, IndexUnavailable) and error.uncertain):
                self.storage.remove(path)
            raise
        log.warning("instance replaced by other bytes", extra={"sop_instance_uid": known.uids.sop})
        return StoreOutcome.REPLACED

    def _conflict(self, received: Received) -> StoreOutcome:
        uid = received.header.uids.sop
        if self.duplicate_policy == "ignore":
            log.warning("other bytes under a known UID ignored", extra={"sop_instance_uid": uid})
            return StoreOutcome.DUPLICATE_IGNORED
        raise DuplicateInstance("other bytes are stored under this SOP Instance UID")


class _Claims:
    """One thread at a time per SOP Instance UID, from looking at what is there to the commit."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._released = threading.Condition()

    @contextmanager
    def hold(self, uid: str) -> Iterator[None]:
        with self._released:
            self._released.wait_for(lambda: uid not in self._held)
            self._held.add(uid)
        try:
            yield
        finally:
            with self._released:
                self._held.discard(uid)
                self._released.notify_all()


def _same(received: Received, known: StoredInstance) -> bool:
    return received.digest == known.digest and received.header.transfer_syntax_uid == known.transfer_syntax_uid


def _stored(received: Received, path: str, version: int) -> StoredInstance:
    header = received.header
    return StoredInstance(
        uids=header.uids,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        path=path,
        data_set_offset=received.data_set_offset,
        size=received.file.size,
        digest=received.digest,
        version=version,
    )
