"""Identifiers of C-FIND responses, encoded straight from index rows (PS3.4 C.4.1.1.3.2).

No pydicom Dataset is built per match: element headers are packed once per query.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial

from pacs_server.dicom.elements import (
    INSTANCE_AVAILABILITY,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    TIMEZONE_OFFSET_FROM_UTC,
    ReturnKey,
)
from pacs_server.dicom.identifier import Query
from pacs_server.dicom.matching import Items
from pacs_server.dicom.writer import NUMBERS, Encode, Writer, ascii_text, padding


class ResponseEncoder:
    """Encodes the rows of one query; `row` holds the text of `query.returns` in that order."""

    def __init__(self, query: Query, transfer_syntax_uid: str, retrieve_ae_title: str) -> None:
        self._writer = Writer(transfer_syntax_uid)
        self._matchers = {key.attributes[0].tag: key.matcher for key in query.keys if isinstance(key.matcher, Items)}
        answers = [
            (QUERY_RETRIEVE_LEVEL, "CS", query.level.name),
            (RETRIEVE_AE_TITLE, "AE", retrieve_ae_title),
            (INSTANCE_AVAILABILITY, "CS", "ONLINE"),
        ]
        self._fields, self._tail = self._layout(query.returns, answers)
        self._attempts = self._writer.attempts(query.specific_character_set)

    def encode(self, row: Sequence[str]) -> bytes:
        """The response identifier of one match."""
        return self._writer.data_set(self._attempts, partial(self._elements, row))

    def _layout(
        self, returns: Iterable[ReturnKey], answers: list[tuple[int, str, str]]
    ) -> tuple[list["_Field"], bytes]:
        fields = []
        for key in returns:
            lead = b"".join(self._writer.text(*answer, ascii_text) for answer in answers if answer[0] < key.tag)
            answers = [answer for answer in answers if answer[0] > key.tag]
            fields.append(_Field(self._writer, key, lead))
        return fields, b"".join(self._writer.text(*answer, ascii_text) for answer in answers)

    def _elements(self, row: Sequence[str], encode: Encode) -> bytes:
        parts: list[bytes] = []
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
        if key.vr in NUMBERS:
            values = value.split("\\") if value else []
            return field.lead + self._writer.element(key.tag, key.vr, self._writer.numbers(key.vr, values))
        # PS3.4 C.4.1.1.3.2: the time zone is never sent with zero length.
        if key.tag == TIMEZONE_OFFSET_FROM_UTC and not value:
            return field.lead
        return field.lead + self._writer.text(key.tag, key.vr, value, encode)


class _Field:
    """What is the same in every response: the answers before an attribute, and the attribute's own header."""

    __slots__ = ("key", "lead", "limit", "pack", "pad", "plain", "prefix")

    def __init__(self, writer: Writer, key: ReturnKey, lead: bytes) -> None:
        self.key = key
        self.lead = lead
        self.plain = key.vr != "SQ" and key.vr not in NUMBERS and key.tag != TIMEZONE_OFFSET_FROM_UTC
        self.prefix = lead + writer.header(key.tag, key.vr)
        self.pack = writer.length_of(key.vr)
        self.limit = writer.limit(key.vr)
        self.pad = padding(key.vr)
