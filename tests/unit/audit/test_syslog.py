"""Syslog records and links, and the position that the forwarder keeps."""

import json
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from processes import wait_for
from repository import TLSReceiver, UDPReceiver

from pacs_server.audit.forward_cursor import ForwardCursor
from pacs_server.audit.record import Position
from pacs_server.audit.syslog import SyslogOverTLS, SyslogOverUDP, syslog_record
from pacs_server.config import AuditConfig
from pacs_server.config.load import load
from pacs_server.errors import ConfigError

AT = datetime(2026, 11, 23, 18, 30, 0, 5, tzinfo=timezone(timedelta(hours=9)))

# ------------------------------------------------------------------------------------ records


def test_a_record() -> None:
    record = syslog_record("<AuditMessage>ü".encode(), at=AT, host="pacs1", process=4711)
    header = b"<85>1 2026-11-23T09:30:00.000005Z pacs1 pacs-server 4711 DICOM+RFC3881 - "
    assert record == header + b"\xef\xbb\xbf<AuditMessage>\xc3\xbc"


def test_what_failed_is_a_warning() -> None:
    assert syslog_record(b"", at=AT, host="pacs1", process=1, warning=True).startswith(b"<84>1 ")


@given(st.text(st.characters(codec=None)))
def test_any_host_name_leaves_the_header_readable(host: str) -> None:
    record = syslog_record(b"x", at=datetime(2026, 1, 1, tzinfo=UTC), host=host, process=1)
    fields = record.split(b" ", 7)
    assert len(fields) == 8
    assert fields[3:] == [b"pacs-server", b"1", b"DICOM+RFC3881", b"-", b"\xef\xbb\xbfx"]
    assert 1 <= len(fields[2]) <= 255


# ------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the receiver, and ours."""
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    calling = ssl.create_default_context()
    authority.configure_trust(calling)
    return serving, calling


@pytest.fixture
def receiver(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[TLSReceiver]:
    with TLSReceiver(contexts[0]) as receiver:
        yield receiver


@pytest.fixture
def link(receiver: TLSReceiver, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[SyslogOverTLS]:
    link = SyslogOverTLS("127.0.0.1", receiver.port, contexts[1], timeout=5.0)
    yield link
    link.close()


@pytest.mark.slow
def test_tls_counts_octets(receiver: TLSReceiver, link: SyslogOverTLS) -> None:
    records = [b"<85>1 one", "<85>1 zwölf 12 ".encode(), b"", b"x" * 200_000, b"12 12 12"]
    for record in records:
        link.send(record)
        link.check()
    assert link.finish()
    assert receiver.records == records


@pytest.mark.slow
def test_a_peer_that_says_no_goodbye(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    serving, calling = contexts
    with TLSReceiver(serving) as receiver:
        link = SyslogOverTLS("127.0.0.1", receiver.port, calling, timeout=5.0)
        receiver.reading.clear()
        link.send(b"never read")
        began = time.monotonic()
        assert not link.finish()
        assert time.monotonic() - began < 10
        link.close()


def gone(link: SyslogOverTLS | SyslogOverUDP) -> bool:
    try:
        link.check()
    except OSError:
        return True
    return False


def test_a_peer_that_is_killed_is_noticed(receiver: TLSReceiver, link: SyslogOverTLS) -> None:
    link.send(b"one")
    wait_for(lambda: receiver.records, "it arrives")
    link.check()
    receiver.kill()
    wait_for(lambda: gone(link), "the end is noticed")


def test_a_peer_that_closes_is_noticed(receiver: TLSReceiver, link: SyslogOverTLS) -> None:
    receiver.drop()
    wait_for(lambda: gone(link), "the end is noticed")


@pytest.mark.slow
def test_a_peer_that_reads_nothing_ends_in_a_deadline(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    serving, calling = contexts
    with TLSReceiver(serving) as receiver:
        receiver.reading.clear()
        link = SyslogOverTLS("127.0.0.1", receiver.port, calling, timeout=0.5)
        with pytest.raises(OSError, match="timed out"):
            link.send(b"x" * 50_000_000)
        link.close()


@pytest.mark.slow
def test_a_handshake_has_a_deadline(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError):
        SyslogOverTLS("127.0.0.1", server.getsockname()[1], contexts[1], timeout=0.3)


# ------------------------------------------------------------------------------------ UDP


def test_udp_is_one_record_in_a_datagram() -> None:
    with UDPReceiver() as receiver:
        link = SyslogOverUDP("127.0.0.1", receiver.port, timeout=5.0)
        records = [b"one", b"two", b"x" * SyslogOverUDP.largest]
        for record in records:
            link.send(record)
            link.check()
        wait_for(lambda: len(receiver.records) == 3, "they arrive")
        assert receiver.records == records
        assert not link.finish()
        link.close()


def test_a_closed_port_is_noticed() -> None:
    with UDPReceiver() as receiver:
        link = SyslogOverUDP("127.0.0.1", receiver.port, timeout=5.0)
    link.send(b"one")
    wait_for(lambda: gone(link), "the refusal is noticed")
    link.close()


# ------------------------------------------------------------------------------------ the cursor


def position(number: int) -> Position:
    return Position("2026-11-23.jsonl", 10 * number, number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "2026-11-23.jsonl").write_bytes(b"123456789\n" * 1000)
    return tmp_path / "forwarded"


def test_what_is_in_doubt_falls_back(path: Path) -> None:
    cursor = ForwardCursor(path)
    assert cursor.sent is None
    for number, now in enumerate([0.0, 0.5, 3.0], 1):
        cursor.advance(position(number), now)
    assert cursor.sent == position(3)
    assert cursor.oldest_unconfirmed == 0.5
    assert not cursor.confirm(0.4)
    assert not path.exists()
    assert cursor.confirm(0.5)
    cursor.rewind()
    assert cursor.sent == position(2)
    assert cursor.oldest_unconfirmed is None
    assert ForwardCursor(path).sent == position(2)


@pytest.mark.slow
@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 100))
def test_nothing_younger_is_confirmed(
    tmp_path_factory: pytest.TempPathFactory, times: list[float], before: float
) -> None:
    cursor = ForwardCursor(tmp_path_factory.mktemp("cursor") / "forwarded")
    for number, now in enumerate(sorted(times), 1):
        cursor.advance(position(number), now)
    assert len(cursor._unconfirmed) <= 101
    cursor.confirm(before)
    cursor.rewind()
    confirmed = cursor.sent.sequence if cursor.sent else 0
    older = sum(now <= before for now in times)
    assert confirmed <= older
    # And what is more than a second older is.
    assert confirmed >= sum(now <= before - 1.0 for now in times)


def test_the_file_is_private_and_whole(path: Path) -> None:
    cursor = ForwardCursor(path)
    cursor.advance(position(1), 0.0)
    cursor.confirm(0.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir() if file.suffix == ".part"] == []
    assert json.loads(path.read_bytes()) == asdict(position(1))


def test_a_disk_that_is_full_does_not_stop_the_sending(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cursor = ForwardCursor(path)
    path.with_name("forwarded.part").mkdir()
    cursor.advance(position(1), 0.0)
    assert cursor.confirm(0.0)
    assert cursor.sent == position(1)
    assert caplog.messages == ["audit position not kept"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"file": 1}', b'"x"', b"\xff", b'{"file":"a\\u0000","offset":1,"sequence":1}'],
)
def test_a_damaged_file_begins_anew(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(content)
    assert ForwardCursor(path).sent is None
    assert caplog.messages == ["audit position lost"]


@pytest.mark.parametrize("offset", [15, 10_010])
def test_a_trail_that_was_cut_off_is_sent_from_the_beginning_of_the_day(path: Path, offset: int) -> None:
    path.write_text(json.dumps({"file": "2026-11-23.jsonl", "offset": offset, "sequence": 99}))
    assert ForwardCursor(path).sent == Position("2026-11-23.jsonl", 0, 0)


def test_a_day_that_was_pruned_is_stepped_over(path: Path) -> None:
    path.write_text(json.dumps({"file": "2016-11-23.jsonl", "offset": 15, "sequence": 9}))
    assert ForwardCursor(path).sent == Position("2016-11-23.jsonl", 15, 9)


# ------------------------------------------------------------------------------------ settings


def settings(**values: str) -> AuditConfig:
    environ = {f"PACS_SERVER__AUDIT__SYSLOG_{key}": text for key, text in values.items()}
    return load(None, environ=environ, overrides={}).audit


def test_nothing_is_sent_unless_it_is_asked_for() -> None:
    assert settings().syslog_host is None
    assert settings(HOST="").syslog_host is None


def test_settings_of_a_repository() -> None:
    audit = settings(HOST="audit.example.org")
    assert (audit.syslog_host, audit.syslog_port, audit.syslog_protocol) == ("audit.example.org", 6514, "tls")
    audit = settings(HOST="10.0.0.9", PORT="514", PROTOCOL="udp")
    assert (audit.syslog_host, audit.syslog_port, audit.syslog_protocol) == ("10.0.0.9", 514, "udp")


@pytest.mark.parametrize(("key", "value"), [("HOST", "a b"), ("PORT", "0"), ("PORT", "65536"), ("PROTOCOL", "tcp")])
def test_settings_that_cannot_be(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"audit.syslog_{key.lower()}"):
        settings(**{key: value})
