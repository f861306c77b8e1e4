"""Reads the requests of one connection: what the parser finds becomes heads, pieces of bodies, and refusals."""

from typing import Final, Protocol

import httptools

from pacs_server.web.head import Head, Header, Refusal, parse_error, read_head, too_large
from pacs_server.web.limits import WebLimits

# Chunks cost time each, and so do their extensions: for each byte of the body so many may come, and these on top.
_CHUNK_FACTOR, _CHUNK_SPARE = 8, 64 << 10
_FRAMING: Final = b"POST / HTTP/1.1\r\n%s\r\n\r\n"


class Listener(Protocol):
    """The connection as its reader sees it."""

    def head_begins(self) -> None:
        """The first bytes of a request came in."""

    def head_read(self, head: Head, *, keep_alive: bool) -> None:
        """The head of a request is complete; `keep_alive` says whether the client may send another one."""

    def body_read(self, piece: bytes) -> None:
        """A piece of the body came in."""

    def request_ends(self) -> None:
        """The request is complete."""

    def last_request(self) -> None:
        """What has come behind this request cannot be answered, so that the connection ends with it."""


class RequestReader:
    """Reads one request after the other, by RFC 9110 and 9112; the listener says when the `next` one may come.

    After each `feed`, `refusal` is why the request is refused, if it is. `read` are the bytes of the head, or of all
    that came behind it. A reader that is `deaf` takes nothing any more.
    """

    def __init__(self, limits: WebLimits, listener: Listener) -> None:
        self.refusal: Refusal | None = None
        self.deaf = False
        self.read = 0
        self._limits = limits
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        # The head that is being read, and then the one of the request.
        self._url = b""
        self._headers: list[Header] = []
        self._head: Head | None = None
        self._received = 0
        self._complete = False
        # The parser is told once more of a head, see `_ignore_upgrade`.
        self._again = False

    def feed(self, data: memoryview | bytes) -> None:
        """Read bytes that came in."""
        self.read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._complete:
                self._hear_no_more()
            else:
                self.refusal = self.refusal or parse_error(error)
        if self.refusal is None:
            self.refusal = self._too_long()

    def next(self, limits: WebLimits) -> None:
        """The request was answered: what comes now is the next one."""
        self._limits = limits
        self._head, self._complete = None, False
        self.read = self._received = 0

    def _ignore_upgrade(self, rest: memoryview | bytes) -> None:
        """Go on in HTTP/1.1 where the parser has stopped because the client would like another protocol.

        RFC 9110 7.8 allows it. Java's client asks for HTTP/2 with its first request, which may have a body.
        """
        self._parser = httptools.HttpRequestParser(self)
        if self._head is not None and not self._complete:
            # The new parser has to know only how long the body is.
            length = self._head.length
            framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            self._again = True
            self._parser.feed_data(_FRAMING % framing)
            self._again = False
        if rest:
            self.feed(rest)

    def _too_long(self) -> Refusal | None:
        """The refusal of a head or of chunks that are too long for what is in them."""
        if self._head is None:
            return self._head_too_long() if self.read > self._limits.max_head else None
        if self._head.length is None and not self._complete:
            excess = self.read - _CHUNK_FACTOR * self._received - self._limits.max_head
            return Refusal(400, "chunks", "the chunks are too small") if excess > _CHUNK_SPARE else None
        return None

    def _head_too_long(self) -> Refusal:
        return self._url_too_long() if not self._headers else self._too_many_headers()

    def _url_too_long(self) -> Refusal:
        return Refusal(414, "url_size", f"a URL may have {self._limits.max_url} bytes")

    def _too_many_headers(self) -> Refusal:
        return Refusal(431, "head_size", f"a head may have {self._limits.max_headers} fields")

    def _hear_no_more(self) -> None:
        self.deaf = True
        self._listener.last_request()

    # -------------------------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._again or self.deaf:
            return
        if self._head is not None:
            # Sent in one go with the request before it, which is legal and which nobody does. The connection ends
            # after that one, and a client has to expect this (RFC 9112 9.3.2).
            self._hear_no_more()
            return
        self._url, self._headers = b"", []
        self._listener.head_begins()

    def on_url(self, url: bytes) -> None:
        """The next piece of the target."""
        if self.deaf:
            return
        self._url += url
        if len(self._url) > self._limits.max_url:
            self.refusal = self._url_too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a field behind a chunked body, which is dropped."""
        if self._head is None and self.refusal is None:
            self._headers.append((name.lower(), value))
            if len(self._headers) > self._limits.max_headers:
                self.refusal = self._too_many_headers()

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._head is not None or self.refusal is not None or self.deaf:
            return
        try:
            version, max_body = self._parser.get_http_version(), self._limits.max_body
            head = read_head(self._parser.get_method(), self._url, version, self._headers, max_body)
        except Refusal as refusal:
            self.refusal = refusal
            return
        if sum(len(name) + len(value) + 4 for name, value in self._headers) > self._limits.max_head:
            self.refusal = self._head_too_long()
            return
        self.read = 0
        self._head = head
        self._listener.head_read(head, keep_alive=self._parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._head is None or self.deaf or self.refusal is not None:
            return
        self._received += len(body)
        if self._limits.max_body and self._received > self._limits.max_body:
            self.refusal = too_large(self._limits.max_body)
            return
        self._listener.body_read(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._head is None or self._complete or self.refusal is not None:
            return
        if self._head.length != 0 and not self._received and self._parser.should_upgrade():
            return  # the body is still to come, see `_ignore_upgrade`
        self._complete = True
        self._listener.request_ends()
