"""How the matches of a search are written: as DICOM JSON, or as XML in multipart/related (PS3.18 8.7.4)."""

import json
import secrets
from typing import Protocol

from pacs_server.dicom.native_xml import native_model
from pacs_server.web.dicomweb.media_types import XML


class Format(Protocol):
    """How matches are written. `has_empty_body` says whether there is a body if there are no matches."""

    content_type: str
    has_empty_body: bool

    def chunk(self, matches: list[str], *, first: bool, last: bool) -> bytes:
        """The next part of the body: some matches, each as the text of a JSON object."""


def format_of(media_type: str) -> Format:
    """The format of an offered media type."""
    return _Xml() if media_type == XML else _Json(media_type)


class _Json:
    # PS3.18 10.6.3: an empty list if there are no matches. Editions before 2025 had status 204 for that, which many
    # clients cannot read as JSON.
    has_empty_body = True

    def __init__(self, media_type: str) -> None:
        self.content_type = media_type

    def chunk(self, matches: list[str], *, first: bool, last: bool) -> bytes:
        start = "[" if first else ","
        return f"{start}{','.join(matches)}{']' if last else ''}".encode(errors="replace")


class _Xml:
    # A multipart body has at least one part (RFC 2046 5.1.1).
    has_empty_body = False

    def __init__(self) -> None:
        self._boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{XML}"; boundary={self._boundary}'

    def chunk(self, matches: list[str], *, first: bool, last: bool) -> bytes:
        head = f"--{self._boundary}\r\nContent-Type: {XML}\r\n\r\n"
        parts = "".join(f"{head}{native_model(json.loads(match))}\r\n" for match in matches)
        end = f"--{self._boundary}--\r\n" if last else ""
        return f"{parts}{end}".encode(errors="replace")
