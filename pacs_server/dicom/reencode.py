"""Encodes elements that were read from a data set in another encoding, without decoding their values.

Text keeps its bytes in any character set, and numbers are only byte-swapped if necessary. pydicom's own writer decodes
and encodes every value, which changes malformed values.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from pacs_server.dicom.element import Element, Item, PixelDescription
from pacs_server.dicom.encoding import Encoding
from pacs_server.dicom.tags import ITEM, ITEM_END, PIXEL_DATA, SEQUENCE_END, UNDEFINED_LENGTH, tag_text
from pacs_server.dicom.vr import WORD_BYTES
from pacs_server.dicom.writer import Writer
from pacs_server.errors import TranscodeError


def encode(elements: Iterable[Element], target: Encoding) -> bytes:
    """Encode elements as a data set in `target`, which has to be little endian; omits the retired group lengths."""
    return b"".join(_Reencoder(target).data_set(tuple(elements), PixelDescription()))


class _Reencoder:
    def __init__(self, target: Encoding) -> None:
        self._target = target
        self._writer = Writer(target)

    def data_set(self, elements: tuple[Element, ...], around: PixelDescription) -> Iterator[bytes | memoryview]:
        pixel = around.within(elements)
        for element in elements:
            if element.tag & 0xFFFF == 0:
                continue
            if element.raw is not None and element.encoding == self._target:
                yield element.raw
            else:
                yield from self._element(element, pixel)

    def _element(self, element: Element, pixel: PixelDescription) -> Iterator[bytes | memoryview]:
        value = element.value
        if isinstance(value, tuple):
            content: bytes | memoryview = b"".join(self._item(item, pixel) for item in value)
        elif element.encoding.little_endian:
            content = value
        else:
            content = _swapped(value, _word(element, pixel), element.tag)
        length = UNDEFINED_LENGTH if element.undefined_length else len(content)
        yield self._writer.head(element.tag, pixel.vr_of(element), length)
        yield content
        if element.undefined_length:
            yield self._writer.head(SEQUENCE_END, "", 0)

    def _item(self, item: Item, pixel: PixelDescription) -> bytes:
        content = b"".join(self.data_set(item.elements, pixel))
        if not item.undefined_length:
            return self._writer.item(content)
        return self._writer.head(ITEM, "", UNDEFINED_LENGTH) + content + self._writer.head(ITEM_END, "", 0)


def _word(element: Element, pixel: PixelDescription) -> int:
    """The length in bytes of the words to reverse; 1 for UN, which is always little endian (PS3.5 6.2.2)."""
    if element.tag == PIXEL_DATA and element.vr == "OW" and pixel.bits_allocated > 16:
        return pixel.bits_allocated // 8  # PS3.5 7.3: a pixel is one number, most significant byte first
    return WORD_BYTES.get(element.vr, 1)


def _swapped(value: bytes | memoryview, word: int, tag: int) -> bytes | memoryview:
    if word == 1:
        return value
    if word not in (2, 4, 8) or len(value) % word:
        raise TranscodeError(f"{tag_text(tag)} cannot be byte-swapped by {word}")
    return np.frombuffer(value, dtype=f"u{word}").byteswap().tobytes()
