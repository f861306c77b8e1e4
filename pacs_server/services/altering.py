"""Stored instances as they are sent after a rule has changed them: other attributes, compressed, without a patient.

What is stored never changes. The attributes before the pixels are read, changed and written anew; the pixels follow as
they are stored, or frame by frame from an encoder through a temporary file, so that memory stays bounded.
"""

import io
import struct
import tempfile
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime
from typing import IO, Any, Final, Protocol

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacs_server.dicom.codecs import BROKEN_DATA
from pacs_server.dicom.deidentification import Deidentifier
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.encoding import Encoding, encoding_of
from pacs_server.dicom.frame_codecs import encode
from pacs_server.dicom.tag_changes import Modifier, Operation, TagChange, change, mark, refuse_loop
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import FrameNotFound, PacsError, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.closing import Closing
from pacs_server.services.frames import FrameService, plain
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.routing import Alteration
from pacs_server.services.transcode import actual_encoding

_PIXELS: Final = 0x7FE00000
_EXPLICIT: Final = "1.2.840.10008.1.2.1"
# So much of a compressed object is kept in memory; more of it goes to a temporary file.
_IN_MEMORY: Final = 4 << 20
_READ_SIZE: Final = 1 << 20
_PIXEL_DATA_HEAD: Final = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
_ITEM: Final = struct.Struct("<HHL")
_SEQUENCE_END: Final = _ITEM.pack(0xFFFE, 0xE0DD, 0)
_UTF8: Final = "ISO_IR 192"
_DEIDENTIFIED: Final = "de-identified"


class Source(Protocol):
    """What can be read at any place."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer at the end."""

    def close(self) -> None:
        """Close it."""


class Altered(Closing):
    """A changed data set, open to be read like a stored one: a new beginning, and the rest from elsewhere."""

    def __init__(self, transfer_syntax_uid: str, head: bytes) -> None:
        self.transfer_syntax_uid = transfer_syntax_uid
        self._head = head
        self._rest: Source | None = None
        self._begin = 0
        self.size = len(head)

    def followed_by(self, rest: Source, begin: int, end: int) -> "Altered":
        """The same, followed by what `rest` holds from `begin` to `end`; `rest` is closed together with this."""
        self._rest, self._begin = rest, begin
        self.size = len(self._head) + end - begin
        return self

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer where the data set ends. Raises StorageUnavailable."""
        found = self._head[offset : offset + length]
        missing = min(length, self.size - offset) - len(found)
        if missing > 0 and self._rest is not None:
            found += self._rest.read(self._begin + max(offset - len(self._head), 0), missing)
        return found

    def cached(self, offset: int, length: int) -> bytes | None:
        """Nothing is known to be in memory."""
        return None

    def close(self) -> None:
        """Close what it is made of."""
        if self._rest is not None:
            self._rest.close()


class AlteringService:
    """Opens stored instances changed as rules say; may be shared by all threads."""

    def __init__(
        self,
        retrieve: RetrieveService,
        modifier: Callable[[], Modifier],
        deidentifier: Deidentifier,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._retrieve = retrieve
        self._frames = FrameService(retrieve)
        self._modifier = modifier
        self._deidentify = deidentifier
        self._clock = clock

    def describe(self, instance: StoredInstance, alteration: Alteration) -> tuple[InstanceUIDs, str]:
        """The UIDs and the transfer syntax that an instance has with its changes."""
        uids, syntax = instance.uids, instance.transfer_syntax_uid
        if alteration.deidentify:
            uids = InstanceUIDs(*map(self._deidentify.new_uid, (uids.study, uids.series, uids.sop)))
        if alteration.compress and syntax != alteration.compress:
            return uids, alteration.compress if self._has_frames(instance) else _EXPLICIT
        return uids, _EXPLICIT if syntax == DeflatedExplicitVRLittleEndian else syntax

    def _has_frames(self, instance: StoredInstance) -> bool:
        try:
            self._frames.open(instance).close()
        except PacsError:
            # What else is wrong with it is said when it is opened to be sent.
            return False
        return True

    def open(self, instance: StoredInstance, alteration: Alteration, what: str) -> Altered:
        """Open an instance with its changes; `what` tells in the object why it was changed.

        Raises TranscodeError if it cannot be changed so, or came back in a circle; StorageUnavailable.
        """
        source = plain(self._retrieve.open(instance), instance.transfer_syntax_uid)
        try:
            data_set, begin, encoding = _head_of(source, instance)
            self._alter(data_set, alteration, what)
            if alteration.compress and instance.transfer_syntax_uid != alteration.compress:
                altered = self._compressed(instance, data_set, alteration.compress)
                source.close()
                return altered
            syntax = instance.transfer_syntax_uid
            syntax = _EXPLICIT if syntax == DeflatedExplicitVRLittleEndian else syntax
            end = _end_of_pixels(source, begin, encoding) if alteration.deidentify else source.size
            return Altered(syntax, _written(data_set, encoding)).followed_by(source, begin, end)
        except BaseException:
            source.close()
            raise

    def deidentified(self, instance: StoredInstance) -> Altered:
        """Open an instance without what identifies the patient, also one that this archive has changed before.

        Raises TranscodeError if that cannot be, StorageUnavailable.
        """
        source = plain(self._retrieve.open(instance), instance.transfer_syntax_uid)
        try:
            data_set, begin, encoding = _head_of(source, instance)
            self._deidentify(data_set)
            mark(data_set, self._modifier(), None, _DEIDENTIFIED)
            end = _end_of_pixels(source, begin, encoding)
            _, syntax = self.describe(instance, Alteration(deidentify=True))
            return Altered(syntax, _written(data_set, encoding)).followed_by(source, begin, end)
        except BaseException:
            source.close()
            raise

    def before_and_after(self, instance: StoredInstance) -> tuple[Dataset, Dataset]:
        """The attributes before the pixels as they are, and without what identifies the patient; raises as above."""
        with closing(plain(self._retrieve.open(instance), instance.transfer_syntax_uid)) as source:
            before, _, _ = _head_of(source, instance)
        before.decode()
        after = deepcopy(before)
        self._deidentify(after)
        mark(after, self._modifier(), None, _DEIDENTIFIED)
        return before, after

    def _alter(self, data_set: Dataset, alteration: Alteration, what: str) -> None:
        by, at = self._modifier(), self._clock()
        refuse_loop(data_set, by.archive_id)
        if alteration.deidentify:
            self._deidentify(data_set)
        _widen_character_set(data_set, alteration.changes)
        if alteration.changes:
            change(data_set, alteration.changes, by, at, keep=not alteration.deidentify)
        if alteration.changes or alteration.deidentify:
            mark(data_set, by, None if alteration.deidentify else at, what)

    def _compressed(self, instance: StoredInstance, data_set: Dataset, transfer_syntax_uid: str) -> Altered:
        """The data set with its frames compressed; without pixels it stays as it is, in the little endian of today."""
        try:
            opened = self._frames.open(instance)
        except FrameNotFound:
            return Altered(_EXPLICIT, _written(data_set, encoding_of(_EXPLICIT)))
        pixels = _TemporarySource()
        try:
            with opened:
                pixels.write(_PIXEL_DATA_HEAD + _ITEM.pack(0xFFFE, 0xE000, 0))
                for number in range(1, opened.count + 1):
                    samples = opened.pixels(number)
                    frame = encode(samples, opened.map, transfer_syntax_uid)
                    frame += b"\0" * (len(frame) % 2)
                    pixels.write(_ITEM.pack(0xFFFE, 0xE000, len(frame)) + frame)
                pixels.write(_SEQUENCE_END)
            data_set.PhotometricInterpretation = samples.colour
            if samples.samples.ndim == 3:
                data_set.PlanarConfiguration = 0
            head = _written(data_set, encoding_of(transfer_syntax_uid))
            return Altered(transfer_syntax_uid, head).followed_by(pixels, 0, pixels.size)
        except BaseException:
            pixels.close()
            raise


class _TemporarySource:
    """Bytes in memory, or in a temporary file if they are many."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by `close`
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        self._file.close()


class _Reader(io.RawIOBase):
    """A source as a file."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._at, min(len(buffer), max(self._source.size - self._at, 0)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _head_of(source: Source, instance: StoredInstance) -> tuple[Dataset, int, Encoding]:
    """The elements before the pixels, where the pixels begin, and how both are encoded. Raises TranscodeError."""
    encoding = actual_encoding(source.read(0, 8), encoding_of(instance.transfer_syntax_uid))
    file = io.BufferedReader(_Reader(source), _READ_SIZE)
    try:
        data_set = read_dataset(
            file, encoding.implicit_vr, encoding.little_endian, stop_when=lambda tag, vr, length: tag >= _PIXELS
        )
    except BROKEN_DATA as error:
        raise TranscodeError(f"the attributes cannot be read: {' '.join(str(error).split())}") from error
    return data_set, file.tell(), encoding


def _end_of_pixels(source: Source, begin: int, encoding: Encoding) -> int:
    """Where the elements of the group of the pixels end that begin at `begin`. Raises TranscodeError.

    What follows is private, a signature or padding, and none of it may go out of a data set that is de-identified.
    """
    heads = DataSetBytes(source.read, source.size, _EXPLICIT).heads_from(begin, encoding)
    while True:
        end = heads.source.position
        element = heads.next()
        if element is None or element.tag >> 16 != _PIXELS >> 16:
            return end
        element.skip()


def _written(data_set: Dataset, encoding: Encoding) -> bytes:
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = encoding.implicit_vr, encoding.little_endian
    try:
        write_dataset(file, data_set)
    except BROKEN_DATA as error:
        raise TranscodeError(f"the changed attributes cannot be written: {' '.join(str(error).split())}") from error
    return bytes(file.getvalue())


def _widen_character_set(data_set: Dataset, changes: tuple[TagChange, ...]) -> None:
    """Make the data set one in UTF-8 if its character set has no form for a text that is put into it."""
    texts = [each.value for each in changes if each.operation not in (Operation.COPY, Operation.REMOVE)]
    names = data_set.get("SpecificCharacterSet") or "ISO_IR 6"
    encodings = [_encoding(str(name)) for name in ([names] if isinstance(names, str) else names)]
    if not all(any(_fits(text, encoding) for encoding in encodings) for text in texts):
        # Values that were not decoded yet would keep the bytes of the old character set.
        data_set.decode()
        data_set.SpecificCharacterSet = _UTF8


def _encoding(name: str) -> str:
    # In pydicom's table the default repertoire is Latin-1, so that wrong data can be read. This is about right data.
    return "ascii" if name in ("", "ISO_IR 6", "ISO 2022 IR 6") else python_encoding.get(name, "ascii")


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
