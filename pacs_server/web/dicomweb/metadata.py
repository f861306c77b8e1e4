"""WADO-RS: the metadata of studies, series and instances (PS3.18 10.4.3.3.2)."""

import json
import secrets
import zlib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from ipaddress import ip_address
from itertools import chain
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.native_xml import native_model
from pacs_server.index.instances import StoredInstance
from pacs_server.web.accept import choose
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.media_types import JSON, PLAIN_JSON, XML
from pacs_server.web.dicomweb.ranges import conditions
from pacs_server.web.dicomweb.resources import BELOW_A_STUDY, instance_url
from pacs_server.web.dicomweb.viewing import Views, select
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PIECE, PiecewiseResponse
from pacs_server.web.threads import in_thread, iterate_in_threads

_XML_PARTS: Final = f'multipart/related; type="{XML}"'
# Shorter answers are not compressed.
_WORTH_PACKING: Final = 1024


class Metadata:
    """Answers retrievals of metadata."""

    def __init__(self, services: WebServices, views: Views) -> None:
        self._services = services
        self._views = views

    def routes(self) -> list[Route]:
        """The resources."""
        return [Route(f"{path}/metadata", self.metadata) for path in BELOW_A_STUDY]

    async def metadata(self, request: Request) -> Response:
        """The metadata of a study, series or instance as an array of JSON objects."""
        return await in_thread(self._answer, request)

    def _answer(self, request: Request) -> Response:
        media_type = choose(request, [JSON, XML, PLAIN_JSON])
        caller = caller_of(request)
        instances = select(self._services.retrieve, request.path_params, caller)
        url_of = instance_url(request, self._services.config().web)
        packed = _packs(request)
        headers = {
            "etag": _tag(instances, f"{url_of(instances[0])} {media_type} {packed}"),
            "vary": "accept, accept-encoding",
        }
        if (answer := conditions(request, headers)) is not None:
            return answer
        if request.method == "HEAD":
            return Response(headers=headers, media_type=media_type)
        self._views.record_all(caller, "metadata", instances)
        objects = (pieces for _, pieces in self._services.metadata.json(instances, url_of))
        if media_type == XML:
            boundary = f"part-{secrets.token_hex(16)}"
            body, media_type = _joined(_parts(objects, boundary)), f"{_XML_PARTS}; boundary={boundary}"
        else:
            body = _joined(_array(objects))
        # What cannot be had at all is an error, and no answer that is cut short.
        first = next(body)
        second = next(body, None)
        if packed and (second is not None or len(first) > _WORTH_PACKING):
            headers["content-encoding"] = "gzip"
            return _streamed(_packed(chain((first,), (second or b"",), body)), media_type, headers)
        if second is None:
            return Response(first, headers=headers, media_type=media_type)
        return _streamed(chain((first, second), body), media_type, headers)


def _streamed(body: Iterator[bytes], media_type: str, headers: dict[str, str]) -> Response:
    return PiecewiseResponse(iterate_in_threads(body), media_type, headers=headers)


def _array(objects: Iterator[Iterator[bytes]]) -> Iterator[bytes]:
    begin = b"["
    for pieces in objects:
        yield begin
        yield from pieces
        begin = b","
    yield b"]"


def _parts(objects: Iterator[Iterator[bytes]], boundary: str) -> Iterator[bytes]:
    """PS3.18 8.7.3.2: in XML each instance is a part. DS and IS keep their digits."""
    begin = f"--{boundary}"
    for pieces in objects:
        document = native_model(json.loads(b"".join(pieces), parse_float=str, parse_int=str))
        yield f"{begin}\r\nContent-Type: {XML}\r\n\r\n{document}".encode()
        begin = f"\r\n--{boundary}"
    yield f"{begin}--\r\n".encode()


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces joined to larger ones."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)


def _packed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces in gzip, quick rather than short."""
    packer = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _packs(request: Request) -> bool:
    """Whether to compress: if the client takes that, and is not on this machine, where bytes cost nothing."""
    codings = [part.strip().partition(";") for part in request.headers.get("accept-encoding", "").lower().split(",")]
    takes = any(name.strip() == "gzip" and rest.replace(" ", "") not in ("q=0", "q=0.0") for name, _, rest in codings)
    address = request.client.host.partition("%")[0] if request.client is not None else "127.0.0.1"
    return takes and not ip_address(address).is_loopback


def _tag(instances: Sequence[StoredInstance], form: str) -> str:
    digest = sha256(form.encode())
    for each in instances:
        digest.update(f"{each.digest} {each.version} {each.uids.series}".encode())
    return f'W/"{digest.hexdigest()[:32]}"'
