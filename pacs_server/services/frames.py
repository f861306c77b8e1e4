"""The frames of stored instances, one at a time: as they are stored, or in another transfer syntax without loss."""

import threading
from operator import attrgetter
from typing import Protocol

from pacs_server.dicom.encoding import inflated, is_deflated
from pacs_server.dicom.fragments import BrokenTable
from pacs_server.dicom.frame_codecs import MAX_FRAME, Pixels, decode, encode
from pacs_server.dicom.frames import FrameMap, find_frames
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.errors import ResourceLimitation, TooLarge, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.closing import Closing
from pacs_server.kit.recent_bytes import RecentBytes
from pacs_server.services.retrieve import DataSetSource, RetrieveService

# A deflated data set has to be in memory to read a frame of it: so many bytes at most, and so many data sets at a time.
_MAX_INFLATED = 1 << 26
_INFLATED = threading.BoundedSemaphore(4)
_SECONDS = 10.0
_MAX_KEPT = 16 << 20
_NATIVE = frozenset(
    (EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
)  # fmt: skip


class KeptMaps(Protocol):
    """Where the places of frames are kept, by the digest of the data set; losing them only costs time."""

    def get(self, instance: StoredInstance) -> FrameMap | None:
        """What was put there, or None."""

    def put(self, instance: StoredInstance, found: FrameMap) -> None:
        """Keep the places of the frames of an instance."""


class RecentMaps:
    """Keeps the maps of the instances that were asked for last, in memory; may be shared by all threads."""

    def __init__(self, limit: int = _MAX_KEPT) -> None:
        """`limit` is in bytes."""
        self._maps: RecentBytes[FrameMap] = RecentBytes(limit, attrgetter("memory"))

    def get(self, instance: StoredInstance) -> FrameMap | None:
        """The map of an instance, or None."""
        return self._maps.get(_key(instance))

    def put(self, instance: StoredInstance, found: FrameMap) -> None:
        """Keep the map of an instance, and forget what was not asked for longest."""
        self._maps.put(_key(instance), found)


def _key(instance: StoredInstance) -> tuple[str, str]:
    return instance.digest, instance.transfer_syntax_uid


class FrameService:
    """Opens stored instances for their frames; may be shared by all threads."""

    def __init__(self, retrieve: RetrieveService, kept: KeptMaps | None = None) -> None:
        self._retrieve = retrieve
        self._kept: KeptMaps = RecentMaps() if kept is None else kept

    def open(self, instance: StoredInstance) -> "OpenFrames":
        """Open an instance for its frames. Raises FrameNotFound if it has none, TranscodeError, StorageUnavailable."""
        source = plain(self._retrieve.open(instance), instance.transfer_syntax_uid)
        try:
            return OpenFrames(instance, source, self._kept)
        except BaseException:
            source.close()
            raise


class OpenFrames(Closing):
    """An instance that is open for its frames, which count from 1; for one thread, which closes it."""

    def __init__(self, instance: StoredInstance, source: "DataSetSource | Inflated", kept: KeptMaps) -> None:
        self.instance = instance
        self.source = source
        self._kept = kept
        self.map = kept.get(instance) or self._found()

    @property
    def count(self) -> int:
        """The number of frames."""
        return self.map.count

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax of a stored frame: Explicit VR Little Endian for all native ones (PS3.18 8.7.3)."""
        native = not self.map.is_encapsulated or self.instance.transfer_syntax_uid in _NATIVE
        return EXPLICIT_VR_LITTLE_ENDIAN if native else self.instance.transfer_syntax_uid

    def ranges(self, number: int) -> list[tuple[int, int]] | None:
        """Where in `source` a frame lies as it is stored; None if its bytes cannot be sent as they lie there.

        Raises FrameNotFound, TranscodeError, StorageUnavailable.
        """
        if not self.map.is_aligned:
            self.map.check(number)
            return None
        try:
            return self.map.ranges(self.source, number)
        except BrokenTable:
            self._mistrust()
            return self.map.ranges(self.source, number)

    def stored(self, number: int) -> bytes:
        """One frame as it is stored, native ones in little endian; raises as `ranges`, and TooLarge."""
        ranges = self.ranges(number)
        if (sum(length for _, length in ranges) if ranges else self.map.frame_bits // 8) > MAX_FRAME:
            raise TooLarge("a frame of this instance is too large")
        return self.map.read(self.source, number, ranges)

    def pixels(self, number: int) -> Pixels:
        """The samples of one frame; raises as `ranges`, and TooLarge."""
        return decode(self.stored(number), self.map, self.instance.transfer_syntax_uid)

    def transcoded(self, number: int, transfer_syntax_uid: str) -> bytes:
        """One frame in another transfer syntax, without loss; raises as `pixels`."""
        if transfer_syntax_uid == self.transfer_syntax_uid:
            return self.stored(number)
        return encode(self.pixels(number), self.map, transfer_syntax_uid)

    def header(self) -> bytes:
        """What lies before the pixels."""
        return self.source.read(0, self.map.header_end)

    def close(self) -> None:
        """Close the instance."""
        self.source.close()

    def _found(self, *, trust_tables: bool = True) -> FrameMap:
        found = find_frames(self.source, self.instance.transfer_syntax_uid, trust_tables=trust_tables)
        self._kept.put(self.instance, found)
        return found

    def _mistrust(self) -> None:
        """Find the frames without the offset table of the data set, which is wrong."""
        self.map = self._found(trust_tables=False)


class Inflated:
    """A deflated data set, inflated in memory; to be read and closed as a `DataSetSource`."""

    def __init__(self, source: DataSetSource) -> None:
        """Inflate what is open as `source`, which is closed if that fails.

        Raises ResourceLimitation, TranscodeError, StorageUnavailable.
        """
        self._source = source
        self._data = b""
        self._is_open = _INFLATED.acquire(timeout=_SECONDS)
        try:
            if not self._is_open:
                raise ResourceLimitation("too many deflated data sets are being read: try again later")
            self._data, ended = inflated(source.read(0, min(source.size, _MAX_INFLATED)), _MAX_INFLATED)
            if len(self._data) == _MAX_INFLATED:
                raise TooLarge("the deflated data set is too large to read a part of it")
            if not ended:
                raise TranscodeError("the deflated data set is truncated")
        except BaseException:
            self.close()
            raise
        self.size = len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on."""
        return self._data[offset : offset + length]

    def cached(self, offset: int, length: int) -> bytes | None:
        """The same, as all of it is in memory."""
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Close the data set, and forget what was inflated; a second time changes nothing."""
        self._source.close()
        self._data = b""
        if self._is_open:
            self._is_open = False
            _INFLATED.release()


def plain(source: DataSetSource, transfer_syntax_uid: str) -> DataSetSource | Inflated:
    """The data set, inflated if it is deflated; raises as `Inflated`."""
    return Inflated(source) if is_deflated(transfer_syntax_uid) else source
