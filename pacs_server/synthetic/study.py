"""What all objects of a synthetic study share: patient, study, series, equipment, and UIDs made from the seed."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypedDict

import pydicom.config
import pydicom.uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from pacs_server import __version__
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.synthetic.people import SCRIPTS, Patient, character_sets, patient_of

_NAMESPACE: Final = uuid.UUID("6f9d5a52-2b19-4a3e-9a8e-0d1c5f1f7a10")
_TAKEN_OVER: Final = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName", "InstitutionName", "PatientComments",
)  # fmt: skip
"""Of the attributes of patient and study, those that an object has which belongs to others."""
MAX_SIZE: Final = 65535


class Options(TypedDict, total=False):
    """What every kind of study can be told.

    `seed`: the same seed makes the same bytes, and the same patient for all kinds. `size`: how many rows and columns a
    picture has. `patient`: a `Patient` or only a name. `charset`: a defined term of Specific Character Set (PS3.3
    C.12.1.1.2), or several with backslashes between them. `text`: whether name and number are drawn into the picture.
    `description`: the Study Description. `transfer_syntax`: the UID of a transfer syntax or its keyword.
    """

    seed: int | str
    size: int
    patient: Patient | str | None
    charset: str
    text: bool
    description: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Series:
    """A series, and what its objects have in common."""

    number: int
    modality: str
    sop_class_uid: str
    description: str


@dataclass(frozen=True, slots=True)
class Study:
    """A study to be made. `shared` are the attributes of patient and study, `size` that of the pictures."""

    kind: str
    seed: int | str
    size: int
    text: bool
    transfer_syntax_uid: UID
    shared: Mapping[str, Any]

    @classmethod
    def of(cls, kind: str, options: Options, size: int, description: str) -> Self:
        """The study that the options ask for; `size` and `description` are used where they say nothing.

        Raises ValueError if an option has no sense.
        """
        seed, charset = options.get("seed", 1), options.get("charset", "ISO_IR 192")
        patient = patient_of(_number(seed, "patient"), seed, charset, options.get("patient"))
        number = _number(seed, kind)
        year, month, day = 2020 + number % 6, 1 + number % 12, 1 + number // 12 % 28
        shared = {
            "SpecificCharacterSet": character_sets(charset) or None,
            "PatientName": patient.name,
            "PatientID": patient.patient_id,
            "PatientBirthDate": patient.birth_date,
            "PatientSex": patient.sex,
            "PatientAge": _age(patient.birth_date, f"{year}{month:02}{day:02}"),
            "PatientComments": "Drawn by a program. Not of a person.",
            "StudyInstanceUID": study_instance_uid(kind, seed),
            "StudyDate": f"{year}{month:02}{day:02}",
            "StudyTime": f"{8 + number % 10:02}{number // 10 % 60:02}00",
            "StudyID": f"{kind[:8].upper()}",
            "StudyDescription": options.get("description") or description,
            "AccessionNumber": f"{kind[:6].upper()}{seed}"[:16],
            "ReferringPhysicianName": "",
            "InstitutionName": SCRIPTS.get(charset, SCRIPTS["ISO_IR 6"]).hospital,
        }
        wanted = options.get("size", size)
        if not 16 <= wanted <= MAX_SIZE:
            raise ValueError(f"a size of {wanted} is not between 16 and {MAX_SIZE}")
        return cls(kind, seed, wanted, options.get("text", True), syntax_of(options), shared)

    @classmethod
    def beside(cls, kind: str, images: Sequence[Dataset], options: Options) -> Self:
        """The study of these images, for an object of another kind that belongs to them."""
        first = images[0]
        shared = {keyword: first.get(keyword) for keyword in _TAKEN_OVER if keyword in first}
        seed = f"{options.get('seed', 1)}.{first.SOPInstanceUID}"
        syntax = syntax_of(options)
        # They have single bits or no pixels at all, and no form in the transfer syntaxes for pictures.
        syntax = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
        return cls(kind, seed, int(first.Rows), options.get("text", True), syntax, shared)

    def uid(self, *place: object) -> UID:
        """The UID of what stands at a place in this study, always the same."""
        return UID(_uid(self.seed, self.kind, *place))

    def noise(self, *place: object) -> int:
        """A number for `phantom.noise`, always the same for a place in this study."""
        return _number(self.seed, self.kind, *place)

    def start(self, series: Series, number: int, *more: Mapping[str, Any]) -> Dataset:
        """A data set with what every object has, and with `more`; the instance's number counts from 1."""
        shared = self.shared
        ds = Dataset()
        put(ds, shared)
        put(ds, {
            "SOPClassUID": series.sop_class_uid, "SOPInstanceUID": self.uid(series.number, number),
            "Modality": series.modality, "SeriesInstanceUID": self.uid(series.number), "SeriesNumber": series.number,
            "SeriesDescription": series.description, "InstanceNumber": number, "Manufacturer": "pacs-server",
            "ManufacturerModelName": "synthetic", "DeviceSerialNumber": "1", "SoftwareVersions": __version__,
            "SeriesDate": shared["StudyDate"], "SeriesTime": shared["StudyTime"],
            "ContentDate": shared["StudyDate"], "ContentTime": shared["StudyTime"],
        })  # fmt: skip
        for attributes in more:
            put(ds, attributes)
        ds.file_meta = _file_meta(ds, self.transfer_syntax_uid)
        return ds

    def lines(self, kind: str) -> list[str]:
        """What is written into a picture: whose it is, and what."""
        # Of the name only the letters, not the ideographs (PS3.5 6.2.1).
        name = str(self.shared["PatientName"]).split("=")[0].replace("^", " ").strip()
        return [name, str(self.shared["PatientID"]), kind] if self.text else []


def syntax_of(options: Options) -> UID:
    """The transfer syntax of the options; raises ValueError if there is none of this name that can be written."""
    name = options.get("transfer_syntax") or ExplicitVRLittleEndian
    found = UID(getattr(pydicom.uid, name, name), validation_mode=pydicom.config.IGNORE)
    if not found.is_private and found.name != found and found.type == "Transfer Syntax" and found.is_little_endian:
        return found
    raise ValueError(f"{name!r} is not a transfer syntax that can be written")


def study_instance_uid(kind: str, seed: int | str) -> str:
    """The UID of the study of a kind that has a seed."""
    return _uid(seed, kind)


def _file_meta(ds: Dataset, transfer_syntax_uid: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax_uid
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def _age(birth_date: str, date: str) -> str | None:
    """How many whole years lie between two dates; None if that is not known."""
    if len(birth_date) != 8 or birth_date > date:
        return None
    return f"{(int(date) - int(birth_date)) // 10000:03}Y"


def _number(*place: object) -> int:
    return uuid.uuid5(_NAMESPACE, ".".join(map(str, place))).int


def _uid(*place: object) -> str:
    """A UID made of a UUID (PS3.5 B.2)."""
    return f"2.25.{_number(*place)}"


# ------------------------------------------------------------------------------------ attributes


def put(ds: Dataset, attributes: Mapping[str, Any]) -> Dataset:
    """Set attributes by keyword, and return the data set. None leaves one out, or takes it away."""
    for keyword, value in attributes.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    return ds


def item(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    return put(Dataset(), attributes)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded concept (PS3.3 Table 8.8-1a)."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def reference(ds: Dataset, **more: Any) -> Dataset:
    """A reference to an instance (PS3.3 Table 10-11)."""
    return item(ReferencedSOPClassUID=ds.SOPClassUID, ReferencedSOPInstanceUID=ds.SOPInstanceUID, **more)
