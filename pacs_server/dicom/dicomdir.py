"""Encodes a DICOMDIR: the directory of the files on a medium (PS3.3 Annex F, PS3.10 8.6).

pydicom makes the content of each record and says what an object lacks for it. Its FileSet is not used: that copies
every object into a temporary directory, and the time for each grows with the number that is there.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.fileset import DIRECTORY_RECORDERS
from pydicom.filewriter import write_dataset

from pacs_server.dicom.encoding import EXPLICIT_LE
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, MEDIA_STORAGE_DIRECTORY, encode_head
from pacs_server.dicom.record_types import record_type
from pacs_server.dicom.writer import Writer

# What the records are made of; everything else of an object need not be read.
HEADER_KEYWORDS: Final = (
    *("SpecificCharacterSet", "ImageType", "InstanceCreationDate", "InstanceCreationTime", "SOPClassUID"),
    *("SOPInstanceUID", "StudyDate", "ContentDate", "StudyTime", "ContentTime", "AccessionNumber", "Modality"),
    *("StudyDescription", "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyID"),
    *("SeriesNumber", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "DataPointRows", "DataPointColumns"),
    *("ReferencedSeriesSequence", "ReferencedImageEvidenceSequence", "BlendingSequence", "ContentLabel"),
    *("ContentDescription", "PresentationCreationDate", "PresentationCreationTime", "ContentCreatorName"),
    *("CompletionFlag", "VerificationFlag", "VerifyingObserverSequence", "ConceptNameCodeSequence", "ContentSequence"),
    *("DocumentTitle", "MIMETypeOfEncapsulatedDocument", "HL7InstanceIdentifier", "DoseSummationType"),
    *("StructureSetLabel", "StructureSetDate", "StructureSetTime", "RTPlanLabel", "RTPlanDate", "RTPlanTime"),
    *("UserContentLabel", "UserContentLongLabel"),
)

_NUMBER: Final = ""
# PS3.3 F.5 wants these (type 1), and objects may leave them empty. As other software does, a DICOMDIR then holds a
# value in their place: what stands here, or a number.
_NEEDED: Final = {
    "PATIENT": {"PatientID": "UNKNOWN"},
    "STUDY": {"StudyDate": "19000101", "StudyTime": "000000", "StudyID": _NUMBER},
    "SERIES": {"Modality": "OT", "SeriesNumber": _NUMBER},
}
_LEVELS: Final = (("PATIENT", "PatientID"), ("STUDY", "StudyInstanceUID"), ("SERIES", "SeriesInstanceUID"))
_writer = Writer(EXPLICIT_LE)
_IN_USE = _writer.element(0x00041410, "US", b"\xff\xff")
_CONSISTENT = _writer.element(0x00041212, "US", b"\0\0")
_NO_ID = _writer.element(0x00041130, "CS", b"")


@dataclass(frozen=True, slots=True)
class ReferencedFile:
    """A file on the medium: the components of its File ID, and what is in it."""

    file_id: tuple[str, ...]
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(slots=True)
class _Record:
    """A directory record, encoded but for its offsets, with those below it by what identifies them."""

    content: bytes
    lower: dict[str, "_Record"] = field(default_factory=dict)

    @property
    def records(self) -> tuple["_Record", ...]:
        """The records one level below."""
        return tuple(self.lower.values())


class DicomDir:
    """The records of a DICOMDIR. Memory: some hundred bytes for each file."""

    def __init__(self) -> None:
        self._root = _Record(b"")

    def add(self, header: Dataset, file: ReferencedFile) -> None:
        """Add a file; `header` has the attributes of `HEADER_KEYWORDS`. Raises ValueError if no record can hold it."""
        kind = record_type(file.sop_class_uid)
        if kind is None:
            raise ValueError("a DICOMDIR has no records for its SOP class")
        above: _Record = self._root
        new: list[tuple[_Record, str, _Record]] = []
        for level, unique in _LEVELS:
            _complete(header, _NEEDED[level], len(above.lower) + 1)
            key = str(header.get(unique, ""))
            record = above.lower.get(key) or _Record(_content(level, header))
            new.append((above, key, record))
            above = record
        _complete(header, {"InstanceNumber": _NUMBER}, len(above.lower) + 1)
        _prepare_document(header)
        new.append((above, file.sop_instance_uid, _Record(_content(kind, header, file))))
        for parent, key, record in new:
            parent.lower[key] = record

    def encoded(self) -> bytes:
        """The whole file."""
        uid = f"2.25.{uuid.uuid4().int}"  # PS3.5 B.2
        head = encode_head(MEDIA_STORAGE_DIRECTORY, uid, EXPLICIT_VR_LITTLE_ENDIAN, "") + _NO_ID
        # Offsets count from the first byte of the file to the item of a record (PS3.3 F.3.2.2).
        begin = len(head) + len(_offset(0x00041200, 0)) * 2 + len(_CONSISTENT) + len(_writer.head(0x00041220, "SQ", 0))
        offsets: dict[int, int] = {}
        end = begin
        for record in _walk(self._root):
            offsets[id(record)] = end
            end += len(_item(record, 0, 0))
        first, last = (offsets[id(each[index])] if (each := self._root.records) else 0 for index in (0, -1))
        return b"".join(
            (
                *(head, _offset(0x00041200, first), _offset(0x00041202, last), _CONSISTENT),
                _writer.head(0x00041220, "SQ", end - begin),
                *_items(self._root.records, offsets),
            )
        )


def _complete(header: Dataset, needed: dict[str, str], number: int) -> None:
    for keyword, value in needed.items():
        if keyword not in header or header[keyword].is_empty:
            setattr(header, keyword, value or str(number))


def _prepare_document(header: Dataset) -> None:
    """Keep of a document's content what a record may hold, and put its date of verification where pydicom looks."""
    if "ContentSequence" in header:
        # PS3.3 F.5: only what modifies the title.
        modifiers = [item for item in header.ContentSequence if item.get("RelationshipType") == "HAS CONCEPT MOD"]
        header.ContentSequence = modifiers
        if not modifiers:
            del header.ContentSequence
    times = [str(item.get("VerificationDateTime", "")) for item in header.get("VerifyingObserverSequence", ())]
    if any(times):
        header.VerificationDateTime = max(times)


def _content(kind: str, header: Dataset, file: ReferencedFile | None = None) -> bytes:
    """The elements of a record that follow its offsets."""
    record = DIRECTORY_RECORDERS[kind](header)
    record.DirectoryRecordType = kind
    if "SpecificCharacterSet" in header:
        record.SpecificCharacterSet = header.SpecificCharacterSet
    if file is not None:
        record.ReferencedFileID = list(file.file_id)
        record.ReferencedSOPClassUIDInFile = file.sop_class_uid
        record.ReferencedSOPInstanceUIDInFile = file.sop_instance_uid
        record.ReferencedTransferSyntaxUIDInFile = file.transfer_syntax_uid
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, record)
    return bytes(buffer.getvalue())


def _walk(above: _Record) -> Iterator[_Record]:
    """All records below one, in the order in which they are written."""
    for record in above.records:
        yield record
        yield from _walk(record)


def _items(records: Sequence[_Record], offsets: dict[int, int]) -> Iterable[bytes]:
    for record, following in pairwise((*records, None)):
        assert record is not None
        lower = offsets[id(record.records[0])] if record.lower else 0
        yield _item(record, offsets[id(following)] if following is not None else 0, lower)
        yield from _items(record.records, offsets)


def _item(record: _Record, following: int, lower: int) -> bytes:
    return _writer.item(_offset(0x00041400, following) + _IN_USE + _offset(0x00041420, lower) + record.content)


def _offset(tag: int, offset: int) -> bytes:
    return _writer.element(tag, "UL", offset.to_bytes(4, "little"))
