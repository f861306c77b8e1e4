"""Pictures against an independent computation: pydicom's, and the formulas of the Standard pixel by pixel."""

import math
import struct
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pydicom
import pytest
from datasets import encoded
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, iter_pixels
from pydicom.pixels.processing import _expand_segmented_lut

from pacs_server.dicom import frame_codecs
from pacs_server.dicom.frames import find_frames
from pacs_server.dicom.image_attributes import Attributes, FrameAttributes
from pacs_server.dicom.lut import Window, segmented
from pacs_server.dicom.picture import Appearance, Region, encode
from pacs_server.dicom.rendering import Picture, render
from pacs_server.errors import FrameNotFound, InvalidRequest, TranscodeError

pytestmark = pytest.mark.filterwarnings("ignore")
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


class Source:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def picture_of(data: bytes, syntax: str, number: int = 1, window: Window | None = None) -> Picture:
    source = Source(data)
    frames = find_frames(source, syntax)
    pixels = frame_codecs.decode(frames.read(source, number), frames, syntax)
    return render(pixels, frames.image, Attributes.of(data[: frames.header_end], syntax), number, window)


def shown(array: np.ndarray, window: Window | None = None, *, syntax: str = EXPLICIT, **attributes: Any) -> np.ndarray:
    """The shades or colours of an image with these samples."""
    array = np.asarray(array)
    ds = datasets.make_ct(rows=array.shape[0], columns=array.shape[1])
    ds.BitsAllocated = ds.BitsStored = 8 * array.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(array.dtype.kind == "i")
    if array.ndim == 3:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.PixelData = array.astype(array.dtype.newbyteorder(">" if syntax == BIG else "<")).tobytes()
    ds.PixelData += b"\0" * (len(ds.PixelData) % 2)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    return picture_of(encoded(ds, syntax), syntax, 1, window).samples


# ---------------------------------------------------------------- the files of pydicom


def expected_shades(ds: Dataset, array: np.ndarray) -> np.ndarray | None:
    """Shades by pydicom where there is a window or VOI LUT; None where there is neither."""
    meant = apply_modality_lut(array, ds)
    if "WindowCenter" not in ds and "VOILUTSequence" not in ds:
        return None
    voi = apply_voi_lut(meant, ds, 0).astype("f8")
    if "VOILUTSequence" in ds:
        low, high = 0.0, 2.0 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:
        bits = ds.BitsStored - ds.PixelRepresentation
        low, high = (-(2.0**bits) if ds.PixelRepresentation else 0.0), 2.0**bits - 1
        if "ModalityLUTSequence" in ds:
            low, high = 0.0, 2.0 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        elif "RescaleSlope" in ds:
            low, high = (end * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for end in (low, high))
    level = (voi - low) / (high - low)
    return 255 * (1 - level if ds.PhotometricInterpretation == "MONOCHROME1" else level)


def files() -> list[Path]:
    found = []
    for path in datasets.pydicom_test_files():
        ds = pydicom.dcmread(path)
        if "PixelData" in ds and "Rows" in ds and path.name != "badVR.dcm":
            found.append(path)
    return found


with warnings.catch_warnings(action="ignore"):
    IMAGES = files()


@pytest.mark.slow
@pytest.mark.parametrize("path", IMAGES, ids=[path.name for path in IMAGES])
def test_every_image_of_pydicom_is_shown(path: Path) -> None:
    syntax, data = datasets.data_set_bytes(path)
    if syntax == "1.2.840.10008.1.2.1.99":
        pytest.skip("deflated")
    ds = pydicom.dcmread(path)
    picture = picture_of(data, syntax)
    assert picture.samples.dtype == np.uint8
    assert picture.samples.shape[:2] == (ds.Rows, ds.Columns)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(ds.pixel_array, ds)
        assert np.array_equal(picture.samples, colours >> 8 if colours.dtype == "u2" else colours)
    if ds.SamplesPerPixel == 1 and "PixelData" in ds and ds.PhotometricInterpretation != "PALETTE COLOR":
        expected = expected_shades(ds, next(iter_pixels(ds, indices=[0])))
        if expected is not None:
            assert np.abs(picture.samples - expected).max() <= 1


# ---------------------------------------------------------------- grey shades


def by_the_standard(x: float, center: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1, C.11.2.1.3.2, with output from 0 to 255."""
    if function == "SIGMOID":
        return 255 / (1 + math.exp(min(700, -4 * (x - center) / width)))
    if function == "LINEAR_EXACT":
        if x <= center - width / 2:
            return 0
        return 255 if x > center + width / 2 else ((x - center) / width + 0.5) * 255
    if x <= center - 0.5 - (width - 1) / 2:
        return 0
    if x > center - 0.5 + (width - 1) / 2:
        return 255
    return ((x - (center - 0.5)) / (width - 1) + 0.5) * 255


@given(
    st.lists(st.integers(-32768, 32767), min_size=4, max_size=4),
    st.floats(-2000, 2000),
    st.floats(1, 5000),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
def test_windows_are_those_of_the_standard(
    values: list[int], center: float, width: float, function: str, colour: str
) -> None:
    center, width = round(center, 2), round(width, 2)
    got = shown(
        np.array(values, "i2").reshape(2, 2),
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
        RescaleSlope="0.5",
        RescaleIntercept="-10",
        PhotometricInterpretation=colour,
    )
    wanted = [by_the_standard(0.5 * value - 10, center, width, function) for value in values]
    if colour == "MONOCHROME1":
        wanted = [255 - shade for shade in wanted]
    assert np.abs(got.ravel() - np.array(wanted)).max() <= 0.5 + 1e-6


RAMP = np.arange(0, 1000, 10, dtype="u2").reshape(10, 10)


def test_of_several_windows_the_first_counts_and_the_one_asked_for_before_all() -> None:
    several = shown(RAMP, WindowCenter=[500, 1], WindowWidth=[1000, 2])
    assert np.array_equal(several, shown(RAMP, WindowCenter=500, WindowWidth=1000))
    asked = shown(RAMP, Window(500, 1000), WindowCenter=1, WindowWidth=2)
    assert np.array_equal(asked, several)
    assert not np.array_equal(shown(RAMP, WindowCenter=1, WindowWidth=2), several)


def test_without_a_window_all_shades_are_used_for_the_values_that_are_there() -> None:
    got = shown(RAMP)
    assert (got.min(), got.max()) == (0, 255)
    assert np.array_equal(got.ravel(), np.round(np.linspace(0, 255, 100) + 1e-9))
    constant = shown(np.full((4, 4), 77, "u2"))
    assert len(set(constant.ravel())) == 1


def test_padding_is_black_and_does_not_count() -> None:
    padded = RAMP.astype("i2").copy()
    padded[0, :3] = -2000, -1999, -1000
    got = shown(padded, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000)
    assert list(got[0, :3]) == [0, 0, 0]
    assert got[0, 3] == 0  # the lowest value that is one
    assert got[0, 4] > 0
    got = shown(padded, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000, PhotometricInterpretation="MONOCHROME1")
    assert list(got[0, :4]) == [0, 0, 0, 255]


def test_the_presentation_lut_shape_may_turn_shades_round() -> None:
    assert np.array_equal(
        shown(RAMP, PresentationLUTShape="INVERSE"), shown(RAMP, PhotometricInterpretation="MONOCHROME1")
    )
    assert np.array_equal(shown(RAMP, PresentationLUTShape="IDENTITY"), shown(RAMP))


def lut(entries: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    item.ModalityLUTType = "US"
    return item


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_tables_are_those_of_pydicom(syntax: str) -> None:
    rng = np.random.default_rng(3)
    modality, voi = lut(rng.integers(0, 4096, 300), 100, 16), lut(rng.integers(0, 1024, 2000), 1000, 10)
    got = shown(RAMP, syntax=syntax, ModalityLUTSequence=[modality], VOILUTSequence=[voi])
    ds = Dataset()
    ds.PixelRepresentation, ds.BitsStored, ds.BitsAllocated = 0, 16, 16
    ds.ModalityLUTSequence, ds.VOILUTSequence = [modality], [voi]
    ds.set_original_encoding(False, True)
    expected = apply_voi_lut(apply_modality_lut(RAMP, ds), ds).astype("f8") * 255 / 1023
    assert np.abs(got - expected).max() <= 0.5 + 1e-9


def test_a_table_of_bytes() -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.LUTData = bytes(range(255, -1, -1))
    item["LUTData"].VR = "OW"
    assert np.array_equal(
        shown(np.arange(256, dtype="u1").reshape(16, 16), VOILUTSequence=[item]).ravel(), range(255, -1, -1)
    )


def test_bits_beyond_those_stored_do_not_count() -> None:
    plain = np.arange(100, dtype="u2").reshape(10, 10)
    attributes = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 50, "WindowWidth": 100}
    assert np.array_equal(shown(plain | 0x8000, **attributes), shown(plain, **attributes))
    attributes["HighBit"] = 15
    assert np.array_equal(shown(plain << 4 | 5, **attributes), shown(plain, **attributes | {"HighBit": 11}))
    signed = (plain.astype("i2") - 50) & 0xFFF
    attributes = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 0, "WindowWidth": 100, "PixelRepresentation": 1}
    assert np.array_equal(shown(signed.astype("u2"), **attributes), shown(plain.astype("i2") - 50, **attributes))


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4"])
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
def test_samples_of_every_length_show_the_same(kind: str, syntax: str) -> None:
    values = np.arange(0, 100).reshape(10, 10)
    got = shown(values.astype(kind), syntax=syntax, WindowCenter=50, WindowWidth=100)
    assert np.array_equal(got, shown(values.astype("u2"), WindowCenter=50, WindowWidth=100))
    assert np.array_equal(shown(values.astype(kind), syntax=syntax), shown(values.astype("u2")))


@pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_floating_point_pixels_are_shown_and_what_is_no_number_is_black(keyword: str, kind: str) -> None:
    ds = datasets.make_ct(rows=2, columns=2)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.BitsAllocated = 8 * int(kind[2])
    setattr(ds, keyword, np.array([0.25, 0.5, np.nan, 1.25], kind).tobytes())
    assert picture_of(encoded(ds), EXPLICIT).samples.ravel().tolist() == [0, 64, 0, 255]


def test_single_bits_are_black_and_white() -> None:
    ds = datasets.make_ct(rows=3, columns=3)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.NumberOfFrames = 1, 1, 0, 2
    bits = np.array([1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0], "u1")
    ds.PixelData = np.packbits(bits, bitorder="little").tobytes() + b"\0"
    for number in (1, 2):
        got = picture_of(encoded(ds), EXPLICIT, number).samples
        assert np.array_equal(got.ravel(), bits[9 * number - 9 : 9 * number] * 255)


def test_functional_groups_of_the_frame_come_before_shared_ones() -> None:
    ds = datasets.make_ct(rows=10, columns=10, NumberOfFrames=3)
    ds.PixelData = RAMP.tobytes() * 3
    ds.BitsStored, ds.HighBit = 16, 15
    shared, ds.PerFrameFunctionalGroupsSequence = Dataset(), [Dataset() for _ in range(3)]
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, 0
    shared.PixelValueTransformationSequence = [rescale]
    ds.SharedFunctionalGroupsSequence = [shared]
    for center, item in zip((200, 1000, 1800), ds.PerFrameFunctionalGroupsSequence, strict=True):
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 400
        item.FrameVOILUTSequence = [voi]
    for undefined in (False, True):
        ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
        for number, center in enumerate((200, 1000, 1800), 1):
            got = picture_of(encoded(ds), EXPLICIT, number).samples
            attributes = {"WindowCenter": center, "WindowWidth": 400, "RescaleSlope": 2, "RescaleIntercept": 0}
            assert np.array_equal(got, shown(RAMP, **attributes))


@pytest.mark.slow
def test_each_of_many_frames_has_its_own_functional_groups() -> None:
    count = 450
    ds = Dataset()
    ds.PerFrameFunctionalGroupsSequence = [Dataset() for _ in range(count)]
    for number, item in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
        item.is_undefined_length_sequence_item = True
        item.ReferencedImageSequence = [Dataset() for _ in range(25)]
        item["ReferencedImageSequence"].is_undefined_length = True
        for reference in item.ReferencedImageSequence:
            reference.is_undefined_length_sequence_item = True
        voi = Dataset()
        voi.WindowCenter = number
        item.FrameVOILUTSequence = [voi]
    ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    attributes = Attributes.of(encoded(ds), EXPLICIT)
    centers = [FrameAttributes(attributes, n).macro(0x00289132).number(0x00281050) for n in range(1, count + 1)]
    assert centers == [float(n) for n in range(1, count + 1)]
    # One after the last, and the first again.
    assert FrameAttributes(attributes, count + 1).macro(0x00289132) is attributes
    assert FrameAttributes(attributes, 1).macro(0x00289132).number(0x00281050) == 1


# ---------------------------------------------------------------- colour


RGB = np.random.default_rng(4).integers(0, 256, (20, 30, 3)).astype("u1")


def test_colours_are_shown_as_they_are_whatever_their_order() -> None:
    assert np.array_equal(shown(RGB), RGB)
    planes = np.moveaxis(RGB, 2, 0).reshape(20, 30, 3)
    assert np.array_equal(shown(planes, PlanarConfiguration=1), RGB)
    sixteen = RGB.astype("u2") * 257
    assert np.array_equal(shown(sixteen), RGB)
    assert np.array_equal(shown(sixteen >> 4, BitsStored=12, HighBit=11), RGB)


def test_ybr_full_by_the_equations_of_the_standard() -> None:
    y, cb, cr = (RGB[..., n].astype("f8") for n in range(3))
    wanted = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    got = shown(RGB, PhotometricInterpretation="YBR_FULL")
    assert np.abs(got - np.clip(np.stack(wanted, -1), 0, 255)).max() <= 1


def test_ybr_full_422_has_two_pixels_for_each_pair_of_colours() -> None:
    ds = datasets.make_ct(rows=1, columns=4)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_FULL_422", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes([10, 20, 100, 200, 30, 40, 50, 60])
    full = np.array([[[10, 100, 200], [20, 100, 200], [30, 50, 60], [40, 50, 60]]], "u1")
    assert np.array_equal(picture_of(encoded(ds), EXPLICIT).samples, shown(full, PhotometricInterpretation="YBR_FULL"))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [0, 3])
def test_palettes(bits: int, first: int) -> None:
    rng = np.random.default_rng(5)
    tables = rng.integers(0, 1 << bits, (3, 200)).astype(f"<u{bits // 8}")
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [200, first, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    indices = np.arange(256, dtype="u1").reshape(16, 16)
    at = np.clip(indices.astype(int) - first, 0, 199)
    assert np.array_equal(shown(indices, **attributes), np.stack([(t[at] >> (bits - 8)) for t in tables], -1))


@pytest.mark.parametrize("offset", [6, 12])
def test_segmented_palettes_of_16_bits(offset: int) -> None:
    """The offset counts words, as pydicom has it, or bytes, as the Standard has it."""
    words = [0, 4, 10, 20, 30, 40, 1, 5, 140, 0, 2, 7, 8, 2, 2]
    expected = _expand_segmented_lut((*words, 6, 0), "<H")
    assert len(expected) == 18
    assert segmented(struct.pack("<17H", *words, offset, 0), 18, 16, "<") == expected


def test_segmented_palettes_of_8_bits() -> None:
    data = bytes([0, 4, 10, 20, 30, 40, 1, 5, 140, 0, 2, 7, 8, 2, 2, 6, 0, 0, 0, 1, 3, 8])
    expected = _expand_segmented_lut(tuple(data), "<B")
    assert segmented(data, len(expected), 8, "<") == expected


def test_an_image_with_segmented_palettes() -> None:
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, top in (("Red", 255), ("Green", 0), ("Blue", 128)):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        data = struct.pack("<6H", 0, 1, 0, 1, 255, top * 256)
        attributes[f"Segmented{name}PaletteColorLookupTableData"] = data
    got = shown(np.arange(256, dtype="u1").reshape(16, 16), **attributes).reshape(-1, 3)
    assert got[0].tolist() == [0, 0, 0]
    assert got[255].tolist() == [255, 0, 128]
    assert np.array_equal(got[:, 0], np.arange(256))


@pytest.mark.parametrize(
    "data", [[1, 5, 9], [2, 1, 0, 0], [0, 1, 7, 3, 1, 1], [0, 1, 7, 2, 1, 9, 0], [0, 1, 5, 2, 1, 6, 0]]
)
def test_malformed_segments_are_an_error(data: list[int]) -> None:
    with pytest.raises(TranscodeError):
        segmented(struct.pack(f"<{len(data)}H", *data), 100, 16, "<")


@given(st.binary(max_size=60), st.integers(1, 300), st.sampled_from([8, 16]))
def test_any_segments_end(data: bytes, count: int, bits: int) -> None:
    with suppress(TranscodeError):
        assert len(segmented(data, count, bits, "<")) <= count


@pytest.mark.parametrize("colour", ["ARGB", "CMYK", "YBR_PARTIAL_422", "HSV", ""])
def test_what_nobody_knows_is_said(colour: str) -> None:
    with pytest.raises(TranscodeError):
        shown(RGB, PhotometricInterpretation=colour)
    with pytest.raises(TranscodeError):
        shown(RAMP, PhotometricInterpretation="PALETTE COLOR")


@given(st.binary(max_size=300), st.sampled_from([EXPLICIT, IMPLICIT, BIG]))
def test_attributes_of_anything(data: bytes, syntax: str) -> None:
    attributes = Attributes.of(data, syntax)
    for tag in (0x00281050, 0x00280120, 0x00281101, 0x00283010):
        attributes.numbers(tag), attributes.words(tag), attributes.texts(tag)
        assert [index for index in (2, 0, 1, 40) if attributes.item(tag, index)] in ([], [0], [0, 1], [2, 0, 1])


# ---------------------------------------------------------------- as files


def image_of(picture: Picture, **appearance: Any) -> Image.Image:
    return Image.open(BytesIO(encode(picture, Appearance(**appearance))))


GRADIENT = Picture(np.add.outer(np.arange(100), np.arange(200)).clip(0, 255).astype("u1"))


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "image/gif"])
def test_pictures_are_encoded(media_type: str) -> None:
    image = image_of(GRADIENT, media_type=media_type)
    assert (image.size, Image.MIME[image.format or ""]) == ((200, 100), media_type)
    assert np.abs(np.asarray(image.convert("L")).astype(int) - GRADIENT.samples).max() <= 4
    assert image_of(Picture(RGB), media_type=media_type).convert("RGB").size == (30, 20)


def test_a_picture_fits_into_the_viewport_and_keeps_its_proportions() -> None:
    assert image_of(GRADIENT, width=50, height=50).size == (50, 25)
    assert image_of(GRADIENT, width=1000, height=300).size == (600, 300)
    assert image_of(GRADIENT, width=100).size == (100, 50)
    assert image_of(GRADIENT, height=10).size == (20, 10)


def test_a_region_is_cut_out_and_may_be_flipped() -> None:
    samples = GRADIENT.samples
    got = np.asarray(image_of(GRADIENT, media_type="image/png", region=Region(20, 10, 50, 40)))
    assert np.array_equal(got, samples[10:50, 20:70])
    got = np.asarray(image_of(GRADIENT, media_type="image/png", region=Region(20, 10, -50, -40)))
    assert np.array_equal(got, samples[10:50, 20:70][::-1, ::-1])
    got = np.asarray(image_of(GRADIENT, media_type="image/png", region=Region(0.5, 0.5, 0.25, 0.5, relative=True)))
    assert np.array_equal(got, samples[50:, 100:150])
    assert np.array_equal(
        np.asarray(image_of(GRADIENT, media_type="image/png", region=Region(150, 0))), samples[:, 150:]
    )
    for region in (Region(200, 0), Region(0, -50, 10, 10)):
        with pytest.raises(InvalidRequest):
            image_of(GRADIENT, region=region)


def test_quality_decides_the_size() -> None:
    noise = Picture(np.random.default_rng(1).integers(0, 256, (100, 100)).astype("u1"))
    assert len(encode(noise, Appearance(quality=10))) < len(encode(noise, Appearance(quality=95))) / 2


def test_colour_profiles_are_kept_or_applied_on_request() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Picture(RGB, profile)
    assert "icc_profile" not in image_of(picture).info
    assert image_of(picture, icc_profile="yes").info["icc_profile"] == profile
    converted = image_of(picture, media_type="image/png", icc_profile="srgb")
    assert "icc_profile" in converted.info
    assert np.abs(np.asarray(converted).astype(int) - RGB).max() <= 1
    assert image_of(Picture(RGB, b"none"), icc_profile="srgb").size == (30, 20)


def test_an_image_without_pixels_is_not_shown() -> None:
    with pytest.raises(FrameNotFound):
        shown(np.zeros((0, 0), "u2"))
