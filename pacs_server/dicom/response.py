"""Encodes identifiers of C-FIND responses directly from index rows (PS3.4 C.4.1.1.3.2).

No pydicom Dataset is built per match. The heads of elements are packed once for all queries of the same form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from pacs_server.dicom.identifier import Query
from pacs_server.dicom.json_codec import ReturnKey, encode_sequence
from pacs_server.dicom.tags import (
    INSTANCE_AVAILABILITY,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    TIMEZONE_OFFSET_FROM_UTC,
)
from pacs_server.dicom.text_encoder import Encode, ascii_text
from pacs_server.dicom.vr import NUMBERS
from pacs_server.dicom.writer import Writer, writer_for


class ResponseEncoder:
    """Encodes the rows of one query. A row holds the texts of the keys in `query.returns`, in the same order."""

    def __init__(self, query: Query, transfer_syntax_uid: str, retrieve_ae_title: str) -> None:
        keys = tuple([(key.tag, key.vr) for key in query.returns])
        self._layout = _layout(transfer_syntax_uid, keys, query.level.name, retrieve_ae_title)
        self._query = query
        self._returns = query.returns
        self._attempts = self._layout.writer.attempts(query.specific_character_set)

    def encode(self, row: Sequence[str]) -> bytes:
        """The response identifier of one match."""
        return self._layout.writer.encoded(self._attempts, partial(self._elements, row))

    def _elements(self, row: Sequence[str], encode: Encode) -> bytes:
        parts: list[bytes] = []
        for field, key, value in zip(self._layout.fields, self._returns, row, strict=True):
            if field.plain:
                raw = encode(value, key.vr)
                length = len(raw)
                if length & 1:
                    raw += field.pad
                    length += 1
                if length <= field.limit:
                    parts += (field.prefix, field.pack(length), raw)
                    continue
            parts += (field.lead, self._element(key, value, encode))
        parts.append(self._layout.tail)
        return b"".join(parts)

    def _element(self, key: ReturnKey, value: str, encode: Encode) -> bytes:
        writer = self._layout.writer
        if key.vr == "SQ":
            return encode_sequence(writer, key, self._query.answered_items(key.tag, value), encode)
        if key.vr in NUMBERS:
            values = value.split("\\") if value else []
            return writer.element(key.tag, key.vr, writer.numbers(key.vr, values))
        # PS3.4 C.4.1.1.3.2: the time zone is never sent with zero length.
        if key.tag == TIMEZONE_OFFSET_FROM_UTC and not value:
            return b""
        return writer.text(key.tag, key.vr, value, encode)


class _Field:
    """The bytes for one attribute that are the same in every response.

    `lead` holds the fixed attributes that come before it (see `_layout`), and `prefix` also the attribute's own head.
    """

    __slots__ = ("lead", "limit", "pack", "pad", "plain", "prefix")

    def __init__(self, writer: Writer, tag: int, vr: str, lead: bytes) -> None:
        field = writer.field(tag, vr)
        self.lead = lead
        self.plain = vr != "SQ" and vr not in NUMBERS and tag != TIMEZONE_OFFSET_FROM_UTC
        self.prefix = lead + field.prefix
        self.pack = field.pack_length
        self.limit = field.limit
        self.pad = field.padding


@dataclass(frozen=True, slots=True)
class _Layout:
    """A field for each return key; `tail` holds the fixed attributes that come after the last key."""

    writer: Writer
    fields: tuple[_Field, ...]
    tail: bytes


# Clients repeat queries of a few forms. A layout does not contain the items of sequences, so it stays small.
@lru_cache(maxsize=64)
def _layout(transfer_syntax_uid: str, keys: tuple[tuple[int, str], ...], level: str, retrieve_ae_title: str) -> _Layout:
    writer = writer_for(transfer_syntax_uid)
    answers = [
        (QUERY_RETRIEVE_LEVEL, "CS", level),
        (RETRIEVE_AE_TITLE, "AE", retrieve_ae_title),
        (INSTANCE_AVAILABILITY, "CS", "ONLINE"),
    ]
    fields = []
    for tag, vr in keys:
        lead = b"".join(writer.text(*answer, ascii_text) for answer in answers if answer[0] < tag)
        answers = [answer for answer in answers if answer[0] > tag]
        fields.append(_Field(writer, tag, vr, lead))
    return _Layout(writer, tuple(fields), b"".join(writer.text(*answer, ascii_text) for answer in answers))
