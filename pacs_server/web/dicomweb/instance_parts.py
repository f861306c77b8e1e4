"""Instances as DICOM files, made while they are sent: one by itself, or many as parts of multipart/related."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from starlette.concurrency import run_in_threadpool

from pacs_server.dicom.part10 import encode_head
from pacs_server.errors import PacsError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.retrieve import DataSetSource, RetrieveService
from pacs_server.web.dicomweb.transfers import Transfer
from pacs_server.web.streams import PIECE, pieces

DICOM: Final = "application/dicom"
# So many instances are opened together, and so many bytes of them read; the next ones while these are being sent.
_TOGETHER: Final = 32
_TOGETHER_BYTES: Final = 2 * 1024 * 1024
# The length of an answer with more parts is not computed: it would keep the client waiting.
_MOST_COUNTED: Final = 2000


class Planned(NamedTuple):
    """An instance that is going to be sent, and in which transfer syntax."""

    instance: StoredInstance
    transfer_syntax_uid: str

    @property
    def is_stored_so(self) -> bool:
        """Whether the stored bytes are sent."""
        return self.transfer_syntax_uid == self.instance.transfer_syntax_uid

    @property
    def head(self) -> bytes:
        """A fresh head of the file: the stored one tells who sent the instance, and from where."""
        return encode_head(self.instance.sop_class_uid, self.instance.uids.sop, self.transfer_syntax_uid, "")

    @property
    def content_type(self) -> str:
        """The media type with the transfer syntax, which is never *."""
        return f"{DICOM}; transfer-syntax={self.transfer_syntax_uid}"

    @property
    def data_set_size(self) -> int:
        """The length of the stored data set in bytes."""
        return self.instance.size - self.instance.data_set_offset


class Opened(NamedTuple):
    """A data set that is ready to be sent: in memory if it is short or was transcoded, else open."""

    planned: Planned
    data: bytes | DataSetSource
    modified_ns: int = 0

    @property
    def size(self) -> int:
        """The length of the data set as it is sent, in bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size

    def close(self) -> None:
        """Close the data set if it is open."""
        if not isinstance(self.data, bytes):
            self.data.close()


def opened(retrieve: RetrieveService, planned: Planned) -> Opened:
    """Open or transcode a data set. Raises StorageUnavailable, TranscodeError."""
    if not planned.is_stored_so:
        return Opened(planned, retrieve.transcoded(planned.instance, planned.transfer_syntax_uid))
    source = retrieve.open(planned.instance)
    if source.size > PIECE:
        return Opened(planned, source, source.modified_ns)
    with source:
        return Opened(planned, source.read(0, source.size), source.modified_ns)


class InstanceParts:
    """The body of an answer with many instances (PS3.18 8.6.1.2), which is made once."""

    def __init__(
        self,
        retrieve: RetrieveService,
        planned: Sequence[Planned],
        url_of: Callable[[StoredInstance], str],
        transfer: Transfer | None,
    ) -> None:
        """Without `transfer` the body is never asked for."""
        self._retrieve = retrieve
        self._planned = planned
        self._url_of = url_of
        self._transfer = transfer
        self._boundary = f"part-{secrets.token_hex(16)}"

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

    async def body(self) -> AsyncIterator[bytes]:
        """The parts, one after the other. Raises what keeps an instance from being sent."""
        assert self._transfer is not None
        batches = self._batches()
        following: asyncio.Future[list[Opened | PacsError]] | None = self._open(next(batches))
        ready: list[Opened | PacsError] = []
        index = 0
        try:
            while following is not None:
                # The thread goes on if this ends meanwhile, and what it has opened has to be closed.
                ready = await asyncio.shield(following)
                batch = next(batches, None)
                following = None if batch is None else self._open(batch)
                while ready:
                    one = ready.pop(0)
                    if isinstance(one, PacsError):
                        self._transfer.failed(self._planned[index].instance)
                        raise one
                    try:
                        async for piece in self._part(one, index):
                            yield piece
                    finally:
                        one.close()
                    self._transfer.completed(one.planned.instance)
                    index += 1
        finally:
            if following is not None:
                ready += await _outcome(following)
            for left in ready:
                if isinstance(left, Opened):
                    left.close()
        await run_in_threadpool(self._transfer.end)
        yield self._tail

    async def _part(self, one: Opened, index: int) -> AsyncIterator[bytes]:
        head = self._head(one.planned, index)
        if isinstance(one.data, bytes):
            yield head + one.data
            return
        yield head
        async for piece in pieces(one.data):
            yield piece

    def _open(self, batch: Sequence[Planned]) -> "asyncio.Future[list[Opened | PacsError]]":
        return asyncio.ensure_future(run_in_threadpool(self._opened, batch))

    def _opened(self, batch: Sequence[Planned]) -> list[Opened | PacsError]:
        found: list[Opened | PacsError] = []
        for planned in batch:
            try:
                found.append(opened(self._retrieve, planned))
            except PacsError as error:
                found.append(error)
                break
        return found

    def _batches(self) -> Iterator[Sequence[Planned]]:
        batch: list[Planned] = []
        size = 0
        for index, each in enumerate(self._planned):
            batch.append(each)
            read = each.data_set_size if not each.is_stored_so or each.data_set_size <= PIECE else 0
            size += read
            # The client gets the first byte as soon as the first instance is open.
            if index == 0 or len(batch) == _TOGETHER or size > _TOGETHER_BYTES:
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
