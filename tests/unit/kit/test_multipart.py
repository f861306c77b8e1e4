"""Multipart bodies are split by RFC 2046, wherever the pieces end."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacs_server.kit.multipart import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MalformedMultipart,
    MultipartSplitter,
    Part,
    PartBegun,
    PartEnded,
    TruncatedMultipart,
    parts,
)

Found = list[tuple[dict[str, str], bytes]]


def split(pieces: Iterable[bytes], boundary: str = "b") -> Found:
    return [(dict(part.headers), b"".join(part)) for part in parts(pieces, boundary)]


# Body, parts by RFC 2046; all with the boundary "b".
BODIES: dict[str, tuple[bytes, Found]] = {
    "one part": (b"--b\r\nA: x\r\n\r\nbody\r\n--b--\r\n", [({"a": "x"}, b"body")]),
    "no line break at the end": (b"--b\r\nA: x\r\n\r\nbody\r\n--b--", [({"a": "x"}, b"body")]),
    "CR at the end": (b"--b\r\n\r\nbody\r\n--b--\r", [({}, b"body")]),
    "preamble and epilogue": (
        b"This is\r\n--bo not\r\nMIME\r\n--b\r\n\r\nbody\r\n--b--\r\nepilogue\r\n--b\r\n\r\nno part",
        [({}, b"body")],
    ),
    "line break before": (b"\r\n--b\r\n\r\nbody\r\n--b--", [({}, b"body")]),
    "blanks after boundaries": (b"--b \t \r\n\r\n1\r\n--b  \r\n\r\n2\r\n--b-- \t\r\n", [({}, b"1"), ({}, b"2")]),
    "folded headers": (b"--b\r\nA: x;\r\n\t y\r\nB:z\r\n\r\n\r\n--b--", [({"a": "x; y", "b": "z"}, b"")]),
    "no headers": (b"--b\r\n\r\n1\r\n--b\r\n\r\n2\r\n--b--", [({}, b"1"), ({}, b"2")]),
    "empty content": (b"--b\r\nA: x\r\n\r\n\r\n--b--", [({"a": "x"}, b"")]),
    "no content": (b"--b\r\nA: x\r\n\r\n--b--", [({"a": "x"}, b"")]),
    "no blank line": (b"--b\r\nA: x\r\n--b\r\n\r\n2\r\n--b--", [({"a": "x"}, b""), ({}, b"2")]),
    "nothing at all": (b"--b\r\n--b\r\n--b--", [({}, b""), ({}, b"")]),
    "bare LF": (b"\n--b\nA: x\n\n1\r\n\n--b\n\n2\n--b--\n", [({"a": "x"}, b"1\r\n"), ({}, b"2")]),
    "CRLF first, LF is content": (b"--b\r\n\r\n1\n--b\n2\r\n--b--", [({}, b"1\n--b\n2")]),
    "last boundary ends with LF": (b"--b\r\n\r\n1\r\n--b--\n", [({}, b"1")]),
    "boundary as the beginning of a line": (
        b"--b\r\n\r\n\r\n--bb\r\n--b-\r\n--b -\r\n--b--x\r\n--b--",
        [({}, b"\r\n--bb\r\n--b-\r\n--b -\r\n--b--x")],
    ),
    "half boundaries": (b"--b\r\n\r\n\r\r\n-\r\n--\r\n\r\n--b--", [({}, b"\r\r\n-\r\n--\r\n")]),
    "no part": (b"--b--\r\n", []),
    "no part, after a preamble": (b"x\r\n--b--", []),
}


@pytest.mark.parametrize("name", BODIES)
def test_parts_are_the_same_wherever_pieces_end(name: str) -> None:
    body, expected = BODIES[name]
    assert split([body]) == expected
    assert split([body[at : at + 1] for at in range(len(body))]) == expected
    for at in range(len(body)):
        assert split([body[:at], b"", body[at:]]) == expected


def test_content_is_handed_on_before_it_is_complete() -> None:
    splitter = MultipartSplitter("b")
    content = bytes(1000)
    assert splitter.feed(b"--b\r\n\r\n") == [PartBegun({}, "")]
    assert splitter.feed(content) == [memoryview(content)]
    assert splitter.feed(b"\r\n--b--") == []
    assert splitter.close() == [PartEnded()]


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_cut_short_is_told(name: str) -> None:
    body, expected = BODIES[name]
    last = body.index(b"\r\n--b--") if b"\r\n--b--" in body else body.index(b"--b--")
    complete = body.index(b"--b--", last) + len(b"--b--")
    for end in range(complete):
        found = []
        try:
            found = split([body[:end]])
        except TruncatedMultipart:
            continue
        # Something that looks like the last boundary may stand in the content.
        assert body[:end].rstrip(b"\r").endswith(b"--b--"), (end, found, expected)


def test_whole_parts_of_a_body_that_is_cut_short_are_told_first() -> None:
    found = parts([b"--b\r\n\r\n1\r\n--b\r\n\r\n2"], "b")
    assert b"".join(next(found)) == b"1"
    second = next(found)
    with pytest.raises(TruncatedMultipart):
        b"".join(second)


def test_content_that_is_not_read_is_passed_over() -> None:
    found = parts([b"--b\r\nA: 1\r\n\r\nxx", b"xx\r\n--b\r\nA: 2\r\n\r\n2\r\n--b--"], "b")
    next(found)
    assert next(found).headers == {"a": "2"}
    assert list(found) == []


@pytest.mark.parametrize("line", [b"no colon", b" folded: x", b"a b: x", b": x", b"A: x\0y", b"A: x\ny: z"])
def test_a_part_whose_headers_cannot_be_read_is_faulty_alone(line: bytes) -> None:
    found: list[Part] = []
    for part in parts([b"--b\r\n" + line + b"\r\n\r\n1\r\n--b\r\nA: 2\r\n\r\n2\r\n--b--"], "b"):
        found.append(part)
        b"".join(part)
    assert [bool(part.fault) for part in found] == [True, False]
    assert found[1].headers == {"a": "2"}


def test_the_number_of_headers_is_limited() -> None:
    head = b"".join(b"H%d: x\r\n" % number for number in range(MAX_HEADERS + 1))
    (part,) = parts([b"--b\r\n" + head + b"\r\n1\r\n--b--"], "b")
    assert "headers" in part.fault


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_the_length_of_headers_is_limited(size: int) -> None:
    pieces = [b"--b\r\n", *(b"a" * size for _ in range((MAX_HEAD_BYTES - 2) // size))]
    splitter = MultipartSplitter("b")
    for piece in pieces:
        splitter.feed(piece)
    with pytest.raises(MalformedMultipart, match="headers"):
        splitter.feed(b"a" * size)


def test_the_longest_head_is_taken() -> None:
    value = "x" * (MAX_HEAD_BYTES - len("\r\nA: "))
    assert split([f"--b\r\nA: {value}\r\n\r\n1\r\n--b--".encode()]) == [({"a": value}, b"1")]


def test_endless_blanks_after_a_boundary_are_content_and_not_kept() -> None:
    splitter = MultipartSplitter("b")
    splitter.feed(b"--b\r\n\r\n\r\n--b")
    size = 0
    for _ in range(1000):
        size += sum(len(event) for event in splitter.feed(b" " * 100) if isinstance(event, memoryview))
    assert size > 99_000


@pytest.mark.parametrize("boundary", ["", "x" * 257, "x ", "ä", "a\nb"])
def test_what_cannot_be_a_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(MalformedMultipart):
        MultipartSplitter(boundary)


@pytest.mark.parametrize("length", [70, 73, 256], ids=["RFC 2046", "Orthanc", "most"])
def test_long_boundaries(length: int) -> None:
    boundary = ("a b'()+_,-./:=?" * 20)[: length - 1] + "x"
    assert split([f"--{boundary}\r\n\r\n1\r\n--{boundary}--".encode()], boundary) == [({}, b"1")]


_LINES = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"--b", b"--", b"-", b" ", b"A: x", b"x", b"b"])).map(
    b"".join
)


@given(content=_LINES, cuts=st.lists(st.integers(0, 80)))
@example(content=b"\r\n--b--", cuts=[])
def test_any_bytes_are_split_alike_in_any_pieces(content: bytes, cuts: list[int]) -> None:
    """What is found, and whether the body is refused, does not depend on where the pieces end."""
    body = b"--b\r\n\r\n" + content
    at = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert outcome([body[a:b] for a, b in pairwise(at)]) == outcome([body])


@given(contents=st.lists(st.binary(max_size=200) | _LINES, max_size=4))
def test_what_was_joined_is_split(contents: list[bytes]) -> None:
    boundary = "boundary-that-is-not-in-it"
    body = b"".join(b"--%s\r\nN: %d\r\n\r\n%s\r\n" % (boundary.encode(), n, each) for n, each in enumerate(contents))
    found = split([body + b"--%s--" % boundary.encode()], boundary)
    assert found == [({"n": str(n)}, each) for n, each in enumerate(contents)]


def outcome(pieces: list[bytes]) -> tuple[list[object], str]:
    found: list[object] = []
    try:
        for part in parts(pieces, "b"):
            found.append((dict(part.headers), part.fault))
            content = bytearray()
            found.append(content)
            for piece in part:
                content += piece
    except MalformedMultipart as error:
        return found, str(error)
    return found, ""
