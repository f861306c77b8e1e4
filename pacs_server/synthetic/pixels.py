"""Pixels put into a data set: text drawn into them, and encoded in the transfer syntax of the study."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit

from pacs_server.dicom.frame_codecs import Pixels, encode
from pacs_server.dicom.frames import FrameMap
from pacs_server.dicom.pixels import ImageDescription
from pacs_server.dicom.tags import PIXEL_DATA
from pacs_server.errors import TranscodeError
from pacs_server.synthetic import font
from pacs_server.synthetic.study import Study, put

Frame = npt.NDArray[Any]
_QUALITY: Final = 90


def whole(values: npt.NDArray[Any], dtype: str, low: int, high: int) -> Frame:
    """The values as whole numbers of this type, those beyond the limits at the limits."""
    return np.asarray(np.clip(values, low, high).astype(dtype))


def label(frame: Frame, study: Study, what: str, number: str, colours: tuple[Any, Any]) -> Frame:
    """The frame with whose it is and what at the top, and its number at the bottom, unless the study has no text."""
    if study.text:
        font.draw(frame, study.lines(what), colours)
        font.draw(frame, [number], colours, bottom=True)
    return frame


def add_pixels(ds: Dataset, study: Study, frames: Iterable[Frame], stored: int = 0) -> Dataset:
    """Add the Image Pixel module (PS3.3 C.7.6.3) with these frames of one shape, and return the data set.

    A frame of three dimensions is in RGB. `stored` is Bits Stored, all bits if it is 0. Raises ValueError if the
    transfer syntax of the study cannot hold such pixels.
    """
    pixels = [np.ascontiguousarray(frame) for frame in frames]
    first = pixels[0]
    allocated = 8 * first.dtype.itemsize
    put(ds, {
        "Rows": first.shape[0], "Columns": first.shape[1], "BitsAllocated": allocated,
        "BitsStored": stored or allocated, "HighBit": (stored or allocated) - 1,
        "PixelRepresentation": int(first.dtype.kind == "i"), "SamplesPerPixel": 1 if first.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if first.ndim == 2 else "RGB",
        "PlanarConfiguration": None if first.ndim == 2 else 0,
    })  # fmt: skip
    if "NumberOfFrames" in ds:
        ds.NumberOfFrames = len(pixels)
    syntax = study.transfer_syntax_uid
    if not syntax.is_encapsulated:
        data = b"".join(frame.astype(frame.dtype.newbyteorder("<"), copy=False).tobytes() for frame in pixels)
        ds.add_new(
            "PixelData", "OB" if allocated == 8 and not syntax.is_implicit_VR else "OW", data + b"\0" * (len(data) % 2)
        )
        return ds
    ds.add_new("PixelData", "OB", encapsulate(_codestreams(ds, pixels, syntax)))
    ds["PixelData"].is_undefined_length = True
    return ds


def _codestreams(ds: Dataset, frames: Sequence[Frame], syntax: UID) -> list[bytes]:
    if syntax == JPEGBaseline8Bit:
        return _jpeg(ds, frames)
    if syntax == JPEG2000Lossless and frames[0].ndim == 3:
        return _jpeg_2000(ds, frames)
    colour = str(ds.PhotometricInterpretation)
    image = ImageDescription(
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation, 0, colour,
        len(frames),
    )  # fmt: skip
    description = FrameMap(image, PIXEL_DATA, 0, 0, 0)
    try:
        return [encode(Pixels(frame, colour), description, syntax) for frame in frames]
    except TranscodeError as error:
        raise ValueError(f"{syntax.name}: {error}") from error


def _jpeg_2000(ds: Dataset, frames: Sequence[Frame]) -> list[bytes]:
    """Frames in colours, transformed without loss, as ultrasound has to have them (PS3.3 C.8.5.6.1.2)."""
    ds.PhotometricInterpretation = "YBR_RCT"
    encoder = get_encoder(JPEG2000Lossless)
    described = {
        "rows": ds.Rows, "columns": ds.Columns, "samples_per_pixel": 3, "bits_allocated": 8, "bits_stored": 8,
        "pixel_representation": 0, "planar_configuration": 0, "number_of_frames": 1,
        "photometric_interpretation": "YBR_RCT",
    }  # fmt: skip
    try:
        return [encoder.encode(frame, encoding_plugin="pylibjpeg", **described) for frame in frames]
    except RuntimeError as error:
        raise ValueError(f"{JPEG2000Lossless.name}: {error}") from error


def _jpeg(ds: Dataset, frames: Sequence[Frame]) -> list[bytes]:
    if ds.BitsAllocated != 8:
        raise ValueError("JPEG Baseline has no room for samples of more than 8 bits")
    streams = []
    for frame in frames:
        stream = BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=_QUALITY, subsampling="4:2:2")
        streams.append(stream.getvalue())
    ratio = sum(frame.nbytes for frame in frames) / sum(map(len, streams))
    put(ds, {
        "LossyImageCompression": "01", "LossyImageCompressionRatio": round(ratio, 2),
        "LossyImageCompressionMethod": "ISO_10918_1",
        "PhotometricInterpretation": "MONOCHROME2" if frames[0].ndim == 2 else "YBR_FULL_422",
    })  # fmt: skip
    return streams
