"""The export service: writes stored instances as the files of a medium, with a DICOMDIR (PS3.10 8)."""

import hashlib
import io
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.deidentification import BURNED_IN, FACE
from pacs_server.dicom.dicomdir import HEADER_KEYWORDS, DicomDir, ReferencedFile
from pacs_server.dicom.encoding import encoding_of, inflated, is_deflated
from pacs_server.dicom.part10 import encode_head
from pacs_server.errors import PacsError, StorageUnavailable, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.words import counted
from pacs_server.services.export_targets import ExportTarget
from pacs_server.services.retrieve import RetrieveService, counts_of

_PIECE: Final = 1024 * 1024
_BUFFER: Final = 64 * 1024
# PS3.3 C.7.6.3: the first of the elements that hold pixels. No record needs what follows.
_FIRST_PIXELS: Final = 0x7FE00000
_MAX_INFLATED: Final = 64 * 1024 * 1024
_TAGS: Final = [Tag(keyword) for keyword in HEADER_KEYWORDS]


@dataclass(frozen=True, slots=True)
class Trouble:
    """An instance with which something is wrong, and what."""

    sop_instance_uid: str
    reason: str


@dataclass(slots=True)
class ExportReport:
    """The result of an export: `unlisted` were exported and are not in the DICOMDIR, `failed` were not exported."""

    exported: int = 0
    bytes: int = 0
    unlisted: list[Trouble] = field(default_factory=list)
    failed: list[Trouble] = field(default_factory=list)


class Source(Protocol):
    """An open data set."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer at the end."""

    def close(self) -> None:
        """Close it."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What goes into a ZIP file in place of a stored instance: itself, or what was made of it."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    open: Callable[[], Source]


class ExportService:
    """Exports instances; may be shared by all threads."""

    def __init__(self, retrieve: RetrieveService, auditor: Auditor) -> None:
        self._retrieve = retrieve
        self._auditor = auditor

    def export(
        self,
        instances: Sequence[StoredInstance],
        target: ExportTarget,
        caller: Caller,
        progress: Callable[[int, int], None],
    ) -> ExportReport:
        """Write the instances and their DICOMDIR to `target`, and record it in the audit trail.

        `progress` is called after each instance with how many of how many are done.

        An instance that cannot be read, or is not as it was received, is left out and told of. Memory: a megabyte, and
        some hundred bytes for each instance. Raises AuditUnavailable, IndexUnavailable, OSError, what `target` raises,
        and StorageUnavailable if a file that could be read a moment before cannot be read now; then nothing is left
        behind.
        """
        planned = counts_of(instances)
        report, directory = ExportReport(), DicomDir()
        subjects = self._retrieve.subjects
        with target, self._auditor.exporting(caller, lambda: subjects(instances), planned, str(target.path)) as sent:
            for number, (instance, file_id) in enumerate(_named(instances), 1):
                if self._export(instance, file_id, target, directory, report):
                    sent.completed[instance.uids.study][instance.sop_class_uid] += 1
                else:
                    sent.failed[instance.uids.study] += 1
                progress(number, len(instances))
            encoded = directory.encoded()
            with target.file("DICOMDIR", len(encoded)) as file:
                file.write(encoded)
        return report

    def zipped(
        self,
        instances: Sequence[StoredInstance],
        sent: Callable[[StoredInstance], None],
        *,
        packed: Callable[[StoredInstance], Packed] | None = None,
        left_out: Callable[[StoredInstance], None] | None = None,
        lost: Sequence[StoredInstance] = (),
    ) -> Iterator[bytes]:
        """The instances and their DICOMDIR as the pieces of a ZIP file; `sent` is told each instance that is in them.

        `packed` says what goes into the file in place of an instance. One of which that cannot be made is left out and
        told to `left_out`, if that is given, and README.TXT says how many and why. It also says which instances are
        `lost`, which the file should hold as well; where `packed` makes something else of them, only how many.
        Nothing is recorded in the audit trail. Memory is as for `export`. Raises StorageUnavailable if an instance
        cannot be read; the pieces so far are of no use then.
        """
        directory, sink = DicomDir(), _Sink()
        missing: Counter[str] = Counter()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for instance, file_id in _named(instances):
                # What cannot be opened leaves no entry that has begun.
                try:
                    one = (packed or self._as_stored)(instance)
                    source = one.open()
                except TranscodeError as error:
                    if left_out is None:
                        raise
                    missing[_safe(error)] += 1
                    left_out(instance)
                    continue
                with closing(source):
                    syntax, sop_class = one.transfer_syntax_uid, instance.sop_class_uid
                    with suppress(*_UNREADABLE):
                        file = ReferencedFile(file_id, sop_class, one.sop_instance_uid, syntax)
                        directory.add(_header_of(source, syntax), file)
                    head = encode_head(sop_class, one.sop_instance_uid, syntax, "")
                    with _entry(archive, file_id, len(head) + source.size) as entry:
                        entry.write(head)
                        for piece in _pieces(source.read, source.size):
                            entry.write(piece)
                            yield from sink.taken()
                sent(instance)
            told = _about_left_out(missing, len(instances)) + _about_lost(lost, len(instances), named=packed is None)
            for name, data in _at_the_end(directory, told):
                with _entry(archive, (name,), len(data)) as entry:
                    entry.write(data)
        yield from sink.taken(least=1)

    def _as_stored(self, instance: StoredInstance) -> Packed:
        return Packed(instance.uids.sop, instance.transfer_syntax_uid, lambda: self._retrieve.open(instance))

    def _export(
        self,
        instance: StoredInstance,
        file_id: tuple[str, ...],
        target: ExportTarget,
        directory: DicomDir,
        report: ExportReport,
    ) -> bool:
        """Write one instance and add it to the directory; returns whether it could be read."""
        uid, syntax = instance.uids.sop, instance.transfer_syntax_uid
        try:
            self._check(instance)
        except PacsError as error:
            report.failed.append(Trouble(uid, str(error)))
            return False
        try:
            directory.add(self._header(instance), ReferencedFile(file_id, instance.sop_class_uid, uid, syntax))
        except _UNREADABLE as error:
            report.unlisted.append(Trouble(uid, str(error)))
        head = encode_head(instance.sop_class_uid, uid, syntax, "")
        with self._retrieve.open(instance) as source:
            size = len(head) + source.size
            with target.file("/".join(file_id), size) as file:
                file.write(head)
                for piece in _pieces(source.read, source.size):
                    file.write(piece)
        report.exported += 1
        report.bytes += size
        return True

    def _check(self, instance: StoredInstance) -> None:
        """Read a whole data set. Raises StorageUnavailable, also if it is not the one that was received."""
        digest = hashlib.sha256()
        with self._retrieve.open(instance) as source:
            for piece in _pieces(source.read, source.size):
                digest.update(piece)
        if digest.hexdigest() != instance.digest:
            raise StorageUnavailable(f"{instance.path} is not as it was received")

    def _header(self, instance: StoredInstance) -> Dataset:
        """What a DICOMDIR says of an instance. Raises an error of `_UNREADABLE`."""
        with self._retrieve.open(instance) as source:
            return _header_of(source, instance.transfer_syntax_uid)


# What pydicom raises when it reads a value that is not as its VR says.
_UNREADABLE: Final = (
    *(ValueError, TypeError, KeyError, AttributeError, NotImplementedError, EOFError, OverflowError, RecursionError),
    *(struct.error, TranscodeError),
)


def _header_of(source: Source, transfer_syntax_uid: str) -> Dataset:
    """What a DICOMDIR says of a data set. Raises an error of `_UNREADABLE`."""
    if is_deflated(transfer_syntax_uid):
        data, _ = inflated(source.read(0, source.size), _MAX_INFLATED)
        return _read_header(io.BytesIO(data), transfer_syntax_uid)
    readable = _Readable(source.read, source.size)
    return _read_header(io.BufferedReader(readable, _BUFFER), transfer_syntax_uid)


def _at_the_end(directory: DicomDir, told: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The files at the end of a ZIP file. A File ID has upper case letters and digits only, and one dot at most."""
    yield "DICOMDIR", directory.encoded()
    if told:
        yield "README.TXT", "".join(f"{line}\r\n" for line in told).encode()


def _about_left_out(missing: Counter[str], of: int) -> list[str]:
    if not missing:
        return []
    left_out = f"{missing.total()} of {counted(of, 'object')} could not be de-identified, and are not in this file:"
    return [left_out, "", *(f"{count}: {reason}." for reason, count in missing.most_common())]


def _about_lost(lost: Sequence[StoredInstance], rest: int, *, named: bool) -> list[str]:
    """`named` says whether the UIDs may be told."""
    if not lost:
        return []
    be = "is" if len(lost) == 1 else "are"
    head = f"{len(lost)} of {counted(len(lost) + rest, 'object')} {be} not in this file, because the archive has lost"
    lines = [f"{head} the stored {'file' if len(lost) == 1 else 'files'}."]
    if named:
        lines += ["", "SOP Instance UIDs:", *(instance.uids.sop for instance in lost)]
    return lines


def _safe(error: TranscodeError) -> str:
    """Why an object could not be de-identified. Another reason than these may hold what is not to go out."""
    return next((reason for reason in (BURNED_IN, FACE) if reason in str(error)), "it could not be read or changed")


def _read_header(file: io.BufferedIOBase, transfer_syntax_uid: str) -> Dataset:
    encoding = encoding_of(transfer_syntax_uid)
    return read_dataset(
        file,
        encoding.implicit_vr,
        encoding.little_endian,
        stop_when=_is_pixels,
        specific_tags=_TAGS,
    )


def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) >= _FIRST_PIXELS


def _named(instances: Sequence[StoredInstance]) -> Iterator[tuple[StoredInstance, tuple[str, ...]]]:
    """The instances with their File IDs: a directory for each series, no more than 8 characters (PS3.10 8.2)."""
    series: dict[tuple[str, str], int] = {}
    files: Counter[int] = Counter()
    for instance in instances:
        number = series.setdefault((instance.uids.study, instance.uids.series), len(series) + 1)
        files[number] += 1
        yield instance, ("DICOM", f"SE{number:06}", f"IM{files[number]:06}")


def _pieces(read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    for offset in range(0, size, _PIECE):
        yield read(offset, _PIECE)


def _entry(archive: zipfile.ZipFile, file_id: Sequence[str], size: int) -> IO[bytes]:
    info = zipfile.ZipInfo("/".join(file_id), time.localtime()[:6])
    info.compress_type, info.file_size, info.external_attr = zipfile.ZIP_DEFLATED, size, 0o600 << 16
    return archive.open(info, "w")


class _Sink(io.RawIOBase):
    """Takes what a ZIP file is made of, for whoever sends it on."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._size += len(data)
        return len(data)

    def taken(self, least: int = _BUFFER) -> Iterator[bytes]:
        """What was written since the last time, if it is as much as that."""
        if self._size >= least:
            whole, self._parts, self._size = b"".join(self._parts), [], 0
            yield whole


class _Readable(io.RawIOBase):
    """A data set as a file to read, for pydicom."""

    def __init__(self, read_at: Callable[[int, int], bytes], size: int) -> None:
        self._read_at = read_at
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
