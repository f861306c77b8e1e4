"""What clients of the HTTP door send, and what they are answered."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx2 as httpx
from pydicom.dataset import Dataset
from starlette.types import ASGIApp, Receive, Scope, Send

from pacs_server.app.server import PacsServer
from pacs_server.dicom.caller import Caller
from pacs_server.web.caller import KEY

BOUNDARY = "-- a boundary --"[3:]
RELATED = f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'


def url_of(pacs: PacsServer, path: str = "") -> str:
    """The address of a path below the DICOMweb services."""
    assert pacs.web_address is not None
    return "http://{}:{}/dicom-web{}".format(*pacs.web_address, path)


def part10(ds: Dataset) -> bytes:
    """A data set as a DICOM file."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def related(contents: Iterable[bytes], headers: str = "Content-Type: application/dicom", *, end: bool = True) -> bytes:
    """The parts of a multipart/related body, all with the same headers."""
    line = BOUNDARY.encode()
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (line, headers.encode(), each) for each in contents)
    return body + (b"--%s--\r\n" % line if end else b"")


def parts(response: httpx.Response) -> list[tuple[dict[str, str], bytes]]:
    """The headers and the bytes of each part."""
    boundary = re.search("boundary=([^;]+)", response.headers["content-type"])
    assert boundary, response.text
    begin, *bodies, end = response.content.split(f"--{boundary[1]}".encode())
    assert (begin, end) == (b"", b"--\r\n")
    found = []
    for body in bodies:
        head, _, rest = body.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        assert rest.endswith(b"\r\n")
        found.append((dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n")), rest[:-2]))
    return found


def post(
    pacs: PacsServer, body: bytes | Iterable[bytes], path: str = "/studies", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """What a Store transaction is answered; a body that is no bytes is sent in chunks."""
    told = {"Content-Type": RELATED, "Accept": "application/dicom+json"} | dict(headers or {})
    return httpx.post(url_of(pacs, path), content=body, headers=told, timeout=30)


def store(pacs: PacsServer, instances: Sequence[Dataset], path: str = "/studies") -> httpx.Response:
    """What a Store transaction of DICOM files is answered."""
    return post(pacs, related(map(part10, instances)), path)


def called_by(app: ASGIApp, caller: Caller) -> ASGIApp:
    """An application, asked by this caller."""

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, KEY: caller}, receive, send)

    return identified


def values(module: Mapping[str, Any], tag: str, *path: str) -> list[Any]:
    """The values of an attribute; with `path`, those of attributes in the items of a sequence."""
    found = module.get(tag, {}).get("Value", [])
    return [value for item in found for value in values(item, *path)] if path else list(found)
