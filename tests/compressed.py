"""Compressed images for tests, and encoders of every lossless transfer syntax."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import datasets
import imagecodecs
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pacs_server.dicom import codecs


def compressed(syntax: str, frames: list[bytes], pixels: np.ndarray, **attributes: Any) -> bytes:
    """An Explicit VR Little Endian data set of encapsulated `frames` of `pixels` (frames first)."""
    ds = datasets.make_ct()
    ds.Rows, ds.Columns = pixels.shape[1:3]
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.ndim == 4:
        ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = 3, 0, "RGB"
    if len(frames) > 1:
        ds.NumberOfFrames = len(frames)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds["PixelData"].VR = "OB"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return datasets.encoded(ds)


RNG = np.random.default_rng(7)
GRAY12 = RNG.integers(0, 4096, (2, 20, 30)).astype("u2")
GRAY16 = RNG.integers(-32768, 32768, (2, 20, 30)).astype("i2")
COLOUR = RNG.integers(0, 256, (2, 20, 30, 3)).astype("u1")


def sv1_frame(frame: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(frame, lossless=True, predictor=1, bitspersample=8 * frame.dtype.itemsize)


def deflate_frame(frame: np.ndarray) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(frame.tobytes()) + deflater.flush()


def rle_frame(frame: np.ndarray) -> bytes:
    samples = frame.reshape(*frame.shape[:2], -1)
    planes = [
        samples[..., s].tobytes()[byte :: frame.dtype.itemsize]
        for s in range(samples.shape[2])
        for byte in reversed(range(frame.dtype.itemsize))
    ]
    # Literal runs only (PS3.5 G.3.1).
    coded = [b"".join(bytes([len(p[i : i + 128]) - 1]) + p[i : i + 128] for i in range(0, len(p), 128)) for p in planes]
    coded = [segment + b"\0" * (len(segment) % 2) for segment in coded]
    starts = [64 + sum(map(len, coded[:n])) for n in range(len(coded))]
    return struct.pack("<16L", len(coded), *starts, *[0] * (15 - len(starts))) + b"".join(coded)


LOSSLESS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "rle": (RLELossless, rle_frame),
    "jpeg-ls": (JPEGLSLossless, lambda a: imagecodecs.jpegls_encode(a, level=0)),
    "jpeg-2000": (JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="J2K")),
    "htj2k": (HTJ2KLossless, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "jpeg-lossless": (JPEGLossless, sv1_frame),
    "jpeg-lossless-sv1": (JPEGLosslessSV1, sv1_frame),
    "jpeg-xl": (codecs.JPEG_XL_LOSSLESS, lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
    "deflated-frame": (codecs.DEFLATED_IMAGE_FRAME, deflate_frame),
}
