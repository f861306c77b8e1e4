"""Sample studies for those who try the archive out: drawn by `synthetic/`, of nobody, stored and removed again.

Names, IDs and UIDs are always the same. So whoever adds the samples twice has them once, and they are known again when
they are to be removed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import origin_of
from pacs_server.errors import DuplicateInstance
from pacs_server.index.marks import MarkKind
from pacs_server.services.deletion import DeletionService
from pacs_server.services.marks import MarkService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreRequest, StoreService
from pacs_server.synthetic.people import Patient
from pacs_server.synthetic.study import Options, study_instance_uid

LABEL: Final = "sample"
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_REASON: Final = "sample data"


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample study: its kind, how many images each series has, their size, whose it is, and what."""

    kind: str
    images: int
    size: int
    patient: Patient
    description: str

    @property
    def study_instance_uid(self) -> str:
        """Its Study Instance UID."""
        return study_instance_uid(self.kind, self.seed)

    @property
    def seed(self) -> str:
        """What it is made from."""
        return self.patient.patient_id


SAMPLES: Final = (
    Sample("ct", 40, 256, Patient("Sample^Ada", "SAMPLE-1", "19700101", "F"), "Sample: CT of a chest"),
    Sample("mr", 20, 256, Patient("Sample^Ben", "SAMPLE-2", "19700101", "M"), "Sample: MR of a head"),
    Sample("dx", 1, 1024, Patient("Sample^Cleo", "SAMPLE-3", "19700101", "O"), "Sample: radiograph of a chest"),
)
UIDS: Final = tuple(sample.study_instance_uid for sample in SAMPLES)


def images(sample: Sample) -> Iterator[Dataset]:
    """The data sets of a sample study, one after the other."""
    # Few servers ever draw them.
    from pacs_server.synthetic.kinds import KINDS

    options = Options(
        seed=sample.seed, size=sample.size, patient=sample.patient, text=False, description=sample.description
    )
    return KINDS[sample.kind].make(sample.images, options)


def encoded(ds: Dataset) -> bytes:
    """A data set in Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


class SampleService:
    """Adds and removes the sample studies; thread-safe."""

    def __init__(
        self,
        store: StoreService,
        marks: MarkService,
        retrieve: RetrieveService,
        deletions: DeletionService,
        auditor: Auditor,
    ) -> None:
        self._store = store
        self._marks = marks
        self._retrieve = retrieve
        self._deletions = deletions
        self._auditor = auditor

    def there(self) -> list[str]:
        """The sample studies that are in the archive, by their UIDs."""
        found = {subject.study_instance_uid for subject in self._retrieve.subjects_of_studies(set(UIDS))}
        return [uid for uid in UIDS if uid in found]

    def add(self, caller: Caller) -> list[str]:
        """Store the sample studies, labelled as such; their UIDs. Raises what storing and labelling raise."""
        arrivals = self._auditor.arrivals(caller)
        try:
            for sample in SAMPLES:
                for ds in images(sample):
                    request = StoreRequest(str(ds.SOPClassUID), str(ds.SOPInstanceUID), _EXPLICIT, origin_of(caller))
                    try:
                        arrivals.stored(self._store.store(request, [encoded(ds)], arrivals.begin).value)
                    except DuplicateInstance as error:
                        # It is there from another version of this program, which draws otherwise.
                        arrivals.failed(str(error))
        finally:
            arrivals.end()
        subjects = self._retrieve.subjects_of_studies(set(UIDS))
        self._marks.set([(MarkKind.LABEL, LABEL)], subjects, participant_of(caller))
        return list(UIDS)

    def remove(self, caller: Caller) -> list[str]:
        """Move the sample studies into the trash; the UIDs of those that were there. Raises what deleting raises."""
        found = self.there()
        for uid in found:
            self._deletions.delete(Level.STUDY, uid, _REASON, participant_of(caller))
        return found
