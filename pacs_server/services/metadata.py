"""The metadata of stored instances: kept in the index, or read from the file and kept from then on."""

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.encoding import is_deflated
from pacs_server.dicom.frames import FrameMap, find_frames
from pacs_server.dicom.metadata import BASE, Metadata
from pacs_server.errors import FrameNotFound, IndexUnavailable, PacsError, TranscodeError
from pacs_server.index.feed import Effect
from pacs_server.index.instances import StoredInstance
from pacs_server.index.metadata import Kept, MetadataIndex
from pacs_server.services.frames import RecentMaps
from pacs_server.services.retrieve import DataSetSource, RetrieveService

# The text comes out in pieces of this size at most, in bytes, before the URL is put in.
_PIECE: Final = 256 * 1024
# So many bytes that were read for requests wait to be kept; what comes then is not kept yet.
_MOST_WAITING: Final = 16 * 1024 * 1024
# What is written to the text at the places where the URL of the instance belongs.
_BASE: Final = BASE.encode("ascii")


class MetadataService:
    """Tells the metadata of instances; may be shared by all threads."""

    def __init__(self, retrieve: RetrieveService, index: MetadataIndex) -> None:
        self._retrieve = retrieve
        self._index = index
        self._lock = threading.Lock()
        self._waiting: list[tuple[StoredInstance, Kept]] = []
        self._waiting_bytes = 0
        # Whoever keeps what was read for requests sets this.
        self.on_read: Callable[[], None] = lambda: None

    def json(
        self, instances: Sequence[StoredInstance], url_of: Callable[[StoredInstance], str]
    ) -> Iterator[tuple[StoredInstance, Iterator[bytes]]]:
        """The metadata of each instance, in their order, as pieces of one object of DICOM JSON.

        Bulkdata URIs begin with the URL of the instance. Raises IndexUnavailable, and StorageUnavailable if an instance
        has to be read and cannot.
        """
        has_read = False
        try:
            for stored, content in zip(instances, self._index.kept(instances), strict=True):
                has_read |= content is None
                found = self._read_now(stored) if content is None else content
                yield stored, _pieces(found, url_of(stored).encode("ascii"))
        finally:
            if has_read:
                self.on_read()

    def keeping(self, ids: Sequence[int], failed: Callable[[StoredInstance, PacsError], None]) -> Effect:
        """Read the instances of these ids that are not kept yet, and return the effect that keeps them.

        Those that cannot be read are told to `failed`. Raises IndexUnavailable.
        """
        new = []
        for stored in self._index.unkept(ids):
            try:
                new.append((stored, self.read(stored)))
            except PacsError as error:
                failed(stored, error)
        return self._index.keeping(new)

    def keep_waiting(self) -> None:
        """Keep what was read for requests. Raises IndexUnavailable."""
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            self._index.keep(waiting)

    def read(self, stored: StoredInstance) -> Kept:
        """What is kept of an instance, read from its file. Raises StorageUnavailable."""
        with self._retrieve.open(stored) as source:
            data_set = DataSetBytes(source.read, source.size, stored.transfer_syntax_uid)
            metadata, packer = Metadata(data_set), zlib.compressobj()
            packed = [packer.compress(piece.encode("utf-8")) for piece in metadata.pieces()]
            content = b"".join([*packed, packer.flush()])
            return Kept(content, _frames(source, stored.transfer_syntax_uid) if metadata.has_pixels else None)

    def frames(self, stored: StoredInstance) -> FrameMap | None:
        """The kept map of the frames of an instance; None if none is kept."""
        try:
            encoded = self._index.frames(stored)
        except IndexUnavailable:
            return None
        return None if encoded is None else FrameMap.decode(encoded)

    def _read_now(self, stored: StoredInstance) -> bytes:
        kept = self.read(stored)
        size = len(kept.content) + len(kept.frames or b"")
        with self._lock:
            if self._waiting_bytes + size <= _MOST_WAITING:
                self._waiting.append((stored, kept))
                self._waiting_bytes += size
        return kept.content


class KeptFrameMaps:
    """Frame maps for `FrameService`: those used last in memory, others as they are kept in the index."""

    def __init__(self, metadata: MetadataService) -> None:
        self._metadata = metadata
        self._recent = RecentMaps()

    def get(self, instance: StoredInstance) -> FrameMap | None:
        """The map of an instance, or None."""
        found = self._recent.get(instance)
        if found is None and (found := self._metadata.frames(instance)) is not None:
            self._recent.put(instance, found)
        return found

    def put(self, instance: StoredInstance, found: FrameMap) -> None:
        """Keep a map in memory; the index gets it from whoever keeps the metadata."""
        self._recent.put(instance, found)


def _frames(source: DataSetSource, transfer_syntax_uid: str) -> bytes | None:
    """The map of the frames, if they can be told apart."""
    if is_deflated(transfer_syntax_uid):
        return None
    try:
        return find_frames(source, transfer_syntax_uid).encode()
    except (FrameNotFound, TranscodeError):
        return None


def _pieces(content: bytes, url: bytes) -> Iterator[bytes]:
    """The text, with the URL at its places, however long it is."""
    unpacker = zlib.decompressobj()
    piece = unpacker.decompress(content, _PIECE)
    while piece:
        yield piece.replace(_BASE, url)
        piece = unpacker.decompress(unpacker.unconsumed_tail, _PIECE)
