"""The retrieve service: select stored instances, and open or transcode their data sets."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from pacs_server.archive.archive import Archive
from pacs_server.audit.auditor import InstanceCounts
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.subject import Subject
from pacs_server.errors import StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import QueryIndex, Selection
from pacs_server.kit.closing import Closing
from pacs_server.services.transcode import transcode
from pacs_server.storage.contract import ByteSource

# So many UIDs are looked up at once.
_TOGETHER: Final = 100


class DataSetSource(Closing):
    """The data set of a stored instance, open to be read; its user closes it.

    Offset 0 is the first byte of the data set. The head of the stored file lies before it and cannot be read here,
    because it tells who sent the instance, and from which address.
    """

    __slots__ = ("_begin", "_source", "size")

    def __init__(self, source: ByteSource, begin: int) -> None:
        """`begin` is the offset of the data set in `source`."""
        self._source = source
        self._begin = begin
        self.size = source.size - begin

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer where the data set ends. Raises StorageUnavailable."""
        return self._source.read(self._begin + offset, length)

    def cached(self, offset: int, length: int) -> bytes | bytearray | None:
        """The bytes from `offset` on, `length` at most, that are in memory; None if a disk has to be asked for them."""
        descriptor = self._source.descriptor
        if descriptor is None or self._source.size <= self._begin + offset:
            return None
        data = bytearray(min(length, self.size - offset))
        try:
            count = os.preadv(descriptor, [data], self._begin + offset, os.RWF_NOWAIT)
        except OSError:  # not in memory, or a file system that cannot tell
            return None
        # The bytes are not copied once more: that would take a tenth of the time to send them.
        del data[count:]
        return data or None

    @property
    def modified_ns(self) -> int:
        """When the object was stored, in nanoseconds since 1970."""
        return self._source.modified_ns

    def close(self) -> None:
        """Close the stored object."""
        self._source.close()


class RetrieveService:
    """Selects and opens stored instances; may be shared by all threads."""

    def __init__(self, archive: Archive, index: QueryIndex) -> None:
        self._archive = archive
        self._index = index

    def select(self, keys: RetrieveKeys, scope: Scope = EVERYTHING) -> list[StoredInstance]:
        """The instances that `keys` name and `scope` shows, in the order of series and instance number.

        Raises IndexUnavailable.
        """
        return list(self._index.select(keys, scope))

    def present(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Those of these instances that are here. Raises IndexUnavailable."""
        here: set[str] = set()
        for begin in range(0, len(sop_instance_uids), _TOGETHER):
            wanted = tuple(sop_instance_uids[begin : begin + _TOGETHER])
            here |= {each.uids.sop for each in self.select(RetrieveKeys(Level.IMAGE, sop_instance_uids=wanted))}
        return here

    def select_with_subjects(self, keys: RetrieveKeys, scope: Scope = EVERYTHING) -> Selection:
        """The instances as `select` gives them, and whose they are as `subjects` does, in one look at the index.

        Raises IndexUnavailable.
        """
        return self._index.select_with_subjects(keys, scope)

    def subjects(self, instances: Iterable[StoredInstance]) -> list[Subject]:
        """Whose the studies of these instances are, in the order of patients. Raises IndexUnavailable."""
        return self._index.subjects({instance.uids.study for instance in instances})

    def subjects_of_studies(self, study_instance_uids: Collection[str]) -> list[Subject]:
        """Whose these studies are, as far as they are stored. Raises IndexUnavailable."""
        return self._index.subjects(study_instance_uids)

    def subjects_of(self, sop_instance_uids: Collection[str]) -> list[Subject]:
        """Whose the studies of these instances are, as far as they are stored. Raises IndexUnavailable."""
        return self._index.subjects_of(sop_instance_uids)

    def open(self, instance: StoredInstance) -> DataSetSource:
        """Open the data set of an instance; raises StorageUnavailable, also if its size is not the one in the index."""
        source = self._archive.open(instance)
        if source.size != instance.size:
            source.close()
            raise StorageUnavailable(f"{instance.path} has {source.size} bytes, the index says {instance.size}")
        return DataSetSource(source, instance.data_set_offset)

    def missing(self, instances: Iterable[StoredInstance]) -> list[StoredInstance]:
        """Those of these instances whose files are not there, or not as long as they have to be; no file is read.

        Raises StorageUnavailable.
        """
        return [instance for instance in instances if not self._archive.has_file(instance)]

    def transcoded(self, instance: StoredInstance, transfer_syntax_uid: str) -> bytes:
        """The data set of an instance in another transfer syntax. Raises TranscodeError and StorageUnavailable."""
        with self.open(instance) as source:
            data = source.read(0, source.size)
        return transcode(data, instance.transfer_syntax_uid, transfer_syntax_uid)


def counts_of(instances: Iterable[StoredInstance]) -> InstanceCounts:
    """How many instances are to be sent, by study and SOP class."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for instance in instances:
        counts[instance.uids.study][instance.sop_class_uid] += 1
    return counts
