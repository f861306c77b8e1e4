"""Split multipart bodies (RFC 2046) into their parts while they arrive, in bounded memory.

The splitter knows no protocol: bytes in, events out. Beyond the letter of RFC 2046 it takes a body whose lines end with
a bare LF from its first boundary on, a part whose headers break off, and one whose headers cannot be read, which is
told as a fault of that part. A line that begins with the boundary and goes on with more than blanks is content, because
the content may be any bytes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 8192
MAX_HEADERS: Final = 64
# RFC 2046 5.1.1: a boundary has 70 characters at most and does not end with a blank. Orthanc's have 73.
_BOUNDARY = re.compile(r"[!-~ ]{0,255}[!-~]")
# What may follow a boundary in its line. RFC 2046 allows any number of blanks; nobody needs many.
_REST = re.compile(rb"(--)?[ \t]{0,256}")
_LAST_REST = re.compile(rb"--[ \t]{0,256}\r?")
# RFC 9110 5.6.2: the name of a header is a token.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class MalformedMultipart(ValueError):
    """The body is not multipart or breaks a limit; nothing from here on can be split."""


class TruncatedMultipart(MalformedMultipart):
    """The body ended before its last boundary."""


@dataclass(frozen=True, slots=True)
class PartBegun:
    """A part begins. `headers` have names in lower case; `fault` says why they cannot be read, "" if they can."""

    headers: Mapping[str, str]
    fault: str


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is complete."""


Event = PartBegun | memoryview | PartEnded
"""What is found in a body: the beginning of a part, a piece of its content, its end."""


class MultipartSplitter:
    """Splits one body: feed it with all pieces, and then close it.

    A buffer holds what cannot be told yet: the head of a part, or what may be the beginning of a boundary.
    """

    def __init__(self, boundary: str) -> None:
        """Raises MalformedMultipart if `boundary` cannot be one."""
        if not _BOUNDARY.fullmatch(boundary):
            raise MalformedMultipart("the boundary is missing, too long, or has characters that it may not have")
        self._dashes = b"--" + boundary.encode("ascii")
        # Until the first boundary tells what ends a line. It may be the very first line, so one ends before it.
        self._line_end = b""
        self._delimiter = b"\n" + self._dashes
        self._buffer = b"\n"
        self._at = 0
        # So many bytes of the buffer end the line before the content and are no part of it.
        self._skip = 1
        self._in_head = self._in_part = self._ended = False
        self._events: list[Event] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """What is found up to the end of the next piece. Raises MalformedMultipart."""
        self._events = []
        self._buffer = self._buffer + data if self._buffer else bytes(data)
        self._at = 0
        while not self._ended and (self._read_head() if self._in_head else self._read_content()):
            pass
        self._buffer = b"" if self._ended else self._buffer[self._at :]
        return self._events

    def close(self) -> list[Event]:
        """What is found at the end of the body. Raises TruncatedMultipart if the last boundary is missing."""
        self._events = []
        if not self._ended:
            # The last boundary need not be followed by a line break.
            rest = self._buffer.removeprefix(self._delimiter)
            if self._in_head or rest is self._buffer or not _LAST_REST.fullmatch(rest):
                raise TruncatedMultipart("the body ended before its last boundary")
            self._end_part()
            self._ended = True
        return self._events

    def _read_content(self) -> bool:
        """Read content up to a boundary; False if more bytes are needed."""
        search = self._at
        while (found := self._buffer.find(self._delimiter, search)) >= 0:
            line = found + len(self._delimiter)
            rest = _REST.match(self._buffer, line)
            assert rest is not None
            end = rest.end()
            line_end = self._line_end_at(end, last=bool(rest[1]), dash=end == line)
            if line_end is None:
                search = found + 1
                continue
            self._content(found)
            if not line_end:
                return False
            self._end_part()
            self._ended = bool(rest[1])
            self._in_head = True
            self._line_end, self._delimiter = line_end, line_end + self._dashes
            self._at = end
            return True
        self._content(self._possible_delimiter())
        return False

    def _line_end_at(self, at: int, *, last: bool, dash: bool) -> bytes | None:
        """What ends the line of a boundary at this offset; b"" if more bytes are needed, None if it goes on."""
        rest = self._buffer[at : at + 2]
        if rest in (b"", b"\r") or (dash and rest == b"-"):
            return b""
        for line_end in (b"\r\n", b"\n"):
            if rest.startswith(line_end) and (last or self._line_end in (b"", line_end)):
                return line_end
        return None

    def _possible_delimiter(self) -> int:
        """Where the buffer ends with what may be the beginning of a boundary, if it does; else its end."""
        at = max(self._at, len(self._buffer) - len(self._delimiter) + 1)
        while (at := self._buffer.find(self._delimiter[:1], at)) >= 0:
            if self._delimiter.startswith(self._buffer[at:]):
                return at
            at += 1
        return len(self._buffer)

    def _content(self, end: int) -> None:
        """Tell of the content up to this offset."""
        start = min(self._at + self._skip, end)
        self._skip -= start - self._at
        if self._in_part and start < end:
            self._events.append(memoryview(self._buffer)[start:end])
        self._at = end

    def _end_part(self) -> None:
        if self._in_part:
            self._events.append(PartEnded())
        self._in_part = False

    def _read_head(self) -> bool:
        """Read the headers of a part; False if more bytes are needed.

        The buffer goes on with the end of the boundary's line, so that the blank line is the first double line break.
        """
        start = self._at
        blank = self._buffer.find(self._line_end * 2, start)
        # Headers may be followed by a boundary at once: then the part has no content.
        end = self._buffer.find(self._delimiter, start, blank if blank >= 0 else None)
        skip = 0
        if end < 0:
            end, skip = blank, len(self._line_end)
        if (end if end >= 0 else len(self._buffer)) - start > MAX_HEAD_BYTES:
            raise MalformedMultipart(f"the headers of a part are longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return False
        self._events.append(_begun(self._buffer[start + len(self._line_end) : end], self._line_end))
        self._at, self._skip = end + skip, skip
        self._in_head, self._in_part = False, True
        return True


def _begun(head: bytes, line_end: bytes) -> PartBegun:
    headers: dict[str, str] = {}
    lines = _unfolded(head.decode("latin-1"), line_end.decode("ascii"))
    if len(lines) > MAX_HEADERS:
        return PartBegun({}, f"the part has more than {MAX_HEADERS} headers")
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not all(char >= " " or char == "\t" for char in value):
            return PartBegun({}, "a line among the headers of the part is no header")
        # Of headers with the same name the first one counts.
        headers.setdefault(name.lower(), value.strip(" \t"))
    return PartBegun(headers, "")


def _unfolded(head: str, line_end: str) -> list[str]:
    """The lines of a head. RFC 5322 2.2.3: a line that begins with a blank goes on with the line before."""
    lines: list[str] = []
    for line in head.split(line_end) if head else []:
        if line[0] in " \t" and lines:
            lines[-1] = lines[-1].rstrip(" \t") + " " + line.lstrip(" \t")
        else:
            lines.append(line)
    return lines


class Part:
    """One part of a body: its headers, and its content to be read once, before the next part."""

    def __init__(self, begun: PartBegun, events: Iterator[Event]) -> None:
        self.headers = begun.headers
        self.fault = begun.fault
        self._events = events
        self._ended = False

    def __iter__(self) -> Iterator[memoryview]:
        """The content in pieces, from where it was read last; raises what reading the body raises."""
        while not self._ended:
            event = next(self._events, None)
            if isinstance(event, memoryview):
                yield event
            else:
                self._ended = True


def parts(pieces: Iterable[bytes], boundary: str) -> Iterator[Part]:
    """The parts of a body that comes in pieces. Raises MalformedMultipart, and what `pieces` raises.

    What of a part is not read is passed over when the next part is asked for.
    """
    events = _events(pieces, MultipartSplitter(boundary))
    for event in events:
        if isinstance(event, PartBegun):
            part = Part(event, events)
            yield part
            for _ in part:
                pass


def _events(pieces: Iterable[bytes], splitter: MultipartSplitter) -> Iterator[Event]:
    for piece in pieces:
        yield from splitter.feed(piece)
    yield from splitter.close()
