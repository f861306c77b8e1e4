"""What DICOMweb remotes may answer: odd, wrong, late, without end, or with the wish to be asked later."""

import json
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from datasets import make_ct
from httppeers import HTTPPeer, Request, Script, answer, http_peer
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import JPEG2000Lossless
from servers import CT, EXPLICIT, IMPLICIT
from webclients import part10

from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import InvalidInstance, RemoteBusy, RemoteError, RemoteUnreachable, StorageFull
from pacs_server.kit.media_types import media_type_of
from pacs_server.kit.multipart import parts
from pacs_server.scu.dicomweb import client as client_module
from pacs_server.scu.dicomweb.client import DICOMwebClient
from pacs_server.scu.dicomweb.qido import Search, find, probe
from pacs_server.scu.dicomweb.remote import ClientCredentials, DICOMwebRemote, SecretHeader
from pacs_server.scu.dicomweb.sender import DICOMwebSender
from pacs_server.scu.dicomweb.wado import Retrieved, retrieve
from pacs_server.scu.sending import Answer, Outgoing

JSON = "application/dicom+json"


def instance(sop: str = "1.4") -> Outgoing:
    file = part10(make_ct(sop=sop, study="1.2", series="1.3"))
    data = file[file.index(b"\x08\0\x05\0CS") :]
    return Outgoing(InstanceUIDs("1.2", "1.3", sop), CT, EXPLICIT, lambda: data)


def call(peer: HTTPPeer, **remote: Any) -> DICOMwebClient:
    return DICOMwebClient.of(DICOMwebRemote("there", peer.url, **{"response_timeout": 5.0, **remote}))


def send(script: Script, *instances: Outgoing, **remote: Any) -> list[Answer]:
    with http_peer(script) as peer, call(peer, **remote) as client:
        sender = DICOMwebSender(client, lambda: None)
        return list(sender.send_all(instances or [instance()]))


def studies(*uids: str) -> bytes:
    return json.dumps([{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()


def found(script: Script, *, page: int = 2, **remote: Any) -> list[str]:
    with http_peer(script) as peer, call(peer, **remote) as client:
        return [match["0020000D"]["Value"][0] for match in find(client, Search(Level.STUDY), page=page)]


def stored_answer(**sequences: list[dict[str, Any]]) -> bytes:
    tags = {"failed": "00081198", "stored": "00081199", "others": "0008119A"}
    return json.dumps({tags[name]: {"vr": "SQ", "Value": items} for name, items in sequences.items()}).encode()


def item(sop: str = "", *, warning: int = 0, failure: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [sop]}} if sop else {}
    if warning:
        made["00081196"] = {"vr": "US", "Value": [warning]}
    if failure:
        made["00081197"] = {"vr": "US", "Value": [failure]}
    return made


# ------------------------------------------------------------------------------------ storing


def test_the_body_is_what_the_standard_says_and_the_api_key_goes_with_it() -> None:
    taken: list[Request] = []

    def script(request: Request) -> bytes:
        taken.append(request)
        return answer(body=stored_answer(stored=[item("1.4"), item("1.5")]), content_type=JSON)

    key = SecretHeader("X-API-Key", "tell nobody")
    answers = send(script, instance(), instance("1.5"), auth=key)
    assert [each.status for each in answers] == [0, 0]
    (request,) = taken
    assert (request.method, request.target) == ("POST", "/dicom-web/studies")
    assert request.headers["x-api-key"] == "tell nobody"
    assert "transfer-encoding" not in request.headers
    media_type, parameters = media_type_of(request.headers["content-type"])
    assert (media_type, parameters["type"]) == ("multipart/related", "application/dicom")
    files = [(part.headers["content-type"], b"".join(part)) for part in parts([request.body], parameters["boundary"])]
    assert [kind for kind, _ in files] == ["application/dicom"] * 2
    assert [dcmread(DicomBytesIO(file)).SOPInstanceUID for _, file in files] == ["1.4", "1.5"]
    # Who sent the instance, and from where, is nobody's business.
    assert all("SourceApplicationEntityTitle" not in dcmread(DicomBytesIO(file)).file_meta for _, file in files)


def test_what_the_remote_does_not_take_is_transcoded() -> None:
    taken: list[Request] = []

    def script(request: Request) -> bytes:
        taken.append(request)
        return answer(body=stored_answer(stored=[item("1.4")]), content_type=JSON)

    assert send(script, transfer_syntaxes=(IMPLICIT,))[0].status == 0
    _, parameters = media_type_of(taken[0].headers["content-type"])
    (file,) = (b"".join(part) for part in parts([taken[0].body], parameters["boundary"]))
    assert dcmread(DicomBytesIO(file)).file_meta.TransferSyntaxUID == IMPLICIT
    refused = send(script, transfer_syntaxes=(JPEG2000Lossless,))
    assert (refused[0].is_success, refused[0].permanent) == (False, True)


XML = (
    b'<?xml version="1.0"?><NativeDicomModel>'
    b'<DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">'
    b'<DicomAttribute tag="00081155" vr="UI"><Value number="1">1.4</Value></DicomAttribute>'
    b'<DicomAttribute tag="00081197" vr="US"><Value number="1">43264</Value></DicomAttribute>'
    b"</Item></DicomAttribute></NativeDicomModel>"
)
HELD = json.dumps([{"00080018": {"vr": "UI", "Value": ["1.4"]}}]).encode()
ROOM, CLASS = {"status": 0xA700, "permanent": False}, {"status": 0xA900, "permanent": True}


@pytest.mark.parametrize(
    ("status", "kind", "body", "expected"),
    [
        ("200 OK", JSON, stored_answer(stored=[item("1.4")]), {"status": 0}),
        ("202 Accepted", JSON, stored_answer(stored=[item("1.4", warning=0xB007)]), {"status": 0xB007}),
        ("202 Accepted", JSON, stored_answer(stored=[item("1.4", warning=0x0111)]), {"status": 0xB000}),
        ("202 Accepted", JSON, stored_answer(failed=[item("1.4", failure=0xA700)]), ROOM),
        ("200 OK", JSON, stored_answer(failed=[item("1.4", failure=0xA700)]), ROOM),
        ("409 Conflict", JSON, stored_answer(failed=[item("1.4", failure=0xA900)]), CLASS),
        ("409 Conflict", "application/dicom+xml", XML, {"status": 0xA900, "permanent": True}),
        ("409 Conflict", JSON, stored_answer(others=[item(failure=0xC000)]), {"status": 0xC000, "permanent": True}),
        ("409 Conflict", JSON, stored_answer(failed=[item("1.4", failure=0x0122)]), {"permanent": True}),
        ("503 Service Unavailable", JSON, stored_answer(failed=[item("1.4", failure=0xA701)]), {"status": 0xA701}),
        ("409 Conflict", "", b"", {"status": 0x0110, "permanent": True}),
        ("400 Bad Request", "text/html", b"<html>", {"status": 0x0110, "permanent": True}),
        ("413 Content Too Large", "", b"", {"permanent": True}),
        ("408 Request Timeout", "", b"", {"permanent": False}),
        ("500 Internal Server Error", "", b"", {"status": 0x0110, "permanent": False}),
        ("507 Insufficient Storage", "", b"", ROOM),
        ("400 Bad Request", JSON, b'{"00081198":{"vr":"SQ","Value":[7]}}', {"permanent": True}),
        ("400 Bad Request", "application/dicom+xml", b"<!DOCTYPE a><a/>", {"permanent": True}),
    ],
)
def test_what_is_answered_to_a_store_request(status: str, kind: str, body: bytes, expected: dict[str, Any]) -> None:
    headers = {"content_type": kind} if kind else {}
    (told,) = send(lambda request: answer(status, body, **headers))
    assert {name: getattr(told, name) for name in expected} == expected
    assert told.is_success == (told.status == 0 or told.status >> 12 == 0xB)
    assert told.association.startswith("POST http://127.0.0.1:")


@pytest.mark.parametrize(
    ("status", "search", "expected"),
    [
        ("200 OK", answer(body=HELD), 0),
        ("202 Accepted", answer(body=HELD), 0xB000),
        # It says that all is well, and does not have it.
        ("200 OK", answer(body=b"[]"), 0x0110),
        ("202 Accepted", answer(body=b"[]"), 0x0110),
        # It does not search; then 200 says that the instance was stored, and 202 says nothing.
        ("200 OK", answer("405 Method Not Allowed"), 0),
        ("202 Accepted", answer("405 Method Not Allowed"), 0x0110),
    ],
)
def test_an_empty_answer_is_no_proof_if_the_remote_can_be_asked(status: str, search: bytes, expected: int) -> None:
    (told,) = send(lambda request: answer(status) if request.method == "POST" else search)
    assert (told.status, told.permanent) == (expected, False)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "seconds"),
    [
        ("429 Too Many Requests", {"retry_after": "17"}, RemoteBusy, 17.0),
        ("503 Service Unavailable", {"retry_after": "999999"}, RemoteBusy, 3600.0),
        ("429 Too Many Requests", {}, RemoteBusy, None),
        ("503 Service Unavailable", {"retry_after": "soon"}, RemoteUnreachable, None),
        ("503 Service Unavailable", {}, RemoteUnreachable, None),
        ("502 Bad Gateway", {}, RemoteUnreachable, None),
        ("401 Unauthorized", {}, RemoteUnreachable, None),
    ],
)
def test_the_remote_as_a_whole_is_the_problem(
    status: str, headers: dict[str, str], kind: type[RemoteError], seconds: float | None
) -> None:
    with pytest.raises(RemoteError) as raised:
        send(lambda request: answer(status, **headers))
    assert type(raised.value) is kind
    assert getattr(raised.value, "seconds", None) == seconds


def test_a_date_says_when_to_come_back() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    with pytest.raises(RemoteBusy) as raised:
        send(lambda request: answer("503 Service Unavailable", retry_after=date))
    assert raised.value.seconds is not None
    assert 90 < raised.value.seconds <= 100


def test_a_connection_that_breaks_costs_the_instance_if_the_remote_works() -> None:
    def breaks(request: Request) -> bytes | list[bytes]:
        return [] if request.method == "POST" else answer(body=b"[]")

    (told,) = send(breaks)
    assert (told.is_success, told.permanent) == (False, False)
    assert "broke" in told.detail
    with pytest.raises(RemoteUnreachable):
        send(lambda request: [])


def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    seen: dict[int, int] = {}

    def script(request: Request) -> bytes | list[bytes]:
        # The second request of the first connection finds it closed, too late to be noticed before.
        seen[request.connection] = seen.get(request.connection, 0) + 1
        if request.connection == 1 and seen[1] == 2:
            return []
        return answer(body=stored_answer(stored=[item("1.4")]), content_type=JSON)

    with http_peer(script) as peer, call(peer) as client:
        sender = DICOMwebSender(client, lambda: None)
        assert [sender.send(instance()).status for _ in range(3)] == [0, 0, 0]
        assert seen == {1: 2, 2: 2}


# ------------------------------------------------------------------------------------ searching


def test_pages_end_with_every_kind_of_remote() -> None:
    everything = [f"1.{number}" for number in range(5)]

    def asked(request: Request) -> tuple[int, int]:
        pairs = dict(pair.split("=") for pair in request.target.partition("?")[2].split("&"))
        return int(pairs["offset"]), int(pairs["limit"])

    def of_one(request: Request) -> bytes:
        """One at a time, which it says."""
        offset, _ = asked(request)
        more = {"warning": '299 there "There are 3 additional results that can be requested"'} if offset < 4 else {}
        return answer(body=studies(*everything[offset : offset + 1]), **more)

    def moving(request: Request) -> bytes:
        """Something arrives between two pages."""
        offset, limit = asked(request)
        now = everything if not offset else ["1.9", *everything]
        return answer(body=studies(*now[offset : offset + limit]))

    assert found(of_one) == everything
    assert found(moving) == everything
    with http_peer(lambda request: answer(body=studies(*everything))) as peer, call(peer) as client:
        assert len(list(find(client, Search(Level.STUDY), page=2))) == 5
        assert len(peer.requests) == 1
    assert found(lambda request: answer(body=studies(*everything[:2]))) == everything[:2]
    assert found(lambda request: answer("204 No Content")) == []
    assert found(lambda request: answer(body=b" ")) == []


@pytest.mark.parametrize("body", [b"<html>", b"7", b"[7]", b"[" * 100_000, b"\xff", b'{"a": '])
def test_answers_to_a_search_that_are_none(body: bytes) -> None:
    with pytest.raises(RemoteError, match="is its url right"):
        found(lambda request: answer(body=body))


def test_attributes_of_a_match_that_are_wrong_are_left_out() -> None:
    match = {"0020000D": {"vr": "UI", "Value": ["1.2"]}, "00100010": {"vr": "PN", "Value": [7]}, "x": 7, "00080020": 7}
    assert found(lambda request: answer(body=json.dumps([match]).encode())) == ["1.2"]


def test_a_service_that_only_stores_is_alive() -> None:
    def storing(request: Request) -> bytes:
        return answer("204 No Content" if request.method == "OPTIONS" else "405 Method Not Allowed")

    with http_peer(storing) as peer, call(peer) as client:
        probe(client)
    with (
        http_peer(lambda request: answer("404 Not Found")) as peer,
        call(peer) as client,
        pytest.raises(RemoteError, match="404"),
    ):
        probe(client)


# ------------------------------------------------------------------------------------ redirects


def test_redirects_stay_at_the_same_origin() -> None:
    bodies: list[bytes] = []
    body = stored_answer(stored=[item("1.4")])

    def other(request: Request) -> bytes:
        return answer(body=body, content_type=JSON)

    with http_peer(other) as elsewhere:

        def script(request: Request) -> bytes:
            if request.target.startswith("/new/"):
                bodies.append(request.body)
                return answer(body=body if request.method == "POST" else b"[]", content_type=JSON)
            return answer("307 Temporary Redirect", location=f"/new{request.target}")

        assert send(script)[0].status == 0
        assert found(script) == []
        assert len(bodies[0]) > 1000
        (told,) = send(lambda request: answer("308 Permanent Redirect", location=f"{elsewhere.url}/studies"))
        assert not told.is_success
        assert "another address" in told.detail
        for location in (elsewhere.url, "//elsewhere.example/", "https://127.0.0.1/", "http://[", "file:///etc/passwd"):
            with pytest.raises(RemoteError, match="another address"):
                found(lambda request, to=location: answer("302 Found", location=to), auth=SecretHeader.bearer("secret"))
        assert elsewhere.requests == []
    with pytest.raises(RemoteError, match="again and again"):
        found(lambda request: answer("302 Found", location=request.target))


# ------------------------------------------------------------------------------------ without end


def test_answers_without_end_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MOST_BYTES", 1024 * 1024)

    def endless(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n["
        while True:
            yield b" " * 65536

    def announced(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 5368709120\r\n\r\n["

    def coded(request: Request) -> bytes:
        return answer(body=bytes(100), content_encoding="gzip")

    for script in (endless, announced):
        with pytest.raises(RemoteError, match="too long"):
            found(script)
    with pytest.raises(RemoteError, match="coding"):
        found(coded)

    def endless_head(request: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            yield b"X: y\r\n" * 1000

    with pytest.raises(RemoteError):
        found(endless_head)


def drip(peer: list[HTTPPeer], start: bytes) -> Script:
    """Send a start at once and then a byte now and then."""

    def script(request: Request) -> Iterator[bytes]:
        yield start
        for _ in range(500):
            peer[0].pause(0.02)
            yield b" "

    return script


@pytest.mark.parametrize("head", [b"X: ", b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\n"])
def test_answers_that_drip_are_left(head: bytes) -> None:
    holder: list[HTTPPeer] = []
    script = drip(holder, b"HTTP/1.1 200 OK\r\n" + head)
    with http_peer(script) as peer, call(peer, response_timeout=0.3) as client:
        holder.append(peer)
        begun = time.monotonic()
        with pytest.raises(RemoteUnreachable, match="in time"):
            list(find(client, Search(Level.STUDY)))
        with pytest.raises(RemoteUnreachable, match="in time"):
            retrieve(client, lambda *instance: None, "1.2")
        assert time.monotonic() - begun < 20


def test_who_waits_is_woken_when_the_server_stops() -> None:
    waiting = threading.Event()

    def silent(request: Request) -> Iterator[bytes]:
        waiting.set()
        yield b""
        peer.pause(30)

    with http_peer(silent) as peer, call(peer, response_timeout=60.0) as client:
        threading.Thread(target=lambda: waiting.wait(60) and client.kill(), daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(RemoteUnreachable):
            probe(client)
        assert time.monotonic() - begun < 20


def test_more_than_may_be_open_waits_and_is_busy() -> None:
    first = threading.Event()

    def silent(request: Request) -> Iterator[bytes]:
        first.set()
        yield b""
        peer.pause(30)

    with http_peer(silent) as peer, call(peer, max_associations=1, response_timeout=0.5) as client:
        outcomes: list[RemoteError] = []

        def ask() -> None:
            try:
                probe(client)
            except RemoteError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert first.wait(60)
        assert peer.connections == 1
        for thread in threads:
            thread.join(60)
        assert len(outcomes) == 4
        assert any(isinstance(error, RemoteBusy) for error in outcomes)


# ------------------------------------------------------------------------------------ access tokens


def test_a_remote_that_refuses_every_token_is_out_of_reach() -> None:
    def login(request: Request) -> bytes:
        return answer(body=b'{"access_token": "t%d", "token_type": "Bearer"}' % len(provider.requests))

    with http_peer(login) as provider, http_peer(lambda request: answer("401 Unauthorized")) as peer:
        credentials = ClientCredentials(f"{provider.url}/token", "id", "hush", "a b")
        with call(peer, auth=credentials) as client, pytest.raises(RemoteUnreachable, match="401"):
            probe(client)
        assert [request.headers["authorization"] for request in peer.requests] == ["Bearer t1", "Bearer t2"]
        asked = provider.requests[0]
        assert (asked.method, asked.body) == ("POST", b"grant_type=client_credentials&scope=a+b")
        assert asked.headers["authorization"] == "Basic aWQ6aHVzaA=="


@pytest.mark.parametrize(
    "script",
    [
        lambda request: answer(body=b"<html>"),
        lambda request: answer(body=b"x" * 100_000),
        lambda request: answer("302 Found", location="http://127.0.0.1:1/"),
        lambda request: answer("400 Bad Request", b'{"error": "hush\\n"}'),
        lambda request: [b"HTTP/1.1 200 OK\r\n\r\n{"],
        lambda request: [],
    ],
)
def test_token_endpoints_that_are_none(script: Script) -> None:
    with http_peer(script) as provider, http_peer(lambda request: answer(body=b"[]")) as peer:
        credentials = ClientCredentials(f"{provider.url}/token", "id", "hush")
        with call(peer, auth=credentials) as client, pytest.raises(RemoteUnreachable, match="token") as raised:
            probe(client)
        assert "hush" not in str(raised.value)
        assert peer.requests == []


# ------------------------------------------------------------------------------------ retrieving

RELATED = 'multipart/related; type="application/dicom"; boundary=b'


def retrieved(body: bytes | Iterable[bytes], kind: str = RELATED, *, take: Any = None) -> tuple[Retrieved, list[str]]:
    taken: list[str] = []

    def store(sop_class: str, sop: str, syntax: str, data: Iterable[bytes]) -> None:
        if take is not None:
            take(sop)
        b"".join(data)
        taken.append(sop)

    def script(request: Request) -> bytes | Iterator[bytes]:
        if isinstance(body, bytes):
            return answer(body=body, content_type=kind)
        return iter([f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode(), *body])

    with http_peer(script) as peer, call(peer) as client:
        return retrieve(client, store, "1.2"), taken


def part(content: bytes, kind: str = "application/dicom") -> bytes:
    return f"--b\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"


def test_what_comes_before_the_damage_is_kept() -> None:
    one, two = (part(part10(make_ct(sop=sop))) for sop in ("1.4", "1.5"))
    whole, taken = retrieved(one + two + b"--b--")
    assert (whole.taken, whole.broken, taken) == (["1.4", "1.5"], "", ["1.4", "1.5"])
    done, taken = retrieved(one + two[:-40])
    assert (done.taken, taken) == (["1.4"], ["1.4"])
    assert "damaged" in done.broken
    done, _ = retrieved([one, two[:500]])
    assert done.taken == ["1.4"]
    done, _ = retrieved(one + part(b"<html>", "text/html") + part(b"no file") + two + b"--b--")
    assert (done.taken, len(done.failed), done.broken) == (["1.4", "1.5"], 2, "")

    def picky(sop: str) -> None:
        if sop == "1.4":
            raise InvalidInstance("not this one")

    done, _ = retrieved(one + two + b"--b--", take=picky)
    assert (done.taken, done.failed) == (["1.5"], [("1.4", "not this one")])

    def full(sop: str) -> None:
        raise StorageFull("no room")

    with pytest.raises(StorageFull):
        retrieved(one + two + b"--b--", take=full)
    # One instance may come by itself.
    done, _ = retrieved(part10(make_ct(sop="1.6")), "application/dicom")
    assert done.taken == ["1.6"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "text/html"),
        (b"", ""),
        (b"--b--", "multipart/related"),
        (b"nothing of the kind", RELATED),
        (b"--b\r\n" + b"x" * 20_000, RELATED),
        (b"", RELATED),
    ],
)
def test_answers_to_a_retrieval_that_are_none(body: bytes, kind: str) -> None:
    with pytest.raises(RemoteError):
        retrieved(body, kind)


def test_a_remote_that_knows_no_wildcard_of_transfer_syntaxes_is_asked_again() -> None:
    def script(request: Request) -> bytes:
        if "transfer-syntax" in request.headers["accept"]:
            return answer("406 Not Acceptable")
        return answer(body=part(part10(make_ct(sop="1.4"))) + b"--b--", content_type=RELATED)

    with http_peer(script) as peer, call(peer) as client:
        assert retrieve(client, lambda *instance: None, "1.2").taken == ["1.4"]


@pytest.mark.slow
def test_a_large_instance_is_never_in_memory_as_a_whole() -> None:
    size, largest = 48 * 1024 * 1024, 0
    piece = bytes(65536)
    start = part(part10(make_ct(sop="1.4")))[:-2]
    length = len(start) + size + len(b"\r\n--b--")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {RELATED}\r\nContent-Length: {length}\r\n\r\n".encode()

    def script(request: Request) -> Iterator[bytes]:
        yield head + start
        for _ in range(size // len(piece)):
            yield piece
        yield b"\r\n--b--"

    def take(sop_class: str, sop: str, syntax: str, data: Iterable[bytes]) -> None:
        nonlocal largest
        largest = max(map(len, data))

    with http_peer(script) as peer, call(peer) as client:
        tracemalloc.start()
        try:
            assert retrieve(client, take, "1.2").taken == ["1.4"]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert largest <= 256 * 1024
    assert peak < 4 * 1024 * 1024
