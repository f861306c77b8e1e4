"""**The** writer of elements: tag, VR, length and value, in any transfer syntax (PS3.5 7.1).

No pydicom Dataset is built. `json_codec` writes data sets from the DICOM JSON Model, and `reencode` writes elements
that were read; both use this writer.
"""

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from pacs_server.dicom.encoding import Encoding, deflated, encoding_of, is_deflated
from pacs_server.dicom.tags import ITEM, SPECIFIC_CHARACTER_SET
from pacs_server.dicom.text_encoder import Encode, ascii_text, encoders_for
from pacs_server.dicom.vr import NUMBERS, SHORT_VRS, padding

Attempt = tuple[bytes, Encode]
"""An encoded Specific Character Set element (b"" for the default repertoire), and the encoder for text in that set."""

_SHORT_VRS = {vr: vr.encode() for vr in SHORT_VRS}
_SHORT_LIMIT, _LONG_LIMIT = 0xFFFE, 0xFFFFFFFE


class Writer:
    """Writes elements and whole data sets in one encoding. Thread-safe, because it has no mutable state."""

    def __init__(self, encoding: Encoding, *, deflates: bool = False) -> None:
        self._explicit = not encoding.implicit_vr
        self._deflates = deflates
        order = encoding.byte_order
        self._order = order
        self._plain_head = struct.Struct(f"{order}HHL").pack
        self._short_head = struct.Struct(f"{order}HH2sH").pack
        self._long_head = struct.Struct(f"{order}HH2sxxL").pack
        self._tag = struct.Struct(f"{order}HH").pack
        self._short = struct.Struct(f"{order}H").pack
        self._long = struct.Struct(f"{order}L").pack

    def element(self, tag: int, vr: str, value: bytes) -> bytes:
        """One element; the value is padded to even length. An item, whose VR is "", is written in the same way."""
        if len(value) & 1:
            value += padding(vr)
        return self.head(tag, vr, len(value)) + value

    def head(self, tag: int, vr: str, length: int) -> bytes:
        """The head of an element or item: tag, VR and length. A delimiter is only a head."""
        # PS3.5 7.5: items and delimiters, the elements of group FFFE, have no VR.
        if not self._explicit or tag >> 16 == ITEM >> 16:
            return self._plain_head(tag >> 16, tag & 0xFFFF, length)
        short = _SHORT_VRS.get(vr)
        if short is None:
            return self._long_head(tag >> 16, tag & 0xFFFF, vr.encode("ascii"), length)
        if length > 0xFFFF:
            # PS3.5 6.2.2: a value that is too long for a 16-bit length field is written as UN.
            return self._long_head(tag >> 16, tag & 0xFFFF, b"UN", length)
        return self._short_head(tag >> 16, tag & 0xFFFF, short, length)

    def item(self, content: bytes) -> bytes:
        """One item of a sequence."""
        return self._plain_head(ITEM >> 16, ITEM & 0xFFFF, len(content)) + content

    def text(self, tag: int, vr: str, text: str, encode: Encode) -> bytes:
        """One element of text; text that is too long for the length field is cut."""
        raw, limit = encode(text, vr), self.limit(vr)
        while len(raw) > limit:
            # A character takes four bytes at most, escape sequences aside.
            text = text[: len(text) - (len(raw) - limit + 3) // 4]
            # Half a UID or name would be a different one, so the last value is left out as a whole.
            text = text.rpartition("\\")[0] or text
            raw = encode(text, vr)
        return self.element(tag, vr, raw)

    def numbers(self, vr: str, values: Iterable[Any]) -> bytes:
        """The value of an element of binary numbers; empty if any number does not fit the VR."""
        number = float if vr in {"FL", "FD"} else int
        try:
            numbers = [number(value) for value in values]
            return struct.pack(f"{self._order}{len(numbers)}{NUMBERS[vr]}", *numbers)
        except (ValueError, TypeError, struct.error):
            return b""

    def tags(self, tags: Iterable[int]) -> bytes:
        """The value of an AT element."""
        return b"".join(self._tag(tag >> 16, tag & 0xFFFF) for tag in tags)

    def limit(self, vr: str) -> int:
        """The greatest even length that the length field of the VR can hold."""
        return _SHORT_LIMIT if self._explicit and vr in _SHORT_VRS else _LONG_LIMIT

    def field(self, tag: int, vr: str) -> "Field":
        """A `Field` for an attribute that is written many times."""
        limit = self.limit(vr)
        # Only the length differs between values, and it is the last part of the head.
        head = self.head(tag, vr, 0)
        short = limit == _SHORT_LIMIT
        return Field(head[: -2 if short else -4], self._short if short else self._long, limit, padding(vr))

    def attempts(self, specific_character_set: str) -> list[Attempt]:
        """The attempts to make in this order for a requested character set; the last one can encode any text."""
        return [(self._charset(name), encode) for name, encode in encoders_for(specific_character_set)]

    def _charset(self, name: str) -> bytes:
        return self.text(SPECIFIC_CHARACTER_SET, "CS", name, ascii_text) if name else b""

    def encoded(self, attempts: Iterable[Attempt], elements: Callable[[Encode], bytes]) -> bytes:
        """A whole data set: `elements` is called with the encoder of each attempt until one can encode all text."""
        for head, encode in attempts:
            try:
                data = head + elements(encode)
            except UnicodeEncodeError:
                continue
            return self.finished(data)
        raise AssertionError("UTF-8 holds all text")

    def finished(self, data: bytes) -> bytes:
        """The data set in `data` as it is sent: deflated if the transfer syntax requires that."""
        return deflated(data) if self._deflates else data


class Field:
    """An attribute whose head is packed once for many values. A value must not be longer than `limit` bytes."""

    __slots__ = ("limit", "pack_length", "padding", "prefix")

    def __init__(self, prefix: bytes, pack_length: Callable[[int], bytes], limit: int, padding: bytes) -> None:
        self.prefix = prefix
        self.pack_length = pack_length
        self.limit = limit
        self.padding = padding

    def element(self, value: bytes) -> bytes:
        """The attribute with this value, padded to even length."""
        length = len(value)
        if length & 1:
            value += self.padding
            length += 1
        return self.prefix + self.pack_length(length) + value


@lru_cache(maxsize=64)
def writer_for(transfer_syntax_uid: str) -> Writer:
    """The writer for a transfer syntax."""
    return Writer(encoding_of(transfer_syntax_uid), deflates=is_deflated(transfer_syntax_uid))
