"""Keeps storage and index in step.

The order is fixed: file durable under its final name -> index row committed -> only then does
`add` return. So a crash may leave a file without a row, never a row without its file. When a step
fails, what the earlier ones did is undone, unless nobody can tell whether the row was committed:
then the file stays, and stays on the list of what recovery looks at.

Several processes may share storage and index. A file that lies there without a row may be another
process's that is about to commit: nobody overwrites or removes it, the next one takes another name,
and the row that is committed first decides.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from pacs_server.archive.stored_file import StoredFile
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceNotFound,
    PacsError,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.index.instances import Counts, InstanceIndex, StoredInstance
from pacs_server.storage.contract import ByteSource, IncomingFile, Storage
from pacs_server.storage.paths import relative_path

log = logging.getLogger(__name__)

_VERIFY_CHUNK: Final = 1024 * 1024
# How often other processes may come in between, and how many files without a row may lie there.
_ATTEMPTS: Final = 5
NAMES: Final = 100


class StoreOutcome(Enum):
    """What became of an instance that was not refused; all of it is success to the sender."""

    STORED = "stored"
    REPLACED = "replaced"
    ALREADY_STORED = "already stored"
    DUPLICATE_IGNORED = "duplicate ignored"


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance that has been received whole and checked, not yet placed.

    `digest` is the SHA-256 of the data set in hex, `data_set_offset` where it begins in the file,
    `received_at` is in UTC.
    """

    file: IncomingFile
    header: Header
    digest: str
    data_set_offset: int
    origin: Origin
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


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

    def add(self, received: ReceivedInstance) -> StoreOutcome:
        """Place the file and commit its row; when this returns, power may fail.

        The same bytes again are success and change nothing, unless the stored ones are lost or damaged: then they take
        their place. Other bytes under a known UID go by the
        duplicate policy. Raises DuplicateInstance, StorageFull, StorageUnavailable, IndexUnavailable.
        """
        with self._claims.hold(received.header.uids.sop):
            return self._in_turn(lambda: self._add(received))

    def adopt(self, stored: StoredFile) -> StoreOutcome:
        """Index a durable file as it lies there, and touch no file; ALREADY_STORED if the row is this file's.

        Raises DuplicateInstance if the UID's row is of another file, and IndexUnavailable.
        """
        instance = stored.instance
        with self._claims.hold(instance.uids.sop):
            try:
                self._index.add(instance, stored.header, stored.origin, stored.received_at)
            except DuplicateInstance:
                known = self._index.get(instance.uids.sop)
                if known is None or known.path != instance.path:
                    raise
                return StoreOutcome.ALREADY_STORED
            return StoreOutcome.STORED

    def open(self, instance: StoredInstance) -> ByteSource:
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
                offset = instance.data_set_offset
                while data := file.read(offset, _VERIFY_CHUNK):
                    if interrupted():
                        return None
                    digest.update(data)
                    offset += len(data)
        except StorageUnavailable as error:
            log.warning("file not verified", extra={"sop_instance_uid": instance.uids.sop, "reason": str(error)})
            return False
        return digest.hexdigest() == instance.digest

    def counts(self) -> Counts:
        """How many patients, studies, series and instances there are. Raises IndexUnavailable."""
        return self._index.counts()

    def _in_turn(self, attempt: Callable[[], StoreOutcome | None]) -> StoreOutcome:
        """The outcome of the first attempt in which no other process came in between."""
        for _ in range(_ATTEMPTS):
            outcome = attempt()
            if outcome is not None:
                return outcome
        raise IndexUnavailable("other processes change this instance all the time")

    def _add(self, received: ReceivedInstance) -> StoreOutcome | None:
        try:
            stored = self._place(received, 1)
        except FileExistsError:
            known = self._index.get(received.header.uids.sop)
            if known is not None:
                return self._again(received, known)
            # A file without a row: a crash came between the two, or another process has not committed yet.
            stored = self._place_beside(received, 2)
        return self._new(received, stored)

    def _new(self, received: ReceivedInstance, stored: StoredInstance) -> StoreOutcome | None:
        """Commit the first row of a UID; None if its row has gone in the meantime."""
        if self._commit(received, stored, self._index.add):
            return StoreOutcome.STORED
        # Known, but its file lies elsewhere (another study or series), or was lost, or another process was first.
        known = self._index.get(stored.uids.sop)
        return None if known is None else self._again(received, known)

    def _again(self, received: ReceivedInstance, known: StoredInstance) -> StoreOutcome | None:
        """The UID is known: decide before anything is touched. None if its row has changed in the meantime."""
        uid = known.uids.sop
        same = _same(received, known)
        # Who sends again may have the only good copy: what the disk has lost or damaged is stored anew.
        if same and self.verify(known):
            return StoreOutcome.ALREADY_STORED
        if not same and self.duplicate_policy != "replace":
            return self._conflict(received)
        stored = self._place_beside(received, known.version + 1)
        if not self._commit(received, stored, self._index.replace):
            return None
        if same:
            log.warning("lost or damaged file restored by its sender", extra={"sop_instance_uid": uid})
            return StoreOutcome.ALREADY_STORED
        log.warning("instance replaced by other bytes", extra={"sop_instance_uid": uid})
        return StoreOutcome.REPLACED

    def _place(self, received: ReceivedInstance, version: int) -> StoredInstance:
        path = relative_path(received.header, self._naming, version)
        self.storage.place(received.file, path)
        return _stored(received, path, version)

    def _place_beside(self, received: ReceivedInstance, version: int) -> StoredInstance:
        """Place under the first name from `version` on that is free."""
        for free in range(version, version + NAMES):
            with suppress(FileExistsError):
                return self._place(received, free)
        raise StorageUnavailable("too many files of this instance lie there without a row")

    def _commit(self, received: ReceivedInstance, stored: StoredInstance, write: Callable[..., None]) -> bool:
        """Write the row of a placed file; False, and the placement undone, if there is another one.

        The versions that are replaced stay where they are.
        """
        try:
            write(stored, received.header, received.origin, received.received_at)
        except PacsError as error:
            if isinstance(error, IndexUnavailable) and error.uncertain:
                raise
            self._take_back(received, stored)
            if isinstance(error, DuplicateInstance | InstanceNotFound):
                return False
            raise
        received.file.settled()
        return True

    def _take_back(self, received: ReceivedInstance, stored: StoredInstance) -> None:
        try:
            self.storage.take_back(received.file, stored.path)
        except (StorageUnavailable, StorageFull) as error:
            # It stays on the list of what recovery looks at; the sender is told what went wrong before.
            log.error("file without a row", extra={"path": stored.path, "reason": str(error)})

    def _conflict(self, received: ReceivedInstance) -> StoreOutcome:
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


def _same(received: ReceivedInstance, known: StoredInstance) -> bool:
    return received.digest == known.digest and received.header.transfer_syntax_uid == known.transfer_syntax_uid


def _stored(received: ReceivedInstance, path: str, version: int) -> StoredInstance:
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
