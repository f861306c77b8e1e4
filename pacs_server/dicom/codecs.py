"""Decoders of encapsulated pixel data: those of pydicom, and a pydicom plugin that this server adds.

With the optional package imagecodecs (extra `codecs`) the plugin decodes the JPEG family and JPEG XL. Without it, the
plugin decodes JPEG Baseline with Pillow. Deflated Image Frame Compression needs no package. Importing this module
registers the plugin.
"""

import struct
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from pydicom.pixels.decoders.base import Decoder, DecodeRunner, get_decoder
from pydicom.uid import (
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    UID_dictionary,
)

from pacs_server.errors import TranscodeError

JPEG_XL_LOSSLESS = UID("1.2.840.10008.1.2.4.110")
JPEG_XL_RECOMPRESSION = UID("1.2.840.10008.1.2.4.111")
JPEG_XL = UID("1.2.840.10008.1.2.4.112")
DEFLATED_IMAGE_FRAME = UID("1.2.840.10008.1.2.8.1")

# pydicom 3.0 does not know these transfer syntaxes, and looks up every transfer syntax before it decodes.
_NEW_TRANSFER_SYNTAXES = {
    JPEG_XL_LOSSLESS: ("JPEG XL Lossless", "JPEGXLLossless"),
    JPEG_XL_RECOMPRESSION: ("JPEG XL JPEG Recompression", "JPEGXLJPEGRecompression"),
    JPEG_XL: ("JPEG XL", "JPEGXL"),
    DEFLATED_IMAGE_FRAME: ("Deflated Image Frame Compression", "DeflatedImageFrameCompression"),
}
_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
HAVE_IMAGECODECS = find_spec("imagecodecs") is not None
# pydicom's plugin interface requires this name.
DECODER_DEPENDENCIES = {uid: ("imagecodecs",) for uid in (*_JPEG, JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSION, JPEG_XL)}
BROKEN_DATA = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What reading and codecs raise on broken data; pydicom makes a RuntimeError of what its plugins raise."""
_PLUGIN = "pacs_server"
_DECODERS: dict[str, Decoder] = {}


def is_available(uid: str) -> bool:
    """Whether this module's plugin can decode the transfer syntax `uid`. Called by pydicom."""
    return uid in (DEFLATED_IMAGE_FRAME, JPEGBaseline8Bit) or (HAVE_IMAGECODECS and uid in DECODER_DEPENDENCIES)


def decoder_for(transfer_syntax: str) -> Decoder:
    """The decoder of an encapsulated transfer syntax; raises TranscodeError when there is none."""
    try:
        decoder = _DECODERS.get(transfer_syntax) or get_decoder(transfer_syntax)
    except NotImplementedError:
        raise TranscodeError("no decoder knows this transfer syntax") from None
    if not decoder.is_available:
        raise TranscodeError(f"no decoder is installed: {'; '.join(decoder.missing_dependencies)}")
    return decoder


def preferred_plugin(decoder: Decoder) -> str:
    """The plugin to decode with, or "" to let pydicom try all of them.

    This module's plugin is preferred because it never converts JPEG colours. pydicom's Pillow plugin sometimes does.
    """
    return _PLUGIN if _PLUGIN in decoder.available_plugins else ""


def _decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """The pixels of one JPEG or JPEG XL frame: samples interleaved, each in the size of Bits Allocated."""
    if runner.transfer_syntax in (JPEG_XL_LOSSLESS, JPEG_XL):
        import imagecodecs

        array, precision = imagecodecs.jpegxl_decode(src, numthreads=1), runner.bits_stored
    else:
        array, precision = _jpeg_frame(src, runner)
    runner.set_option("planar_configuration", 0)
    return bytes(_as_pixels(array, precision, runner).tobytes())


def _jpeg_frame(src: bytes, runner: DecodeRunner) -> tuple[Any, int]:
    """The colour components as they are encoded, without colour conversion, and the number of bits per sample."""
    colour = runner.samples_per_pixel == 3
    if not HAVE_IMAGECODECS:
        image = Image.open(BytesIO(src), formats=("JPEG",))
        # Pillow takes the components for YCbCr and converts them, unless an Adobe marker with transform 0 says RGB.
        if colour and image.info.get("adobe_transform") != 0:
            image.draft("YCbCr", image.size)
        return np.asarray(image), 8
    import imagecodecs

    if runner.transfer_syntax == JPEG_XL_RECOMPRESSION:
        src = bytes(imagecodecs.jpegxl_decode_jpeg(src, numthreads=1))
    space = "RGB" if colour else "GRAYSCALE"  # the same for input and output, so that nothing is converted
    return imagecodecs.jpeg8_decode(src, colorspace=space, outcolorspace=space), _jpeg_precision(src)


def _as_pixels(array: Any, precision: int, runner: DecodeRunner) -> Any:
    """`array` in little endian, and signed if Pixel Representation says so. Codecs return unsigned samples."""
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"the codestream holds {array.dtype} samples")
    size = runner.bits_allocated // 8
    array = array.astype(f"<u{size}", casting="safe")  # raises if samples are longer than Bits Allocated
    unused = 8 * size - precision
    if runner.pixel_representation == 1 and unused > 0 and not (array >> precision).any():
        array = (array << unused).view(f"<i{size}") >> unused
    return array


def _jpeg_precision(src: bytes) -> int:
    """The number of bits per sample, from the frame header (ISO 10918-1 B.2.2)."""
    position = 2
    while position + 5 <= len(src):
        marker, length = src[position + 1], int.from_bytes(src[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return src[position + 4]
        position += 1 if marker == 0xFF else 2 + length
    raise ValueError("the JPEG codestream has no frame header")


def _inflate_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """The pixels of one deflated frame (PS3.5 A.4.13). Single-bit pixels are returned as one byte each."""
    length = int(runner.frame_length(unit="bytes"))
    frame = zlib.decompressobj(-zlib.MAX_WBITS).decompress(src, length + 1)[:length]
    if runner.bits_allocated == 1:
        count = int(runner.frame_length(unit="pixels"))
        return np.unpackbits(np.frombuffer(frame, "u1"), bitorder="little", count=count).tobytes()
    return frame


def _register(function: Callable[[bytes, DecodeRunner], bytes], *uids: UID) -> None:
    for uid in uids:
        decoder = _DECODERS[uid] = Decoder(uid) if uid in _NEW_TRANSFER_SYNTAXES else get_decoder(uid)
        decoder.add_plugin(_PLUGIN, (__name__, function.__name__))


for _uid, (_name, _keyword) in _NEW_TRANSFER_SYNTAXES.items():
    UID_dictionary.setdefault(_uid, (_name, "Transfer Syntax", "", "", _keyword))
_register(_decode_frame, *DECODER_DEPENDENCIES)
_register(_inflate_frame, DEFLATED_IMAGE_FRAME)
