"""Server-Sent Events: what happens reaches those who listen."""

import asyncio
import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from restapi import LIMITED, RestAPI
from starlette.responses import Response
from worklists import numbered

from pacs_server.config.rights import Rights
from pacs_server.dicom.caller import Role
from pacs_server.dicom.scope import Scope
from pacs_server.errors import NotAuthorised, ResourceLimitation
from pacs_server.index.changes import ChangeKind
from pacs_server.index.feed import Change
from pacs_server.services import events as hub
from pacs_server.services.sessions import Session
from pacs_server.web.api import events as web
from pacs_server.web.credentials import CookieNames
from pacs_server.web.middleware import Gate
from pacs_server.web.oidc import Provider
from pacs_server.web.passwords import Passwords
from pacs_server.web.policy import SESSION, Policy

Told = list[tuple[str, dict[str, Any]]]


class Stream:
    """One client of the stream; the application runs in a thread of its own, as under a server."""

    def __init__(self, api: RestAPI, last_event_id: str | None = None, **shown: str) -> None:
        self._got = threading.Condition()
        self.data = b""
        self.status = 0
        self.ended = False
        headers = [(b"host", b"127.0.0.1:8080")]
        headers += [(b"last-event-id", last_event_id.encode())] if last_event_id else []
        headers += [(name.encode(), value.encode()) for name, value in shown.items()]
        self._scope = {
            "type": "http", "method": "GET", "path": "/api/v1/events", "raw_path": b"/api/v1/events",
            "query_string": b"", "headers": headers, "scheme": "http", "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 1), "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        self._gone: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(api)))
        self._thread.start()
        self.wait(b"retry")

    async def _run(self, api: RestAPI) -> None:
        self._loop, self._gone = asyncio.get_running_loop(), asyncio.Event()
        gone = self._gone

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            with self._got:
                self.status = message.get("status", self.status)
                self.data += message.get("body", b"")
                self._got.notify_all()

        await api.client.app(self._scope, receive, send)  # type: ignore[arg-type]
        with self._got:
            self.ended = True
            self._got.notify_all()

    def wait(self, what: bytes) -> None:
        """Wait until that has come."""
        with self._got:
            assert self._got.wait_for(lambda: what in self.data, 30), self.data

    def wait_for_end(self) -> None:
        """Wait until the server has ended the stream."""
        with self._got:
            assert self._got.wait_for(lambda: self.ended, 30)
        self._thread.join(60)

    def leave(self) -> None:
        """Go away, as a client does that closes its page."""
        assert self._loop is not None
        assert self._gone is not None
        self._loop.call_soon_threadsafe(self._gone.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def told(self) -> Told:
        """The events that have come whole: name and data."""
        found = []
        for block in self.data.decode().split("\n\n"):
            fields = dict(line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(":"))
            if "event" in fields:
                found.append((fields["event"], json.loads(fields["data"])))
        return found

    def last_id(self) -> str:
        """The id of the last event."""
        return self.data.decode().rpartition("id: ")[2].partition("\n")[0]


def test_arrivals_worklist_items_and_deletions_are_told(api: RestAPI) -> None:
    stream = Stream(api)
    # The first listener makes the feed keep changes; from then on nothing is missed.
    instances = api.study(1, 2)
    stream.wait(b"ARRIVED")
    api.archive.worklist.put([numbered(1)])
    stream.wait(b"WORKLIST")
    api.send("POST", "/trash", {"level": "study", "uid": instances[0].StudyInstanceUID, "reason": "why"}, 201)
    stream.wait(b"DELETED")
    told = stream.told()
    arrived = [data for name, data in told if name == "ARRIVED"]
    assert sum(data["instances"] for data in arrived) == 2
    assert {data["study_instance_uid"] for data in arrived} == {instances[0].StudyInstanceUID}
    assert [data["number"] for name, data in told if name == "WORKLIST"] == [1]
    stream.leave()


def test_marks_are_told_to_those_who_see_the_study(api: RestAPI) -> None:
    (hidden,), (seen,) = api.study(PatientID="P1"), api.study(PatientID="P2", Modality="MR")
    api.act_as(Role.READER, LIMITED)
    limited = Stream(api)
    api.act_as(Role.ADMINISTRATOR)
    other = Stream(api)
    for uid in (hidden.StudyInstanceUID, seen.StudyInstanceUID):
        api.send("POST", f"/studies/{uid}/marks", {"add_labels": ["night"], "reading": "read"})
    for stream in (limited, other):
        stream.wait(seen.StudyInstanceUID.encode())
    (told,) = limited.told()
    assert (told[0], told[1]["study_instance_uid"]) == ("MARKED", seen.StudyInstanceUID)
    assert told[1]["detail"] == "label night, reading read"
    assert [name for name, _ in other.told()] == ["MARKED", "MARKED"]
    limited.leave()
    other.leave()


def test_who_comes_back_gets_what_was_missed(api: RestAPI) -> None:
    stream, other = Stream(api), Stream(api)
    api.study(PatientID="P1")
    stream.wait(b"ARRIVED")
    last = stream.last_id()
    stream.leave()
    api.archive.worklist.put([numbered(1)])
    other.wait(b"WORKLIST")
    back = Stream(api, last)
    back.wait(b"WORKLIST")
    assert [name for name, _ in back.told()] == ["WORKLIST"]
    back.leave()
    other.leave()


def test_who_missed_too_much_is_told_so(api: RestAPI) -> None:
    stream = Stream(api, "cafe-7")
    stream.wait(b"event: reset")
    stream.leave()


def test_streams_end_when_the_server_stops(api: RestAPI) -> None:
    stream = Stream(api)
    api.events.stop()
    stream.wait_for_end()
    assert "too many" in api.send("GET", "/events", status=503)["detail"]


def test_the_cursor_goes_with_the_last_listener(api: RestAPI) -> None:
    api.events._linger = 0.0
    stream = Stream(api)
    api.study()
    stream.wait(b"ARRIVED")
    assert api.archive.feed.gauges()
    thread = api.events._thread
    assert thread is not None
    stream.leave()
    api.archive.feed.wake()
    thread.join(60)
    assert not thread.is_alive()
    assert api.archive.feed.gauges() == {}


def test_without_a_thread_nobody_listens_in_vain(api: RestAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ResourceLimitation):
            api.events.listen(lambda events: None, "ann")
    stream = Stream(api)
    api.study()
    stream.wait(b"ARRIVED")
    stream.leave()


def test_listeners_are_bounded(api: RestAPI) -> None:
    listeners = [api.events.listen(lambda events: None, number) for number in range(hub.MOST_LISTENERS)]
    answer = api.client.get("/api/v1/events")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    for listener in listeners:
        api.events.leave(listener)


def test_one_caller_does_not_take_all_places(api: RestAPI) -> None:
    streams = [Stream(api) for _ in range(hub.MOST_OF_ONE)]
    answer = api.client.get("/api/v1/events")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert "5 times already" in answer.json()["detail"]
    for other in (replace(api.caller, user="bob"), replace(api.caller, address="10.0.0.10")):
        api.identified = other
        streams.append(Stream(api))
    streams[0].leave()
    api.identified = None
    streams[0] = Stream(api)
    for stream in streams:
        stream.leave()


def test_a_client_that_does_not_read_is_cut_off(api: RestAPI) -> None:
    async def fill() -> list[object]:
        inbox = web._Inbox()
        for number in range(web._MOST_WAITING + 5):
            inbox.deliver([number])  # type: ignore[list-item]
        await asyncio.sleep(0)
        got = []
        while (events := await inbox.next(1)) is not None:
            got.append(events)
        return got

    assert len(asyncio.run(fill())) == web._MOST_WAITING


def test_asking_for_the_head_of_a_stream_does_not_listen(api: RestAPI) -> None:
    answer = api.client.head("/api/v1/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert not api.events._listeners


def test_a_quiet_stream_has_a_heartbeat(api: RestAPI, monkeypatch: Any) -> None:
    monkeypatch.setattr(web, "_HEARTBEAT_SECONDS", 0.01)
    stream = Stream(api)
    stream.wait(b":\n\n")
    stream.leave()


def test_ids_of_events_tell_no_number(api: RestAPI) -> None:
    changes = [Change(ChangeKind.WORKLIST, datetime(2026, 1, 5, tzinfo=UTC), number=number) for number in range(3)]
    first, second = ([event.id for event in hub._named(hub.events_of(changes))] for _ in range(2))
    assert len({*first, *second}) == 6
    assert {len(each) for each in first} == {16}


def test_limited_callers_hear_only_of_what_they_see(api: RestAPI) -> None:
    api.act_as(Role.READER, LIMITED)
    limited = Stream(api)
    api.act_as(Role.ADMINISTRATOR)
    other = Stream(api)
    api.study(1, 2, PatientID="P1")
    api.archive.worklist.put([numbered(1)])
    (own,) = api.study(PatientID="P2", Modality="MR")
    limited.wait(b"ARRIVED")
    other.wait(own.SeriesInstanceUID.encode())
    (told,) = limited.told()
    assert told[0] == "ARRIVED"
    assert told[1]["series_instance_uid"] == own.SeriesInstanceUID
    assert (told[1]["instances"], told[1]["sop_instance_uid"]) == (0, "")
    limited.leave()
    other.leave()


@pytest.mark.parametrize(
    "change",
    [
        {"role": Role.CONTRIBUTOR},
        {"scope": Scope(modalities=("MR",))},
        {"user": "bob"},
        Response(status_code=401),
        NotAuthorised("not any more"),
    ],
    ids=["role", "limits", "user", "unknown", "refused"],
)
def test_a_stream_ends_when_its_caller_would_not_be_let_in_so(
    api: RestAPI, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any] | Response | Exception
) -> None:
    monkeypatch.setattr(web, "_HEARTBEAT_SECONDS", 0.01)
    api.act_as(Role.READER)
    stream = Stream(api)
    stream.wait(b":\n\n:\n\n")
    api.identified = replace(api.caller, **change) if isinstance(change, dict) else change
    stream.wait_for_end()
    assert not api.events._listeners


def test_a_stream_ends_with_a_key_or_a_session(api: RestAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_HEARTBEAT_SECONDS", 0.01)
    services = api.services
    services.users.add("anna", "a long password", Rights("reader"))
    user = services.passwords.find(api.config.user_identity.users_path, "anna")
    assert user is not None
    key = services.keys.create("script", Rights("reader"), None)
    token = services.sessions.begin(Session("anna", Role.READER, Scope(), "password", user.stamp), "127.0.0.1")
    policy = Policy(services, Passwords(services.passwords), Provider())
    api.client.app = Gate(api.app, lambda: api.config.web, policy.identify)
    cookie = f"{CookieNames(services.sessions.archive_id(), secure=False).of(SESSION)}={token}"
    of_key, of_session = Stream(api, authorization=f"Bearer {key}"), Stream(api, cookie=cookie)
    of_key.wait(b":\n\n:\n\n")
    services.keys.revoke("script")
    of_key.wait_for_end()
    of_session.wait(b":\n\n:\n\n")
    assert not of_session.ended
    services.sessions.end(token)
    of_session.wait_for_end()


def test_what_happens_does_not_move_the_heartbeat(api: RestAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_HEARTBEAT_SECONDS", 0.2)
    api.act_as(Role.READER, LIMITED)
    stream = Stream(api)
    api.study(PatientID="P1")
    hidden = hub.events_of([Change(ChangeKind.WORKLIST, datetime(2026, 1, 5, tzinfo=UTC), number=1)])
    for _ in range(300):
        api.events._publish(hidden)
        if b":\n\n" in stream.data:
            break
        time.sleep(0.01)
    assert b":\n\n" in stream.data
    assert b"WORKLIST" not in stream.data
    stream.leave()
