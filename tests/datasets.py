"""Synthetic instances for tests, and the real ones that pydicom ships."""

import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_preamble
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pacs_server.dicom.uids import is_uid

UID_PREFIX = "1.2.826.0.1.3680043.8.498."
_numbers = count(1)
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Cut off on purpose, or with a codestream that is none.
_BROKEN = {"MR_truncated.dcm", "rtplan_truncated.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "DICOMDIR-nooffset"}


def uid(number: int | None = None) -> UID:
    """A UID made of `number`, or the next one that nobody had in this process."""
    return UID(f"{UID_PREFIX}1.{next(_numbers)}" if number is None else f"{UID_PREFIX}2.{number}")


def make_ct(
    study: str | None = None,
    series: str | None = None,
    sop: str | None = None,
    rows: int = 32,
    columns: int = 32,
    **attributes: Any,
) -> Dataset:
    """A small CT image in Explicit VR Little Endian; `attributes` are set last, by keyword."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, sop or uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study or uid(), series or uid()
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20240229", "101530", "S1"
    ds.AccessionNumber, ds.ReferringPhysicianName = "A1", "Refer^Ring"
    ds.PatientName, ds.PatientID = "Test^Patient", "P1"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.Modality, ds.StudyDescription, ds.SeriesDescription = "CT", "Study", "Series"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    _add_pixels(ds, rows, columns)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta = _file_meta(ds)
    return ds


def _add_pixels(ds: Dataset, rows: int, columns: int) -> None:
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    row = b"".join((7 * n % 4096).to_bytes(2, "little") for n in range(columns))
    ds.PixelData = row * rows


def _file_meta(ds: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID_PREFIX + "1"
    return meta


def make_study(n_series: int = 1, n_instances: int = 1, **attributes: Any) -> list[Dataset]:
    """One study of `n_series` series with `n_instances` each, numbered from 1."""
    study, instances = uid(), []
    for series_number in range(1, n_series + 1):
        series = uid()
        for instance_number in range(1, n_instances + 1):
            numbers = {"SeriesNumber": series_number, "InstanceNumber": instance_number}
            instances.append(make_ct(study, series, **(numbers | attributes)))
    return instances


def write_part10(ds: Dataset, path: Path) -> Path:
    """Write `ds`, encoded as its file meta says, as a Part 10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


@cache
def pydicom_test_files() -> tuple[Path, ...]:
    """Every sound DICOM instance in the pydicom package: Part 10, all UIDs there and valid."""
    return tuple(path for path in _part10_files() if _has_uids(path))


@cache
def pydicom_files_without_uids() -> tuple[Path, ...]:
    """The sound Part 10 files in the pydicom package that lack a valid UID or are a DICOMDIR."""
    return tuple(path for path in _part10_files() if not _has_uids(path))


def _part10_files() -> Iterator[Path]:
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        if path.is_file() and path.name not in _BROKEN and _transfer_syntax(path):
            yield path


def _transfer_syntax(path: Path) -> str:
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return ""
    return str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", ""))


@cache
def _has_uids(path: Path) -> bool:
    with warnings.catch_warnings(action="ignore"):  # some of these files are odd on purpose
        ds = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_IDENTITY))
    return all(is_uid(str(ds.get(keyword, ""))) for keyword in _IDENTITY)


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a data set without file meta, by pydicom."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    write_dataset(buffer, ds)
    data: bytes = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = compressor.compress(data) + compressor.flush()
    return data


def data_set_bytes(path: Path) -> tuple[str, bytes]:
    """The transfer syntax of a Part 10 file and the bytes of its data set, after the file meta."""
    return _transfer_syntax(path), path.read_bytes()[data_set_offset(path) :]


def data_set_offset(path: Path) -> int:
    """Where the data set begins in a Part 10 file."""
    with path.open("rb") as stream:
        read_preamble(stream, force=False)
        pydicom.filereader._read_file_meta_info(stream)
        return stream.tell()


def parse_data_set(data: bytes, transfer_syntax: str) -> FileDataset:
    """Data set bytes read by pydicom, with a file meta that holds the transfer syntax."""
    syntax = UID(transfer_syntax)
    encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    stream = pydicom.filebase.DicomBytesIO(data)
    ds = pydicom.filereader.read_dataset(stream, *encoding.values())
    return FileDataset("", ds, file_meta=meta, **encoding)
