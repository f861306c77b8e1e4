"""Where frames lie, against pydicom as the second opinion."""

import struct
import warnings
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pydicom
import pytest
from compressed import GRAY12, LOSSLESS, compressed
from datasets import encoded
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate_extended, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from pacs_server.dicom.encoding import is_deflated
from pacs_server.dicom.fragments import BrokenTable
from pacs_server.dicom.frames import FrameMap, find_frames
from pacs_server.errors import FrameNotFound, TranscodeError

FILES = (*datasets.pydicom_test_files(), *datasets.pydicom_files_without_uids())


@dataclass
class Source:
    """A data set that counts what is read of it."""

    data: bytes
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]


def opened(path: Path) -> tuple[Source, str]:
    syntax, data = datasets.data_set_bytes(path)
    return Source(data), syntax


def expected_frames(path: Path) -> list[bytes] | None:
    """The frames by pydicom; None if there are none, or if nobody can tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, force=True)
        name = next((n for n in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if n in ds), None)
        if name is None or ds.get("Rows", 0) == 0 or path.name == "badVR.dcm":
            return None
        count = int(ds.get("NumberOfFrames") or 1)
        if ds[name].is_undefined_length:
            return list(generate_frames(ds.PixelData, number_of_frames=count))
        return native_frames(ds, ds[name].value, count)


def native_frames(ds: pydicom.Dataset, value: bytes, count: int) -> list[bytes]:
    pixels = ds.Rows * ds.Columns * ds.SamplesPerPixel
    if ds.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(value, "u1"), bitorder="little")
        frames = [bits[n * pixels : (n + 1) * pixels] for n in range(count)]
        return [np.packbits(frame, bitorder="little").tobytes() for frame in frames]
    size = pixels * ds.BitsAllocated // 8
    if ds.PhotometricInterpretation == "YBR_FULL_422":
        size = size // 3 * 2
    if ds.original_encoding[1] is False and ds["PixelData"].VR == "OW":
        value = np.frombuffer(value, f"u{max(2, ds.BitsAllocated // 8)}").byteswap().tobytes()
    return [value[n * size : (n + 1) * size] for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_every_frame_of_every_file_is_the_one_that_pydicom_finds(path: Path) -> None:
    source, syntax = opened(path)
    if is_deflated(syntax):
        pytest.skip("deflated")
    expected = expected_frames(path)
    if expected is None:
        with pytest.raises((FrameNotFound, TranscodeError)):
            find_frames(source, syntax)
        return
    found = find_frames(source, syntax)
    again = FrameMap.decode(found.encode())
    assert again == found
    assert [again.read(source, n) for n in range(1, found.count + 1)] == expected
    for number in (0, found.count + 1):
        with pytest.raises(FrameNotFound):
            found.read(source, number)


# ---------------------------------------------------------------- encapsulated, made here


def item(data: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data


def encapsulated(frames: list[list[bytes]], table: bytes | None, **attributes: object) -> Source:
    """A data set with frames of several fragments; `table` is the Basic Offset Table, None the right one."""
    starts, at = [], 0
    for frame in frames:
        starts.append(at)
        at += sum(8 + len(fragment) for fragment in frame)
    if table is None:
        table = struct.pack(f"<{len(starts)}L", *starts)
    value = item(table) + b"".join(item(fragment) for frame in frames for fragment in frame)
    pixels = np.zeros((len(frames), 4, 4), "u1")
    data = compressed(JPEGLSLossless, [b"\0\0"] * len(frames), pixels, **attributes)
    head = data[: data.index(struct.pack("<HH", 0x7FE0, 0x0010))]
    pixel_data = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return Source(head + pixel_data + value + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))


def read_all(source: Source) -> list[bytes]:
    found = find_frames(source, JPEGLSLossless)
    assert FrameMap.decode(found.encode()) == found
    return [found.read(source, n) for n in range(1, found.count + 1)]


def codestream(payload: bytes) -> bytes:
    return b"\xff\xd8" + payload.replace(b"\xff", b"\xfe") + b"\xff\xd9"


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """A codestream as fragments of even length, the last one padded."""
    stream += b"\0" * (len(stream) % 2)
    edges = sorted({0, len(stream), *(2 * place for place in places if 2 * place < len(stream))})
    return [stream[a:b] for a, b in pairwise(edges)]


FRAMES = st.lists(
    st.builds(cut, st.binary(max_size=60).map(codestream), st.lists(st.integers(1, 30), max_size=4)),
    min_size=1,
    max_size=6,
)


@given(FRAMES, st.sampled_from(["basic", "none", "extended"]))
def test_frames_come_back_however_they_are_cut_into_fragments(frames: list[list[bytes]], kind: str) -> None:
    attributes = {}
    if kind == "extended":
        lengths = [sum(8 + len(fragment) for fragment in frame) for frame in frames]
        starts = [sum(lengths[:n]) for n in range(len(frames))]
        attributes["ExtendedOffsetTable"] = struct.pack(f"<{len(starts)}Q", *starts)
        attributes["ExtendedOffsetTableLengths"] = struct.pack(f"<{len(starts)}Q", *(n - 8 for n in lengths))
    source = encapsulated(frames, None if kind == "basic" else b"", **attributes)
    assert read_all(source) == [b"".join(frame) for frame in frames]


TWO = [[codestream(b"a" * 20)], [codestream(b"b" * 30)]]


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("<2L", 0, 0),
        struct.pack("<2L", 40, 0),
        struct.pack("<2L", 0, 1 << 31),
        struct.pack("<3L", 0, 32, 70),
        struct.pack("<L", 0),
        b"\0\0\0",
    ],
)
def test_a_table_that_cannot_be_right_is_not_used(table: bytes) -> None:
    assert read_all(encapsulated(TWO, table)) == [frame[0] for frame in TWO]


def test_a_table_whose_entries_point_between_fragments_is_found_out_when_the_frame_is_read() -> None:
    three = [*TWO, [codestream(b"c" * 40)]]
    right = [0, 32, 74]
    source = encapsulated(three, struct.pack("<3L", 0, 30, right[2]))
    found = find_frames(source, JPEGLSLossless)
    for number in (1, 2):
        with pytest.raises(BrokenTable):
            found.read(source, number)
    found = find_frames(source, JPEGLSLossless, trust_tables=False)
    assert [found.read(source, n) for n in (1, 2, 3)] == [frame[0] for frame in three]


def test_frames_that_nothing_tells_apart_are_an_error() -> None:
    with pytest.raises(TranscodeError, match="4 fragments"):
        read_all(encapsulated([[b"ab", b"cd"], [b"ef", b"gh"]], b""))
    with pytest.raises(TranscodeError, match="1 fragments"):
        read_all(encapsulated([[b"abcd"]], b"", NumberOfFrames=3))


def test_too_many_fragments_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs_server.dicom.fragments._MAX_FRAGMENTS", 1)
    with pytest.raises(TranscodeError, match="too many"):
        read_all(encapsulated(TWO, b""))


def test_pixel_data_without_an_end_is_an_error() -> None:
    source = encapsulated(TWO, b"")
    source.data = source.data[:-10]
    with pytest.raises(TranscodeError):
        read_all(source)


def test_an_extended_table_of_pydicom_is_understood() -> None:
    syntax, encode = LOSSLESS["jpeg-2000"]
    frames = [encode(frame) for frame in GRAY12]
    value, table, lengths = encapsulate_extended(frames)
    data = compressed(
        syntax, frames, GRAY12, PixelData=value, ExtendedOffsetTable=table, ExtendedOffsetTableLengths=lengths
    )
    source = Source(data)
    found = find_frames(source, JPEG2000Lossless)
    assert [found.read(source, n).rstrip(b"\0") for n in (1, 2)] == [frame.rstrip(b"\0") for frame in frames]


# ---------------------------------------------------------------- how much is read


class Large:
    """A data set of many frames, most of which is not there: only what is read is made."""

    def __init__(self, head: bytes, size: int) -> None:
        self.head = head
        self.size = size
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        length = max(0, min(length, self.size - offset))
        return self.head[offset : offset + length].ljust(length, b"\x07")


def test_one_frame_of_a_native_image_of_4_gigabytes_is_one_read() -> None:
    frames, size = 8000, 512 * 1024
    ds = datasets.make_ct(rows=512, columns=512, NumberOfFrames=frames)
    head = encoded(ds)
    at = head.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 8
    head = head[:at] + struct.pack("<L", frames * size & 0xFFFFFFFE) + b"\x07" * 8
    source = Large(head, at + 4 + frames * size)
    found = find_frames(source, ExplicitVRLittleEndian)
    assert sum(length for _, length in source.reads) == 64 * 1024
    source.reads.clear()
    assert found.read(source, 7777) == b"\x07" * size
    assert source.reads == [(at + 4 + 7776 * size, size)]
    assert len(found.encode()) < 200


def test_a_table_spares_looking_for_fragments() -> None:
    frames = [[codestream(bytes(10_000))] for _ in range(500)]
    source = encapsulated(frames, None)
    found = find_frames(source, JPEGLSLossless)
    assert len(source.reads) < 6
    source.reads.clear()
    assert found.read(source, 321) == frames[320][0]
    assert len(source.reads) == 2
    assert sum(length for _, length in source.reads) < 10_004 + 4096 + 1


def test_a_map_of_ten_thousand_frames_is_small() -> None:
    source = encapsulated([[codestream(bytes(n % 97))] for n in range(10_000)], b"")
    found = find_frames(source, JPEGLSLossless)
    assert found.single
    assert len(found.encode()) < 20_000
    assert FrameMap.decode(found.encode()) == found


def test_a_map_of_another_version_is_not_used() -> None:
    found = find_frames(encapsulated(TWO, None), JPEGLSLossless)
    plain = zlib.decompress(found.encode())
    assert FrameMap.decode(zlib.compress(plain.replace(b"[1,", b"[99,", 1))) is None
