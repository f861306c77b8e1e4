"""Tells apart the frames of encapsulated Pixel Data: by its offset tables, or by its fragments (PS3.5 A.4)."""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from pacs_server.dicom.tags import ITEM, SEQUENCE_END, tag_text
from pacs_server.errors import TranscodeError

_HEAD = struct.Struct("<HHL")
_WINDOW = 4096
# A table of more bytes than this is not read; the fragments tell the same.
_MAX_TABLE = 1 << 23
_MAX_FRAGMENTS = 1 << 22
# ISO 10918-1 B.1.1.3, ISO 15444-1 A.2: JPEG, JPEG-LS and JPEG 2000 codestreams end with this marker.
_END_MARKER = b"\xff\xd9"


class BrokenTable(Exception):
    """An offset table does not say where frames begin; the frames may be found without it."""


class _Readable(Protocol):
    def read(self, offset: int, length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Table:
    """The number of frames, and the Extended Offset Table with its lengths, as encoded (PS3.3 C.7.6.3.1.8)."""

    frames: int
    offsets: bytes = b""
    lengths: bytes = b""


def bounds_of(source: _Readable, start: int, table: Table, *, trust_tables: bool = True) -> tuple["array[int]", bool]:
    """Where each frame begins and the last one ends, and whether each frame is known to be one fragment.

    `start` is where the value of Pixel Data begins. Raises TranscodeError if frames cannot be told apart.
    """
    items = _Items(source)
    tag, length = items.head(start)
    if tag != ITEM:
        raise TranscodeError(f"{tag_text(tag)} stands where an offset table should")
    first = start + 8 + length
    if trust_tables and table.frames > 1:
        basic = source.read(start + 8, length) if length <= _MAX_TABLE else b""
        for offsets in (_numbers("Q", table.offsets), _numbers("L", basic)):
            if (bounds := _by_table(items, first, offsets, table.frames)) is not None:
                return bounds, False
    starts, end = items.all(first)
    return _by_fragments(source, [*starts, end], table.frames)


def fragments_in(source: _Readable, start: int, end: int) -> list[tuple[int, int]]:
    """Offset and length of the fragments between two bounds; raises BrokenTable if they do not fit in between."""
    items = _Items(source)
    found = []
    while start < end:
        tag, length = items.head(start)
        if tag != ITEM or start + 8 + length > end:
            raise BrokenTable("no frame begins or ends where the offset table says")
        found.append((start + 8, length))
        start += 8 + length
    return found


def _numbers(kind: str, raw: bytes) -> Sequence[int]:
    size = 8 if kind == "Q" else 4
    raw = raw if len(raw) <= _MAX_TABLE else b""
    return struct.unpack(f"<{len(raw) // size}{kind}", raw[: len(raw) // size * size])


def _by_table(items: "_Items", first: int, offsets: Sequence[int], frames: int) -> "array[int] | None":
    """The bounds of the frames that a table gives; None if the table cannot be right.

    The table of an instance whose Pixel Data is longer than 4 GiB may have offsets that have overflowed.
    """
    if len(offsets) != frames or offsets[0] != 0 or any(b - a < 8 for a, b in pairwise(offsets)):
        return None
    try:
        if items.head(first + offsets[-1])[0] != ITEM:
            return None
        _, end = items.all(first + offsets[-1])
    except TranscodeError:
        return None
    return array("Q", [*(first + offset for offset in offsets), end])


def _by_fragments(source: _Readable, bounds: Sequence[int], frames: int) -> tuple["array[int]", bool]:
    """The bounds of frames, given those of all fragments."""
    fragments = len(bounds) - 1
    if fragments == frames:
        return array("Q", bounds), True
    if frames == 1 and fragments:
        return array("Q", (bounds[0], bounds[-1])), False
    if fragments > frames:
        ends = list(_frame_ends(source, bounds))
        if len(ends) == frames and ends[-1] == bounds[-1]:
            return array("Q", (bounds[0], *ends)), False
    raise TranscodeError(f"{fragments} fragments without an offset table cannot be told apart as {frames} frames")


def _frame_ends(source: _Readable, bounds: Sequence[int]) -> Iterator[int]:
    """Where the fragments end that end a frame: with the end marker, which a byte of padding may follow."""
    tail = b""
    for start, end in pairwise(bounds):
        # The marker itself may lie in two fragments.
        tail = (tail + source.read(max(start + 8, end - 4), min(4, end - start - 8)))[-4:]
        if tail.rstrip(b"\0").endswith(_END_MARKER):
            yield end
            tail = b""


class _Items:
    """Reads the heads of items, a few at a time where they lie close to each other."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self._at = 0
        self._window = b""

    def head(self, at: int) -> tuple[int, int]:
        """Tag and length of the item at this offset; raises TranscodeError where the data set ends."""
        if not 0 <= at - self._at <= len(self._window) - 8:
            self._at, self._window = at, self._source.read(at, _WINDOW)
            if len(self._window) < 8:
                raise TranscodeError("the fragments of Pixel Data have no end")
        group, number, length = _HEAD.unpack_from(self._window, at - self._at)
        return group << 16 | number, length

    def all(self, at: int) -> tuple["array[int]", int]:
        """Where the items from `at` on begin, and where the delimiter after the last one lies."""
        starts: array[int] = array("Q")
        while True:
            tag, length = self.head(at)
            if tag == SEQUENCE_END:
                return starts, at
            if tag != ITEM:
                raise TranscodeError(f"{tag_text(tag)} stands where a fragment should")
            starts.append(at)
            if len(starts) > _MAX_FRAGMENTS:
                raise TranscodeError("Pixel Data has too many fragments")
            at += 8 + length
