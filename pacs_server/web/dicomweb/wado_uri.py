"""WADO-URI: one instance by query parameters, as a DICOM file or as browsers show it (PS3.18 9)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

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
from pacs_server.web.threads import in_thread

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
        asked = _Asked(request, uids, _appearance_of(request), _window_of(request))
        # What the client has already waits for no turn.
        answer = await in_thread(self._unchanged, asked) if "if-none-match" in request.headers else None
        if answer is not None:
            return answer
        # What is sent as it is stored need not wait for what has to be decoded.
        run = in_thread if asked.is_stored_file else self._workers.run
        found = await run(self._answer, asked)
        if isinstance(found, Response):
            return found
        takes = [Accepted(shown_type(found) or "")]
        return await document_response(request, self._retrieve, found, takes, self._views.recorder(request))

    def _found(self, asked: "_Asked") -> tuple[StoredInstance, str]:
        """The instance, and the media type in which it is sent."""
        instance = select(self._retrieve, asked.uids, caller_of(asked.request))[0]
        document = shown_type(instance)
        for media_type in _wanted(asked.request, instance):
            if media_type in (DICOM, document) or (media_type in PICTURES and document is None):
                return instance, media_type
        raise NotAcceptable(f"contentType is {DICOM}, {document or ', '.join(PICTURES)}")

    def _unchanged(self, asked: "_Asked") -> Response | None:
        headers = asked.headers(*self._found(asked))
        return conditions(asked.request, headers) if headers else None

    def _answer(self, asked: "_Asked") -> Response | StoredInstance:
        """The answer, or the instance if it is a document. One thread does all of it."""
        instance, media_type = self._found(asked)
        headers = asked.headers(instance, media_type)
        if not headers:
            return instance
        if (answer := conditions(asked.request, headers)) is not None:
            return answer
        if media_type == DICOM:
            return self._file(asked, instance, headers)
        try:
            data = self._picture(asked, instance, replace(asked.appearance, media_type=media_type))
        except (FrameNotFound, TranscodeError) as error:
            raise NotAcceptable(f"the instance cannot be shown as a picture: {error}") from error
        return Response(data, headers=headers, media_type=media_type)

    def _picture(self, asked: "_Asked", instance: StoredInstance, appearance: Appearance) -> bytes:
        # PS3.18 9.5.2: a number that is too high is a bad request here.
        frame = asked.frame
        if frame is not None and frame > (count := self._rendering.frame_count(instance)):
            raise InvalidRequest(f"frameNumber is {frame}, the instance has {count} frames")
        self._views.recorder(asked.request)(instance)
        if appearance.media_type == GIF and frame is None:
            return self._rendering.animation(instance, appearance, asked.window)
        return self._rendering.picture(instance, frame, appearance, asked.window)

    def _file(self, asked: "_Asked", instance: StoredInstance, headers: dict[str, str]) -> Response:
        """The instance as a DICOM file, in the transfer syntax of the parameter `transferSyntax`, else as it is."""
        one = self._opened(Planned(instance, asked.syntax(instance)), self._views.recorder(asked.request))
        try:
            part = byte_range(asked.request, headers, one.file_size)
        except BaseException:
            one.close()
            raise
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for."""

    request: Request
    uids: dict[str, str]
    appearance: Appearance
    window: Window | None

    @property
    def is_stored_file(self) -> bool:
        """Whether the stored bytes are asked for."""
        given = self.request.query_params
        return (
            given.get("contentType", "").strip().lower().startswith(DICOM) and given.get("transferSyntax", "*") == "*"
        )

    @property
    def frame(self) -> int | None:
        """The number of the frame, if the request names one."""
        text = self.request.query_params.get("frameNumber")
        return None if text is None else whole_number("frameNumber", text, 999_999_999)

    def syntax(self, instance: StoredInstance) -> str:
        """The transfer syntax of the file."""
        # The Standard has UIDs only (PS3.18 9.4); the dicomweb-client of npm asks for * unless told otherwise.
        given: str = self.request.query_params.get("transferSyntax", "*")
        return given.replace("*", instance.transfer_syntax_uid)

    def headers(self, instance: StoredInstance, media_type: str) -> dict[str, str]:
        """The headers of the answer; empty if it is a document."""
        if media_type == DICOM:
            return {"etag": entity_tag(instance, "file", self.syntax(instance)), "accept-ranges": "bytes"}
        if media_type not in PICTURES:
            return {}
        appearance = replace(self.appearance, media_type=media_type)
        return {"etag": entity_tag(instance, "picture", self.frame, appearance, self.window)}


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
