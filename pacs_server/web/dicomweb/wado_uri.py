"""WADO-URI: one instance by query parameters, as a DICOM file or as browsers show it (PS3.18 9)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.lut import Window
from pacs_server.dicom.picture import GIF, JPEG, PICTURES, Appearance, Region
from pacs_server.errors import FrameNotFound, InvalidRequest, NotAcceptable, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.rendering import RenderingService
from pacs_server.web.accept import Accepted
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.documents import document_response, shown_type
from pacs_server.web.dicomweb.instance_parts import Opened, Opener, Planned
from pacs_server.web.dicomweb.media_types import DICOM
from pacs_server.web.dicomweb.ranges import ByteRange, byte_range, conditions
from pacs_server.web.dicomweb.rendering_parameters import MOST_PIXELS, number, whole_number, window_from
from pacs_server.web.dicomweb.viewing import Views, Workers, entity_tag, select
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse

_UIDS: Final = {"study": "studyUID", "series": "seriesUID", "instance": "objectUID"}


class WADOURI:
    """Answers requests of WADO-URI."""

    def __init__(
        self, services: WebServices, rendering: RenderingService, views: Views, workers: Workers, opener: Opener
    ) -> None:
        self._retrieve = services.retrieve
        self._rendering = rendering
        self._views = views
        self._workers = workers
        self._opener = opener

    def routes(self) -> list[Route]:
        """The resource."""
        return [Route("/wado", self.wado)]

    async def wado(self, request: Request) -> Response:
        """One instance, in the first of the media types of `contentType` in which it can be had."""
        given = request.query_params
        uids = {name: _needed(request, parameter) for name, parameter in _UIDS.items()}
        if _needed(request, "requestType") != "WADO":
            raise InvalidRequest("requestType is WADO")
        if given.get("anonymize", "no") != "no":
            raise InvalidRequest("this server does not de-identify: leave anonymize out")
        if "presentationUID" in given:
            raise InvalidRequest("this server does not apply presentation states: leave presentationUID out")
        appearance, window = _appearance_of(request), _window_of(request)
        instance = (await run_in_threadpool(select, self._retrieve, uids, caller_of(request)))[0]
        for media_type in _wanted(request, instance):
            if media_type == DICOM:
                return await self._file(request, instance)
            if media_type == shown_type(instance):
                takes = [Accepted(media_type)]
                return await document_response(request, self._retrieve, instance, takes, self._views.recorder(request))
            if media_type in PICTURES and shown_type(instance) is None:
                return await self._picture(request, instance, replace(appearance, media_type=media_type), window)
        raise NotAcceptable(f"contentType is {DICOM}, {shown_type(instance) or ', '.join(PICTURES)}")

    async def _picture(
        self,
        request: Request,
        instance: StoredInstance,
        appearance: Appearance,
        window: Window | None,
    ) -> Response:
        text = request.query_params.get("frameNumber")
        frame = None if text is None else whole_number("frameNumber", text, 999_999_999)
        tag = entity_tag(instance, "picture", frame, appearance, window)
        if (answer := conditions(request, {"etag": tag})) is not None:
            return answer
        record = self._views.recorder(request)

        def made() -> bytes:
            # PS3.18 9.5.2: a number that is too high is a bad request here.
            if frame is not None and frame > (count := self._rendering.frame_count(instance)):
                raise InvalidRequest(f"frameNumber is {frame}, the instance has {count} frames")
            record(instance)
            if appearance.media_type == GIF and frame is None:
                return self._rendering.animation(instance, appearance, window)
            return self._rendering.picture(instance, frame, appearance, window)

        try:
            data = await self._workers.run(made)
        except (FrameNotFound, TranscodeError) as error:
            raise NotAcceptable(f"the instance cannot be shown as a picture: {error}") from error
        return Response(data, headers={"etag": tag}, media_type=appearance.media_type)

    async def _file(self, request: Request, instance: StoredInstance) -> Response:
        """The instance as a DICOM file, in the transfer syntax of the parameter `transferSyntax`, else as it is."""
        # The Standard has UIDs only (PS3.18 9.4); the dicomweb-client of npm asks for * unless told otherwise.
        syntax = request.query_params.get("transferSyntax", "*").replace("*", instance.transfer_syntax_uid)
        headers = {"etag": entity_tag(instance, "file", syntax), "accept-ranges": "bytes"}
        if (answer := conditions(request, headers)) is not None:
            return answer
        planned = Planned(instance, syntax)
        run = run_in_threadpool if planned.is_stored_so else self._workers.run
        one = await run(self._opened, planned, self._views.recorder(request))
        part = byte_range(request, headers, one.file_size)
        if isinstance(part, Response):
            one.close()
            return part
        return _file(self._opener, one, part, headers)

    def _opened(self, planned: Planned, record: Callable[[StoredInstance], None]) -> Opened:
        one = self._opener.open(planned)
        try:
            record(planned.instance)
        except BaseException:
            one.close()
            raise
        return one


def _file(opener: Opener, one: Opened, part: ByteRange | None, headers: dict[str, str]) -> Response:
    """A DICOM file, or a part of it."""
    size = one.file_size
    told = headers | (part.headers(size) if part and size else {})
    length = part.stop - part.start if part else size
    body = opener.file(one, part)
    return PiecewiseResponse(body, DICOM, 206 if part else 200, told, length=length, close=one.close)


def _needed(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise InvalidRequest(f"the parameter {name} is missing")
    return value


def _wanted(request: Request, instance: StoredInstance) -> list[str]:
    """The media types of `contentType`, the best first; without it what suits the instance (PS3.18 8.7.4)."""
    text = request.query_params.get("contentType", "*/*")
    given = [each.partition(";")[0].strip().lower() for each in text.split(",")]
    wanted: list[str] = []
    for each in given:
        if each in ("*/*", ""):
            wanted += [shown_type(instance) or JPEG]
        elif each == "image/*":
            wanted += [JPEG]
        else:
            wanted.append(each)
    return wanted


def _appearance_of(request: Request) -> Appearance:
    given = request.query_params
    size = [whole_number(name, given[name], MOST_PIXELS) if name in given else None for name in ("columns", "rows")]
    quality = whole_number("imageQuality", given.get("imageQuality", "90"), 100)
    region = _region(given["region"]) if "region" in given else None
    return Appearance(width=size[0], height=size[1], region=region, quality=quality)


def _region(text: str) -> Region:
    """The left, upper, right and lower edge, as parts of width and height."""
    edges = [number("region", part) for part in text.split(",")]
    if len(edges) != 4 or not all(0 <= edge <= 1 for edge in edges) or edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise InvalidRequest("region is four numbers from 0 to 1: left, upper, right and lower edge")
    return Region(edges[0], edges[1], edges[2] - edges[0], edges[3] - edges[1], relative=True)


def _window_of(request: Request) -> Window | None:
    center, width = (request.query_params.get(name) for name in ("windowCenter", "windowWidth"))
    if center is None and width is None:
        return None
    if center is None or width is None:
        raise InvalidRequest("windowCenter and windowWidth are given together")
    return window_from(center, width, "LINEAR")
