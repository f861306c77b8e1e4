"""Sample studies for those who try the archive out: drawn by `dicom/phantom.py`, of nobody, stored and removed again.

Names, IDs and UIDs are always the same. So whoever adds the samples twice has them once, and they are known again when
they are to be removed.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.dicom import phantom
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import origin_of
from pacs_server.errors import DuplicateInstance
from pacs_server.index.marks import MarkKind
from pacs_server.services.deletion import DeletionService
from pacs_server.services.marks import MarkService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreRequest, StoreService

LABEL: Final = "sample"
_NAMESPACE: Final = uuid.UUID("6f9d5a52-2b19-4a3e-9a8e-0d1c5f1f7a10")
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
_CT, _MR, _DX = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "4", "1.1.1"))
_REASON: Final = "sample data"


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a sample study: its description, its images, and how each is drawn."""

    description: str
    images: int
    draw: Callable[[int], npt.NDArray[Any]]
    more: Callable[[int], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample study."""

    number: int
    patient: str
    sex: str
    modality: str
    sop_class_uid: str
    description: str
    series: tuple[Series, ...]

    @property
    def study_instance_uid(self) -> str:
        """Its Study Instance UID."""
        return _uid(self.number)


def _uid(*place: object) -> str:
    """A UID made of a UUID (PS3.5 B.2), which is always the same for a place."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '.'.join(map(str, place))).int}"


def _axial(spacing: float, thickness: float) -> Callable[[int], dict[str, Any]]:
    """Where a slice lies, in mm (PS3.3 C.7.6.2)."""

    def placed(number: int) -> dict[str, Any]:
        edge = -spacing * (phantom.SIZE - 1) / 2
        return {
            "ImagePositionPatient": [edge, edge, thickness * number],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [spacing, spacing],
            "SliceThickness": thickness,
            "SliceLocation": thickness * number,
            "PositionReferenceIndicator": "",
        }

    return placed


def _ct(number: int) -> dict[str, Any]:
    return _axial(1.6, 8.0)(number) | {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "KVP": 120, "RescaleIntercept": 0, "RescaleSlope": 1,
        "RescaleType": "HU", "WindowCenter": [40, -500], "WindowWidth": [400, 1500],
        "WindowCenterWidthExplanation": ["SOFT TISSUE", "LUNG"], "PatientPosition": "HFS",
    }  # fmt: skip


def _mr(*, t2: bool) -> Callable[[int], dict[str, Any]]:
    return lambda number: _axial(0.9, 6.0)(number) | {
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "ScanningSequence": "SE", "SequenceVariant": "NONE",
        "ScanOptions": "", "MRAcquisitionType": "2D", "EchoTime": 100 if t2 else 14,
        "RepetitionTime": 4000 if t2 else 500, "EchoTrainLength": 1, "MagneticFieldStrength": 1.5,
        "WindowCenter": 1050, "WindowWidth": 2100, "PatientPosition": "HFS",
    }  # fmt: skip


def _dx(number: int) -> dict[str, Any]:
    return {
        "ImageType": ["ORIGINAL", "PRIMARY", ""], "PresentationIntentType": "FOR PRESENTATION",
        "PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1, "RescaleIntercept": 0,
        "RescaleSlope": 1, "RescaleType": "US", "PresentationLUTShape": "IDENTITY", "LossyImageCompression": "00",
        "BurnedInAnnotation": "NO", "ImagerPixelSpacing": [0.4, 0.4], "ViewPosition": "PA", "ImageLaterality": "U",
        "PatientOrientation": ["L", "F"], "BodyPartExamined": "CHEST", "WindowCenter": 2700, "WindowWidth": 2400,
        "AnatomicRegionSequence": [_code("51185008", "SCT", "Chest")], "DetectorType": "DIRECT",
        "AcquisitionContextSequence": [], "ViewCodeSequence": [_code("272479007", "SCT", "postero-anterior")],
    }  # fmt: skip


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


SAMPLES: Final = (
    Sample(1, "Sample^Ada", "F", "CT", _CT, "Sample: CT of a chest",
           (Series("Chest 8 mm", phantom.CHEST_SLICES, phantom.chest_slice, _ct),)),
    Sample(2, "Sample^Ben", "M", "MR", _MR, "Sample: MR of a head",
           (Series("T1", phantom.HEAD_SLICES, lambda n: phantom.head_slice(n, t2=False), _mr(t2=False)),
            Series("T2", phantom.HEAD_SLICES, lambda n: phantom.head_slice(n, t2=True), _mr(t2=True)))),
    Sample(3, "Sample^Cleo", "O", "DX", _DX, "Sample: radiograph of a chest",
           (Series("PA", 1, lambda n: phantom.radiograph(), _dx),)),
)  # fmt: skip
UIDS: Final = tuple(sample.study_instance_uid for sample in SAMPLES)


def images(sample: Sample) -> Iterator[Dataset]:
    """The data sets of a sample study, one after the other."""
    for place, series in enumerate(sample.series, 1):
        for number in range(series.images):
            yield _image(sample, place, series, number)


def _image(sample: Sample, place: int, series: Series, number: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sample.sop_class_uid, _uid(sample.number, place, number)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = sample.study_instance_uid, _uid(sample.number, place)
    ds.FrameOfReferenceUID = _uid(sample.number, "frame of reference")
    values = {
        "PatientName": sample.patient, "PatientID": f"SAMPLE-{sample.number}", "PatientBirthDate": "19700101",
        "PatientSex": sample.sex, "StudyDate": "20260102", "StudyTime": f"{8 + sample.number:02}1500",
        "SeriesDate": "20260102", "ContentDate": "20260102", "ContentTime": f"{8 + sample.number:02}2000",
        "AcquisitionDate": "20260102", "AcquisitionTime": f"{8 + sample.number:02}2000",
        "StudyID": f"S{sample.number}", "AccessionNumber": f"SAMPLE{sample.number}", "ReferringPhysicianName": "",
        "StudyDescription": sample.description, "SeriesDescription": series.description, "SeriesNumber": place,
        "AcquisitionNumber": place, "InstanceNumber": number + 1, "Modality": sample.modality, "Laterality": "",
        "Manufacturer": "pacs-server", "ManufacturerModelName": "phantom",
        "ImageComments": "Drawn by a program. Not of a patient.",
    }  # fmt: skip
    for keyword, value in (values | series.more(number)).items():
        setattr(ds, keyword, value)
    _add_pixels(ds, series.draw(number))
    return ds


def _add_pixels(ds: Dataset, pixels: npt.NDArray[Any]) -> None:
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    is_signed = pixels.dtype.kind == "i"
    stored = 16 if is_signed else 12
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, stored, stored - 1, int(is_signed)
    ds.add_new("PixelData", "OW", pixels.astype(np.dtype("<u2") if not is_signed else np.dtype("<i2")).tobytes())


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
