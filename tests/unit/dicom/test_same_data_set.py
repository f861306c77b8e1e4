"""Two data sets are the same if their elements and values are, in whatever transfer syntax each is."""

import copy
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import imagecodecs
import numpy as np
import pytest
from compressed import COLOUR, GRAY12, GRAY16, LOSSLESS, RNG, compressed
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from strategies import encoded

from pacs_server.dicom import same_pixels
from pacs_server.dicom.codecs import DEFLATED_IMAGE_FRAME, decoder_for
from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.same_data_set import same_data_set
from pacs_server.errors import StorageUnavailable
from pacs_server.services.transcode import transcode

# Pydicom warns of odd values in its own test files.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IMPLICIT, EXPLICIT = str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian)
DEFLATED, BIG_ENDIAN = str(DeflatedExplicitVRLittleEndian), str(ExplicitVRBigEndian)
NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
IDENTITY = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4"}
Encoded = tuple[bytes, str]


def of(data: bytes, syntax: str) -> DataSetBytes:
    return DataSetBytes(lambda offset, length: data[offset : offset + length], len(data), syntax)


def same(one: Encoded, other: Encoded) -> bool:
    """The answer, which is the same both ways."""
    found = same_data_set(of(*one), of(*other))
    assert same_data_set(of(*other), of(*one)) is found
    return found


def image(**attributes: Any) -> Dataset:
    """An image with nested sequences, private elements, and values of many kinds."""
    inner, item = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "T-1", "Something"
    item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber = "1.2.3", [1, 2]
    item.PurposeOfReferenceCodeSequence = [inner, copy.deepcopy(inner)]
    ds = datasets.make_ct(**IDENTITY)
    ds.ReferencedImageSequence = [item]
    ds.FrameIncrementPointer = 0x00181063
    ds.SmallestImagePixelValue = 3
    ds["SmallestImagePixelValue"].VR = "US"
    ds.EventTimeOffset, ds.RationalNumeratorValue = 1.5, [7, 70_000]
    ds.add_new(0x00090010, "LO", "SOMEBODY")
    ds.add_new(0x00091001, "LO", "private")
    ds.add_new(0x00091002, "FD", 2.25)
    ds["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def written(ds: Dataset, syntax: str) -> Encoded:
    ds = copy.deepcopy(ds)
    if syntax == BIG_ENDIAN:  # pydicom leaves the byte order of words to its callers
        ds["PixelData"].value = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    return encoded(ds, syntax), syntax


# ------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize(("one", "other"), list(product(NATIVE, NATIVE)))
def test_every_uncompressed_transfer_syntax_says_the_same(one: str, other: str) -> None:
    assert same(written(image(), one), written(image(), other))


@pytest.mark.parametrize("other", NATIVE)
@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds, "PatientName", "Test^Patienx"),
        lambda ds: setattr(ds, "StudyDescription", "Study 2"),
        lambda ds: setattr(ds, "StudyDescription", ""),
        lambda ds: setattr(ds, "InstanceNumber", 2),
        lambda ds: setattr(ds, "EventTimeOffset", 1.25),
        lambda ds: setattr(ds, "RationalNumeratorValue", [7]),
        lambda ds: setattr(ds, "SmallestImagePixelValue", 4),
        lambda ds: setattr(ds, "FrameIncrementPointer", 0x00181064),
        lambda ds: setattr(ds, "ImageComments", "new"),
        lambda ds: delattr(ds, "StudyDescription"),
        lambda ds: setattr(ds[0x00091001], "value", "privatE"),
        lambda ds: setattr(ds[0x00091002], "value", 2.5),
        lambda ds: setattr(ds, "ReferencedImageSequence", []),
        lambda ds: ds.ReferencedImageSequence.append(Dataset()),
        lambda ds: setattr(ds.ReferencedImageSequence[0], "ReferencedFrameNumber", [1, 3]),
        lambda ds: setattr(ds.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence[1], "CodeValue", "T-2"),
        lambda ds: ds.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence.pop(),
        lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2] + b"\1\2"),
        lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2]),
        lambda ds: setattr(ds, "PixelData", ds.PixelData + bytes(2)),
    ],
)
def test_one_changed_value_is_a_difference(change: Callable[[Dataset], None], other: str) -> None:
    changed = image()
    change(changed)
    assert not same(written(image(), EXPLICIT), written(changed, other))


def element(tag: int, vr: str, value: bytes, *, implicit: bool = False, undefined: bool = False) -> bytes:
    length = 0xFFFFFFFF if undefined else len(value)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<L", length) + value
    long = vr in ("OB", "OW", "SQ", "UN", "UT")
    return head + vr.encode() + (struct.pack("<xxL", length) if long else struct.pack("<H", length)) + value


def item(content: bytes, *, undefined: bool = False) -> bytes:
    if undefined:
        return b"\xfe\xff\0\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return b"\xfe\xff\0\xe0" + struct.pack("<L", len(content)) + content


END = b"\xfe\xff\xdd\xe0\0\0\0\0"
UID = element(0x00080018, "UI", b"1.2.3.4\0")
NAME = element(0x00100010, "PN", b"Doe^Jo")
CODE = element(0x00080100, "SH", b"A1")
SEQUENCE = 0x00081140


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Group lengths and trailing padding.
        (UID + NAME, element(0x00080000, "UL", b"\x10\0\0\0") + UID + element(0x00100000, "UL", b"\1\0\0\0") + NAME),
        (UID + NAME, UID + NAME + element(0xFFFCFFFC, "OB", bytes(128))),
        (UID + NAME, UID + NAME + bytes(6)),
        # Padding of values.
        (UID + NAME, element(0x00080018, "UI", b"1.2.3.4 ") + NAME),
        (UID + element(0x00100020, "LO", b"P1"), UID + element(0x00100020, "LO", b" P1 \0 ")),
        (UID + element(0x7FE00010, "OB", b"\1\2\3"), UID + element(0x7FE00010, "OB", b"\1\2\3\0")),
        # Lengths of sequences and items.
        (
            element(SEQUENCE, "SQ", item(CODE)),
            element(SEQUENCE, "SQ", item(CODE, undefined=True) + END, undefined=True),
        ),
        (element(SEQUENCE, "SQ", b""), element(SEQUENCE, "SQ", END, undefined=True)),
        # UN is the VR of the dictionary (PS3.5 6.2.2).
        (UID + NAME, UID + element(0x00100010, "UN", b"Doe^Jo")),
        (UID + element(0x00100010, "PN", b"Doe^J "), UID + element(0x00100010, "UN", b"Doe^J\0")),
        (element(0x00280010, "US", b"\1\2"), element(0x00280010, "UN", b"\1\2")),
        (
            element(SEQUENCE, "SQ", item(CODE)),
            element(SEQUENCE, "UN", item(element(0x00080100, "", b"A1", implicit=True))),
        ),
        (
            element(SEQUENCE, "SQ", item(CODE)),
            element(
                SEQUENCE, "UN", item(element(0x00080100, "", b"A1 ", implicit=True), undefined=True) + END,
                undefined=True,
            ),
        ),
        (element(0x00091001, "SQ", item(CODE)), element(0x00091001, "UN", item(CODE.replace(b"SH\2\0", b"\2\0\0\0")))),
        (element(0x00091001, "US", b"\1\2"), element(0x00091001, "UN", b"\1\2")),
        # Words of a lookup table.
        (element(0x00283006, "OW", b"\1\2\3\4"), element(0x00283006, "US", b"\1\2\3\4")),
        (element(0x00080060, "CS", b"CT"), element(0x00080060, "SH", b"CT")),
    ],
)  # fmt: skip
def test_what_depends_on_the_writer_only_is_no_difference(one: bytes, other: bytes) -> None:
    assert same((one, EXPLICIT), (other, EXPLICIT))
    assert same((one, EXPLICIT), (zlib.compress(other, wbits=-15), DEFLATED))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (element(0x00280106, "US", b"\xff\xff"), element(0x00280106, "SS", b"\xff\xff")),
        (element(0x00104000, "LT", b" note "), element(0x00104000, "LT", b"note")),
        (element(SEQUENCE, "SQ", b""), element(SEQUENCE, "OB", b"")),
        (element(SEQUENCE, "SQ", item(b"")), element(SEQUENCE, "SQ", b"")),
        (element(0x00280010, "US", b"\1\2"), element(0x00280010, "UN", b"\1\2\0")),
        (element(0x00420011, "OB", b"\1\2\0\0"), element(0x00420011, "OB", b"\1\2")),
        (element(0x00080060, "CS", b"CT"), element(0x00080061, "CS", b"CT")),
        (UID, UID + NAME),
        # A long text, in chunks.
        (element(0x0040A160, "UT", b"x" * 70_000), element(0x0040A160, "UT", b"x" * 69_999 + b"y")),
    ],
)
def test_differences(one: bytes, other: bytes) -> None:
    assert same((one, EXPLICIT), (one, EXPLICIT))
    assert not same((one, EXPLICIT), (other, EXPLICIT))


def test_long_text_may_be_padded() -> None:
    one, other = (element(0x0040A160, "UT", b"x" * 70_000 + end) for end in (b"", b"  "))
    assert same((one, EXPLICIT), (other, EXPLICIT))


def test_an_encoding_other_than_declared_is_understood() -> None:
    explicit, implicit = (encoded(image(), syntax) for syntax in (EXPLICIT, IMPLICIT))
    assert same((explicit, IMPLICIT), (implicit, IMPLICIT))
    assert same((explicit, EXPLICIT), (implicit, EXPLICIT))


def test_pixels_of_32_bits_in_big_endian_are_swapped_as_a_whole() -> None:
    def data(order: str) -> bytes:
        head = f"{order}HH2sH"
        bits = struct.pack(head, 0x28, 0x100, b"US", 2) + struct.pack(f"{order}H", 32)
        pixels = struct.pack(f"{order}HH2sxxL", 0x7FE0, 0x10, b"OW", 8) + struct.pack(f"{order}2L", 1, 0x10203)
        return bits + pixels

    assert same((data("<"), EXPLICIT), (data(">"), BIG_ENDIAN))


# ------------------------------------------------------------------------------------ malformed


@pytest.mark.parametrize(
    ("data", "syntax"),
    [
        (b"rubbish!", EXPLICIT),
        (b"rubbish!", DEFLATED),
        (zlib.compress(UID + NAME, wbits=-15)[:-4], DEFLATED),
        (UID + NAME[:-1], EXPLICIT),
        (UID + b"\1\2\3", EXPLICIT),
        (element(0x00100010, "P?", b"ab"), EXPLICIT),
        (element(0x00280010, "US", b"\1\2\3\4")[::-1], BIG_ENDIAN),
        (struct.pack(">HH2sxxL", 0x7FE0, 0x10, b"OW", 3) + b"abc", BIG_ENDIAN),
        (element(SEQUENCE, "SQ", item(CODE), undefined=True), EXPLICIT),
        (element(SEQUENCE, "SQ", item(CODE, undefined=True)[:-8]), EXPLICIT),
        (element(SEQUENCE, "SQ", item(CODE + NAME)[:-2]), EXPLICIT),
        (element(SEQUENCE, "SQ", NAME), EXPLICIT),
        (item(CODE), EXPLICIT),
        (element(0x00100010, "PN", b"", undefined=False)[:6] + b"\xff\xff" + b"Doe", EXPLICIT),
        (element(0x00090001, "OB", END, undefined=True), EXPLICIT),
        (element(0x7FE00010, "OB", item(b"") + item(b"ab"), undefined=True), EXPLICIT),
        (element(SEQUENCE, "SQ", b"", undefined=True) * 2000, EXPLICIT),
        (element(SEQUENCE, "SQ", b"\xfe\xff\0\xe0\xff\xff\xff\xff", undefined=True) * 3000, EXPLICIT),
    ],
)
def test_malformed_data_is_the_same_as_nothing(data: bytes, syntax: str) -> None:
    assert not same((data, syntax), (data, syntax))
    assert not same((data, syntax), (UID + NAME, EXPLICIT))


def test_what_cannot_be_read_is_told() -> None:
    def read(offset: int, length: int) -> bytes:
        raise StorageUnavailable("gone")

    with pytest.raises(StorageUnavailable):
        same_data_set(of(UID, EXPLICIT), DataSetBytes(read, 100, EXPLICIT))


# ------------------------------------------------------------------------------------ pixels


PIXELS = {"gray12": GRAY12, "gray16": GRAY16, "colour": COLOUR}


def coded(name: str, pixels: np.ndarray, **attributes: Any) -> Encoded:
    syntax, encoder = LOSSLESS[name]
    unsigned = pixels.view("u2") if pixels.dtype.kind == "i" else pixels
    frames = [bytes(encoder(np.ascontiguousarray(frame))) for frame in unsigned]
    return compressed(syntax, frames, pixels, **(IDENTITY | attributes)), str(syntax)


def uncompressed(data: bytes, syntax: str, wanted: str) -> Encoded:
    return transcode(data, syntax, wanted), wanted


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("name", LOSSLESS)
def test_losslessly_compressed_pixels_are_the_same_as_native_ones(name: str, pixels: str) -> None:
    one = coded(name, PIXELS[pixels])
    for wanted in (EXPLICIT, IMPLICIT):
        assert same(one, uncompressed(*one, wanted))
    other = PIXELS[pixels].copy()
    other.flat[-1] ^= 1
    assert not same(one, uncompressed(*coded(name, other), EXPLICIT))


@pytest.mark.parametrize("other", LOSSLESS)
@pytest.mark.parametrize("pixels", PIXELS)
def test_two_lossless_codecs_of_the_same_pixels(other: str, pixels: str) -> None:
    changed = PIXELS[pixels].copy()
    changed.flat[0] ^= 1
    assert same(coded("rle", PIXELS[pixels]), coded(other, PIXELS[pixels]))
    assert not same(coded("rle", changed), coded(other, PIXELS[pixels]))


def test_other_attributes_of_compressed_images_count() -> None:
    native = uncompressed(*coded("jpeg-ls", GRAY12), EXPLICIT)
    assert not same(coded("jpeg-ls", GRAY12, PatientName="Somebody^Else"), native)
    assert not same(coded("jpeg-ls", GRAY12, PhotometricInterpretation="MONOCHROME1"), native)


def test_planes_of_colour_are_the_same_as_colours_of_pixels() -> None:
    planes = np.ascontiguousarray(COLOUR.transpose(0, 3, 1, 2))
    ds = datasets.parse_data_set(uncompressed(*coded("jpeg-ls", COLOUR), EXPLICIT)[0], EXPLICIT)
    ds.PixelData, ds.PlanarConfiguration = planes.tobytes(), 1
    assert same(coded("rle", COLOUR), (encoded(ds, EXPLICIT), EXPLICIT))
    ds.PlanarConfiguration = 0
    assert not same(coded("rle", COLOUR), (encoded(ds, EXPLICIT), EXPLICIT))


def test_offset_tables_and_fragments_do_not_count() -> None:
    frames = [bytes(LOSSLESS["jpeg-ls"][1](frame)) for frame in GRAY12]
    offsets = struct.pack("<2Q", 0, len(frames[0]) + len(frames[0]) % 2 + 8)
    lengths = struct.pack("<2Q", *map(len, frames))
    with_table = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    variants = [
        compressed(JPEGLSLossless, frames, GRAY12, **IDENTITY, PixelData=encapsulate(frames, **how), **more)
        for how, more in (
            ({"has_bot": True}, {}),
            ({"has_bot": False}, {}),
            ({"fragments_per_frame": 2}, {}),
            ({"has_bot": False}, with_table),
        )
    ]
    native = transcode(variants[0], JPEGLSLossless, EXPLICIT)
    for one in variants:
        for other in variants:
            assert same((one, JPEGLSLossless), (other, JPEGLSLossless))
        assert same((one, JPEGLSLossless), (native, EXPLICIT))


def test_single_bits_are_packed_across_frames() -> None:
    bits = RNG.integers(0, 2, (3, 5, 5)).astype("u1")
    frames = [_deflated_bits(frame) for frame in bits]
    one = compressed(
        DEFLATED_IMAGE_FRAME, frames, bits, **IDENTITY, BitsAllocated=1, BitsStored=1, HighBit=0
    ), str(DEFLATED_IMAGE_FRAME)  # fmt: skip
    assert same(one, uncompressed(*one, EXPLICIT))


def _deflated_bits(frame: np.ndarray) -> bytes:
    return zlib.compress(np.packbits(frame, bitorder="little").tobytes(), wbits=-15)


def lossy() -> dict[str, Encoded]:
    gray8 = (GRAY12[:1] >> 4).astype("u1")
    return {
        "jpeg": (compressed(JPEGBaseline8Bit, [bytes(imagecodecs.jpeg8_encode(gray8[0]))], gray8), JPEGBaseline8Bit),
        "jpeg-ls": (
            compressed(JPEGLSNearLossless, [bytes(imagecodecs.jpegls_encode(gray8[0], level=2))], gray8),
            JPEGLSNearLossless,
        ),
        "jpeg-2000": (
            compressed(JPEG2000, [bytes(imagecodecs.jpeg2k_encode(gray8[0], level=30, codecformat="J2K"))], gray8),
            JPEG2000,
        ),
    }


@pytest.mark.parametrize("name", ["jpeg", "jpeg-ls", "jpeg-2000"])
def test_lossy_pixels_are_the_same_as_nothing_but_themselves(name: str) -> None:
    one = lossy()[name]
    assert same(one, one)
    assert not same(one, uncompressed(*one, EXPLICIT))


def test_without_a_decoder_only_the_same_codestreams_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    one = coded("jpeg-ls", GRAY12)
    native = uncompressed(*one, EXPLICIT)
    monkeypatch.setattr(decoder_for(JPEGLSLossless), "_available", {})
    assert not same(one, native)
    assert same(one, one)


def test_broken_codestreams_and_wrong_sizes() -> None:
    rle = coded("rle", GRAY12)
    native = datasets.parse_data_set(uncompressed(*rle, EXPLICIT)[0], EXPLICIT)
    broken = compressed(RLELossless, [b"garbage!"] * 2, GRAY12, **IDENTITY), str(RLELossless)
    assert not same(broken, (encoded(native, EXPLICIT), EXPLICIT))
    native.PixelData = native.PixelData[:-2]
    assert not same(rle, (encoded(native, EXPLICIT), EXPLICIT))


def test_frames_that_are_too_large_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = coded("rle", GRAY12), coded("jpeg-ls", GRAY12)
    monkeypatch.setattr(same_pixels, "_MAX_FRAME", GRAY12[0].nbytes - 1)
    assert not same(one, other)
    monkeypatch.setattr(same_pixels, "_MAX_FRAME", GRAY12[0].nbytes)
    assert same(one, other)


LOSSLESS_FILES = same_pixels._LOSSLESS | set(NATIVE)
FILES = [path for path in datasets.pydicom_test_files() if path.stat().st_size < 600_000]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_pydicom_is_the_same_as_its_transcoded_data_set(path: Path) -> None:
    syntax, data = datasets.data_set_bytes(path)
    for wanted in (EXPLICIT, IMPLICIT):
        other = transcode(data, syntax, wanted)
        assert same((data, syntax), (other, wanted)) is (syntax in LOSSLESS_FILES or other == data)


# ------------------------------------------------------------------------------------ memory


@pytest.mark.slow
@pytest.mark.parametrize("other", [EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_memory_does_not_grow_with_the_pixels(other: str) -> None:
    size = 128 << 20
    head = element(0x7FE00010, "OW", b"")[:8] + struct.pack("<L", size)
    big = struct.pack(">HH2sxxL", 0x7FE0, 0x10, b"OW", size)
    deflater = zlib.compressobj(wbits=-15)
    packed = deflater.compress(head + bytes(size)) + deflater.flush() if other == DEFLATED else b""

    def zeros(start: bytes) -> DataSetBytes:
        def read(offset: int, length: int) -> bytes:
            begin = start[offset : offset + length]
            return begin + bytes(min(length, len(start) + size - offset) - len(begin))

        return DataSetBytes(read, len(start) + size, EXPLICIT if start is head else BIG_ENDIAN)

    against = of(packed, DEFLATED) if other == DEFLATED else zeros(head if other == EXPLICIT else big)
    tracemalloc.start()
    try:
        assert same_data_set(zeros(head), against)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------ numbers as text


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (b"80.0000 ", b"80", True),
        (b"0.5000\\-91.2000 ", b"0.5\\ -91.2", True),
        (b"1.0E2 ", b"100 ", True),
        (b"0080", b"80", True),
        (b"80.0001 ", b"80", False),
        (b"1\\2 ", b"1\\2\\2 ", False),
        (b"1\\ ", b"1 ", False),
        (b"1.0\\ ", b"1\\ ", False),
        (b"NaN ", b"NAN ", False),
        (b"n/a ", b"N/A ", False),
        (b"\xff1", b"\xff1.0 ", False),
    ],
)
def test_numbers_are_the_same_however_many_zeros_they_are_written_with(one: bytes, other: bytes, alike: bool) -> None:
    def thickness(value: bytes) -> Encoded:  # (0018,0050) is of VR DS
        value += b" " * (len(value) % 2)
        return struct.pack("<HHL", 0x0018, 0x0050, len(value)) + value, IMPLICIT

    assert same(thickness(one), thickness(other)) is alike


def test_text_with_other_zeros_is_another_text() -> None:
    def identifier(value: bytes) -> Encoded:  # (0010,0020), Patient ID, is of VR LO
        return struct.pack("<HHL", 0x0010, 0x0020, len(value)) + value, IMPLICIT

    assert not same(identifier(b"0080"), identifier(b"80"))
