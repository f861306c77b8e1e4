"""REST: what happens in the archive, as Server-Sent Events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pacs_server.dicom.attributes import UNIQUE_KEYS
from pacs_server.dicom.caller import Role
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import Scope as Limits
from pacs_server.index.changes import ChangeKind
from pacs_server.services.events import ARRIVALS, ArchiveEvent, Listener
from pacs_server.web.api.operation import Call, Operation
from pacs_server.web.services import WebServices

# So often something is sent, whatever happens meanwhile, and only if the caller would still be let in.
_HEARTBEAT_SECONDS: Final = 15.0
# After that the client connects again.
_LONGEST_SECONDS: Final = 3600.0
# How many deliveries wait for a client that reads slowly, before it is cut off.
_MOST_WAITING: Final = 100
# So many series or studies are looked up by one query.
_ASKED_TOGETHER: Final = 100
_RESET: Final = b"event: reset\ndata: {}\n\n"
_DESCRIPTION: Final = (
    "A stream of `text/event-stream`. Each event is named by its kind (ARRIVED, REPLACED, RESTORED, DELETED, MERGED, "
    "REASSIGNED, WORKLIST, STEP, FINDING, MARKED), and its data is a JSON object with at, study_instance_uid, "
    "series_instance_uid, sop_instance_uid, instances, number and detail. With Last-Event-ID the stream goes on behind "
    "that event; an event named `reset` says that events are missing: read the lists again. A caller with limits hears "
    "only of arrivals in series that it sees, without the number of instances, and of marks of studies that it sees."
)


class Events:
    """The resource events."""

    def __init__(self, services: WebServices) -> None:
        self._hub = services.events
        self._listing = services.listing

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/events", name="listen_to_events", tag="events", role=Role.READER,
                summary="Listen to what happens in the archive.", description=_DESCRIPTION,
                media_type="text/event-stream", respond=self._respond,
            )
        ]  # fmt: skip

    async def _respond(self, call: Call[Any, None]) -> Response:
        inbox = _Inbox()
        who = (call.caller.user, call.caller.address)
        listener = await run_in_threadpool(self._hub.listen, inbox.deliver, who, call.last_event_id)
        # Proxies must not wait for more.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = self._stream(listener, inbox, call)
        return _EventStream(stream, headers=headers, media_type="text/event-stream")

    async def _stream(self, listener: Listener, inbox: "_Inbox", call: Call[Any, None]) -> AsyncIterator[bytes]:
        scope = call.caller.scope
        heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
        end = time.monotonic() + _LONGEST_SECONDS
        try:
            yield b"retry: 3000\n\n" + (_RESET if listener.missed is None else await self._told(listener.missed, scope))
            while time.monotonic() < end:
                if time.monotonic() >= heartbeat:
                    if not await call.is_caller_still():
                        return
                    yield b":\n\n"
                    heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
                # What a caller does not see leaves no trace: it does not move the heartbeat either.
                events = await inbox.next(heartbeat - time.monotonic())
                if events is None:
                    return
                if told := await self._told(events, scope):
                    yield told
        finally:
            self._hub.leave(listener)

    async def _told(self, events: Sequence[ArchiveEvent], scope: Limits) -> bytes:
        if events and scope.is_limited:
            events = await run_in_threadpool(self._seen, events, scope)
        return b"".join(map(_line, events))

    def _seen(self, events: Sequence[ArchiveEvent], scope: Limits) -> list[ArchiveEvent]:
        """What `scope` shows, without what it may hide: arrivals, but not how many came, and which; and marks."""
        arrivals = {event.series_instance_uid for event in events if event.kind in ARRIVALS}
        marked = {event.study_instance_uid for event in events if event.kind is ChangeKind.MARKED}
        series, studies = self._shown(Level.SERIES, arrivals, scope), self._shown(Level.STUDY, marked, scope)
        return [
            replace(event, instances=0, sop_instance_uid="")
            for event in events
            if (event.kind in ARRIVALS and event.series_instance_uid in series)
            or (event.kind is ChangeKind.MARKED and event.study_instance_uid in studies)
        ]

    def _shown(self, level: Level, wanted: Collection[str], scope: Limits) -> set[str]:
        key, uids = UNIQUE_KEYS[level], list(wanted)
        shown: set[str] = set()
        for start in range(0, len(uids), _ASKED_TOGETHER):
            some = uids[start : start + _ASKED_TOGETHER]
            query = self._listing.query(level, {key: "\\".join(some)}, (key,))
            page = self._listing.page(query, len(some) + _ASKED_TOGETHER, None, scope)
            shown |= {row.texts[key] for row in page.rows}
        return shown


class _EventStream(StreamingResponse):
    """A stream that ends as soon as its client is gone, who has a place for another one then."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for each in (sending, gone):
                each.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)


class _Inbox:
    """Events that wait to be sent to one client; filled by another thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[Sequence[ArchiveEvent] | None] = asyncio.Queue()

    def deliver(self, events: Sequence[ArchiveEvent] | None) -> None:
        """Put events into the queue, or end the stream if there are too many already; called by any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, events)
        except RuntimeError:
            return  # the loop is closed

    def _put(self, events: Sequence[ArchiveEvent] | None) -> None:
        self._waiting.put_nowait(events if self._waiting.qsize() < _MOST_WAITING else None)

    async def next(self, seconds: float) -> Sequence[ArchiveEvent] | None:
        """The next events, none if nothing comes in time, None at the end."""
        try:
            return await asyncio.wait_for(self._waiting.get(), seconds)
        except TimeoutError:
            return ()


def _line(event: ArchiveEvent) -> bytes:
    told = {
        "at": event.at.isoformat(),
        "study_instance_uid": event.study_instance_uid,
        "series_instance_uid": event.series_instance_uid,
        "sop_instance_uid": event.sop_instance_uid,
        "instances": event.instances,
        "number": event.number,
        "detail": event.detail,
    }
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(told)}\n\n".encode()
