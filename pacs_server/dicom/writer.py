"""Elements put on the wire: headers, numbers, text in a character set, sequences from the DICOM JSON Model.

No pydicom Dataset is built. Text goes out in the character set that was asked for when that can
hold it, else in ISO_IR 192.
"""

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from pydicom.charset import ENCODINGS_TO_CODES, python_encoding
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pacs_server.dicom.deflate import deflated
from pacs_server.dicom.elements import SPECIFIC_CHARACTER_SET, ReturnKey
from pacs_server.dicom.matching import json_text
from pacs_server.dicom.reencode import encoding_of

Encode = Callable[[str, str], bytes]
"""Text and VR to bytes; raises UnicodeEncodeError."""
Attempt = tuple[bytes, Encode]
"""Specific Character Set as an element, if it has to be there, and how to encode text with it."""

_UTF8 = "ISO_IR 192"
# PS3.5 7.1.2: these have a 32-bit length in Explicit VR.
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_SHORT_LIMIT, _LONG_LIMIT = 0xFFFE, 0xFFFFFFFE
_ITEM = 0xFFFEE000


class Writer:
    """Encodes elements in one transfer syntax."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        encoding = encoding_of(transfer_syntax_uid)
        self._explicit = not encoding.implicit_vr
        self._order = "<" if encoding.little_endian else ">"
        self._deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
        self._short = struct.Struct(f"{self._order}H").pack
        self._long = struct.Struct(f"{self._order}L").pack

    def attempts(self, specific_character_set: str) -> list[Attempt]:
        """How text may go out if that character set was asked for, the best way first; the last holds all text."""
        requested, charset = _encoder_for(specific_character_set)
        head = self._charset_element(charset)
        # Nearly all text is ASCII, and all character sets hold that.
        found = [(head, ascii_text)] if requested is None else [(head, ascii_text), (head, requested)]
        return [*found, (self._charset_element(_UTF8), _utf8)]

    def data_set(self, attempts: Iterable[Attempt], elements: Callable[[Encode], bytes]) -> bytes:
        """A whole data set of those elements, text encoded in the first way that holds it."""
        for head, encode in attempts:
            try:
                data = head + elements(encode)
            except UnicodeEncodeError:
                continue
            return deflated(data) if self._deflated else data
        raise AssertionError("UTF-8 holds all text")

    def _charset_element(self, charset: str) -> bytes:
        return self.text(SPECIFIC_CHARACTER_SET, "CS", charset, ascii_text) if charset else b""

    def header(self, tag: int, vr: str) -> bytes:
        """Tag and VR, up to the length."""
        packed = struct.pack(f"{self._order}HH", tag >> 16, tag & 0xFFFF)
        if not self._explicit or tag == _ITEM:
            return packed
        return packed + vr.encode("ascii") + (b"\0\0" if vr in _LONG_VRS else b"")

    def limit(self, vr: str) -> int:
        """The greatest even length of a value."""
        return _LONG_LIMIT if not self._explicit or vr in _LONG_VRS else _SHORT_LIMIT

    def length_of(self, vr: str) -> Callable[[int], bytes]:
        """What packs the length of a value."""
        return self._long if self.limit(vr) == _LONG_LIMIT else self._short

    def element(self, tag: int, vr: str, raw: bytes) -> bytes:
        """One element; the value is padded to even length."""
        if len(raw) % 2:
            raw += padding(vr)
        return self.header(tag, vr) + self.length_of("SQ" if tag == _ITEM else vr)(len(raw)) + raw

    def text(self, tag: int, vr: str, text: str, encode: Encode) -> bytes:
        """One element of text, cut when its length field cannot hold it."""
        raw, limit = encode(text, vr), self.limit(vr)
        while len(raw) > limit:
            # A character takes four bytes at most, escape sequences aside.
            text = text[: len(text) - (len(raw) - limit + 3) // 4]
            # A UID or name that is cut in two would be another one.
            text = text.rpartition("\\")[0] or text
            raw = encode(text, vr)
        return self.element(tag, vr, raw)

    def numbers(self, vr: str, values: Iterable[Any]) -> bytes:
        """Binary numbers, none of them when one does not fit the VR."""
        number = float if vr in {"FL", "FD"} else int
        try:
            return b"".join(struct.pack(self._order + NUMBERS[vr], number(value)) for value in values)
        except (ValueError, TypeError, struct.error):
            return b""

    def sequence(self, key: ReturnKey, items: Iterable[dict[str, Any]], encode: Encode) -> bytes:
        """A sequence from DICOM JSON items, with the requested attributes of each, or all."""
        raw = (b"".join(self.item(key, item, encode)) for item in items)
        return self.element(key.tag, "SQ", b"".join(self.element(_ITEM, "", item) for item in raw))

    def item(self, key: ReturnKey, item: Mapping[str, Any], encode: Encode) -> Iterator[bytes]:
        """The elements of a DICOM JSON item that the key asks for, or all of them."""
        everything = (ReturnKey(int(tag, 16), str(item[tag].get("vr", "UN"))) for tag in sorted(item))
        for asked in key.items or everything:
            # The item is encoded like the rest, whatever it was in when it was stored.
            if asked.tag != SPECIFIC_CHARACTER_SET:
                stored = item.get(f"{asked.tag:08X}", {})
                yield self._json_element(ReturnKey(asked.tag, stored.get("vr", asked.vr), asked.items), stored, encode)

    def _json_element(self, key: ReturnKey, stored: dict[str, Any], encode: Encode) -> bytes:
        if key.vr == "SQ":
            return self.sequence(key, stored.get("Value", []), encode)
        if key.vr in NUMBERS:
            return self.element(key.tag, key.vr, self.numbers(key.vr, stored.get("Value", [])))
        if key.vr == "AT":
            tags = (int(value, 16) for value in stored.get("Value", []))
            return self.element(key.tag, "AT", b"".join(self.header(tag, "")[:4] for tag in tags))
        if "InlineBinary" in stored or key.vr in _LONG_VRS - {"UC", "UR", "UT"}:
            return self.element(key.tag, key.vr, _binary(stored.get("InlineBinary", "")))
        return self.text(key.tag, key.vr, json_text(stored), encode)


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""


def padding(vr: str) -> bytes:
    """What makes the length of a value even."""
    # PS3.5 6.2: UI and bytes are padded with NUL, all other text with a blank.
    return b"\0" if vr in {"UI", "OB", "UN"} else b" "


def ascii_text(text: str, _vr: str) -> bytes:
    """Text in the default repertoire; raises UnicodeEncodeError."""
    return text.encode("ascii")


def _utf8(text: str, _vr: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def _encoder_for(specific_character_set: str) -> tuple[Encode | None, str]:
    """How to encode as the request did, and the value to name it by; none for the default or an unknown one."""
    terms = specific_character_set.split("\\")
    if any(term not in python_encoding for term in terms) or set(terms) <= {"", "ISO_IR 6", "ISO 2022 IR 6"}:
        return None, ""
    if len(terms) > 1 or "2022" in terms[0] or terms[0] == "ISO_IR 13":
        return _CodeExtensions(terms).encode, specific_character_set
    codec = python_encoding[terms[0]]
    return (lambda text, _vr: text.encode(codec)), specific_character_set


class _CodeExtensions:
    """Encodes with ISO 2022 escape sequences (PS3.5 6.1.2.5)."""

    # Sets of 94x94 characters in G0, which their codecs switch to and from by themselves.
    _IN_G0 = frozenset({"iso2022_jp", "iso2022_jp_2"})

    def __init__(self, terms: Iterable[str]) -> None:
        self._codecs = [python_encoding[term] if term else "ascii" for term in terms]
        self._codecs = ["ascii" if codec == "iso8859" else codec for codec in self._codecs]

    def encode(self, text: str, vr: str) -> bytes:
        """The text in bytes; raises UnicodeEncodeError when no announced set has a character."""
        # PS3.5 6.1.2.5.3: at these the first character set is in force again.
        parts = re.split(r"([\\\r\n\t\f^=])" if vr == "PN" else r"([\\\r\n\t\f])", text)
        return b"".join(self._component(part) for part in parts)

    def _component(self, text: str) -> bytes:
        out, in_g1 = b"", self._codecs[0]
        for codec, run in groupby(text, self._codec_of):
            if codec not in self._IN_G0 and codec not in ("ascii", in_g1):
                out += ENCODINGS_TO_CODES[codec]
                in_g1 = codec
            elif codec in self._IN_G0:
                # G1 is still what it was, but many readers forget it at the escape sequence that ends the run.
                in_g1 = ""
            out += "".join(run).encode(codec)
        return out

    def _codec_of(self, character: str) -> str:
        if character.isascii():
            return "ascii"
        for codec in self._codecs:
            try:
                raw = character.encode(codec)
            except UnicodeEncodeError:
                continue
            # ISO_IR 13 is the single bytes of Shift JIS.
            single = codec != "shift_jis" or len(raw) == 1
            if single and (raw.startswith(ENCODINGS_TO_CODES[codec]) if codec in self._IN_G0 else min(raw) >= 0x80):
                return codec
        raise UnicodeEncodeError("iso2022", character, 0, 1, "not in the announced character sets")
