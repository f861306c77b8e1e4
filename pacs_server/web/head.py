"""The head of a request, checked and turned into an ASGI scope; which forms are refused, and how that is said.

The parser (llhttp) refuses by itself what breaks the grammar: bare line feeds, folded lines, blanks before a colon,
several lengths, a length beside a transfer coding, bad sizes of chunks. What it lets through and should not is here.
"""

import http
import json
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import httptools

Header = tuple[bytes, bytes]

SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
"""The methods that change nothing (RFC 9110 9.2.1)."""
VERSIONS: Final = ("1.0", "1.1")
# RFC 3986 3.3 and 3.4, and what browsers leave as it is. The parser lets nothing through that is not ASCII.
_AUTHORITY: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SPECIAL: Final = (b"host", b"content-length", b"transfer-encoding", b"content-encoding", b"expect")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """A request is refused before any service sees it. `reason` comes from a fixed set of names."""

    status: int
    reason: str
    detail: str
    headers: Sequence[Header] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """What a head says of the message that it begins. `length` is None if the body is chunked."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    headers: list[Header]
    length: int | None
    expects_continue: bool


def read_head(method: bytes, target: bytes, version: str, headers: list[Header], max_body: int) -> Head:
    """The head of a request. Raises Refusal."""
    if version not in VERSIONS:
        raise Refusal(505, "version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method == b"CONNECT":
        raise Refusal(405, "method", "this is no proxy", [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")])
    path, query, authority = _target(method, target)
    special = [header for header in headers if header[0] in _SPECIAL]
    _check_host(special, version)
    if authority is not None:
        # RFC 9112 3.2.2: the target's authority takes the place of the header.
        headers = [(b"host", authority), *(header for header in headers if header[0] != b"host")]
    length, expects_continue = _body(special, version, max_body)
    return Head(method.decode("ascii"), _decoded(path), path, query, version, headers, length, expects_continue)


def _target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query and authority, which is None in origin form (RFC 9112 3.2)."""
    if target == b"*":
        if method != b"OPTIONS":
            raise Refusal(400, "target", "only OPTIONS can be about the whole server")
        return b"*", b"", None
    if b"%" in target and _BROKEN_ESCAPE.search(target):
        raise Refusal(400, "target", "a percent sign in the URL is not followed by two hexadecimal digits")
    authority = None
    if not target.startswith(b"/"):
        # RFC 9112 3.2.2: a server has to take the absolute form.
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise Refusal(400, "target", "the target of the request is no URL")
        authority, slash, rest = rest.partition(b"/")
        target = slash + rest or b"/"
        if not authority or not _AUTHORITY.fullmatch(authority):
            raise Refusal(400, "target", "the target of the request is no URL")
    path, _, query = target.partition(b"#")[0].partition(b"?")
    return path, query, authority


def _decoded(path: bytes) -> str:
    text = urllib.parse.unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii")
    if _CONTROL.search(text):
        raise Refusal(400, "target", "the path holds a control character")
    if "/." in text and any(part in (".", "..") for part in text.split("/")):
        # Who checks paths in front of this server may not know that `..` means nothing here.
        raise Refusal(400, "target", "the path holds a dot segment")
    return text


def _check_host(special: list[Header], version: str) -> None:
    hosts = [value for name, value in special if name == b"host"]
    # RFC 9112 3.2: a request of HTTP/1.1 names its host, once.
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Refusal(400, "host", "the request does not name its host, or names several")
    if hosts and not _AUTHORITY.fullmatch(hosts[0]):
        raise Refusal(400, "host", "the host is no name and no address")


def _body(special: list[Header], version: str, max_body: int) -> tuple[int | None, bool]:
    """How long the body is, None if it is chunked, and whether the client waits before it sends it."""
    length: int | None = 0
    expects_continue = False
    for name, value in special:
        if name == b"content-length":
            # The parser takes digits only, and one such header.
            length = int(value)
        elif name == b"transfer-encoding":
            _check_coding(value, version)
            length = None
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            # RFC 9110 15.5.16. A body that grows when it is decoded has no bound that the client announces.
            encodings = [(b"accept-encoding", b"identity")]
            raise Refusal(415, "content_encoding", "bodies have to come without Content-Encoding", encodings)
        elif name == b"expect":
            if value.strip().lower() != b"100-continue":
                raise Refusal(417, "expect", "the only expectation that can be met is 100-continue")
            expects_continue = version != "1.0"
    if max_body and length is not None and length > max_body:
        raise too_large(max_body)
    return length, expects_continue


def _check_coding(value: bytes, version: str) -> None:
    if version == "1.0":
        raise Refusal(400, "framing", "HTTP/1.0 has no Transfer-Encoding")
    if value.strip().lower() != b"chunked":
        raise Refusal(501, "framing", "the only Transfer-Encoding is chunked")


def too_large(max_body: int) -> Refusal:
    """The refusal of a body that is longer than `max_body`."""
    return Refusal(413, "body_size", f"a body may have {max_body} bytes")


def make_scope(head: Head, **connection: Any) -> dict[str, Any]:
    """The ASGI scope of a request; `connection` is what is the same for all requests of a connection."""
    return {
        "type": "http",
        # 2.4: `send` raises OSError when the client is gone.
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.version,
        "method": head.method,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        **connection,
    }


@lru_cache(maxsize=100)
def status_line(status: int) -> bytes:
    """The first line of an answer."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def answer(refusal: Refusal, date: bytes) -> bytes:
    """A whole answer that says why a request is refused, after which the connection ends (RFC 9457)."""
    problem = {"title": http.HTTPStatus(refusal.status).phrase, "status": refusal.status, "detail": refusal.detail}
    body = json.dumps(problem).encode() + b"\n"
    headers = [
        (b"date", date),
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *refusal.headers,
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return status_line(refusal.status) + lines + b"\r\n" + body


def parse_error(error: httptools.HttpParserError) -> Refusal:
    """The refusal of what is no request."""
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return Refusal(400, "not_http", "this is no HTTP, or a method that is not known here")
    if isinstance(error, httptools.HttpParserInvalidURLError):
        return Refusal(400, "target", "the target of the request is no URL")
    if "PRI" in str(error):
        return Refusal(505, "version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return Refusal(400, "framing", "the request breaks the rules of HTTP/1.1")
