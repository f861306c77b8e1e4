"""Rendered resources and thumbnails of studies, series, instances and frames (PS3.18 8.3.5, 10.4.1.1.3, 10.4.1.1.6)."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.lut import Window
from pacs_server.dicom.picture import GIF, JPEG, PICTURES, PNG, Appearance
from pacs_server.errors import FrameNotFound, InvalidRequest, NotAcceptable, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.services.rendering import RenderingService
from pacs_server.web.accept import Accepted, accepted, not_acceptable
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.documents import document_response, shown_type
from pacs_server.web.dicomweb.frames import frame_numbers
from pacs_server.web.dicomweb.ranges import conditions
from pacs_server.web.dicomweb.rendering_parameters import appearance_of, ignored_annotations, window_of
from pacs_server.web.dicomweb.resources import BELOW_A_STUDY, FRAMES
from pacs_server.web.dicomweb.viewing import Views, Workers, entity_tag, select
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PiecewiseResponse
from pacs_server.web.threads import in_thread

T = TypeVar("T")
_THUMBNAIL: Final = 256
_MOST_FRAMES: Final = 1000


class Rendered:
    """Answers requests for pictures."""

    def __init__(self, services: WebServices, rendering: RenderingService, views: Views, workers: Workers) -> None:
        self._retrieve = services.retrieve
        self._rendering = rendering
        self._views = views
        self._workers = workers

    def routes(self) -> list[Route]:
        """The resources."""
        paths = (FRAMES, *BELOW_A_STUDY)
        return [
            *(Route(f"{path}/rendered", self.rendered) for path in paths),
            *(Route(f"{path}/thumbnail", self.thumbnail) for path in paths),
        ]

    async def rendered(self, request: Request) -> Response:
        """The picture of a frame, of an instance, or of one that stands for a series or study.

        In multipart/related there is one for each frame, or for each instance of a series or study.
        """
        appearance, takes, numbers = appearance_of(request), accepted(request), _numbers(request)
        asked = _Asked(request, takes, numbers, appearance, window_of(request), _chosen(takes))
        found = await self._picture_or_found(asked)
        if isinstance(found, Response):
            return found
        if asked.is_document(found):
            return await document_response(request, self._retrieve, found[0], takes, self._views.recorder(request))
        if asked.chosen is None:
            raise not_acceptable(PICTURES)
        if asked.chosen[1] is False:
            raise NotAcceptable("several frames can only be had in multipart/related")
        return await self._all(request, found, numbers, asked.picture, asked.window)

    async def thumbnail(self, request: Request) -> Response:
        """A small picture."""
        appearance = appearance_of(request)
        if appearance.width is None:
            appearance = replace(appearance, width=_THUMBNAIL, height=_THUMBNAIL)
        takes = accepted(request)
        chosen = _chosen(takes)
        if chosen is None:
            raise not_acceptable(PICTURES)
        numbers = _numbers(request)[:1]
        asked = _Asked(request, takes, numbers, appearance, None, (chosen[0], None), thumbnail=True)
        found = await self._picture_or_found(asked)
        assert isinstance(found, Response)
        return found

    async def _picture_or_found(self, asked: "_Asked") -> Response | list[StoredInstance]:
        """The answer if that is one picture, else the instances. One thread does all of it."""
        request = asked.request
        if "if-none-match" in request.headers and "instance" in request.path_params:
            # What the client has already waits for no turn.
            found = await in_thread(select, self._retrieve, request.path_params, caller_of(request))
            if asked.is_one(found) and (answer := conditions(request, asked.headers(found[0]))) is not None:
                return answer
        return await self._workers.run(self._picture_now, asked)

    def _picture_now(self, asked: "_Asked") -> Response | list[StoredInstance]:
        request = asked.request
        found = select(self._retrieve, request.path_params, caller_of(request))
        if not asked.is_one(found):
            return found
        whole = "instance" in request.path_params
        instance = found[0] if whole else self._rendering.representative(found)
        headers = asked.headers(instance)
        if (answer := conditions(request, headers)) is not None:
            return answer
        number, appearance, window = asked.number, asked.picture, asked.window
        animated = whole and number is None and appearance.media_type == GIF and not asked.thumbnail
        self._views.recorder(request)(instance)
        data = _or_not_acceptable(
            lambda: (
                self._rendering.animation(instance, appearance, window)
                if animated
                else self._rendering.picture(instance, number, appearance, window)
            )
        )
        return Response(data, headers=headers, media_type=appearance.media_type)

    async def _all(
        self,
        request: Request,
        found: list[StoredInstance],
        numbers: list[int],
        appearance: Appearance,
        window: Window | None,
    ) -> Response:
        """A picture of each frame, or of each instance, in multipart/related."""
        instance = found[0]
        tag = entity_tag(instance, numbers, appearance, window, [each.digest for each in found])
        if (answer := conditions(request, _headers(request, tag))) is not None:
            return answer
        wanted: list[tuple[StoredInstance, int | None]]
        if "instance" in request.path_params:
            count = await self._workers.run(_or_not_acceptable, lambda: self._rendering.frame_count(instance))
            wanted = [(instance, n) for n in numbers or range(1, count + 1)]
            if any(not 1 <= n <= count for n in numbers):
                raise FrameNotFound(f"the instance has {count} frames")
        else:
            wanted = [(each, None) for each in found]
        if len(wanted) > _MOST_FRAMES:
            raise InvalidRequest(f"more than {_MOST_FRAMES} pictures at a time cannot be had: ask for some of them")
        boundary = f"picture-{tag[1:-1]}"
        body = self._parts(wanted, appearance, window, boundary, self._views.recorder(request))
        kind = f'multipart/related; type="{appearance.media_type}"; boundary={boundary}'
        return PiecewiseResponse(body, kind, headers=_headers(request, tag))

    async def _parts(
        self,
        wanted: list[tuple[StoredInstance, int | None]],
        appearance: Appearance,
        window: Window | None,
        boundary: str,
        record: Callable[[StoredInstance], None],
    ) -> AsyncIterator[bytes]:
        for instance, number in wanted:

            def made(instance: StoredInstance = instance, number: int | None = number) -> bytes:
                picture = self._rendering.picture(instance, number, appearance, window)
                record(instance)
                return picture

            try:
                data = await self._workers.run(made)
            except (FrameNotFound, TranscodeError):
                if number is not None:
                    raise
                continue  # an instance of a series or study that shows nothing
            yield f"--{boundary}\r\nContent-Type: {appearance.media_type}\r\n\r\n".encode("ascii") + data + b"\r\n"
        yield f"--{boundary}--\r\n".encode("ascii")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks for; `chosen` is the media type, and whether the client wants parts."""

    request: Request
    takes: list[Accepted]
    numbers: list[int]
    appearance: Appearance
    window: Window | None
    chosen: tuple[str, bool | None] | None
    thumbnail: bool = False

    @property
    def number(self) -> int | None:
        """The number of the one frame, if the request names one."""
        return self.numbers[0] if self.numbers else None

    @property
    def picture(self) -> Appearance:
        """How the picture is to look."""
        assert self.chosen is not None
        return replace(self.appearance, media_type=self.chosen[0])

    def is_document(self, found: list[StoredInstance]) -> bool:
        """Whether that is no picture but a document (PS3.18 8.7.4)."""
        one = len(found) == 1 and "frames" not in self.request.path_params and not self.thumbnail
        return one and shown_type(found[0]) is not None

    def is_one(self, found: list[StoredInstance]) -> bool:
        """Whether the answer is one picture by itself."""
        single = self.chosen is not None and not self.chosen[1] and len(self.numbers) <= 1
        return single and not self.is_document(found)

    def headers(self, instance: StoredInstance) -> dict[str, str]:
        """The headers of the one picture."""
        tag = entity_tag(instance, self.number, self.picture, self.window, not self.thumbnail)
        return _headers(self.request, tag)


def _chosen(takes: list[Accepted]) -> tuple[str, bool | None] | None:
    """The media type of pictures that the client likes best, and whether it wants parts. JPEG is the default."""
    for each in takes:
        media_type = next((kind for kind in (JPEG, PNG, GIF) if each.takes(kind)), None)
        if media_type is not None:
            return media_type, each.multipart
    return None


def _numbers(request: Request) -> list[int]:
    text = request.path_params.get("frames")
    return frame_numbers(text) if text else []


def _headers(request: Request, tag: str) -> dict[str, str]:
    headers = {"etag": tag, "vary": "accept"}
    if ignored := ignored_annotations(request):
        headers["warning"] = f'299 - "The following annotation values are not supported: {ignored}"'
    return headers


def _or_not_acceptable(made: Callable[[], T]) -> T:
    """What `made` returns; what cannot be shown is not acceptable, and says why."""
    try:
        return made()
    except TranscodeError as error:
        raise NotAcceptable(f"the instance cannot be shown as a picture: {error}") from error
