"""What a temporary server holds, as data sets of pydicom: what came in since it started, its studies, its steps."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_server.app.assembly import OpenArchive
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.index.feed import Change, Consumer
from pacs_server.index.instances import StoredInstance

_CONSUMER = Consumer("testing")


@dataclass(frozen=True, slots=True)
class Study:
    """A study that the server holds."""

    study_instance_uid: str
    paths: tuple[Path, ...]

    @property
    def instances(self) -> list[Dataset]:
        """Its instances in the order of series and instance number, read anew each time."""
        return [dcmread(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)


class Contents:
    """Reads what is in the archive of a server; may be shared by all threads."""

    def __init__(self, archive: OpenArchive, directory: Path) -> None:
        """`directory` is that of the archive. What is in it now does not count as received."""
        self._archive = archive
        self._directory = directory
        self._lock = threading.Lock()
        self._received: list[Dataset] = []
        archive.feed.join(_CONSUMER)

    def received(self) -> list[Dataset]:
        """The instances that were stored since the server started, through any door, in the order of their arrival.

        The same bytes a second time are not stored again, and are not in it twice.
        """
        with self._lock:
            while True:
                with self._archive.feed.batch(_CONSUMER) as batch:
                    for change in batch:
                        self._received += map(self._read, self._instances_of(change))
                if not len(batch):
                    return list(self._received)

    def studies(self) -> list[Study]:
        """All studies in the archive, sorted by Study Instance UID."""
        found: dict[str, list[Path]] = {}
        for instance in self._archive.retrieve.select(RetrieveKeys(Level.STUDY)):
            found.setdefault(instance.uids.study, []).append(self._directory / instance.path)
        return [Study(uid, tuple(paths)) for uid, paths in sorted(found.items())]

    def steps(self) -> list[Dataset]:
        """The performed procedure steps (MPPS) as they are now, in the order in which they were created.

        Each has the SOP Instance UID by which it was created, beside its attributes.
        """
        return [self._step(row.sop_instance_uid) for row in reversed(list(self._archive.mpps.list()))]

    def _step(self, uid: str) -> Dataset:
        step = Dataset.from_json(dict(self._archive.mpps.show(uid).data_set))
        step.SOPInstanceUID = uid
        return step

    def _instances_of(self, change: Change) -> Iterator[StoredInstance]:
        """The instance that came in with a change; none if nothing came in, or it is gone again."""
        if change.instance_id is not None and change.sop_instance_uid:
            keys = RetrieveKeys(
                Level.IMAGE,
                study_instance_uids=(change.study_instance_uid,),
                series_instance_uids=(change.series_instance_uid,),
                sop_instance_uids=(change.sop_instance_uid,),
            )
            yield from self._archive.retrieve.select(keys)

    def _read(self, instance: StoredInstance) -> Dataset:
        return dcmread(self._directory / instance.path)
