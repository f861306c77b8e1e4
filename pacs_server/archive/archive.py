"""Keep the stored files and the index in step.

The order is fixed: the file is durable under its final name -> the index row is committed -> only then does `add`
return. So a crash may leave a file without a row, but never a row without its file. Where the file is in a slot, it is
durable there, and its name and its row may follow later (see `checkpoints`): then recovery completes what a crash has
taken. When a step fails, the earlier steps are undone, unless nobody can tell whether the row was committed: then the
file stays stored, and stays on the list of what recovery looks at.

Several processes may share the storage and the index. A file without a row may belong to another process that is about
to commit: nobody overwrites or removes it, the next process takes another name, and the row that is committed first
decides.
"""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Final

from pacs_server.archive.checkpoints import Checkpoints
from pacs_server.archive.claims import Claims, Numbers
from pacs_server.archive.stored_file import StoredFile
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.part10 import NO_SEAL, Seal
from pacs_server.dicom.same_data_set import same_data_set
from pacs_server.errors import (
    DuplicateInstance,
    IndexUnavailable,
    InstanceNotFound,
    InvalidKey,
    ObjectExists,
    ObjectNotFound,
    ObjectUnreadable,
    PacsError,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.index.instances import Arrival, Counts, InstanceIndex, StoredInstance
from pacs_server.storage.contract import ByteSource, Readable, Storage, pieces
from pacs_server.storage.keys import instance_key
from pacs_server.storage.spool import IncomingFile, Spool, Stamp

log = logging.getLogger(__name__)

_VERIFY_CHUNK: Final = 1024 * 1024
# How often other processes may come in between.
_ATTEMPTS: Final = 5
# How many versions of an instance may be stored without a row.
NAMES: Final = 100


class StoreOutcome(Enum):
    """What became of an instance that was not refused; to the sender each of these is success."""

    STORED = "stored"
    REPLACED = "replaced"
    ALREADY_STORED = "already stored"
    DUPLICATE_IGNORED = "duplicate ignored"


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance that has been received as a whole and checked, and not placed yet.

    `digest` is the SHA-256 of the data set in hexadecimal, `data_set_offset` is where the data set begins in the file,
    `seal_offset` where its head has room for a seal, if it has, and `received_at` is in UTC.
    """

    file: IncomingFile
    header: Header
    digest: str
    data_set_offset: int
    origin: Origin
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seal_offset: int | None = None


class Archive:
    """The stored files and their index, as one."""

    def __init__(
        self,
        storage: Storage,
        spool: Spool,
        index: InstanceIndex,
        *,
        naming: str,
        duplicate_policy: str,
        counted: Callable[[str], None] | None = None,
    ) -> None:
        """`naming` and `duplicate_policy` are the settings of these names in the section storage.

        `counted` is told the outcome of each checkpoint.
        """
        self.duplicate_policy = duplicate_policy
        self._storage = storage
        self._spool = spool
        self._index = index
        self.naming = naming
        self._claims = Claims()
        self._numbers = Numbers()
        self.checkpoints = Checkpoints(spool, index, counted)

    def receive(self) -> IncomingFile:
        """Begin to receive a file, which the caller discards in the end, placed or not.

        Raises as `Spool.receive`, and IndexUnavailable if what was stored before cannot be made durable.
        """
        self.checkpoints.ensure_possible()
        return self._spool.receive()

    def add(self, received: ReceivedInstance) -> StoreOutcome:
        """Place the file and commit its row; when this returns, the instance survives a power loss.

        If the same bytes are stored already, this is success and changes nothing, unless the stored bytes are lost or
        damaged: then the new ones take their place. Other bytes that encode the same elements and values are success
        too and change nothing. All other bytes under a known UID go by the duplicate policy.
        Raises DuplicateInstance, StorageFull, StorageUnavailable, IndexUnavailable.
        """
        with self._claims.hold(received.header.uids.sop):
            return self._in_turn(lambda: self._add(received))

    def adopt(self, stored: StoredFile) -> StoreOutcome:
        """Index a file that is stored durably, and touch no file; ALREADY_STORED if its row is there.

        Raises DuplicateInstance if another file has the row of the UID, and IndexUnavailable.
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
        return self._storage.open(instance.path)

    def has_file(self, instance: StoredInstance) -> bool:
        """Whether the file of an instance is there and as long as the index says; it is not read.

        Raises StorageUnavailable if the storage as a whole does not answer.
        """
        try:
            return self._storage.info(instance.path).size == instance.size
        except (ObjectNotFound, ObjectUnreadable, InvalidKey):
            return False

    def find(self, sop_instance_uid: str) -> StoredInstance | None:
        """The instance of a UID as the index knows it; None if there is none. Raises IndexUnavailable."""
        return self._index.get(sop_instance_uid)

    def verify(self, instance: StoredInstance, interrupted: Callable[[], bool] = lambda: False) -> bool | None:
        """Whether the file of an instance is there and its data set has the digest of the one that was received.

        None if `interrupted`, which is asked before each chunk, says so.
        """
        digest = hashlib.sha256()
        try:
            with self._storage.open(instance.path) as file:
                for piece in pieces(file, _VERIFY_CHUNK, start=instance.data_set_offset):
                    if interrupted():
                        return None
                    digest.update(piece)
        except StorageUnavailable as error:
            log.warning("file not verified", extra={"sop_instance_uid": instance.uids.sop, "reason": str(error)})
            return False
        return digest.hexdigest() == instance.digest

    def counts(self) -> Counts:
        """How many patients, studies, series and instances there are. Raises IndexUnavailable."""
        return self._index.counts()

    def _in_turn(self, attempt: Callable[[], StoreOutcome | None]) -> StoreOutcome:
        """The outcome of the first attempt that no other process interfered with."""
        for _ in range(_ATTEMPTS):
            outcome = attempt()
            if outcome is not None:
                return outcome
        raise IndexUnavailable("other processes change this instance all the time")

    def _add(self, received: ReceivedInstance) -> StoreOutcome | None:
        later = received.seal_offset is not None and self.checkpoints.relaxed()
        try:
            stored = self._place(received, 1, later=later)
        except ObjectExists:
            known = self._index.get(received.header.uids.sop)
            if known is not None:
                return self._again(received, known)
            # The file has no row: a crash came between the two, or another process has not committed yet. It may be
            # sealed too and come first in recovery, so this row has to be durable before the sender is told.
            later = False
            stored = self._place_beside(received, 2)
        return self._new(received, stored, later=later)

    def _new(self, received: ReceivedInstance, stored: StoredInstance, *, later: bool) -> StoreOutcome | None:
        """Commit the first row of a UID; None if a row was in the way and is gone by now."""
        if self._commit(received, stored, partial(self._index.add, relaxed=later), later=later):
            return StoreOutcome.STORED
        # The UID is known: its file is stored under another study or series, or was lost, or another process was first.
        known = self._index.get(stored.uids.sop)
        return None if known is None else self._again(received, known)

    def _again(self, received: ReceivedInstance, known: StoredInstance) -> StoreOutcome | None:
        """Decide about a UID that is known before anything is changed. None if its row has changed in the meantime."""
        self.checkpoints.ensure_possible()
        uid = known.uids.sop
        same = _same(received, known)
        # The sender may have the only good copy: a file that the disk has lost or damaged is stored again.
        if same and self.verify(known):
            return StoreOutcome.ALREADY_STORED
        if not same and self._has_same_values(received, known):
            return StoreOutcome.ALREADY_STORED
        if not same and self.duplicate_policy != "replace":
            return self._conflict(received)
        # Recovery takes a later version for the one that has the row, so the row of the earlier one has to be durable.
        if self._spool.slots:
            self.checkpoints.take_everywhere()
        stored = self._place_beside(received, known.version + 1)
        if not self._commit(received, stored, self._index.replace):
            return None
        if same:
            log.warning("lost or damaged file restored by its sender", extra={"sop_instance_uid": uid})
            return StoreOutcome.ALREADY_STORED
        log.warning("instance replaced by other bytes", extra={"sop_instance_uid": uid})
        return StoreOutcome.REPLACED

    def _has_same_values(self, received: ReceivedInstance, known: StoredInstance) -> bool:
        """Whether the stored data set has the elements and values of the received one in another encoding."""
        syntax = received.header.transfer_syntax_uid
        arrived = _data_set(received.file, received.data_set_offset, syntax)
        try:
            with self._storage.open(known.path) as file:
                same = same_data_set(_data_set(file, known.data_set_offset, known.transfer_syntax_uid), arrived)
        except StorageUnavailable as error:
            log.warning("file not compared", extra={"sop_instance_uid": known.uids.sop, "reason": str(error)})
            return False
        if same:
            fields = {"transfer_syntax": syntax, "stored_transfer_syntax": known.transfer_syntax_uid}
            log.info("same data set stored in another encoding", extra={"sop_instance_uid": known.uids.sop, **fields})
        return same

    def _place(self, received: ReceivedInstance, version: int, *, later: bool = False) -> StoredInstance:
        path = instance_key(received.header, self.naming, version)
        stamp = self._stamp(received, self._numbers.next(), version)
        self._spool.place(received.file, path, stamp, name_later=later)
        return _stored(received, path, version)

    def _stamp(self, received: ReceivedInstance, number: int, version: int) -> Stamp | None:
        """What seals the file; None if it is in no slot, or has no room for a seal."""
        if received.seal_offset is None or not self._spool.slots:
            return None
        seal = Seal(received.file.size, received.digest, number, version)
        return Stamp(received.seal_offset, seal.encode(), NO_SEAL)

    def _place_beside(self, received: ReceivedInstance, version: int) -> StoredInstance:
        """Place the file as the first version from `version` on whose key is free."""
        for free in range(version, version + NAMES):
            with suppress(ObjectExists):
                return self._place(received, free)
        raise StorageUnavailable("too many files of this instance lie there without a row")

    def _commit(
        self, received: ReceivedInstance, stored: StoredInstance, write: Callable[..., None], *, later: bool = False
    ) -> bool:
        """Write the row of a placed file; False, and the placement is undone, if another row is in the way.

        With `later` the next checkpoint makes name and row durable. Replaced versions stay stored.
        """
        arrival = Arrival(stored, received.header, received.origin, received.received_at)
        connections = self.checkpoints.connections
        try:
            write(*arrival)
        except PacsError as error:
            if isinstance(error, IndexUnavailable) and error.uncertain:
                self._doubt(received, stored)
                if later:
                    self.checkpoints.doubt()
                raise
            self._take_back(received, stored)
            if isinstance(error, DuplicateInstance | InstanceNotFound):
                return False
            raise
        if later:
            self.checkpoints.keep(received.file, arrival, connections)
        else:
            received.file.settled()
        return True

    def _take_back(self, received: ReceivedInstance, stored: StoredInstance) -> None:
        try:
            self._spool.take_back(received.file, stored.path, self._stamp(received, 0, stored.version))
        except (StorageUnavailable, StorageFull) as error:
            # The file stays on the list of what recovery looks at. The sender is told the first error, not this one.
            log.error("file without a row", extra={"path": stored.path, "reason": str(error)})
            self._doubt(received, stored)

    def _doubt(self, received: ReceivedInstance, stored: StoredInstance) -> None:
        """Have the seal say that the sender is refused: what it sends next comes first in recovery."""
        stamp = self._stamp(received, 0, stored.version)
        try:
            if stamp is not None:
                self._spool.restamp(received.file, stamp)
        except (StorageUnavailable, StorageFull) as error:
            log.error("file in doubt not marked", extra={"path": stored.path, "reason": str(error)})

    def _conflict(self, received: ReceivedInstance) -> StoreOutcome:
        uid = received.header.uids.sop
        if self.duplicate_policy == "ignore":
            log.warning("other bytes under a known UID ignored", extra={"sop_instance_uid": uid})
            return StoreOutcome.DUPLICATE_IGNORED
        raise DuplicateInstance("another object is stored under this SOP Instance UID")


def _same(received: ReceivedInstance, known: StoredInstance) -> bool:
    return received.digest == known.digest and received.header.transfer_syntax_uid == known.transfer_syntax_uid


def _data_set(file: Readable, offset: int, transfer_syntax_uid: str) -> DataSetBytes:
    return DataSetBytes(
        lambda start, length: file.read(offset + start, length), file.size - offset, transfer_syntax_uid
    )


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
