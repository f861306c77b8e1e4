"""WADO-RS: bulk data, one value by the path of its Bulkdata URI, or all values of instances (PS3.18 10.4.3.3.5)."""

import re
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import BulkDataNotFound
from pacs_server.index.instances import StoredInstance
from pacs_server.services.bulk_data import BulkDataService, OpenBulkData, Value
from pacs_server.services.frames import KeptMaps
from pacs_server.web.accept import Accepted, accepted, not_acceptable
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.media_types import OCTET_STREAM, media_type_of_frames
from pacs_server.web.dicomweb.ranges import ByteRange, byte_range, conditions
from pacs_server.web.dicomweb.resources import BELOW_A_STUDY, INSTANCE, instance_url
from pacs_server.web.dicomweb.viewing import Views, entity_tag, select
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse, pieces_of
from pacs_server.web.threads import in_thread, iterate_in_threads

_MULTIPART: Final = f'multipart/related; type="{OCTET_STREAM}"'
# Documents that no browser runs as a page of this server. Others are sent as bytes only.
_DOCUMENTS: Final = ("application/pdf", "model/stl", "model/obj", "model/mtl")
_URI: Final = re.compile(rb'"BulkDataURI":"[^"]*/bulkdata/([0-9A-F/]+)"')


class BulkData:
    """Answers retrievals of bulk data."""

    def __init__(self, services: WebServices, views: Views, kept: KeptMaps) -> None:
        self._services = services
        self._views = views
        self._bulk_data = BulkDataService(services.retrieve, kept)

    def routes(self) -> list[Route]:
        """The resources."""
        return [
            Route(f"{INSTANCE}/bulkdata/{{path:path}}", self.value),
            *(Route(f"{path}/bulkdata", self.all) for path in BELOW_A_STUDY),
        ]

    async def value(self, request: Request) -> Response:
        """The value of one element; compressed frames come as parts, one frame each."""
        return await in_thread(self._value, request)

    async def all(self, request: Request) -> Response:
        """All bulk data of a study, series or instance."""
        return await in_thread(self._all, request)

    # ---------------------------------------------------------------- what blocks, in a thread of the pool

    def _select(self, request: Request) -> list[StoredInstance]:
        return select(self._services.retrieve, request.path_params, caller_of(request))

    def _all(self, request: Request) -> Response:
        instances = self._select(request)
        if not any(each.takes(OCTET_STREAM) and each.multipart is not False for each in accepted(request)):
            raise not_acceptable((_MULTIPART,))
        self._record(request, instances)
        boundary = f"part-{secrets.token_hex(16)}"
        parts = self._parts(request, instances)
        content_type = f'multipart/related; type="{OCTET_STREAM}"; boundary={boundary}'
        return PiecewiseResponse(iterate_in_threads(_body(parts, boundary)), content_type)

    def _parts(self, request: Request, instances: Sequence[StoredInstance]) -> "Iterator[_Part]":
        url_of = instance_url(request, self._services.config().web)
        for stored, text in self._services.metadata.json(instances, url_of):
            for path in _URI.findall(b"".join(text)):
                with self._bulk_data.open(stored, path.decode("ascii")) as found:
                    yield from _parts_of(found, f"{url_of(stored)}/bulkdata/{found.path}")

    def _value(self, request: Request) -> Response:
        [stored] = self._select(request)
        path = request.path_params["path"]
        found = self._bulk_data.open(stored, path)
        try:
            return self._answer(request, stored, found)
        except BaseException:
            found.close()
            raise

    def _answer(self, request: Request, stored: StoredInstance, found: OpenBulkData) -> Response:
        url = f"{instance_url(request, self._services.config().web)(stored)}/bulkdata/{found.path}"
        values = list(found.values())
        content_type, multipart = _form(accepted(request), found, values)
        headers = {"etag": entity_tag(stored, found.path, content_type, multipart), "vary": "accept"}
        if (answer := conditions(request, headers)) is not None:
            found.close()
            return answer
        self._record(request, [stored])
        if multipart:
            boundary = f"part-{headers['etag'][1:-1]}"
            told = f'multipart/related; type="{content_type}"; boundary={boundary}'
            body = iterate_in_threads(_body(_parts_of(found, url), boundary))
            return PiecewiseResponse(body, told, headers=headers, close=found.close)
        [value] = values
        headers |= {"accept-ranges": "bytes", "content-location": url}
        wanted = byte_range(request, headers, value.size)
        if isinstance(wanted, Response):
            found.close()
            return wanted
        part = wanted or ByteRange(0, value.size)
        body = _bytes(found, value, part)
        headers |= part.headers(value.size) if wanted else {}
        length = part.stop - part.start
        status = 206 if wanted else 200
        return PiecewiseResponse(body, content_type, status, headers, length=length, close=found.close)

    def _record(self, request: Request, instances: Sequence[StoredInstance]) -> None:
        if request.method != "HEAD":
            self._views.record_all(caller_of(request), "bulk data", instances)


_Part = tuple[str, str, Iterator[bytes]]
"""The Content-Type and the URL of a part, and its bytes."""


def _form(ranges: Sequence[Accepted], found: OpenBulkData, values: Sequence[Value]) -> tuple[str, bool]:
    """The media type of the values, and whether they come in parts. Raises NotAcceptable."""
    if not values:
        raise BulkDataNotFound(f"{found.path} has no value")
    syntax = values[0].transfer_syntax_uid
    own = media_type_of_frames(syntax) if found.is_encapsulated else OCTET_STREAM
    document = found.media_type()
    for each in ranges:
        # A single part is for a single value (PS3.18 10.4.4).
        if each.multipart is not True and len(values) == 1 and document in _DOCUMENTS and each.media_type == document:
            return document, False
        # Some clients ask for compressed bytes as octet-stream.
        if each.takes(own) or (each.takes(OCTET_STREAM) and each.transfer_syntax in ("", "*", syntax)):
            if each.multipart is True or (len(values) > 1 and each.multipart is None):
                return own, True
            if len(values) == 1:
                return own, False
    raise not_acceptable((f'multipart/related; type="{own}"', *((own,) if len(values) == 1 else ())))


def _parts_of(found: OpenBulkData, url: str) -> Iterator[_Part]:
    for value in found.values():
        syntax = value.transfer_syntax_uid
        content_type = f"{media_type_of_frames(syntax)}; transfer-syntax={syntax}"
        yield content_type if found.is_encapsulated else OCTET_STREAM, url, found.pieces(value)


def _body(parts: Iterator[_Part], boundary: str) -> Iterator[bytes]:
    begin = f"--{boundary}"
    for content_type, url, content in parts:
        yield f"{begin}\r\nContent-Type: {content_type}\r\nContent-Location: {url}\r\n\r\n".encode("latin-1")
        yield from content
        begin = f"\r\n--{boundary}"
    yield f"{begin}--\r\n".encode("latin-1")


async def _bytes(found: OpenBulkData, value: Value, part: ByteRange) -> AsyncIterator[bytes]:
    if not value.ranges and value.chunks is not None:
        async for chunk in iterate_in_threads(value.chunks.chunks(part.start, part.stop)):
            yield chunk
    async for piece in pieces_of(found.source, value.ranges, part.start, part.stop):
        yield piece
