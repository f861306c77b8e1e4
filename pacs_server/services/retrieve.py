"""Retrieving: which instances are asked for, and their data sets in a transfer syntax that the receiver takes."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from pacs_server.archive.archive import Archive
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.subject import Subject
from pacs_server.errors import StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import QueryIndex
from pacs_server.services.transcode import transcode
from pacs_server.storage.contract import ByteSource


class RetrieveService:
    """Finds and opens instances; knows no door."""

    def __init__(self, archive: Archive, index: QueryIndex) -> None:
        self._archive = archive
        self._index = index

    def select(self, keys: RetrieveKeys) -> list[StoredInstance]:
        """The instances that `keys` name, in the order of series and instance number. Raises IndexUnavailable."""
        return list(self._index.select(keys))

    def subjects(self, instances: Iterable[StoredInstance]) -> list[Subject]:
        """Whose the studies of these instances are, in the order of patients. Raises IndexUnavailable."""
        return self._index.subjects({instance.uids.study for instance in instances})

    def subjects_of(self, sop_instance_uids: Collection[str]) -> list[Subject]:
        """Whose the studies of the stored ones among these instances are. Raises IndexUnavailable."""
        return self._index.subjects_of(sop_instance_uids)

    @contextmanager
    def open(self, instance: StoredInstance) -> Iterator[ByteSource]:
        """The stored bytes of an instance, checked to be as many as the index says. Raises StorageUnavailable."""
        with self._archive.open(instance) as source:
            if source.size != instance.size:
                raise StorageUnavailable(f"{instance.path} has {source.size} bytes, the index says {instance.size}")
            yield source

    def transcoded(self, instance: StoredInstance, transfer_syntax_uid: str) -> bytes:
        """The data set of an instance in another transfer syntax. Raises TranscodeError and StorageUnavailable."""
        with self.open(instance) as source:
            data = source.read(instance.data_set_offset, source.size)
        return transcode(data, instance.transfer_syntax_uid, transfer_syntax_uid)
