"""The bulk data of stored instances: the value of one element, opened to be read in pieces."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from pacs_server.dicom.bulk_data import BulkData, find_bulk_data
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.encoding import is_deflated
from pacs_server.dicom.fragments import BrokenTable, fragments_in
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.errors import BulkDataNotFound, FrameNotFound, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.closing import Closing
from pacs_server.services.frames import KeptMaps, OpenFrames
from pacs_server.services.retrieve import DataSetSource, RetrieveService

_PIECE: Final = 256 * 1024
# (0042,0011) Encapsulated Document is followed by its media type.
_DOCUMENT, _MEDIA_TYPE = "00420011", "00420012"
_PIXEL_DATA: Final = "7FE00010"
_LONGEST_MEDIA_TYPE: Final = 64


class Value(NamedTuple):
    """A value, or one frame of a value: the bytes at `ranges` of the data set, or what `chunks` has if there are none.

    `transfer_syntax_uid` is that of compressed frames, and Explicit VR Little Endian for everything else.
    """

    size: int
    ranges: tuple[tuple[int, int], ...]
    transfer_syntax_uid: str
    chunks: BulkData | None = None


class OpenBulkData(Closing):
    """An element of an instance that is open to be read; its user closes it."""

    def __init__(self, instance: StoredInstance, source: DataSetSource, path: str, kept: KeptMaps) -> None:
        """`kept` is where the places of frames are kept."""
        self._kept = kept
        self.instance = instance
        self.source = source
        self.path = path
        self._data_set = DataSetBytes(source.read, source.size, instance.transfer_syntax_uid)
        self._found = find_bulk_data(self._data_set, path)

    @property
    def is_encapsulated(self) -> bool:
        """Whether the value is compressed frames, or a video."""
        return self._found.is_encapsulated

    def values(self) -> Iterator[Value]:
        """The value, or each of its frames if it is encapsulated. Raises BulkDataNotFound, StorageUnavailable."""
        found = self._found
        if found.length is not None:
            place = () if found.offset is None else ((found.offset, found.length),)
            yield Value(found.length, place, EXPLICIT_VR_LITTLE_ENDIAN, found)
            return
        syntax = self.instance.transfer_syntax_uid
        for ranges in self._frames():
            yield Value(sum(length for _, length in ranges), tuple(ranges), syntax)

    def media_type(self) -> str:
        """The media type of an encapsulated document; "" if it has none, or if this is something else."""
        above, _, tag = self.path.rpartition("/")
        if tag != _DOCUMENT:
            return ""
        try:
            found = find_bulk_data(self._data_set, f"{above}/{_MEDIA_TYPE}".lstrip("/"))
            raw = found.element.value(_LONGEST_MEDIA_TYPE)
        except (BulkDataNotFound, TranscodeError):
            return ""
        return raw.decode("latin-1").strip(" \0").lower()

    def pieces(self, value: Value) -> Iterator[bytes]:
        """The bytes of a value. Raises StorageUnavailable, TranscodeError."""
        if not value.ranges and value.chunks is not None:
            yield from value.chunks.chunks(0, value.size)
        for start, length in value.ranges:
            for at in range(start, start + length, _PIECE):
                yield self.source.read(at, min(_PIECE, start + length - at))

    def close(self) -> None:
        """Close the instance."""
        self.source.close()

    def _frames(self) -> Iterator[list[tuple[int, int]]]:
        """Where each frame lies; a video, whose frames cannot be told apart, counts as one (PS3.5 A.4.5)."""
        start = self._found.element.level.source.position
        try:
            if (frames := self._encapsulated_frames()) is not None:
                for number in range(1, frames.count + 1):
                    yield frames.ranges(number) or []
                return
            # The first item is the offset table.
            _, end = self._found.element.skip_fragments()
            yield fragments_in(self.source, start, end)[1:]
        except (BrokenTable, TranscodeError) as error:
            raise BulkDataNotFound(f"the fragments of {self.path} cannot be read: {error}") from error

    def _encapsulated_frames(self) -> OpenFrames | None:
        """The frames, if they can be told apart; their map counts from the first byte of a data set not deflated."""
        if self.path != _PIXEL_DATA or is_deflated(self.instance.transfer_syntax_uid):
            return None
        with suppress(FrameNotFound, TranscodeError):
            frames = OpenFrames(self.instance, self.source, self._kept)
            return frames if frames.map.is_encapsulated else None
        return None


class BulkDataService:
    """Opens the bulk data of instances; may be shared by all threads."""

    def __init__(self, retrieve: RetrieveService, kept: KeptMaps) -> None:
        self._retrieve = retrieve
        self._kept = kept

    def open(self, instance: StoredInstance, path: str) -> OpenBulkData:
        """Open the element at the path of a Bulkdata URI. Raises BulkDataNotFound, StorageUnavailable."""
        source = self._retrieve.open(instance)
        try:
            return OpenBulkData(instance, source, path, self._kept)
        except BaseException:
            source.close()
            raise
