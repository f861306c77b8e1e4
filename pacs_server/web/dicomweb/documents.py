"""Sends documents and videos as they are, whole or a range of bytes (PS3.18 8.7.4; RFC 9110 14)."""

from collections.abc import Callable, Sequence
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pacs_server.index.instances import StoredInstance
from pacs_server.services.documents import Document, document_type, is_report, report_of
from pacs_server.services.retrieve import RetrieveService
from pacs_server.web.accept import Accepted, not_acceptable
from pacs_server.web.dicomweb.ranges import byte_range, conditions
from pacs_server.web.dicomweb.viewing import entity_tag
from pacs_server.web.streams import PiecewiseResponse, pieces_of

HTML: Final = "text/html"


async def document_response(
    request: Request,
    retrieve: RetrieveService,
    instance: StoredInstance,
    takes: Sequence[Accepted],
    record: Callable[[StoredInstance], None],
) -> Response:
    """The document or video of an instance, or a report as HTML. Raises NotAcceptable, FrameNotFound."""
    media_type = shown_type(instance) or ""
    if not any(each.takes(media_type) for each in takes):
        raise not_acceptable([media_type])
    headers = {"etag": entity_tag(instance, "document"), "vary": "accept"}
    if (answer := conditions(request, headers)) is not None:
        return answer
    # The document comes from elsewhere: no script in it may run as if it were ours.
    headers["content-security-policy"] = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
    if media_type == HTML:
        return Response(await run_in_threadpool(_report, retrieve, instance, record), 200, headers, media_type)
    headers["accept-ranges"] = "bytes"
    document = await run_in_threadpool(_opened, retrieve, instance, record)
    part = byte_range(request, headers, document.size)
    if isinstance(part, Response):
        document.close()
        return part
    start, stop = part or (0, document.size)
    headers |= part.headers(document.size) if part else {}
    status = 206 if part else 200
    body = pieces_of(document.source, document.ranges, start, stop)
    return PiecewiseResponse(body, media_type, status, headers, length=stop - start, close=document.close)


def shown_type(instance: StoredInstance) -> str | None:
    """The media type of what `document_response` sends of the instance; None if it is something else: an image."""
    return HTML if is_report(instance) else document_type(instance)


def _report(retrieve: RetrieveService, instance: StoredInstance, record: Callable[[StoredInstance], None]) -> str:
    html = report_of(retrieve, instance)
    record(instance)
    return html


def _opened(retrieve: RetrieveService, instance: StoredInstance, record: Callable[[StoredInstance], None]) -> Document:
    document = Document(retrieve, instance)
    try:
        record(instance)
    except BaseException:
        document.close()
        raise
    return document
