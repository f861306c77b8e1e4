"""Lossless transcoding, against pydicom as the second opinion."""

import struct
import zlib
from pathlib import Path
from typing import Any

import datasets
import imagecodecs
import numpy as np
import pydicom
import pytest
from compressed import COLOUR, GRAY12, GRAY16, LOSSLESS, RNG, compressed, deflate_frame, rle_frame
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from pacs_server.dicom import codecs
from pacs_server.dicom.element import Element, Item
from pacs_server.dicom.encoding import EXPLICIT_LE, IMPLICIT_LE, Encoding
from pacs_server.dicom.reader import read_elements
from pacs_server.dicom.reencode import encode
from pacs_server.errors import TranscodeError
from pacs_server.services import transcode as service

# Pydicom warns of odd values in its own test files.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TARGETS = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
TARGET_IDS = ["explicit", "implicit"]
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PIXEL_DATA = 0x7FE00010
# What may change when compressed pixels become native.
DESCRIBES_PIXELS = {0x00280004, 0x00280006, 0x00280008, 0x7FE00001, 0x7FE00002, 0x7FE00003}
SMALL = [path for path in datasets.pydicom_test_files() if path.stat().st_size < 20_000]
FILES = (*datasets.pydicom_test_files(), *datasets.pydicom_files_without_uids())


def transcode(file: Path, offset: int, stored: str, wanted: str) -> bytes:
    return service.transcode(file.read_bytes()[offset:], stored, wanted)


def transcoded(path: Path, wanted: str) -> Dataset:
    syntax = datasets.data_set_bytes(path)[0]
    data = transcode(path, datasets.data_set_offset(path), syntax, wanted)
    return datasets.parse_data_set(data, wanted)


def stored(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "data_set"
    path.write_bytes(data)
    return path


def leaves(elements: tuple[Element, ...], skip: set[int]) -> list[tuple[int, Any]]:
    """Tags and little endian value bytes, sequences as lists of such."""
    found: list[tuple[int, Any]] = []
    for element in elements:
        if element.tag & 0xFFFF and element.tag not in skip:
            value = element.value
            nested = isinstance(value, tuple)
            content = [leaves(item.elements, skip) for item in value] if nested else bytes(value)
            found.append((element.tag, content))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("wanted", TARGETS, ids=TARGET_IDS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_pydicom_keeps_its_pixels_and_all_else(path: Path, wanted: str) -> None:
    original = pydicom.dcmread(path)
    new = transcoded(path, wanted)
    if "PixelData" in original and "Rows" in original and path.name != "badVR.dcm":
        before, after = pixel_array(original, raw=True), pixel_array(new, raw=True)
        assert before.dtype.newbyteorder("=") == after.dtype.newbyteorder("=")
        np.testing.assert_array_equal(before, after)
    skip = {PIXEL_DATA} | (set() if original.file_meta.TransferSyntaxUID in NATIVE else DESCRIBES_PIXELS)
    for element in original:
        if element.tag not in skip and element.tag.element and not element.tag.is_private:
            assert new[element.tag].value == element.value, element.tag
    private = [element.tag for element in original if element.tag.is_private and element.tag.element]
    assert private == [element.tag for element in new if element.tag.is_private and element.tag.element]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_byte_of_little_endian_values_stays(path: Path) -> None:
    syntax, data = datasets.data_set_bytes(path)
    if syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian) or path.name == "SC_rgb_jpeg.dcm":
        pytest.skip("other bytes by nature, tested elsewhere")
    skip = {PIXEL_DATA} | (set() if syntax in NATIVE else DESCRIBES_PIXELS)
    before = _elements(data, IMPLICIT_LE if syntax == ImplicitVRLittleEndian else EXPLICIT_LE, skip)
    for wanted, encoding in zip(TARGETS, (EXPLICIT_LE, IMPLICIT_LE), strict=True):
        out = transcode(path, datasets.data_set_offset(path), syntax, wanted)
        after = _elements(out, encoding, skip)
        assert [element.tag for element in before] == [element.tag for element in after]
        for old, new in zip(before, after, strict=True):
            if isinstance(old.value, tuple) == isinstance(new.value, tuple):
                assert leaves((old,), skip) == leaves((new,), skip)
            elif not isinstance(old.value, tuple):  # a UN that Implicit VR knows for a sequence
                assert new.raw is not None
                assert bytes(old.value) in bytes(new.raw)
            else:  # a private sequence is bytes to whoever lacks the dictionary
                assert (new.vr, bytes(new.value)[:4]) in {("UN", b"\xfe\xff\0\xe0"), ("UN", b"")}


def _elements(data: bytes, encoding: Encoding, skip: set[int]) -> list[Element]:
    return [e for e in read_elements(memoryview(data), encoding) if e.tag & 0xFFFF and e.tag not in skip]


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, "1.2.3"])
def test_the_stored_syntax_gives_the_stored_bytes(tmp_path: Path, syntax: str) -> None:
    path = stored(tmp_path, b"meta" + b"anything")
    assert transcode(path, 4, syntax, syntax) == b"anything"


def test_explicit_big_endian_words_are_swapped(tmp_path: Path) -> None:
    def big(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack(">HH2sxxL", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    def short(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack(">HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    data = b"".join(
        [
            short(0x00080000, b"UL", b"\0\0\0\1"),
            short(0x00080008, b"CS", b"ORIGINAL"),
            big(0x00091010, b"UN", b"\1\2\3\4"),
            short(0x00180050, b"AT", b"\x12\x34\x56\x78"),
            short(0x00280100, b"US", b"\0\x10"),
            big(0x00281201, b"OW", b"\1\2\3\4"),
            big(0x00289998, b"SV", b"\1\2\3\4\5\6\7\x08"),
            big(0x00289999, b"OF", b"\1\2\3\4"),
            big(0x60003000, b"OW", b"\1\2\3\4"),
            big(0x60023000, b"OB", b"\1\2\3\4"),
            big(0x7FE00010, b"OW", b"\1\2\3\4"),
        ]
    )
    out = transcode(stored(tmp_path, data), 0, ExplicitVRBigEndian, ExplicitVRLittleEndian)
    values = {
        e.tag: bytes(e.value) for e in read_elements(memoryview(out), EXPLICIT_LE) if not isinstance(e.value, tuple)
    }
    assert values == {
        0x00080008: b"ORIGINAL",
        0x00091010: b"\1\2\3\4",
        0x00180050: b"\x34\x12\x78\x56",
        0x00280100: b"\x10\0",
        0x00281201: b"\2\1\4\3",
        0x00289998: b"\x08\7\6\5\4\3\2\1",
        0x00289999: b"\4\3\2\1",
        0x60003000: b"\2\1\4\3",
        0x60023000: b"\1\2\3\4",
        0x7FE00010: b"\2\1\4\3",
    }


def test_an_odd_number_of_bytes_in_words_is_an_error(tmp_path: Path) -> None:
    data = struct.pack(">HH2sxxL", 0x7FE0, 0x0010, b"OW", 3) + b"abc"
    with pytest.raises(TranscodeError, match=r"7FE0,0010.*byte-swapped"):
        transcode(stored(tmp_path, data), 0, ExplicitVRBigEndian, ExplicitVRLittleEndian)


@pytest.mark.parametrize("character_set", [b"ISO 2022 IR 87", b"NO_SUCH_SET "], ids=["odd", "illegal"])
@pytest.mark.parametrize("wanted", TARGETS, ids=TARGET_IDS)
def test_text_and_padding_keep_their_bytes(tmp_path: Path, character_set: bytes, wanted: str) -> None:
    values = {
        0x00080005: (b"CS", character_set),
        0x00080018: (b"UI", b"1.2.3 \0"[:6]),
        0x00100010: (b"PN", b"\xff\xfe\x1b$B  "),
        0x00101030: (b"DS", b" 07,50  "),
        0x00200013: (b"IS", b"1A"),
    }
    data = b"".join(struct.pack(">HH2sH", tag >> 16, tag & 0xFFFF, vr, len(v)) + v for tag, (vr, v) in values.items())
    out = transcode(stored(tmp_path, data), 0, ExplicitVRBigEndian, wanted)
    encoding = EXPLICIT_LE if wanted == ExplicitVRLittleEndian else IMPLICIT_LE
    assert leaves(read_elements(memoryview(out), encoding), set()) == [(tag, v) for tag, (_, v) in values.items()]


def test_implicit_vrs_come_from_the_dictionary_and_pixel_representation(tmp_path: Path) -> None:
    ds = Dataset()
    ds.PixelRepresentation = 1
    ds.add_new(0x00280106, "SS", -5)
    ds.add_new(0x00091001, "LO", "x" * 70_000)
    ds.add_new(0x00990010, "LO", "NOBODY")
    ds.add_new(0x00991001, "FD", 1.5)
    ds.add_new(0x60003000, "OW", b"\1\2")
    ds.add_new(0x00189810, "SS", -7)
    ds.add_new(0x00104000, "LT", "y" * 65_536)
    data = datasets.encoded(ds, ImplicitVRLittleEndian)
    out = transcode(stored(tmp_path, data), 0, ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    vrs = {e.tag: e.vr for e in read_elements(memoryview(out), EXPLICIT_LE)}
    assert vrs == {
        0x00091001: "UN",
        0x00104000: "UN",
        0x00189810: "SS",
        0x00280103: "US",
        0x00280106: "SS",
        0x00990010: "LO",
        0x00991001: "UN",
        0x60003000: "OW",
    }
    assert datasets.parse_data_set(out, ExplicitVRLittleEndian).SmallestImagePixelValue == -5


def sequence_bytes(ds: Dataset, *, undefined: bool) -> bytes:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    return datasets.encoded(ds, ExplicitVRBigEndian)


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined", "defined"])
@pytest.mark.parametrize("wanted", TARGETS, ids=TARGET_IDS)
def test_sequences_keep_their_form_and_content(tmp_path: Path, wanted: str, undefined: bool) -> None:
    item, ds = Dataset(), Dataset()
    item.ReferencedFrameNumber, item.Rows = "3", 258
    ds.ReferencedImageSequence = [item, Dataset()]
    data = sequence_bytes(ds, undefined=undefined)
    out = transcode(stored(tmp_path, data), 0, ExplicitVRBigEndian, wanted)
    new = datasets.parse_data_set(out, wanted)
    assert new == ds
    assert new["ReferencedImageSequence"].is_undefined_length is undefined
    assert (b"\xfe\xff\xdd\xe0" in out) is undefined


def test_unknown_of_undefined_length_is_implicit_little_endian_inside(tmp_path: Path) -> None:
    inner = b"\x28\0\x10\0\2\0\0\0\7\0"
    content = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    before = b"\x09\0\x01\x10UN\0\0\xff\xff\xff\xff" + content
    after = b"\x10\0\x10\0PN\x02\0A^"
    out = transcode(stored(tmp_path, before + after), 0, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    assert out == b"\x09\0\x01\x10\xff\xff\xff\xff" + content + b"\x10\0\x10\0\2\0\0\0A^"


@pytest.mark.parametrize("actual", ["implicit", "explicit"])
def test_a_data_set_in_the_other_vr_encoding_than_declared_is_understood(tmp_path: Path, actual: str) -> None:
    implicit = actual == "implicit"
    ds = Dataset()
    ds.PatientID = "AB"
    data = datasets.encoded(ds, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    declared, wanted = TARGETS if implicit else TARGETS[::-1]
    out = transcode(stored(tmp_path, data), 0, declared, wanted)
    assert datasets.parse_data_set(out, wanted).PatientID == "AB"


def test_a_deflated_data_set_without_pixels_is_inflated(tmp_path: Path) -> None:
    path = next(p for p in FILES if p.name == "reportsi.dcm")
    _, data = datasets.data_set_bytes(path)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(data) + deflater.flush() + b"\0"
    file = stored(tmp_path, deflated)
    assert transcode(file, 0, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian) == data
    with pytest.raises(TranscodeError, match=r"Deflated Explicit VR Little Endian.*truncated"):
        transcode(stored(tmp_path, deflated[:50]), 0, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian)


@pytest.mark.parametrize("wanted", TARGETS, ids=TARGET_IDS)
@pytest.mark.parametrize("pixels", [GRAY12, GRAY16, COLOUR], ids=["gray12", "gray16", "colour"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_syntaxes_give_back_the_pixels(tmp_path: Path, name: str, pixels: np.ndarray, wanted: str) -> None:
    syntax, encoder = LOSSLESS[name]
    unsigned = pixels.view("u2") if pixels.dtype.kind == "i" else pixels
    frames = [bytes(encoder(np.ascontiguousarray(frame))) for frame in unsigned]
    data = compressed(syntax, frames, pixels)
    new = datasets.parse_data_set(transcode(stored(tmp_path, data), 0, syntax, wanted), wanted)
    np.testing.assert_array_equal(pixel_array(new, raw=True), pixels)
    assert new.PixelData == pixels.tobytes()
    assert new.get("PlanarConfiguration", 0) == 0
    assert new.PhotometricInterpretation == ("RGB" if pixels.ndim == 4 else "MONOCHROME2")
    assert ("OB" if pixels.itemsize == 1 and wanted == TARGETS[0] else "OW") == new["PixelData"].VR


@pytest.mark.parametrize("have_imagecodecs", [True, False], ids=["imagecodecs", "pillow"])
@pytest.mark.parametrize("adobe", [True, False], ids=["adobe", "jfif"])
def test_baseline_colours_stay_ybr_whatever_markers_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adobe: bool, have_imagecodecs: bool
) -> None:
    monkeypatch.setattr(codecs, "HAVE_IMAGECODECS", have_imagecodecs)
    pixels = np.full((1, 16, 16, 3), (200, 30, 60), "u1")
    Image.fromarray(pixels[0]).save(tmp_path / "frame.jpg", quality=95, subsampling="4:2:2")
    frame = (tmp_path / "frame.jpg").read_bytes()
    if adobe:  # in place of the JFIF marker; transform 1 says YCbCr
        marker = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, 1)
        frame = frame[:2] + marker + frame[4 + int.from_bytes(frame[4:6], "big") :]
    data = compressed(JPEGBaseline8Bit, [frame], pixels, PhotometricInterpretation="YBR_FULL_422")
    out = transcode(stored(tmp_path, data), 0, JPEGBaseline8Bit, ExplicitVRLittleEndian)
    new = datasets.parse_data_set(out, ExplicitVRLittleEndian)
    assert new.PhotometricInterpretation == "YBR_FULL"
    assert np.abs(pixel_array(new).astype(int) - pixels[0]).max() <= 3


def test_jpeg_xl_recompression_gives_what_the_jpeg_gives(tmp_path: Path) -> None:
    frame = imagecodecs.jpeg8_encode(COLOUR[0], level=90)
    both = []
    for syntax, coded in (
        (JPEGBaseline8Bit, frame),
        (codecs.JPEG_XL_RECOMPRESSION, imagecodecs.jpegxl_encode_jpeg(frame, usecontainer=True)),
    ):
        data = compressed(syntax, [bytes(coded)], COLOUR[:1], PhotometricInterpretation="YBR_FULL_422")
        out = transcode(stored(tmp_path, data), 0, syntax, ExplicitVRLittleEndian)
        both.append(datasets.parse_data_set(out, ExplicitVRLittleEndian))
    assert both[0].PixelData == both[1].PixelData
    assert both[0].PhotometricInterpretation == both[1].PhotometricInterpretation == "YBR_FULL"


def test_twelve_bit_jpeg_extended(tmp_path: Path) -> None:
    smooth = (np.arange(600).reshape(1, 20, 30) * 6).astype("u2")
    frame = bytes(imagecodecs.jpeg8_encode(smooth[0], level=100, bitspersample=12))
    data = compressed(JPEGExtended12Bit, [frame], smooth, BitsStored=12, HighBit=11)
    out = transcode(stored(tmp_path, data), 0, JPEGExtended12Bit, ExplicitVRLittleEndian)
    decoded = pixel_array(datasets.parse_data_set(out, ExplicitVRLittleEndian)).astype(int)
    assert np.abs(decoded - smooth[0]).max() <= 4


def test_signed_jpeg_lossless_is_sign_extended(tmp_path: Path) -> None:
    signed = RNG.integers(-2048, 2048, (1, 20, 30)).astype("i2")
    coded = (signed[0] & 0xFFF).astype("u2")
    frame = bytes(imagecodecs.jpeg8_encode(coded, lossless=True, predictor=1, bitspersample=12))
    data = compressed(JPEGLosslessSV1, [frame], signed, BitsStored=12, HighBit=11)
    out = transcode(stored(tmp_path, data), 0, JPEGLosslessSV1, ExplicitVRLittleEndian)
    assert datasets.parse_data_set(out, ExplicitVRLittleEndian).PixelData == signed.tobytes()


def test_bits_beyond_bits_stored_may_be_overlays_and_stay(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (1, 20, 30)).astype("u2")
    data = compressed(RLELossless, [rle_frame(pixels[0])], pixels, BitsStored=12, HighBit=11)
    out = transcode(stored(tmp_path, data), 0, RLELossless, ExplicitVRLittleEndian)
    assert datasets.parse_data_set(out, ExplicitVRLittleEndian).PixelData == pixels.tobytes()


def test_single_bits_in_deflated_frames_are_packed_across_frames(tmp_path: Path) -> None:
    bits = RNG.integers(0, 2, (3, 5, 5)).astype("u1")
    frames = [deflate_frame(np.packbits(frame, bitorder="little")) for frame in bits]
    data = compressed(codecs.DEFLATED_IMAGE_FRAME, frames, bits, BitsAllocated=1, BitsStored=1, HighBit=0)
    out = transcode(stored(tmp_path, data), 0, codecs.DEFLATED_IMAGE_FRAME, ExplicitVRLittleEndian)
    new = datasets.parse_data_set(out, ExplicitVRLittleEndian)
    np.testing.assert_array_equal(pixel_array(new), bits)
    assert len(new.PixelData) == 10


def test_an_encapsulated_icon_is_decoded_too(tmp_path: Path) -> None:
    data = compressed(RLELossless, [rle_frame(GRAY12[0])], GRAY12[:1])
    icon = read_elements(memoryview(compressed(RLELossless, [rle_frame(COLOUR[0])], COLOUR[:1])), EXPLICIT_LE)
    sequence = Element(0x00880200, "SQ", (Item(icon, undefined_length=True),), undefined_length=True)
    elements = (*read_elements(memoryview(data), EXPLICIT_LE), sequence)
    file = stored(tmp_path, encode(sorted(elements, key=lambda e: e.tag), EXPLICIT_LE))
    new = datasets.parse_data_set(transcode(file, 0, RLELossless, ImplicitVRLittleEndian), ImplicitVRLittleEndian)
    assert new.IconImageSequence[0].PixelData == COLOUR[0].tobytes()
    assert new.PixelData == GRAY12[0].tobytes()


def test_extended_offsets_are_used_and_dropped(tmp_path: Path) -> None:
    frames = [rle_frame(frame) for frame in GRAY12]
    offsets = struct.pack("<2Q", 0, len(frames[0]) + 8)
    data = compressed(
        RLELossless,
        frames,
        GRAY12,
        PixelData=encapsulate(frames, has_bot=False),
        ExtendedOffsetTable=offsets,
        ExtendedOffsetTableLengths=struct.pack("<2Q", *map(len, frames)),
    )
    out = transcode(stored(tmp_path, data), 0, RLELossless, ExplicitVRLittleEndian)
    new = datasets.parse_data_set(out, ExplicitVRLittleEndian)
    assert new.PixelData == GRAY12.tobytes()
    assert "ExtendedOffsetTable" not in new
    assert "ExtendedOffsetTableLengths" not in new


def test_frames_beyond_the_announced_number_are_kept_and_counted(tmp_path: Path) -> None:
    frames = [rle_frame(frame) for frame in GRAY12]
    data = compressed(RLELossless, frames, GRAY12, NumberOfFrames=1)
    out = transcode(stored(tmp_path, data), 0, RLELossless, ExplicitVRLittleEndian)
    new = datasets.parse_data_set(out, ExplicitVRLittleEndian)
    assert (new.NumberOfFrames, new.PixelData) == (2, GRAY12.tobytes())


def test_missing_frames_are_an_error(tmp_path: Path) -> None:
    data = compressed(RLELossless, [rle_frame(frame) for frame in GRAY12], GRAY12, NumberOfFrames=3)
    with pytest.raises(TranscodeError, match="2 frames where 3"):
        transcode(stored(tmp_path, data), 0, RLELossless, ExplicitVRLittleEndian)


@pytest.mark.parametrize("name", ["jpeg-lossless-sv1", "jpeg-ls", "jpeg-2000", "jpeg-xl"])
def test_samples_longer_than_bits_allocated_are_not_cut(tmp_path: Path, name: str) -> None:
    syntax, encoder = LOSSLESS[name]
    data = compressed(syntax, [bytes(encoder(GRAY12[0]))], GRAY12[:1], BitsAllocated=8, BitsStored=8, HighBit=7)
    with pytest.raises(TranscodeError):
        transcode(stored(tmp_path, data), 0, syntax, ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"),
        ("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile"),
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.826.0.1.3680043.9.9", "1.2.826.0.1.3680043.9.9"),
    ],
)
def test_what_cannot_be_decoded_is_named(tmp_path: Path, syntax: str, name: str) -> None:
    path = stored(tmp_path, compressed(syntax, [b"video"], GRAY12[:1]))
    with pytest.raises(TranscodeError, match=name):
        transcode(path, 0, syntax, ExplicitVRLittleEndian)


def test_without_imagecodecs_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = codecs.decoder_for(codecs.JPEG_XL)
    monkeypatch.setattr(decoder, "_unavailable", {"pacs_server": ("imagecodecs",)})
    monkeypatch.setattr(decoder, "_available", {})
    path = stored(tmp_path, compressed(codecs.JPEG_XL, [b"frame"], GRAY12[:1]))
    with pytest.raises(TranscodeError, match=r"JPEG XL .*requires imagecodecs"):
        transcode(path, 0, codecs.JPEG_XL, ExplicitVRLittleEndian)


def test_only_uncompressed_little_endian_is_made(tmp_path: Path) -> None:
    with pytest.raises(TranscodeError, match=r"RLE Lossless.*only uncompressed"):
        transcode(stored(tmp_path, b""), 0, ExplicitVRLittleEndian, RLELossless)


def _nested(depth: int) -> bytes:
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff"
    return b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item * depth


BAD = {
    "random": b"\x08\0\x18\0ZZ\0\0\xff\xff\0\0",
    "cut header": b"\x08\0\x18\0UI\x04",
    "cut value": b"\x08\0\x18\0UI\x08\x001.2",
    "text of undefined length": b"\x08\0\x18\0OB\0\0\xff\xff\xff\xff",
    "no delimiter": b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff",
    "not an item": b"\x08\0\x40\x11SQ\0\0\x08\0\0\0\x08\0\x18\0\0\0\0\0",
    "lone delimiter": b"\x08\0\x18\0UI\0\0\xfe\xff\x0d\xe0\0\0\0\0",
    "nested": _nested(5000),
    "fragments": b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\0\0\0\0",
}


@pytest.mark.parametrize("name", BAD)
def test_broken_data_sets_are_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(TranscodeError):
        transcode(stored(tmp_path, BAD[name]), 0, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@pytest.mark.parametrize(
    "attributes",
    [
        {"Rows": 40},
        {"Rows": 0},
        {"SamplesPerPixel": 4},
        {"BitsAllocated": 24},
        {"PhotometricInterpretation": "YBR_PARTIAL_420"},
        {"PhotometricInterpretation": "NONSENSE"},
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 100},
        {"PixelData": encapsulate([b"garbage!"])},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["rle", "jpeg-ls", "jpeg-lossless-sv1", "jpeg-xl", "deflated-frame", "jpeg-2000"])
def test_broken_images_are_errors(tmp_path: Path, name: str, attributes: dict[str, Any]) -> None:
    syntax, encoder = LOSSLESS[name]
    data = compressed(syntax, [bytes(encoder(GRAY12[0]))], GRAY12[:1], **attributes)
    with pytest.raises(TranscodeError, match=syntax):
        transcode(stored(tmp_path, data), 0, syntax, ExplicitVRLittleEndian)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), struct.error("cut"), OverflowError("big")])
def test_whatever_a_codec_raises_is_a_transcode_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("pacs_server.services.transcode.native", broken)
    data = compressed(RLELossless, [b"frame!"], GRAY12[:1])
    with pytest.raises(TranscodeError, match=str(error) or "MemoryError"):
        transcode(stored(tmp_path, data), 0, RLELossless, ExplicitVRLittleEndian)


@given(st.data())
def test_damaged_data_sets_are_errors_or_data_sets(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SMALL))
    syntax, content = datasets.data_set_bytes(path)
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 3000) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))
    wanted = data.draw(st.sampled_from([target for target in TARGETS if target != syntax]))
    try:
        out = service.transcode(bytes(damaged[:length]), syntax, wanted)
    except TranscodeError:
        return
    # Without VRs a damaged tag may become that of a sequence, and its value is none: only VRs tell what is meant.
    if wanted == ExplicitVRLittleEndian:
        read_elements(memoryview(out), EXPLICIT_LE)


def test_elements_that_were_not_touched_are_copied_as_they_stand() -> None:
    data = compressed(RLELossless, [rle_frame(GRAY12[0])], GRAY12[:1])
    elements = read_elements(memoryview(data), EXPLICIT_LE)
    assert encode(elements, EXPLICIT_LE) == data
    assert encode((e._replace(raw=None) for e in elements), EXPLICIT_LE) == data
