"""Instances as DICOM files, made while they are sent: one by itself, or many as parts of multipart/related."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import Final, NamedTuple, NoReturn, cast

from pacs_server.dicom.frame_codecs import ENCODERS
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, plain_head
from pacs_server.errors import FrameNotFound, PacsError, ResourceLimitation, TooLarge, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.frames import FrameService
from pacs_server.services.plain_instance import EncodedInstance, PlainInstance
from pacs_server.services.retrieve import DataSetSource, RetrieveService
from pacs_server.web.dicomweb.media_types import DICOM
from pacs_server.web.dicomweb.ranges import ByteRange
from pacs_server.web.dicomweb.transfers import Transfer
from pacs_server.web.dicomweb.viewing import Workers
from pacs_server.web.streams import PIECE, Piece, pieces
from pacs_server.web.threads import in_thread

# So many instances are opened together, and so many bytes of them read; the next ones while these are being sent.
_TOGETHER: Final = 32
_TOGETHER_BYTES: Final = 2 * 1024 * 1024
# Up to this size the first instance is read whole when it is opened: a CT image, with what is around its pixels.
READ_WHOLE: Final = 576 * 1024
# Decoded instances of so many bytes are in memory as a whole, and stored ones that cannot be decoded frame by frame.
_SHORT: Final = 4 * 1024 * 1024
_MOST_AS_A_WHOLE: Final = 64 * 1024 * 1024
# The length of an answer with more parts is not computed: it would keep the client waiting.
_MOST_COUNTED: Final = 2000


class Planned(NamedTuple):
    """An instance that is going to be sent, and in which transfer syntax."""

    instance: StoredInstance
    transfer_syntax_uid: str
    # Whether the client takes the stored bytes as well, should they not be readable.
    or_stored: bool = False

    @property
    def is_stored_so(self) -> bool:
        """Whether the stored bytes are sent."""
        return self.transfer_syntax_uid == self.instance.transfer_syntax_uid

    @property
    def head(self) -> bytes:
        """A fresh head of the file: the stored one tells who sent the instance, and from where."""
        return plain_head(self.instance.sop_class_uid, self.instance.uids.sop, self.transfer_syntax_uid)

    @property
    def content_type(self) -> str:
        """The media type with the transfer syntax, which is never *."""
        return f"{DICOM}; transfer-syntax={self.transfer_syntax_uid}"

    @property
    def data_set_size(self) -> int:
        """The length of the stored data set in bytes."""
        return self.instance.size - self.instance.data_set_offset


class Opened(NamedTuple):
    """A data set that is ready to be sent: in memory if it is short, else open; as it is stored, or to be decoded."""

    planned: Planned
    data: bytes | DataSetSource | PlainInstance | EncodedInstance
    modified_ns: int = 0

    @property
    def size(self) -> int | None:
        """The length of the data set as it is sent, in bytes; None if that is not known before it was made."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size

    @property
    def file_size(self) -> int | None:
        """The length of the file, if that of the data set is known."""
        return None if self.size is None else len(self.planned.head) + self.size

    def close(self) -> None:
        """Close the data set if it is open."""
        if not isinstance(self.data, bytes):
            self.data.close()


class Opener:
    """Opens what is going to be sent; may be shared by all threads."""

    def __init__(self, retrieve: RetrieveService, frames: FrameService, workers: Workers) -> None:
        """`workers` run what decodes."""
        self._retrieve = retrieve
        self._frames = frames
        self.workers = workers

    def open(self, planned: Planned, *, whole: int = PIECE) -> Opened:
        """Open a data set, and read it if it is not longer than `whole`.

        Raises StorageUnavailable, TranscodeError, ResourceLimitation.
        """
        if not planned.is_stored_so:
            try:
                return self._decoded(planned)
            except (TranscodeError, ResourceLimitation):
                if not planned.or_stored:
                    raise
                planned = Planned(planned.instance, planned.instance.transfer_syntax_uid)
        source = self._retrieve.open(planned.instance)
        if source.size > whole:
            return Opened(planned, source, source.modified_ns)
        with source:
            return Opened(planned, source.read(0, source.size), source.modified_ns)

    def _decoded(self, planned: Planned) -> Opened:
        """Images frame by frame; what is none, or has frames of single bits, as a whole, unless it is too long."""
        if planned.transfer_syntax_uid in ENCODERS:
            return self._encoded(planned)
        if planned.transfer_syntax_uid != EXPLICIT_VR_LITTLE_ENDIAN:
            return self._transcoded(planned)
        try:
            plain = PlainInstance(self._frames.open(planned.instance))
        except (FrameNotFound, TranscodeError):
            return self._transcoded(planned)
        if plain.size > _SHORT:
            return Opened(planned, plain)
        try:
            return Opened(planned, b"".join(plain.pieces()))
        finally:
            plain.close()

    def _encoded(self, planned: Planned) -> Opened:
        try:
            frames = self._frames.open(planned.instance)
        except FrameNotFound:
            # Compressed transfer syntaxes are for images; what is none has only one form.
            return self.open(Planned(planned.instance, EXPLICIT_VR_LITTLE_ENDIAN, or_stored=True))
        return Opened(planned, EncodedInstance(frames, planned.transfer_syntax_uid))

    def _transcoded(self, planned: Planned) -> Opened:
        if planned.data_set_size > _MOST_AS_A_WHOLE:
            raise TooLarge("the instance is too large for another transfer syntax")
        return Opened(planned, self._retrieve.transcoded(planned.instance, planned.transfer_syntax_uid))

    async def file(self, one: Opened, part: ByteRange | None = None) -> AsyncIterator[Piece]:
        """The bytes of a DICOM file, or of a part of it. Raises what keeps them from being read."""
        head = one.planned.head
        start, stop = part or (0, sys.maxsize)
        before = head[start:stop]
        first, last = max(0, start - len(head)), None if part is None else max(0, stop - len(head))
        if isinstance(one.data, bytes):
            yield before, one.data[first:last]
            return
        if before:
            yield before
        async for piece in self.pieces(one, first, last):
            yield piece

    async def pieces(self, one: Opened, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes of a data set from `start` to `stop`. Raises what keeps them from being read."""
        data = one.data
        if isinstance(data, bytes):
            yield data[start:stop]
        elif isinstance(data, DataSetSource):
            async for piece in pieces(data, start, stop):
                yield piece
        else:
            position, end = 0, sys.maxsize if stop is None else stop
            following = data.pieces()
            while position < end and (made := await self.workers.run(next, following, None)) is not None:
                for at in range(max(start - position, 0), min(len(made), end - position), PIECE):
                    yield made[at : min(at + PIECE, end - position)]
                position += len(made)


class InstanceParts:
    """The body of an answer with many instances (PS3.18 8.6.1.2), which is made once."""

    def __init__(
        self,
        opener: Opener,
        planned: Sequence[Planned],
        url_of: Callable[[StoredInstance], str],
        transfer: Transfer | None,
    ) -> None:
        """Without `transfer` the body is never asked for."""
        self._opener = opener
        self._planned = planned
        self._url_of = url_of
        self._transfer = transfer
        self._boundary = f"part-{secrets.token_hex(16)}"
        self._is_over = False
        self._batches = self._in_batches()
        self._ready: list[Opened | PacsError] = []

    @property
    def content_type(self) -> str:
        """The Content-Type of the answer."""
        return f'multipart/related; type="{DICOM}"; boundary={self._boundary}'

    @property
    def length(self) -> int | None:
        """The length of the body in bytes; None if that is not known before all of it was made."""
        if len(self._planned) > _MOST_COUNTED or not all(each.is_stored_so for each in self._planned):
            return None
        heads = sum(len(self._head(each, index)) + each.data_set_size for index, each in enumerate(self._planned))
        return heads + len(self._tail)

    def begin(self) -> None:
        """Open the first instances in this thread, so that the body begins without another one.

        What does not begin the body has to call `close`. Raises what keeps the first instance from being opened.
        """
        if not self._planned[0].is_stored_so:
            return
        [first] = next(self._batches)
        try:
            self._ready = [self._opener.open(first, whole=READ_WHOLE)]
        except PacsError as error:
            self._failed(error, 0)

    def close(self) -> None:
        """Close what is open and was not sent; a second time changes nothing."""
        while self._ready:
            if isinstance(one := self._ready.pop(), Opened):
                one.close()

    async def body(self) -> AsyncIterator[Piece]:
        """The parts, one after the other. Raises what keeps an instance from being sent."""
        following = None
        index = 0
        try:
            while True:
                batch = next(self._batches, None)
                following = None if batch is None else self._open(batch)
                with closing(self._each_ready(index)) as ready:
                    for one in ready:
                        first, start = self._begin_of(one, index)
                        yield first
                        if start != one.size:
                            async for piece in self._rest(one, index, start):
                                yield piece
                        self._completed(one)
                        index += 1
                if following is None:
                    break
                # The thread goes on if this ends meanwhile, and what it has opened has to be closed.
                self._ready = await asyncio.shield(following)
        finally:
            if following is not None:
                self._ready += await _outcome(following)
            self.close()
        if not self._is_over:
            yield self._tail

    def _begin_of(self, one: Opened, index: int) -> tuple[Piece, int]:
        """The head of a part with the first bytes of the data set, if they are in memory, and how many these are."""
        head, data = self._head(one.planned, index), one.data
        first: bytes | bytearray | None = data if isinstance(data, bytes) else None
        if isinstance(data, DataSetSource):
            first = data.cached(0, data.size if data.size <= READ_WHOLE else PIECE)
        if not first:
            return head, 0
        # One packet less, and the client is woken once less.
        self._is_over = index == len(self._planned) - 1 and len(first) == one.size
        # Nobody changes a bytearray that was read for this answer only.
        return (head, cast(bytes, first), self._tail if self._is_over else b""), len(first)

    def _each_ready(self, index: int) -> Generator[Opened, None, None]:
        """The instances that are open, each closed when the next one is asked for."""
        while self._ready:
            one = self._ready.pop(0)
            if isinstance(one, PacsError):
                self._failed(one, index)
            try:
                yield one
            finally:
                one.close()
            index += 1

    async def _rest(self, one: Opened, index: int, start: int) -> AsyncIterator[Piece]:
        """The bytes of a data set from `start` on."""
        try:
            async for piece in self._opener.pieces(one, start):
                yield piece
        except PacsError as error:
            self._failed(error, index)

    def _completed(self, one: Opened) -> None:
        if self._transfer is not None:
            self._transfer.completed(one.planned.instance)

    def _failed(self, error: PacsError, index: int) -> NoReturn:
        if self._transfer is not None:
            self._transfer.failed(self._planned[index].instance)
        raise error

    def _open(self, batch: Sequence[Planned]) -> "asyncio.Future[list[Opened | PacsError]]":
        if all(each.is_stored_so for each in batch):
            return asyncio.ensure_future(in_thread(self._opened, batch))
        return asyncio.ensure_future(self._opener.workers.run(self._opened, batch))

    def _opened(self, batch: Sequence[Planned]) -> list[Opened | PacsError]:
        found: list[Opened | PacsError] = []
        for planned in batch:
            try:
                found.append(self._opener.open(planned))
            except PacsError as error:
                found.append(error)
                break
        return found

    def _in_batches(self) -> Iterator[Sequence[Planned]]:
        batch: list[Planned] = []
        size = 0
        for index, each in enumerate(self._planned):
            batch.append(each)
            size += each.data_set_size if each.data_set_size <= PIECE else 0
            # The client gets the first byte as soon as the first instance is open. Decoding takes memory.
            if index == 0 or len(batch) == _TOGETHER or size > _TOGETHER_BYTES or not each.is_stored_so:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _head(self, planned: Planned, index: int) -> bytes:
        url = self._url_of(planned.instance)
        lines = f"--{self._boundary}\r\nContent-Type: {planned.content_type}\r\nContent-Location: {url}\r\n\r\n"
        return ("\r\n" if index else "").encode() + lines.encode("latin-1") + planned.head

    @property
    def _tail(self) -> bytes:
        return f"\r\n--{self._boundary}--\r\n".encode("ascii")


async def _outcome(future: "asyncio.Future[list[Opened | PacsError]]") -> list[Opened | PacsError]:
    with suppress(Exception):
        return await asyncio.shield(future)
    return []
