"""STOW-RS: the request that stores instances at a remote, made from the stored bytes while it is sent (PS3.18 10.5)."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.part10 import encode_head
from pacs_server.errors import StorageUnavailable
from pacs_server.kit.media_types import DICOM
from pacs_server.scu.dicomweb.client import Content
from pacs_server.scu.sending import OpenDataSet, Outgoing
from pacs_server.services.transcode import can_transcode, transcode

_PIECE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class OpenInstance:
    """An instance that is ready to be sent: the head of its file, and its data set, open or in memory."""

    instance: Outgoing
    head: bytes
    data: OpenDataSet | bytes

    @property
    def size(self) -> int:
        """The length of the file in bytes."""
        return len(self.head) + (len(self.data) if isinstance(self.data, bytes) else self.data.size)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the file. Raises StorageUnavailable."""
        yield self.head
        if isinstance(self.data, bytes):
            yield self.data
            return
        position = 0
        while position < self.data.size:
            piece = self.data.read(position, min(_PIECE, self.data.size - position))
            if not piece:
                raise StorageUnavailable("a stored instance is shorter than it was")
            position += len(piece)
            yield piece


def opened(instance: Outgoing, transfer_syntaxes: Sequence[str], resources: ExitStack) -> OpenInstance:
    """The instance, open until `resources` are closed; transcoded if the remote does not take its transfer syntax.

    Raises TranscodeError, StorageUnavailable and what `Outgoing.open` raises.
    """
    data = instance.open()
    if not isinstance(data, bytes):
        resources.enter_context(data)
    stored = instance.transfer_syntax_uid
    if transfer_syntaxes and stored not in transfer_syntaxes:
        possible = (syntax for syntax in transfer_syntaxes if can_transcode(stored, syntax))
        syntax = next(possible, transfer_syntaxes[0])
        whole = data if isinstance(data, bytes) else data.read(0, data.size)
        data, stored = transcode(whole, stored, syntax), syntax
    # A fresh head: the stored one tells who sent the instance, and from where.
    return OpenInstance(instance, encode_head(instance.sop_class_uid, instance.uids.sop, stored, ""), data)


def request_body(instances: Sequence[OpenInstance]) -> Content:
    """The body of a Store transaction with all these instances (PS3.18 10.5.1.2); its length is known beforehand."""
    boundary = f"part-{secrets.token_hex(16)}"
    # The transfer syntax stands in the head of each file.
    part_head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode("ascii")
    tail = f"--{boundary}--\r\n".encode("ascii")
    length = sum(len(part_head) + each.size + 2 for each in instances) + len(tail)

    def pieces() -> Iterator[bytes]:
        for each in instances:
            yield part_head
            yield from each.pieces()
            yield b"\r\n"
        yield tail

    return Content(f'multipart/related; type="{DICOM}"; boundary={boundary}', length, pieces)
