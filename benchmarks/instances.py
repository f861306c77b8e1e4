"""Synthetic CT images and C-FIND identifiers as bytes, made unique by patching numbers into a template.

Encoding an image takes far longer than sending it, so it is done once per size. Every number has
twelve digits: patching changes no length.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset

from pacs_server.net.message import Command, CommandField, encode_command, frame
from pacs_server.net.transport import Buffer

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
# A multi-frame image of 600 frames, rows x columns pixels of two bytes each: 600 MB.
HUGE_PIECES = 600
_HUGE_FRAME = (1000, 500)

_UID_ROOT = "1.2.826.0.1.3680043.8.498.7."
_FIRST = 100_000_000_000
# Numbers that no instance gets; they stand in the template where the real ones go.
_STUDY_MARK, _SOP_MARK = "999999999991", "999999999992"

# What a scanner sends along, as keyword -> value: the header's length is part of what a server has to do.
_CT_HEADER: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
    **dict.fromkeys(("InstanceCreationDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "20240229"),
    **dict.fromkeys(("InstanceCreationTime", "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), "101530.25"),
    "AccessionNumber": "A0000001",
    "Modality": "CT",
    "Manufacturer": "Benchmark Medical",
    "InstitutionName": "General Hospital",
    "InstitutionAddress": "1 Hospital Street, Town",
    "ReferringPhysicianName": "Refer^Ring",
    "StationName": "CT0001",
    "StudyDescription": "Thorax^Routine (Adult)",
    "SeriesDescription": "Thorax 5.0 B31f",
    "InstitutionalDepartmentName": "Radiology",
    "PerformingPhysicianName": "Perform^Ing",
    "OperatorsName": "Opera^Tor",
    "ManufacturerModelName": "Model 64",
    "PatientBirthDate": "19700101",
    "PatientSex": "O",
    "PatientAge": "054Y",
    "PatientSize": "1.75",
    "PatientWeight": "75",
    "PatientComments": "none",
    "BodyPartExamined": "CHEST",
    "ScanOptions": "SPIRAL",
    "SliceThickness": "5",
    "KVP": "120",
    "DataCollectionDiameter": "500",
    "DeviceSerialNumber": "12345",
    "SoftwareVersions": "VA40A",
    "ProtocolName": "ThoraxRoutine",
    "ReconstructionDiameter": "350",
    "DistanceSourceToDetector": "1040",
    "DistanceSourceToPatient": "570",
    "GantryDetectorTilt": "0",
    "TableHeight": "150",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "XRayTubeCurrent": "200",
    "Exposure": "100",
    "FilterType": "0",
    "GeneratorPower": "40",
    "FocalSpots": "1.2",
    "DateOfLastCalibration": "20240228",
    "TimeOfLastCalibration": "080000",
    "ConvolutionKernel": "B31f",
    "PatientPosition": "HFS",
    "StudyID": "S1",
    "SeriesNumber": 2,
    "AcquisitionNumber": 1,
    "InstanceNumber": 1,
    "ImagePositionPatient": [-175, -175, 100],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "PositionReferenceIndicator": "",
    "SliceLocation": "100",
    "ImageComments": "",
    "PixelSpacing": [0.68, 0.68],
    "WindowCenter": [40, -600],
    "WindowWidth": [400, 1200],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"],
    "RequestingPhysician": "Request^Ing",
    "RequestedProcedureDescription": "CT Thorax",
}


@dataclass(frozen=True, slots=True)
class Template:
    """Encoded bytes that hold the marks of the study's and the instance's number."""

    data: bytes

    @property
    def head_size(self) -> int:
        """How many bytes there are up to the end of the last mark."""
        return max(self.data.rfind(mark.encode()) for mark in (_STUDY_MARK, _SOP_MARK)) + len(_SOP_MARK)

    def patched(self, study: int, sop: int = 0, *, size: int | None = None) -> bytes:
        """The bytes, or the first `size` of them, with the numbers in place of the marks."""
        start = self.data if size is None else self.data[:size]
        start = start.replace(_STUDY_MARK.encode(), f"{_FIRST + study}".encode())
        return start.replace(_SOP_MARK.encode(), f"{_FIRST + sop}".encode())


def study_uid(study: int) -> str:
    """The Study Instance UID of study number `study`."""
    return f"{_UID_ROOT}1.{_FIRST + study}"


def series_uid(study: int) -> str:
    """The Series Instance UID of the one series of study number `study`."""
    return f"{_UID_ROOT}2.{_FIRST + study}"


def patient_name(study: int) -> str:
    """The name of the patient of study number `study`."""
    return f"Bench^Patient{_FIRST + study}"


def sop_uid(sop: int) -> str:
    """The SOP Instance UID of instance number `sop`."""
    return f"{_UID_ROOT}3.{_FIRST + sop}"


def patient_id(study: int) -> str:
    """The Patient ID of study number `study`; each study has a patient of its own."""
    return f"P{_FIRST + study}"


@cache
def ct_template(side: int) -> Template:
    """A CT image of `side` x `side` pixels of two bytes in Explicit VR Little Endian."""
    ds = ct(side, side)
    row = b"".join((7 * n % 4096).to_bytes(2, "little") for n in range(side))
    ds.PixelData = row * side
    return Template(encode(ds, implicit=False))


def ct(rows: int, columns: int) -> Dataset:
    ds = Dataset()
    for keyword, value in _CT_HEADER.items():
        setattr(ds, keyword, value)
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE_STORAGE, f"{_UID_ROOT}3.{_SOP_MARK}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{_UID_ROOT}1.{_STUDY_MARK}", f"{_UID_ROOT}2.{_STUDY_MARK}"
    ds.FrameOfReferenceUID = f"{_UID_ROOT}4.{_STUDY_MARK}"
    ds.PatientID, ds.PatientName = f"P{_STUDY_MARK}", f"Bench^Patient{_STUDY_MARK}"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    return ds


@cache
def find_template(*, one_patient: bool) -> Template:
    """A study level C-FIND identifier in Implicit VR Little Endian: the studies of a patient, or all there are."""
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    for keyword in ("StudyDate", "StudyTime", "AccessionNumber", "PatientName", "StudyInstanceUID", "StudyID"):
        setattr(ds, keyword, "")
    ds.PatientID = f"P{_STUDY_MARK}" if one_patient else ""
    return Template(encode(ds, implicit=True))


@cache
def retrieve_template() -> Template:
    """The identifier of a C-GET or C-MOVE of one study, in Implicit VR Little Endian."""
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", f"{_UID_ROOT}1.{_STUDY_MARK}"
    return Template(encode(ds, implicit=True))


def encode(ds: Dataset, *, implicit: bool) -> bytes:
    """The bytes of a data set in little endian."""
    buffer = BytesIO()
    stream = DicomFileLike(buffer)
    stream.is_little_endian, stream.is_implicit_VR = True, implicit
    write_dataset(stream, ds)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Framing:
    """How messages go on the wire: context, the peer's maximum PDU size in bytes, and whether in many small writes."""

    context_id: int
    max_pdu: int
    small_writes: bool = False


Writes = list[list[Buffer]]


def store_requests(template: Template, study: int, sops: range, framing: Framing) -> Iterator[Writes]:
    """Whole C-STORE requests, ready to send: each a list of writes, each write a list of buffers.

    One write takes a whole request; with `small_writes` every header and value has its own, the
    way plain tools send. What is the same in all images is shared, so that thousands fit in memory.
    """
    # The data set's first PDU holds all numbers: its header, its value, and the PDUs that follow it.
    header, start, *rest = frame(framing.context_id, template.data, command=False, max_pdu=framing.max_pdu)
    size = template.head_size
    if len(start) < size:
        raise ValueError(f"PDUs of {framing.max_pdu} bytes do not hold the header of an image")
    tail = b"".join((start[size:], *rest))
    for sop in sops:
        command = _command(sop, framing)
        head = template.patched(study, sop, size=size)
        if framing.small_writes:
            own = [*command, header, head + bytes(start[size:])]
            yield [[buffer] for buffer in (*own, *rest)]
        else:
            yield [[b"".join((*command, header, head)), tail]]


def huge_request(study: int, sop: int, framing: Framing) -> tuple[bytes, bytes, bytes]:
    """A C-STORE request of 600 MB: its start, a piece of a megabyte that is sent all but once, and the last piece."""
    ds = ct(*_HUGE_FRAME)
    ds.NumberOfFrames = HUGE_PIECES
    size = 2 * _HUGE_FRAME[0] * _HUGE_FRAME[1]
    head = encode(ds, implicit=False) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, HUGE_PIECES * size)
    framed = partial(frame, framing.context_id, command=False, max_pdu=framing.max_pdu)
    command = _command(sop, framing)
    start = b"".join((*command, *framed(Template(head).patched(study, sop), last=False)))
    return start, b"".join(framed(bytes(size), last=False)), b"".join(framed(bytes(size)))


def _command(sop: int, framing: Framing) -> list[Buffer]:
    """Header and value of the PDU that says that an instance follows."""
    command = Command(
        command_field=CommandField.C_STORE,
        message_id=sop % 65535 + 1,
        affected_sop_class_uid=CT_IMAGE_STORAGE,
        affected_sop_instance_uid=sop_uid(sop),
        priority=0,
        command_data_set_type=1,
    )
    return list(frame(framing.context_id, encode_command(command), command=True, max_pdu=framing.max_pdu))
