"""Converts encapsulated Pixel Data to native: decodes the frames and updates the elements that describe them."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from pydicom.pixels.decoders.base import Decoder

from pacs_server.dicom.codecs import preferred_plugin
from pacs_server.dicom.element import Element, Item
from pacs_server.dicom.tags import BITS_ALLOCATED, PIXEL_DATA, PIXEL_REPRESENTATION, tag_text
from pacs_server.errors import TranscodeError

# PS3.5 7.1.1: a value length is even and has 32 bits. 0xFFFFFFFF means undefined length.
LENGTH_LIMIT = 0xFFFFFFFE

_ITEM_HEAD = struct.Struct("<HHL")
_SAMPLES_PER_PIXEL, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION = 0x00280002, 0x00280004, 0x00280006
_NUMBER_OF_FRAMES, _ROWS, _COLUMNS, _BITS_STORED = 0x00280008, 0x00280010, 0x00280011, 0x00280101
# PS3.3 C.7.6.3: the offset table, its lengths and the total length describe encapsulated Pixel Data only.
ENCAPSULATED_ONLY = (0x7FE00001, 0x7FE00002, 0x7FE00003)
# PS3.3 C.7.6.3.1.2: decoders undo the subsampling of YBR_FULL_422 and the colour transform of the others.
_DECODED_AS = {"YBR_FULL_422": "YBR_FULL", "YBR_ICT": "RGB", "YBR_RCT": "RGB", "XYB": "RGB"}
IMAGE_TAGS = frozenset(
    {_SAMPLES_PER_PIXEL, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION, _NUMBER_OF_FRAMES, _ROWS, _COLUMNS}
    | {BITS_ALLOCATED, _BITS_STORED, PIXEL_REPRESENTATION, *ENCAPSULATED_ONLY}
)
"""The attributes that decoding needs."""


def native(elements: tuple[Element, ...], decoder: Decoder) -> tuple[Element, ...]:
    """`elements` with encapsulated Pixel Data decoded, also in sequence items (PS3.5 A.4: icon images).

    Raises TranscodeError.
    """
    elements = tuple(_native_items(element, decoder) for element in elements)
    by_tag = {element.tag: element for element in elements}
    pixel_data = by_tag.get(PIXEL_DATA)
    if pixel_data is None or not pixel_data.undefined_length or isinstance(pixel_data.value, tuple):
        return elements
    by_tag |= _decoded(by_tag, bytes(pixel_data.value), decoder)
    return tuple(by_tag[tag] for tag in sorted(by_tag) if tag not in ENCAPSULATED_ONLY)


def _native_items(element: Element, decoder: Decoder) -> Element:
    if not isinstance(element.value, tuple):
        return element
    items = tuple(Item(native(item.elements, decoder), item.undefined_length) for item in element.value)
    return element if items == element.value else element._replace(value=items, raw=None)


@dataclass(frozen=True, slots=True)
class ImageDescription:
    """The attributes of the Image Pixel module (PS3.3 C.7.6.3) that decoding needs, named as in pydicom's decoders."""

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    planar_configuration: int
    photometric_interpretation: str
    number_of_frames: int

    @classmethod
    def of(cls, elements: Mapping[int, Element]) -> "ImageDescription":
        """The description in these elements, by tag; raises TranscodeError if one is missing."""
        return cls(
            rows=_number(elements, _ROWS),
            columns=_number(elements, _COLUMNS),
            samples_per_pixel=_number(elements, _SAMPLES_PER_PIXEL),
            bits_allocated=_number(elements, BITS_ALLOCATED),
            bits_stored=_number(elements, _BITS_STORED),
            pixel_representation=_number(elements, PIXEL_REPRESENTATION),
            planar_configuration=_number(elements, PLANAR_CONFIGURATION, default=0),
            photometric_interpretation=_text(elements, PHOTOMETRIC_INTERPRETATION),
            number_of_frames=int(_text(elements, _NUMBER_OF_FRAMES) or 1),
        )

    @property
    def pixels_per_frame(self) -> int:
        """The number of samples in a frame."""
        return self.rows * self.columns * self.samples_per_pixel

    @property
    def size(self) -> int:
        """The number of bytes of all frames uncompressed, without padding."""
        # PS3.5 8.1.1: single-bit pixels are packed, without padding between frames.
        return (self.pixels_per_frame * self.number_of_frames * self.bits_allocated + 7) // 8


def _number(elements: Mapping[int, Element], tag: int, default: int | None = None) -> int:
    if tag in elements:
        return elements[tag].number
    if default is None:
        raise TranscodeError(f"{tag_text(tag)} is missing")
    return default


def _bytes(elements: Mapping[int, Element], tag: int) -> bytes:
    return elements[tag].content if tag in elements else b""


def _text(elements: Mapping[int, Element], tag: int) -> str:
    return _bytes(elements, tag).decode("ascii").strip(" \0")


def _extended_offsets(elements: Mapping[int, Element]) -> tuple[bytes, bytes] | None:
    offsets, lengths = (_bytes(elements, tag) for tag in ENCAPSULATED_ONLY[:2])
    return (offsets, lengths) if offsets and lengths else None


def _decoded(elements: Mapping[int, Element], fragments: bytes, decoder: Decoder) -> dict[int, Element]:
    """The elements that change when the frames in `fragments` are decoded, by tag."""
    image = ImageDescription.of(elements)
    decoded = list(decoded_frames(elements, fragments, decoder))
    frames = [frame for frame, _ in decoded]
    colour = decoded[-1][1] if decoded else image.photometric_interpretation
    changed = [
        # PS3.5 A.2: OW if Bits Allocated is more than 8.
        Element(PIXEL_DATA, "OW" if image.bits_allocated > 8 else "OB", _joined(frames, image)),
        Element(PHOTOMETRIC_INTERPRETATION, "CS", _even(colour.encode("ascii"), b" ")),
    ]
    if image.samples_per_pixel > 1:
        changed.append(Element(PLANAR_CONFIGURATION, "US", bytes(2)))
    if len(frames) != image.number_of_frames:
        changed.append(Element(_NUMBER_OF_FRAMES, "IS", _even(str(len(frames)).encode("ascii"), b" ")))
    return {element.tag: element for element in changed}


def decoded_frames(
    elements: Mapping[int, Element], fragments: bytes | BinaryIO, decoder: Decoder
) -> Iterator[tuple[bytes, str]]:
    """Each decoded frame, with samples interleaved, and its photometric interpretation.

    `elements` describe the image, `fragments` is the value of Pixel Data. Raises TranscodeError.
    """
    image = ImageDescription.of(elements)
    if image.size > LENGTH_LIMIT:
        raise TranscodeError("the uncompressed pixels do not fit into Pixel Data")
    count = 0
    for frame, colour in _arrays(image, fragments, decoder, _extended_offsets(elements)):
        yield bytes(frame.tobytes()), colour
        count += 1
    if count < image.number_of_frames:
        raise TranscodeError(f"{count} frames where {image.number_of_frames} are announced")


def decoded_frame(image: ImageDescription, frame: bytes, decoder: Decoder) -> tuple[Any, str]:
    """The samples of one frame, interleaved, from its codestream, and their photometric interpretation.

    Raises TranscodeError.
    """
    items = (b"", frame + b"\0" * (len(frame) % 2))
    fragments = b"".join(_ITEM_HEAD.pack(0xFFFE, 0xE000, len(item)) + item for item in items)
    decoded = next(_arrays(replace(image, number_of_frames=1), fragments, decoder), None)
    if decoded is None:
        raise TranscodeError("the codestream holds no frame")
    return decoded


def _arrays(
    image: ImageDescription,
    fragments: bytes | BinaryIO,
    decoder: Decoder,
    extended_offsets: tuple[bytes, bytes] | None = None,
) -> Iterator[tuple[Any, str]]:
    """Each frame of encapsulated Pixel Data, with its photometric interpretation."""
    if image.photometric_interpretation.startswith("YBR_PARTIAL"):
        raise TranscodeError(f"{image.photometric_interpretation} has no form without subsampling")
    options = {name: getattr(image, name) for name in image.__slots__}
    if image.photometric_interpretation == "XYB":
        options["photometric_interpretation"] = "RGB"  # pydicom does not know XYB, which only JPEG XL has
    decoded = decoder.iter_array(
        fragments,
        raw=True,
        decoding_plugin=preferred_plugin(decoder),
        # Bits beyond Bits Stored may hold overlays (PS3.3 C.9.2.1.1, retired), so they are kept.
        correct_unused_bits=False,
        extended_offsets=extended_offsets,
        **options,
    )
    for frame, properties in decoded:
        colour = str(properties["photometric_interpretation"])
        yield _frame(frame, image), _DECODED_AS.get(colour, colour)


def _frame(frame: Any, image: ImageDescription) -> Any:
    """A frame with samples in the size of Bits Allocated; decoders return the size in the codestream."""
    if frame.size != image.pixels_per_frame:
        raise TranscodeError("a frame has another size than Rows and Columns say")
    size = max(image.bits_allocated // 8, 1)
    if frame.dtype.itemsize > size:
        raise TranscodeError("the codestream holds longer samples than Bits Allocated says")
    return frame.astype(f"<{frame.dtype.kind}{size}", copy=False)


def _joined(frames: list[bytes], image: ImageDescription) -> bytes:
    pixels = b"".join(frames)
    if image.bits_allocated == 1:
        # PS3.5 8.1.1: single-bit pixels are packed, the first one in the lowest bit, without padding between frames.
        pixels = np.packbits(np.frombuffer(pixels, "u1"), bitorder="little").tobytes()
    return _even(pixels, b"\0")


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding * (len(value) % 2)
