"""Sends documents and videos as they are, whole or a range of bytes (PS3.18 8.7.4; RFC 9110 14)."""

import re
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pacs_server.index.instances import StoredInstance
from pacs_server.services.documents import Document, document_type
from pacs_server.services.retrieve import RetrieveService
from pacs_server.web.accept import Accepted, not_acceptable
from pacs_server.web.dicomweb.viewing import entity_tag, unchanged
from pacs_server.web.streams import PiecewiseResponse, pieces

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def document_response(
    request: Request,
    retrieve: RetrieveService,
    instance: StoredInstance,
    takes: Sequence[Accepted],
    record: Callable[[StoredInstance], None],
) -> Response:
    """The document or video of an instance. Raises NotAcceptable, FrameNotFound."""
    media_type = document_type(instance) or ""
    if not any(each.takes(media_type) for each in takes):
        raise not_acceptable([media_type])
    tag = entity_tag(instance, "document")
    if (answer := unchanged(request, tag)) is not None:
        return answer
    document = await run_in_threadpool(_opened, retrieve, instance, record)
    headers = {"etag": tag, "vary": "accept", "accept-ranges": "bytes"}
    # The document comes from elsewhere: no script in it may run as if it were ours.
    headers["content-security-policy"] = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
    start, stop, status = 0, document.size, 200
    asked = request.headers.get("range") if request.headers.get("if-range", tag) == tag else None
    if asked and (found := _RANGE.fullmatch(asked)) and (found[1] or found[2]):
        start, stop = _span(found[1], found[2], document.size)
        if start >= stop:
            document.close()
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{document.size}"})
        status, headers["content-range"] = 206, f"bytes {start}-{stop - 1}/{document.size}"
    body = _body(document, start, stop)
    return PiecewiseResponse(body, media_type, status, headers, length=stop - start, close=document.close)


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size  # the last so many bytes
    return int(first), min(int(last) + 1, size) if last else size


def _opened(retrieve: RetrieveService, instance: StoredInstance, record: Callable[[StoredInstance], None]) -> Document:
    document = Document(retrieve, instance)
    try:
        record(instance)
    except BaseException:
        document.close()
        raise
    return document


async def _body(document: Document, start: int, stop: int) -> AsyncIterator[bytes]:
    for offset, length in document.within(start, stop):
        async for piece in pieces(document.source, offset, offset + length):
            yield piece
