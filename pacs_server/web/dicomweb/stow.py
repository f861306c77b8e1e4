"""STOW-RS: instances are stored (PS3.18 10.5)."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.dicom.native_xml import native_model
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidRequest, UnsupportedMediaType
from pacs_server.kit.media_types import media_type_of
from pacs_server.kit.multipart import MalformedMultipart, MultipartSplitter
from pacs_server.kit.recently import Recently
from pacs_server.services.access import require
from pacs_server.web.accept import choose
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.media_types import DICOM, JSON, PLAIN_JSON, XML
from pacs_server.web.dicomweb.resources import BASE, STUDIES, STUDY, url_of_instance, url_of_study
from pacs_server.web.dicomweb.store_report import StoreReport
from pacs_server.web.dicomweb.storing import Storing
from pacs_server.web.dicomweb.storing_metadata import MetadataStoring
from pacs_server.web.services import WebServices
from pacs_server.web.status import again_after
from pacs_server.web.threads import Threads
from pacs_server.web.uploads import consume
from pacs_server.web.urls import base_url

ANSWERS: Final = (JSON, PLAIN_JSON, XML)
# Many clients send each instance in a request of its own. The audit trail waits for the disk once in so many seconds
# for each study and client, as it does once for each association.
_SECONDS: Final = 60.0
_MOST_SOURCES: Final = 10_000

Take = Callable[[Storing, Iterator[bytes]], None]


class STOW:
    """Answers Store transactions."""

    def __init__(self, services: WebServices) -> None:
        self._services = services
        # A thread waits for its client, so these are none of the threads on which answers depend.
        self._threads = Threads(services.config().web.max_connections)
        self._recent = Recently(_SECONDS, _MOST_SOURCES)

    def routes(self) -> list[Route]:
        """The resources."""
        return [
            Route(STUDIES, self.store_instances, methods=["POST"]),
            Route(STUDY, self.store_instances, methods=["POST"]),
        ]

    async def store_instances(self, request: Request) -> Response:
        """Store the instances of the body, and say what became of each."""
        caller = caller_of(request)
        require(caller, Role.CONTRIBUTOR)
        answer = choose(request, ANSWERS)
        study = request.path_params.get("study")
        if study is not None and not is_uid(study):
            raise InvalidRequest("the study of the URL is no UID")
        take = _taker(request)
        storing = Storing(self._services, caller, study, self._recent)
        self._threads.most = self._services.config().web.max_connections
        report = await consume(request, lambda pieces: storing.run(lambda each: take(each, pieces)), self._threads)
        if report.is_empty:
            raise InvalidRequest(report.broken or "the body holds no instance")
        return self._answer(request, report, answer)

    def _answer(self, request: Request, report: StoreReport, media_type: str) -> Response:
        base = base_url(request, self._services.config().web)
        module = report.module(partial(url_of_study, base), partial(url_of_instance, base))
        text = native_model(module) if media_type == XML else json.dumps(module)
        # With the argument media_type it would name a charset, which these media types do not have.
        headers = {"content-type": media_type, **again_after(report.status)}
        if report.failed:
            # The module has no place for words (PS3.18 8.3); who sends one instance at a time is told all.
            headers["warning"] = f'299 {base}{BASE} "{_plain(str(report.failed[0].error))}"'
        return Response(text, report.status, headers)


def _plain(sentence: str) -> str:
    """A sentence as it may stand in quotes in a header."""
    return "".join(each if " " <= each <= "~" and each not in '"\\' else "'" for each in sentence)


def _taker(request: Request) -> Take:
    """How the body is to be taken, by its headers. Raises UnsupportedMediaType, InvalidRequest."""
    media_type, parameters = media_type_of(request.headers.get("content-type", ""))
    if media_type != "multipart/related":
        return _single(media_type, parameters.get("transfer-syntax", ""))
    boundary = parameters.get("boundary", "")
    try:
        MultipartSplitter(boundary)
    except MalformedMultipart as error:
        raise InvalidRequest(str(error)) from error
    root = parameters.get("type", DICOM).lower()
    if root == DICOM:
        return lambda storing, pieces: storing.files(pieces, boundary)
    if root in (JSON, XML):
        return lambda storing, pieces: MetadataStoring(storing).body(pieces, boundary, root)
    raise UnsupportedMediaType(f"parts of type {root[:60]} are not taken")


def _single(media_type: str, transfer_syntax_uid: str) -> Take:
    """How a body is to be taken that is no multipart: one DICOM file, or metadata without bulk data."""
    if media_type == DICOM:
        return lambda storing, pieces: storing.file(pieces, transfer_syntax_uid)
    if media_type in (JSON, XML):
        return lambda storing, pieces: MetadataStoring(storing).metadata(pieces, media_type)
    taken = ", ".join(("multipart/related", DICOM, JSON, XML))
    raise UnsupportedMediaType(f"a body is one of {taken}, and this is {media_type[:60] or 'none of them'}")
