"""From the samples of a frame to a picture of 8 bits: grey shades or RGB (PS3.3 C.7.6.3, C.11; PS3.4 N.2)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pacs_server.dicom.frame_codecs import Pixels
from pacs_server.dicom.image_attributes import Attributes, FrameAttributes
from pacs_server.dicom.lut import LookupTable, Window, lut_of, segmented, table_of
from pacs_server.dicom.pixels import ImageDescription
from pacs_server.errors import TranscodeError

_HIGH_BIT, _PADDING, _PADDING_LIMIT = 0x00280102, 0x00280120, 0x00280121
_WINDOW_CENTER, _WINDOW_WIDTH, _VOI_LUT_FUNCTION = 0x00281050, 0x00281051, 0x00281056
_RESCALE_INTERCEPT, _RESCALE_SLOPE = 0x00281052, 0x00281053
_MODALITY_LUTS, _VOI_LUTS = 0x00283000, 0x00283010
_PRESENTATION_LUT_SHAPE = 0x20500020
_PIXEL_VALUE_TRANSFORMATION, _FRAME_VOI_LUT = 0x00289145, 0x00289132
_ICC_PROFILE, _OPTICAL_PATHS = 0x00282000, 0x00480105
_PALETTE_DESCRIPTORS = (0x00281101, 0x00281102, 0x00281103)
_PALETTE_DATA, _SEGMENTED_PALETTE_DATA = (0x00281201, 0x00281202, 0x00281203), (0x00281221, 0x00281222, 0x00281223)
# So many samples are computed at a time.
_AT_A_TIME = 1 << 15


class Picture(NamedTuple):
    """Shades of grey (rows, columns) or RGB (rows, columns, 3), 8 bits each, and the ICC profile of the colours."""

    samples: Any
    icc_profile: bytes = b""


def render(
    pixels: Pixels, image: ImageDescription, data_set: Attributes, number: int, window: Window | None = None
) -> Picture:
    """The picture of a frame; `window` is used instead of those in the data set.

    Raises TranscodeError if nobody knows what the samples stand for.
    """
    if pixels.samples.ndim == 3:
        return Picture(_rgb(pixels, image), _icc_profile(data_set))
    samples = _stored_values(pixels.samples, image, data_set)
    if pixels.colour == "PALETTE COLOR":
        return Picture(_palette(samples, image, data_set), _icc_profile(data_set))
    if not pixels.colour.startswith("MONOCHROME"):
        raise TranscodeError(f"one sample per pixel does not show {pixels.colour or 'anything'}")
    return Picture(_shades(samples, grayscale(FrameAttributes(data_set, number), image, pixels.colour, window)))


def _icc_profile(data_set: Attributes) -> bytes:
    optical_path = data_set.item(_OPTICAL_PATHS)
    return data_set.data(_ICC_PROFILE) or (optical_path.data(_ICC_PROFILE) if optical_path else b"")


def _stored_values(samples: Any, image: ImageDescription, data_set: Attributes) -> Any:
    """The samples without bits beyond Bits Stored, in which there may be anything (PS3.5 8.1.1)."""
    allocated = 8 * samples.dtype.itemsize
    if samples.dtype.kind == "f" or image.bits_allocated == 1 or not 0 < image.bits_stored < allocated:
        return samples
    high = data_set.word(_HIGH_BIT)
    high = image.bits_stored - 1 if high is None or not image.bits_stored <= high + 1 <= allocated else high
    if high == image.bits_stored - 1 and _fit(samples, image.bits_stored):
        return samples
    # The shift to the left takes the bits above away; the one to the right extends the sign.
    return (samples << (allocated - 1 - high)) >> (allocated - image.bits_stored)


def _fit(samples: Any, bits: int) -> bool:
    """Whether so many bits are enough for the samples as they are."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if samples.dtype.kind == "i" else (0, (1 << bits) - 1)
    return samples.size > 0 and int(samples.min()) >= low and int(samples.max()) <= high


# ---------------------------------------------------------------- grey


@dataclass(frozen=True, slots=True)
class Grayscale:
    """How stored values become shades.

    `modality` makes values with a meaning of stored ones. `voi` is None if there is neither window nor table: then all
    shades from black to white are used for the values that are there. Stored values of `padding` (from, to) are black.
    """

    modality: Callable[[Any], Any]
    voi: Window | LookupTable | None
    inverse: bool = False
    padding: tuple[float, float] | None = None

    def shades(self, values: Any) -> Any:
        """Shades of 8 bits for stored values."""
        assert self.voi is not None
        meant = np.nan_to_num(self.modality(np.asarray(values, "f8")))
        level = self.voi.level(meant)
        shades = (255 * (1 - level if self.inverse else level) + 0.5).astype("u1")
        return np.where(self.is_padding(values), np.uint8(0), shades) if self.padding else shades

    def is_padding(self, values: Any) -> Any:
        """Which of these stored values stand for no pixel (PS3.3 C.7.5.1.1.2)."""
        low, high = self.padding or (1, 0)
        return (values >= low) & (values <= high)

    def fitted(self, present: Any) -> "Grayscale":
        """The same with a window that fits the stored values that are present."""
        meant = self.modality(np.asarray(present, "f8"))
        meant = meant[np.isfinite(meant)]
        low, high = (float(meant.min()), float(meant.max())) if meant.size else (0.0, 0.0)
        return replace(self, voi=Window((low + high) / 2, high - low or 1.0, "LINEAR_EXACT"))


def grayscale(
    attributes: FrameAttributes, image: ImageDescription, colour: str, window: Window | None = None
) -> Grayscale:
    """How the stored values of a frame become shades, by its attributes."""
    data_set, signed = attributes.data_set, image.pixel_representation == 1
    modality, may_be_negative = _modality(attributes, signed=signed)
    voi = window or _voi(attributes, signed=may_be_negative)
    if voi is None and image.bits_allocated == 1:
        voi = Window(0.5, 1, "LINEAR_EXACT")
    # PS3.3 C.7.6.3.1.2: the lowest value of MONOCHROME1 is white. INVERSE says the same of it (C.11.6).
    inverse = colour == "MONOCHROME1" or data_set.text(_PRESENTATION_LUT_SHAPE) == "INVERSE"
    return Grayscale(modality, voi, inverse, _padding(data_set, signed=signed))


def _modality(attributes: FrameAttributes, *, signed: bool) -> tuple[Callable[[Any], Any], bool]:
    """The modality transformation, and whether what comes out may be negative."""
    item = attributes.data_set.item(_MODALITY_LUTS)
    table = None if item is None else lut_of(item, signed=signed)
    if table is not None:
        return table, False
    group = attributes.macro(_PIXEL_VALUE_TRANSFORMATION)
    slope, intercept = group.number(_RESCALE_SLOPE) or 1.0, group.number(_RESCALE_INTERCEPT) or 0.0
    return (lambda values: values * slope + intercept), signed or intercept < 0 or slope < 0


def _voi(attributes: FrameAttributes, *, signed: bool) -> Window | LookupTable | None:
    """The first table, else the first window (PS3.3 C.11.2: they are alternatives)."""
    group = attributes.macro(_FRAME_VOI_LUT)
    for holder in (group, attributes.data_set):
        item = holder.item(_VOI_LUTS)
        table = None if item is None else lut_of(item, signed=signed)
        if table is not None:
            return table
    center, width = group.number(_WINDOW_CENTER), group.number(_WINDOW_WIDTH)
    if center is None or width is None or width <= 0:
        return None
    return Window(center, width, group.text(_VOI_LUT_FUNCTION) or "LINEAR")


def _padding(data_set: Attributes, *, signed: bool) -> tuple[float, float] | None:
    value, limit = (data_set.word(tag, signed=signed) for tag in (_PADDING, _PADDING_LIMIT))
    if value is None:
        return None
    low, high = sorted((value, value if limit is None else limit))
    return low, high


def _shades(samples: Any, pipeline: Grayscale) -> Any:
    if samples.size == 0:
        raise TranscodeError("the frame has no pixels")
    parts = _parts(samples)
    if samples.dtype.kind == "f" or samples.dtype.itemsize > 2:
        if pipeline.voi is None:
            ends = [end for part in parts for end in _ends(part[~pipeline.is_padding(part)])]
            pipeline = pipeline.fitted(np.array(ends))
        return np.concatenate([pipeline.shades(part) for part in parts])
    # What every value there is becomes is computed once, and looked up for the pixels.
    low, high = int(samples.min()), int(samples.max())
    values = np.arange(low, high + 1)
    if pipeline.voi is None:
        pipeline = pipeline.fitted(_present(parts, values, pipeline))
    # The samples are indexes into the table; negative ones count from its end.
    first, last = min(low, 0), max(high, 0)
    table = np.zeros(last - first + 1, "u1")
    table[low - first : high - first + 1] = pipeline.shades(values)
    table = np.roll(table, first)
    shades = np.empty(samples.shape, "u1")
    for part, shown in zip(parts, _parts(shades), strict=True):
        table.take(part, out=shown, mode="wrap")
    return shades


def _present(parts: list[Any], values: Any, pipeline: Grayscale) -> Any:
    """The stored values that are there, without padding; of a straight line, only the ends count."""
    if pipeline.padding is None and not isinstance(pipeline.modality, LookupTable):
        return values[[0, -1]]
    counts = sum(np.bincount(np.subtract(p, values[0], dtype=np.intp).ravel(), minlength=len(values)) for p in parts)
    present = values[counts > 0]
    return present[~pipeline.is_padding(present)]


def _parts(samples: Any) -> list[Any]:
    """The samples, some rows at a time, so that what is computed of them takes little memory."""
    rows = max(1, _AT_A_TIME // samples.shape[1])
    return [samples[start : start + rows] for start in range(0, samples.shape[0], rows)]


def _ends(values: Any) -> list[float]:
    values = values[np.isfinite(values)]
    return [float(values.min()), float(values.max())] if values.size else []


# ---------------------------------------------------------------- colour


def _palette(samples: Any, image: ImageDescription, data_set: Attributes) -> Any:
    """PS3.3 C.7.6.3.1.5: three tables of the same size."""
    signed = image.pixel_representation == 1
    tables = [_palette_table(data_set, n, signed=signed) for n in range(3)]
    shift = [max(table.bits - 8, 0) for table in tables]
    return np.stack([(t(samples) >> s).astype("u1") for t, s in zip(tables, shift, strict=True)], axis=-1)


def _palette_table(data_set: Attributes, n: int, *, signed: bool) -> LookupTable:
    descriptor = _PALETTE_DESCRIPTORS[n]
    data: bytes | list[int] = data_set.data(_PALETTE_DATA[n])
    described = data_set.words(descriptor)
    if not data and len(described) >= 3 and (packed := data_set.data(_SEGMENTED_PALETTE_DATA[n])):
        data = segmented(packed, described[0] or 1 << 16, described[2], data_set.byte_order)
    table = table_of(data_set, descriptor, data, signed=signed)
    if table is None:
        raise TranscodeError("PALETTE COLOR without palette")
    return table


def _rgb(pixels: Pixels, image: ImageDescription) -> Any:
    samples = pixels.samples
    if samples.shape[2] != 3 or samples.dtype.kind == "f":
        raise TranscodeError(f"{samples.shape[2]} samples per pixel are not shown")
    if samples.dtype.itemsize > 1 or image.bits_stored < 8:
        top = (1 << max(1, min(image.bits_stored, 8 * samples.dtype.itemsize))) - 1
        samples = (np.clip(samples, 0, top) * (255 / top) + 0.5).astype("u1")
    elif samples.dtype.kind == "i":
        samples = samples.view("u1")
    if pixels.colour == "RGB":
        return samples
    if pixels.colour == "YBR_FULL":
        # PS3.3 C.7.6.3.1.2: the same equations as those of JFIF, which Pillow uses.
        return np.asarray(Image.fromarray(np.ascontiguousarray(samples), "YCbCr").convert("RGB"))
    raise TranscodeError(f"{pixels.colour or 'three samples per pixel'} cannot be shown")
