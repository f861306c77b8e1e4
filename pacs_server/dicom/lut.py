"""Lookup tables and windows: from stored values to what a display shows (PS3.3 C.7.6.3.1.5, C.7.9, C.11)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pacs_server.dicom.image_attributes import Attributes
from pacs_server.errors import TranscodeError

_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
_MAX_ENTRIES = 1 << 16


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A table whose first entry stands for the value `first`; entries have `bits` bits."""

    first: int
    entries: Any
    bits: int

    def __call__(self, values: Any) -> Any:
        """The entries for these values; the ends of the table stand for what is beyond them."""
        index = np.clip(np.asarray(values, "f8") - self.first, 0, len(self.entries) - 1).astype("i8")
        return self.entries[index]

    def level(self, values: Any) -> Any:
        """The entries for these values, from 0 to 1."""
        return np.clip(self(values) / ((1 << self.bits) - 1), 0, 1)


def lut_of(item: Attributes, *, signed: bool) -> LookupTable | None:
    """The table of an item of Modality LUT or VOI LUT Sequence; `signed` says whether its input may be negative.

    None if the item has no usable one.
    """
    return table_of(item, _LUT_DESCRIPTOR, item.data(_LUT_DATA), signed=signed)


def table_of(
    attributes: Attributes, descriptor: int, data: bytes | Sequence[int], *, signed: bool
) -> LookupTable | None:
    """The table that a descriptor (number of entries, first value, bits of an entry) and data make."""
    described = attributes.words(descriptor)
    if len(described) < 3 or not len(data):
        return None
    # PS3.3 C.11.1.1: 0 stands for 65,536 entries. The second value is signed if the pixels are.
    count, bits = described[0] or _MAX_ENTRIES, described[2]
    first = described[1] - 0x10000 if signed and described[1] > 0x7FFF else described[1]
    if isinstance(data, bytes):
        entries = _entries(data, count, attributes.byte_order)
    else:
        entries = np.asarray(data[:count], "u2")
    bits = min(bits, 8 * entries.dtype.itemsize)
    return LookupTable(first, entries, bits) if len(entries) and 1 <= bits <= 16 else None


def _entries(data: bytes, count: int, byte_order: str) -> Any:
    # Entries of 8 bits are packed, two in a word, or have a word each.
    size = 2 if len(data) >= 2 * count else 1
    return np.frombuffer(data[: len(data) // size * size], f"{byte_order}u{size}")[:count]


def segmented(data: bytes, count: int, bits: int, byte_order: str) -> list[int]:
    """The entries of segmented palette data (PS3.3 C.7.9.2); raises TranscodeError if it is malformed."""
    size = 1 if bits <= 8 else 2
    words = np.frombuffer(data[: len(data) // size * size], f"{byte_order}u{size}").tolist()
    palette = _SegmentedPalette(words, size, count)
    at = 0
    # A byte of padding may follow the last segment.
    while at + 1 < len(words) and len(palette.entries) < count:
        at = palette.expand(at)
    return palette.entries[:count]


class _SegmentedPalette:
    """Segmented palette data while it is expanded; `size` is the number of bytes of a word."""

    def __init__(self, words: list[int], size: int, count: int) -> None:
        self.entries: list[int] = []
        self._words = words
        self._size = size
        self._count = count
        self._starts: list[int] = []

    def expand(self, at: int, *, again: bool = False) -> int:
        """Append the entries of the segment at `at`; returns where the next one begins."""
        kind, length, rest = self._words[at], self._words[at + 1], self._words[at + 2 : at + 6]
        if not again:
            self._starts.append(at)
        if kind == 0:
            self.entries += self._words[at + 2 : at + 2 + length]
            return at + 2 + length
        if kind == 1 and rest and self.entries:
            last = self.entries[-1]
            steps = range(1, min(length, self._count) + 1)
            self.entries += [round(last + (rest[0] - last) * n / length) for n in steps]
            return at + 3
        if kind == 2 and len(rest) >= 4 // self._size and not again:
            self._copy(self._first_of(rest), length)
            return at + 2 + 4 // self._size
        raise TranscodeError("segmented palette data is malformed")

    def _first_of(self, rest: list[int]) -> int:
        """Which of the segments an offset names; it counts bytes, but some writers count words."""
        offset = sum(word << 8 * self._size * n for n, word in enumerate(rest[: 4 // self._size]))
        for at in (offset / self._size, offset):
            if at in self._starts[:-1]:
                return self._starts.index(int(at))
        raise TranscodeError("segmented palette data is malformed")

    def _copy(self, first: int, length: int) -> None:
        for at in self._starts[first : first + length]:
            if len(self.entries) < self._count and self._words[at] != 2:
                self.expand(at, again=True)


class Window(NamedTuple):
    """A window: which values become all the shades from black to white (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str = "LINEAR"

    def level(self, values: Any) -> Any:
        """The shade of each value, from 0 to 1."""
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        if self.width <= 1:
            return (values > self.center - 0.5) * 1.0
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)
