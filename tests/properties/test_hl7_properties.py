"""HL7 and MLLP: whatever comes in, no more than their one error; what is escaped comes back."""

import string
from contextlib import suppress

import hl7 as peer
import orders
from hypothesis import example, given
from hypothesis import strategies as st

from pacs_server.errors import InvalidWorklistItem
from pacs_server.hl7.message import InvalidMessage, Separators, escape, parse, unescape
from pacs_server.hl7.mllp import BadFrame, FrameReader
from pacs_server.hl7.order_map import order_of

MARKS = st.permutations("|^~\\&#!$%*+;:<>?@").map(lambda marks: Separators(*marks[:5]))
LINES = st.sampled_from(orders.ORDER.splitlines() + orders.OMI.splitlines())
PLAIN = st.text(string.ascii_letters + string.digits + " äöü", max_size=6)


@given(st.text(st.characters(codec="utf-8")), MARKS)
def test_what_is_escaped_comes_back(text: str, separators: Separators) -> None:
    escaped = escape(text, separators)
    assert unescape(escaped, separators, "utf-8") == text
    assert not {"\r", "\n", separators.field, separators.component} & set(escaped)


def take(data: bytes) -> None:
    with suppress(InvalidMessage, InvalidWorklistItem):
        order_of(parse(data))


@given(st.binary())
@example(b"MSH|^~\\&")
@example(b"MSH|^~\\&\r\r\r")
def test_any_bytes(data: bytes) -> None:
    take(data)
    take(b"MSH|^~\\&|" + data)


@given(st.lists(LINES, min_size=1))
def test_any_segments(lines: list[str]) -> None:
    take(orders.wire("\n".join(lines), "utf-8"))


@given(st.data())
def test_a_message_with_one_change(data: st.DataObject) -> None:
    message = bytearray(orders.wire(orders.OMI, "utf-8"))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    take(bytes(message))


@given(st.lists(st.lists(PLAIN, min_size=1, max_size=4), min_size=1, max_size=5))
def test_fields_are_those_that_another_parser_finds(fields: list[list[str]]) -> None:
    segment = "|".join(["ZZZ", *("^".join(field) for field in fields), "end"])
    text = f"MSH|^~\\&|A|B|C|D|||ORM^O01|M|P|2.3\r{segment}\r"
    ours, theirs = parse(text.encode()).first("ZZZ"), peer.parse(text)
    for number, field in enumerate(fields, 1):
        for component, value in enumerate(field, 1):
            assert ours.get(number, component) == value.strip()
            if len(field) > 1:
                assert str(theirs[f"ZZZ.F{number}.R1.C{component}"]) == value


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_any_stream(pieces: list[bytes], limit: int) -> None:
    reader = FrameReader(limit)
    with suppress(BadFrame):
        for piece in pieces:
            assert all(len(message) < limit for message in reader.feed(piece))


@given(st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\x1c", b""))), st.integers(1, 50))
def test_frames_come_back(messages: list[bytes], size: int) -> None:
    stream = b"".join(b"\x0b" + message + b"\x1c\r" for message in messages)
    reader = FrameReader(100)
    assert [one for at in range(0, len(stream), size) for one in reader.feed(stream[at : at + size])] == messages
