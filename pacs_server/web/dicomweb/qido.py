"""QIDO-RS: search for studies, series and instances (PS3.18 10.6)."""

from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid
from pacs_server.dicom.web_query import parse_search
from pacs_server.errors import InvalidRequest
from pacs_server.web.accept import choose
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.media_types import JSON, PLAIN_JSON, XML
from pacs_server.web.dicomweb.resources import BASE, SERIES, STUDIES, STUDY
from pacs_server.web.dicomweb.search_formats import format_of
from pacs_server.web.dicomweb.search_results import SearchResults
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse
from pacs_server.web.threads import in_thread
from pacs_server.web.urls import base_url

# PS3.18 8.7.4: the default comes first.
_OFFERED: Final = [JSON, PLAIN_JSON, XML]
_PLACES: Final = {"study": Level.STUDY, "series": Level.SERIES}


class QIDO:
    """Answers searches."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The resources that can be searched for (PS3.18 Table 10.6.1-1)."""
        studies, series, instances = (partial(self._search, level) for level in list(Level)[1:])
        return [
            Route(STUDIES, studies),
            Route(f"{BASE}/series", series),
            Route(f"{BASE}/instances", instances),
            Route(f"{STUDY}/series", series),
            Route(f"{STUDY}/instances", instances),
            Route(f"{SERIES}/instances", instances),
        ]

    async def _search(self, level: Level, request: Request) -> Response:
        written = format_of(choose(request, _OFFERED))
        service_url = f"{base_url(request, self._services.config().web)}{BASE}"
        parse = partial(parse_search, level, _path(request), request.scope["query_string"])
        results = SearchResults(self._services, caller_of(request), parse, service_url, written)
        body = await in_thread(results.read)
        headers = {**_warnings(service_url, results.warnings), "content-type": written.content_type}
        if not results.complete:
            return PiecewiseResponse(_all(body, results), written.content_type, headers=headers, close=results.close)
        if results.count or written.has_empty_body:
            return Response(body, headers=headers)
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=_warnings(service_url, results.warnings))


def _path(request: Request) -> dict[Level, str]:
    """The UIDs in the path."""
    uids = {level: request.path_params[name] for name, level in _PLACES.items() if name in request.path_params}
    for level, uid in uids.items():
        if not is_uid(uid):
            raise InvalidRequest(f"the path does not name a {level.name.lower()}: {uid[:64]!r} is not a UID")
    return uids


def _warnings(service_url: str, sentences: list[str]) -> dict[str, str]:
    """PS3.18 8.3: what of the request was not done. The parts of a warning are those of RFC 7234 5.5."""
    return {"warning": ", ".join(f'299 {service_url} "{sentence}"' for sentence in sentences)} if sentences else {}


async def _all(first: bytes, results: SearchResults) -> AsyncIterator[bytes]:
    yield first
    while chunk := await in_thread(results.read):
        yield chunk
