"""Decodes one frame to an array of samples, and encodes such an array, without loss, in another transfer syntax."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pacs_server.dicom.codecs import BROKEN_DATA, DEFLATED_IMAGE_FRAME, HAVE_IMAGECODECS, JPEG_XL_LOSSLESS, decoder_for
from pacs_server.dicom.codestream import size_of
from pacs_server.dicom.frames import DOUBLE_FLOAT_PIXEL_DATA, FLOAT_PIXEL_DATA, FrameMap
from pacs_server.dicom.pixels import decoded_frame
from pacs_server.errors import TooLarge, TranscodeError

MAX_FRAME = 1 << 28
"""Codecs need a whole frame in memory, so longer ones (in bytes, uncompressed) are neither decoded nor encoded."""


ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"


class Pixels(NamedTuple):
    """The samples of a frame: rows, columns and, if there is more than one, samples, which are in `colour`."""

    samples: Any
    colour: str


def decode(frame: bytes, frames: FrameMap, transfer_syntax_uid: str) -> Pixels:
    """The samples of one frame as `FrameMap.read` returns it. Raises TranscodeError, TooLarge."""
    if frames.image.pixels_per_frame * max(frames.image.bits_allocated, 8) > 8 * MAX_FRAME:
        raise TooLarge("a frame of this instance is too large to be decoded")
    try:
        if not frames.is_encapsulated:
            return _native(frame, frames)
        if transfer_syntax_uid == ENCAPSULATED_UNCOMPRESSED:
            bits = frames.image.pixels_per_frame * frames.image.bits_allocated
            return _native(frame[: (bits + 7) // 8], frames)
        _check_size(frame, frames)
        samples, colour = decoded_frame(frames.image, frame, decoder_for(transfer_syntax_uid))
        return Pixels(samples, colour)
    except TranscodeError:
        raise
    except BROKEN_DATA as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TranscodeError(f"the frame cannot be decoded: {reason}") from error


def _check_size(frame: bytes, frames: FrameMap) -> None:
    """Raise TranscodeError if a decoder would need memory for a larger image than the attributes tell of."""
    rows, columns = size_of(frame) or (0, 0)
    if rows * columns > frames.image.rows * frames.image.columns:
        raise TranscodeError("the codestream holds a larger image than Rows and Columns say")


def _native(frame: bytes, frames: FrameMap) -> Pixels:
    image, colour = frames.image, frames.image.photometric_interpretation
    shape: tuple[int, ...] = (image.rows, image.columns)
    if image.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(frame, "u1"), bitorder="little", count=image.pixels_per_frame)
        return Pixels(bits.reshape(shape), colour)
    samples = np.frombuffer(frame, _sample_type(frames))
    if colour == "YBR_FULL_422":
        return Pixels(_without_subsampling(samples, shape), "YBR_FULL")
    if image.samples_per_pixel == 1:
        return Pixels(samples.reshape(shape), colour)
    if image.planar_configuration:
        return Pixels(np.moveaxis(samples.reshape(image.samples_per_pixel, *shape), 0, 2), colour)
    return Pixels(samples.reshape(*shape, image.samples_per_pixel), colour)


def _sample_type(frames: FrameMap) -> str:
    if frames.tag in (FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA):
        return "<f4" if frames.tag == FLOAT_PIXEL_DATA else "<f8"
    if frames.image.bits_allocated not in (8, 16, 32, 64):
        raise TranscodeError(f"samples of {frames.image.bits_allocated} bits cannot be decoded")
    return f"<{'i' if frames.image.pixel_representation else 'u'}{frames.image.bits_allocated // 8}"


def _without_subsampling(samples: Any, shape: tuple[int, ...]) -> Any:
    """PS3.3 C.7.6.3.1.2: two pixels are stored as Y, Y, Cb, Cr."""
    if samples.dtype.itemsize != 1:
        raise TranscodeError("YBR_FULL_422 has samples of 8 bits")
    fours = samples.reshape(-1, 4)
    full = np.empty((len(fours), 2, 3), samples.dtype)
    full[:, :, 0], full[:, :, 1], full[:, :, 2] = fours[:, :2], fours[:, 2:3], fours[:, 3:4]
    return full.reshape(*shape, 3)


def encode(pixels: Pixels, frames: FrameMap, transfer_syntax_uid: str) -> bytes:
    """The frame in another transfer syntax, without loss; raises TranscodeError where that is not possible."""
    if transfer_syntax_uid == ExplicitVRLittleEndian:
        return _plain(pixels, frames)
    encoder = ENCODERS.get(transfer_syntax_uid)
    if encoder is None:
        raise TranscodeError("no encoder of this transfer syntax is installed")
    if pixels.samples.dtype.kind == "f" or frames.image.bits_allocated == 1:
        raise TranscodeError("such pixels have no form in this transfer syntax")
    try:
        return bytes(encoder(np.ascontiguousarray(pixels.samples), frames))
    except BROKEN_DATA as error:
        raise TranscodeError(f"the frame cannot be encoded: {' '.join(str(error).split())}") from error


def _plain(pixels: Pixels, frames: FrameMap) -> bytes:
    """The samples in the order that Planar Configuration says, as in Explicit VR Little Endian."""
    samples = pixels.samples
    if frames.image.bits_allocated == 1:
        return np.packbits(samples.ravel(), bitorder="little").tobytes()
    if samples.ndim == 3 and frames.image.planar_configuration:
        samples = np.moveaxis(samples, 2, 0)
    return bytes(samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes())


def _by_pydicom(transfer_syntax_uid: str, plugin: str) -> Callable[[Any, FrameMap], bytes]:
    encoder = get_encoder(transfer_syntax_uid)

    def encoded(samples: Any, frames: FrameMap) -> bytes:
        colour = samples.ndim == 3
        return bytes(
            encoder.encode(
                samples,
                encoding_plugin=plugin,
                rows=samples.shape[0],
                columns=samples.shape[1],
                samples_per_pixel=samples.shape[2] if colour else 1,
                # Samples are encoded as they are, whatever colours they stand for.
                photometric_interpretation="RGB" if colour else "MONOCHROME2",
                bits_allocated=8 * samples.dtype.itemsize,
                bits_stored=_bits(samples, frames),
                pixel_representation=int(samples.dtype.kind == "i"),
                planar_configuration=0,
                number_of_frames=1,
            )
        )

    return encoded


def _bits(samples: Any, frames: FrameMap) -> int:
    """Bits Stored, or Bits Allocated if the bits beyond are used, as by overlays (PS3.3 C.9.2.1.1, retired)."""
    stored = frames.image.bits_stored
    low, high = (-(1 << stored - 1), (1 << stored - 1) - 1) if samples.dtype.kind == "i" else (0, (1 << stored) - 1)
    fits = 1 < stored <= 8 * samples.dtype.itemsize and int(samples.min()) >= low and int(samples.max()) <= high
    return stored if fits else 8 * samples.dtype.itemsize


def _by_imagecodecs(name: str, *, signed: bool, **options: Any) -> Callable[[Any, FrameMap], bytes]:
    """An encoder of imagecodecs; unless `signed`, the codestream holds unsigned samples for signed ones."""

    def encoded(samples: Any, frames: FrameMap) -> bytes:
        import imagecodecs

        if samples.dtype.itemsize > 2:
            raise ValueError("samples are longer than 16 bits")
        if not signed:
            samples = samples.view(f"u{samples.dtype.itemsize}")
        return bytes(getattr(imagecodecs, name)(samples, **options))

    return encoded


def _first_of(*encoders: Callable[[Any, FrameMap], bytes]) -> Callable[[Any, FrameMap], bytes]:
    """What the first encoder gives that can. The last one needs imagecodecs."""

    def encoded(samples: Any, frames: FrameMap) -> bytes:
        for encoder in encoders[: len(encoders) if HAVE_IMAGECODECS else -1]:
            try:
                return encoder(samples, frames)
            except BROKEN_DATA as error:
                failure = error
        raise failure

    return encoded


def _jpeg_lossless(samples: Any, frames: FrameMap) -> bytes:
    import imagecodecs

    bits = 8 * samples.dtype.itemsize
    if bits > 16:
        raise ValueError("samples are longer than 16 bits")
    # ITU-T T.81 H.1: the samples of a codestream are unsigned; Pixel Representation tells how to read them.
    samples = samples.view(f"u{samples.dtype.itemsize}")
    space = "RGB" if samples.ndim == 3 else None  # the same for input and output, so that nothing is converted
    options: dict[str, Any] = {"predictor": 1, "bitspersample": bits, "colorspace": space, "outcolorspace": space}
    return bytes(imagecodecs.jpeg8_encode(samples, lossless=True, **options))


def _deflate(samples: Any, frames: FrameMap) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(samples.tobytes()) + deflater.flush()


# pyjpegls fails at what does not become smaller, and the openjpeg wheel at images of fewer than 32 rows or columns.
_JPEG_LS = _first_of(_by_pydicom(JPEGLSLossless, "pyjpegls"), _by_imagecodecs("jpegls_encode", signed=False, level=0))
_JPEG_2000 = _first_of(
    _by_pydicom(JPEG2000Lossless, "pylibjpeg"),
    _by_imagecodecs("jpeg2k_encode", signed=True, level=0, codecformat="J2K", mct=False),
)
ENCODERS: dict[str, Callable[[Any, FrameMap], bytes]] = {
    RLELossless: _by_pydicom(RLELossless, "pylibjpeg"),
    JPEG2000Lossless: _JPEG_2000,
    JPEG2000: _JPEG_2000,
    DEFLATED_IMAGE_FRAME: _deflate,
}
"""The encoders that are installed, by transfer syntax.

All of them are lossless: such a codestream is also a legal one of the transfer syntaxes that may lose something.
"""
if get_encoder(JPEGLSLossless).is_available:
    ENCODERS |= {JPEGLSLossless: _JPEG_LS, JPEGLSNearLossless: _JPEG_LS}
if HAVE_IMAGECODECS:
    _HTJ2K = _by_imagecodecs("htj2k_encode", signed=True, reversible=True)
    ENCODERS |= {JPEGLosslessSV1: _jpeg_lossless, JPEGLossless: _jpeg_lossless, HTJ2KLossless: _HTJ2K, HTJ2K: _HTJ2K}
    ENCODERS[JPEG_XL_LOSSLESS] = _by_imagecodecs("jpegxl_encode", signed=False, lossless=True)
