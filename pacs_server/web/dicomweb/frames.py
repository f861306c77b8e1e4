"""Frames of an instance (PS3.18 10.4.1.1.5): as they are stored, or in a transfer syntax that the client accepts."""

from collections.abc import AsyncIterator, Sequence
from itertools import chain
from typing import Final, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pacs_server.dicom.caller import Caller
from pacs_server.errors import InvalidRequest, NotAcceptable, TranscodeError
from pacs_server.services.frames import FrameService, OpenFrames
from pacs_server.web.accept import Accepted, accepted
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.negotiation import Form, forms
from pacs_server.web.dicomweb.ranges import conditions
from pacs_server.web.dicomweb.resources import FRAMES
from pacs_server.web.dicomweb.viewing import Views, Workers, entity_tag, select
from pacs_server.web.services import WebServices
from pacs_server.web.streams import PIECE, PiecewiseResponse, pieces_of
from pacs_server.web.threads import in_thread

# Frames of so many bytes together are read at once by the thread that has found them.
_SMALL: Final = 4 * PIECE
# So many bytes are rather copied than sent by themselves.
_SHORT: Final = 64 * 1024
# Of more frames than these the places are not looked up before the answer begins.
_MANY: Final = 64

_Ranges = list[tuple[int, int]]


class Frames:
    """Answers retrievals of frames."""

    def __init__(self, services: WebServices, frames: FrameService, views: Views, workers: Workers) -> None:
        self._retrieve = services.retrieve
        self._frames = frames
        self._views = views
        self._workers = workers

    def routes(self) -> list[Route]:
        """The resources."""
        return [Route(FRAMES, self.frames)]

    async def frames(self, request: Request) -> Response:
        """The frames of a list such as 1,2,7, in its order."""
        numbers = frame_numbers(request.path_params["frames"])
        found = await in_thread(self._find, request, numbers, accepted(request), caller_of(request))
        if isinstance(found, Response):
            return found
        if found.parts is None:
            try:
                await self._workers.run(found.make_first)
            except BaseException:
                found.frames.close()
                raise
        return PiecewiseResponse(
            self._body(found), found.content_type, headers=found.headers, length=found.length, close=found.frames.close
        )

    def _find(
        self, request: Request, numbers: list[int], takes: Sequence[Accepted], caller: Caller
    ) -> "_Found | Response":
        """The frames; the answer itself if nothing has to be waited for any more."""
        instance = select(self._retrieve, request.path_params, caller)[0]
        tag = entity_tag(instance, numbers, [(a.media_type, a.multipart, a.transfer_syntax, a.quality) for a in takes])
        if (answer := conditions(request, {"etag": tag, "vary": "accept"})) is not None:
            return answer
        frames = self._frames.open(instance)
        try:
            for number in numbers:
                frames.map.check(number)
            found = _Found(frames, numbers, takes, tag)
            self._views.recorder(request)(instance)
        except BaseException:
            frames.close()
            raise
        if (pieces := found.whole()) is None:
            return found
        frames.close()
        return _WholeResponse(pieces, found)

    async def _body(self, found: "_Found") -> AsyncIterator[bytes]:
        """The answer in pieces. What is short goes together, as each piece costs a call of the kernel."""
        rest = b""
        for index, number in enumerate(found.numbers):
            rest += found.head(index)
            part = None if found.parts is None else found.parts[index]
            if part is None:
                part = found.first if index == 0 else await self._workers.run(found.made, number)
            if isinstance(part, bytes) and len(rest) + len(part) <= _SHORT:
                rest += part
                continue
            if rest:
                yield rest
                rest = b""
            if isinstance(part, bytes):
                for start in range(0, len(part), _SMALL):
                    yield part[start : start + _SMALL]
                continue
            ranges = part or await in_thread(found.ranges, number)
            async for piece in pieces_of(found.frames.source, ranges):
                yield piece
        if rest or found.tail:
            yield rest + found.tail


class _Found:
    """The frames that are going to be sent, and in which form.

    `parts` are for each frame its bytes, or where they lie, or nothing if that is not looked up yet; None if
    all frames have to be made. Then `first` is the first one, once it was made.
    """

    def __init__(self, frames: OpenFrames, numbers: list[int], takes: Sequence[Accepted], tag: str) -> None:
        self.frames = frames
        self.numbers = numbers
        self.tag = tag
        self.first = b""
        single, wanted = len(numbers) == 1, forms(takes, frames.transfer_syntax_uid)
        # The best one, and the others, which are looked for only if it cannot be had.
        self._following = (form for form in wanted if single or form.multipart is not False)
        form = next(self._following, None)
        if form is None:
            raise NotAcceptable(_cannot(frames, numbers))
        self.form = form
        self.parts = self._stored() if self._is_stored(self.form) else None

    def _is_stored(self, form: Form) -> bool:
        """Whether the stored bytes are sent as they lie there."""
        return form.transfer_syntax_uid == self.frames.transfer_syntax_uid and self.frames.map.is_aligned

    def _stored(self) -> list[_Ranges | bytes]:
        if len(self.numbers) > _MANY:
            return [[]] * len(self.numbers)
        parts = [self.ranges(number) for number in self.numbers]
        if sum(length for ranges in parts for _, length in ranges) > _SMALL:
            return list(parts)
        read = self.frames.source.read
        return [b"".join(read(start, length) for start, length in ranges) for ranges in parts]

    def whole(self) -> tuple[bytes, ...] | None:
        """The pieces of the answer if all of them are there."""
        if self.parts is None or not all(isinstance(part, bytes) for part in self.parts):
            return None
        pieces = [piece for index, part in enumerate(self.parts) for piece in (self.head(index), part)]
        return (*cast(list[bytes], pieces), self.tail)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer, besides those of its content."""
        return {"etag": self.tag, "vary": "accept"}

    def ranges(self, number: int) -> _Ranges:
        """Where a frame lies."""
        return self.frames.ranges(number) or []

    def make_first(self) -> None:
        """Make the first frame, in the first form that is possible. Raises NotAcceptable."""
        reason = ""
        for form in chain((self.form,), self._following):
            self.form = form
            try:
                self.first = self.made(self.numbers[0])
                return
            except TranscodeError as error:
                reason = reason or str(error)
        raise NotAcceptable(f"{_cannot(self.frames, self.numbers)}: {reason}")

    def made(self, number: int) -> bytes:
        """One frame in the chosen form."""
        return self.frames.transcoded(number, self.form.transfer_syntax_uid)

    # ---------------------------------------------------------------- the envelope (PS3.18 8.6.1.2)

    @property
    def content_type(self) -> str:
        """The Content-Type of the answer."""
        form = self.form
        if form.multipart is False:
            return form.content_type
        syntax = f"transfer-syntax={form.transfer_syntax_uid}"
        return f'multipart/related; type="{form.media_type}"; {syntax}; boundary={self._boundary}'

    @property
    def _boundary(self) -> str:
        return f"frame-{self.tag[1:-1]}"

    def head(self, index: int) -> bytes:
        """What comes before a frame."""
        if self.form.multipart is False:
            return b""
        lines = f"--{self._boundary}\r\nContent-Type: {self.form.content_type}\r\n\r\n"
        return (f"\r\n{lines}" if index else lines).encode("ascii")

    @property
    def tail(self) -> bytes:
        """What comes after the last frame."""
        return b"" if self.form.multipart is False else f"\r\n--{self._boundary}--\r\n".encode("ascii")

    @property
    def length(self) -> int | None:
        """The length of the answer in bytes; None if it is not known before all frames were looked at."""
        count = len(self.numbers)
        envelope = len(self.head(0)) + (count - 1) * len(self.head(1)) + len(self.tail)
        if self.parts is None:
            return envelope + len(self.first) if count == 1 else None
        if not all(self.parts):
            return None
        lengths = (len(part) if isinstance(part, bytes) else sum(n for _, n in part) for part in self.parts)
        return envelope + sum(lengths)


class _WholeResponse(PiecewiseResponse):
    """An answer with frames that are all in memory: they go out with the head, and with one call of the kernel."""

    def __init__(self, pieces: tuple[bytes, ...], found: _Found) -> None:
        super().__init__(_nothing(), found.content_type, headers=found.headers, length=sum(map(len, pieces)))
        self._whole = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._whole, "more_body": False})


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def frame_numbers(text: str) -> list[int]:
    """The numbers of a frame list (PS3.18 10.4.1.1.5); raises InvalidRequest."""
    numbers = text.split(",")
    if not all(number.isdecimal() and number.isascii() and len(number) < 10 for number in numbers):
        raise InvalidRequest("a list of frames is numbers with commas between them, such as 1,2,7")
    return [int(number) for number in numbers]


def _cannot(frames: OpenFrames, numbers: list[int]) -> str:
    several = " in multipart/related" if len(numbers) > 1 else ""
    return (
        f"the frames, whose transfer syntax is {frames.transfer_syntax_uid}, cannot be had{several}"
        " in any form that the header Accept names"
    )
