"""Identifiers of C-FIND responses, encoded straight from index rows (PS3.4 C.4.1.1.3.2).

No pydicom Dataset is built per match: element headers are packed once per query. Text goes out in
the character set of the request when that can hold it, else in ISO_IR 192.
"""

import base64
import binascii
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from pydicom.charset import ENCODINGS_TO_CODES, python_encoding
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from pacs_server.dicom.identifier import (
    INSTANCE_AVAILABILITY,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    SPECIFIC_CHARACTER_SET,
    TIMEZONE_OFFSET_FROM_UTC,
    Query,
    ReturnKey,
)
from pacs_server.dicom.matching import Items, json_text

Encode = Callable[[str, str], bytes]
"""Text and VR to bytes; raises UnicodeEncodeError."""

_UTF8 = "ISO_IR 192"
# PS3.5 7.1.2: these have a 32-bit length in Explicit VR.
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_SHORT_LIMIT, _LONG_LIMIT = 0xFFFE, 0xFFFFFFFE
_ITEM = 0xFFFEE000


class ResponseEncoder:
    """Encodes the rows of one query; `row` holds the text of `query.returns` in that order."""

    def __init__(self, query: Query, transfer_syntax_uid: str, retrieve_ae_title: str) -> None:
        self._writer = _Writer(
            explicit=transfer_syntax_uid != ImplicitVRLittleEndian,
            little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
        )
        self._deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
        self._matchers = {key.attributes[0].tag: key.matcher for key in query.keys if isinstance(key.matcher, Items)}
        answers = [
            (QUERY_RETRIEVE_LEVEL, "CS", query.level.name),
            (RETRIEVE_AE_TITLE, "AE", retrieve_ae_title),
            (INSTANCE_AVAILABILITY, "CS", "ONLINE"),
        ]
        self._fields, self._tail = self._layout(query.returns, answers)
        requested, charset = _encoder_for(query.specific_character_set)
        # Nearly all rows are ASCII, and all character sets hold that.
        self._attempts: list[tuple[bytes, Encode]] = [(self._charset_element(charset), _ascii)]
        if requested is not None:
            self._attempts.append((self._charset_element(charset), requested))
        self._attempts.append((self._charset_element(_UTF8), _utf8))

    def encode(self, row: Sequence[str]) -> bytes:
        """The response identifier of one match."""
        for head, encode in self._attempts:
            try:
                data = self._encode(row, head, encode)
            except UnicodeEncodeError:
                continue
            return _deflate(data) if self._deflated else data
        raise AssertionError("UTF-8 holds all text")

    def _layout(
        self, returns: Iterable[ReturnKey], answers: list[tuple[int, str, str]]
    ) -> tuple[list["_Field"], bytes]:
        fields = []
        for key in returns:
            lead = b"".join(self._writer.text(*answer, _ascii) for answer in answers if answer[0] < key.tag)
            answers = [answer for answer in answers if answer[0] > key.tag]
            fields.append(_Field(self._writer, key, lead))
        return fields, b"".join(self._writer.text(*answer, _ascii) for answer in answers)

    def _charset_element(self, charset: str) -> bytes:
        return self._writer.text(SPECIFIC_CHARACTER_SET, "CS", charset, _ascii) if charset else b""

    def _encode(self, row: Sequence[str], head: bytes, encode: Encode) -> bytes:
        parts = [head]
        for field, value in zip(self._fields, row, strict=True):
            if field.plain:
                raw = encode(value, field.key.vr)
                length = len(raw)
                if length & 1:
                    raw += field.pad
                    length += 1
                if length <= field.limit:
                    parts += (field.prefix, field.pack(length), raw)
                    continue
            parts.append(self._element(field, value, encode))
        parts.append(self._tail)
        return b"".join(parts)

    def _element(self, field: "_Field", value: str, encode: Encode) -> bytes:
        key = field.key
        if key.vr == "SQ":
            items = json.loads(value) if value else []
            if matcher := self._matchers.get(key.tag):
                # PS3.4 C.2.2.2.6: only the items that match are returned.
                items = [item for item in items if matcher.matches_item(item)]
            return field.lead + self._writer.sequence(key, items, encode)
        if key.vr in _NUMBERS:
            values = value.split("\\") if value else []
            return field.lead + self._writer.element(key.tag, key.vr, self._writer.numbers(key.vr, values))
        # PS3.4 C.4.1.1.3.2: the time zone is never sent with zero length.
        if key.tag == TIMEZONE_OFFSET_FROM_UTC and not value:
            return field.lead
        return field.lead + self._writer.text(key.tag, key.vr, value, encode)


class _Field:
    """What is the same in every response: the answers before an attribute, and the attribute's own header."""

    __slots__ = ("key", "lead", "limit", "pack", "pad", "plain", "prefix")

    def __init__(self, writer: "_Writer", key: ReturnKey, lead: bytes) -> None:
        self.key = key
        self.lead = lead
        self.plain = key.vr != "SQ" and key.vr not in _NUMBERS and key.tag != TIMEZONE_OFFSET_FROM_UTC
        self.prefix = lead + writer.header(key.tag, key.vr)
        self.pack = writer.length_of(key.vr)
        self.limit = writer.limit(key.vr)
        self.pad = _padding(key.vr)


class _Writer:
    """Encodes elements in one transfer syntax."""

    def __init__(self, *, explicit: bool, little_endian: bool) -> None:
        self._explicit = explicit
        self._order = "<" if little_endian else ">"
        self._short = struct.Struct(f"{self._order}H").pack
        self._long = struct.Struct(f"{self._order}L").pack

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
            raw += _padding(vr)
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
            return b"".join(struct.pack(self._order + _NUMBERS[vr], number(value)) for value in values)
        except (ValueError, TypeError, struct.error):
            return b""

    def sequence(self, key: ReturnKey, items: Iterable[dict[str, Any]], encode: Encode) -> bytes:
        """A sequence from DICOM JSON items, with the requested attributes of each, or all."""
        raw = (b"".join(self._item(key, item, encode)) for item in items)
        return self.element(key.tag, "SQ", b"".join(self.element(_ITEM, "", item) for item in raw))

    def _item(self, key: ReturnKey, item: dict[str, Any], encode: Encode) -> Iterator[bytes]:
        everything = (ReturnKey(int(tag, 16), str(item[tag].get("vr", "UN"))) for tag in sorted(item))
        for asked in key.items or everything:
            # The item is encoded like the rest, whatever it was in when it was stored.
            if asked.tag != SPECIFIC_CHARACTER_SET:
                stored = item.get(f"{asked.tag:08X}", {})
                yield self._json_element(ReturnKey(asked.tag, stored.get("vr", asked.vr), asked.items), stored, encode)

    def _json_element(self, key: ReturnKey, stored: dict[str, Any], encode: Encode) -> bytes:
        if key.vr == "SQ":
            return self.sequence(key, stored.get("Value", []), encode)
        if key.vr in _NUMBERS:
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


def _padding(vr: str) -> bytes:
    # PS3.5 6.2: UI and bytes are padded with NUL, all other text with a blank.
    return b"\0" if vr in {"UI", "OB", "UN"} else b" "


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = compressor.compress(data) + compressor.flush()
    # PS3.5 A.5: padded to even length with a NUL.
    return packed + b"\0" * (len(packed) % 2)


def _ascii(text: str, _vr: str) -> bytes:
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
