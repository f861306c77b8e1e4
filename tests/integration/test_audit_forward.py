"""The audit trail reaches the audit repository: every record, in order, at least once, whatever is down meanwhile."""

import json
import logging
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from audit_schema import check
from datasets import make_ct
from processes import clean_environment, wait_for
from repository import Receiver, TLSReceiver, UDPReceiver
from servers import STUDY_FIND, associated, config, free_port, running, store
from strategies import identifier

from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.forward import Forwarder, Timing
from pacs_server.audit.trail import AuditTrail, open_trail
from pacs_server.config import AuditConfig, TLSConfig
from pacs_server.kit.metrics import Metrics

TIMING = Timing(timeout=5.0, doubt=1.0, first_pause=0.05, longest_pause=0.1)
PATIENT = Timing(timeout=5.0, doubt=60.0, first_pause=0.05, longest_pause=0.1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def serving(authority: trustme.CA) -> ssl.SSLContext:
    """The repository's side of TLS."""
    return server_context(authority, "127.0.0.1")


@pytest.fixture(scope="module")
def calling(authority: trustme.CA) -> ssl.SSLContext:
    """Our side of TLS."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    with open_trail(AuditConfig(directory=tmp_path / "audit")) as trail:
        yield trail


Start = Callable[..., Forwarder]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def start(trail: AuditTrail, calling: ssl.SSLContext, metrics: Metrics) -> Iterator[Start]:
    """Start a forwarder to a port of this machine."""
    with ExitStack() as stack:

        def begin(port: int, *, timing: Timing = TIMING, tls: ssl.SSLContext = calling, **settings: Any) -> Forwarder:
            audit = AuditConfig(directory=trail.directory, syslog_host="127.0.0.1", syslog_port=port, **settings)
            forwarder = Forwarder(trail, audit, tls, metrics, timing=timing)
            forwarder.start()
            stack.callback(forwarder.stop)
            return forwarder

        yield begin


def write(trail: AuditTrail, numbers: range, *, detail: str = "") -> None:
    for number in numbers:
        participants = (Participant("CT1", "CT1", "10.0.0.7", requestor=True),)
        event = Event(EventID.INSTANCES_ACCESSED, Action.READ, participants, detail=f"n{number}{detail}")
        trail.write(event, durable=False)


def arrived(receiver: Receiver, count: int) -> None:
    wait_for(lambda: len(receiver.numbers()) >= count, f"{count} records arrive")
    assert receiver.numbers() == list(range(count))


def forwarded(metrics: Metrics) -> int:
    [line] = [line for line in metrics.render().decode().splitlines() if line.startswith("pacs_audit_forwarded_total")]
    return int(float(line.split()[1]))


def waiting(metrics: Metrics) -> int:
    [line] = [line for line in metrics.render().decode().splitlines() if line.startswith("pacs_audit_backlog ")]
    return int(float(line.split()[1]))


def kept(trail: AuditTrail) -> int:
    """The number of the record up to which the position on the disk goes."""
    path = trail.directory / "forwarded"
    return int(json.loads(path.read_bytes())["sequence"]) if path.exists() else 0


def complaints(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message == "audit repository not reached"]


def test_every_record_arrives_as_an_audit_message(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext, metrics: Metrics
) -> None:
    with TLSReceiver(serving) as receiver:
        write(trail, range(20))
        start(receiver.port)
        write(trail, range(20, 40))
        arrived(receiver, 40)
        for record in receiver.records:
            header, _, xml = record.partition(b"\xef\xbb\xbf")
            assert header.startswith(b"<85>1 20")
            check(xml)
        wait_for(lambda: forwarded(metrics) == len(receiver.records), "all are counted")
        wait_for(lambda: waiting(metrics) == 0, "the backlog is empty")


def test_down_at_first(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    write(trail, range(20))
    start(port)
    wait_for(lambda: complaints(caplog), "a complaint")
    wait_for(lambda: waiting(metrics) >= 20, "the backlog is told")
    with TLSReceiver(serving, port) as receiver:
        arrived(receiver, 20)
    assert len(complaints(caplog)) == 1
    assert "refused" in vars(complaints(caplog)[0])["reason"]


def test_what_a_killed_repository_had_not_read_is_sent_again(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext, metrics: Metrics
) -> None:
    """The kernel took it, TCP acknowledged it, and nobody ever saw it."""
    with TLSReceiver(serving) as first:
        start(first.port, timing=PATIENT)
        write(trail, range(10))
        arrived(first, 10)
        first.reading.clear()
        write(trail, range(10, 60))
        wait_for(lambda: forwarded(metrics) >= 60, "all is sent")
        assert len(first.numbers()) < 60
    with TLSReceiver(serving, first.port) as second:
        write(trail, range(60, 61))
        # Those that the first one had read come again: the sender cannot know.
        arrived(second, 61)


def test_an_idle_link_that_ends_loses_nothing_and_is_no_fault(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with TLSReceiver(serving) as receiver:
        start(receiver.port)
        write(trail, range(10))
        arrived(receiver, 10)
        wait_for(lambda: kept(trail) == trail.sequence, "the position is kept")
        receiver.drop()
        write(trail, range(10, 12))
        arrived(receiver, 12)
        assert receiver.connections == 2
        # What arrived long ago does not come again.
        assert len(receiver.records) == 12
        assert complaints(caplog) == []


def test_the_last_record_goes_out_although_the_idle_link_has_ended(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext
) -> None:
    with TLSReceiver(serving) as receiver:
        forwarder = start(receiver.port)
        write(trail, range(1))
        arrived(receiver, 1)
        wait_for(lambda: kept(trail) == trail.sequence, "the position is kept")
        receiver.drop()
        write(trail, range(1, 2))
        forwarder.stop()
        assert receiver.numbers() == [0, 1]


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_repository_with_the_wrong_certificate_gets_nothing(
    wrong: str, authority: trustme.CA, trail: AuditTrail, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    issuer, name = (trustme.CA(), "127.0.0.1") if wrong == "authority" else (authority, "other.example.org")
    with TLSReceiver(server_context(issuer, name)) as receiver:
        write(trail, range(3))
        start(receiver.port)
        wait_for(lambda: receiver.connections >= 4, "some tries")
        assert receiver.records == []
    assert len(complaints(caplog)) == 1
    assert "CERTIFICATE_VERIFY_FAILED" in vars(complaints(caplog)[0])["reason"]


def test_the_repository_may_ask_for_a_certificate(authority: trustme.CA, trail: AuditTrail, start: Start) -> None:
    asking = server_context(authority, "127.0.0.1")
    authority.configure_trust(asking)
    asking.verify_mode = ssl.CERT_REQUIRED
    bare = ssl.create_default_context()
    authority.configure_trust(bare)
    with TLSReceiver(asking) as receiver:
        write(trail, range(3))
        forwarder = start(receiver.port, tls=bare)
        wait_for(lambda: receiver.connections >= 3, "some tries")
        assert receiver.records == []
        shown = ssl.create_default_context()
        authority.configure_trust(shown)
        authority.issue_cert("pacs.example.org").configure_cert(shown)
        forwarder.renew(shown)
        arrived(receiver, 3)


def test_a_restart_goes_on_where_it_was(trail: AuditTrail, start: Start, serving: ssl.SSLContext) -> None:
    with TLSReceiver(serving) as receiver:
        first = start(receiver.port, timing=PATIENT)
        write(trail, range(10))
        # Stopping sends what is there, and the goodbye says that it was read.
        first.stop()
        assert receiver.numbers() == list(range(10))
        write(trail, range(10, 15))
        start(receiver.port)
        arrived(receiver, 15)
        assert len(receiver.records) == 15


def test_a_restart_without_a_goodbye_sends_again(trail: AuditTrail, start: Start, serving: ssl.SSLContext) -> None:
    with TLSReceiver(serving, polite=False) as receiver:
        first = start(receiver.port, timing=PATIENT)
        write(trail, range(10))
        arrived(receiver, 10)
        receiver.drop()
        first.stop()
        receiver.records.clear()
        start(receiver.port)
        arrived(receiver, 10)


CHILD = """
import ssl, sys
from pathlib import Path
from pacs_server.audit.events import Action, Event, EventID
from pacs_server.audit.forward import Forwarder
from pacs_server.audit.trail import open_trail
from pacs_server.config import AuditConfig
from pacs_server.kit.metrics import Metrics

directory, authority, port = sys.argv[1:]
config = AuditConfig(directory=Path(directory), syslog_host="127.0.0.1", syslog_port=int(port))
trail = open_trail(config)
Forwarder(trail, config, ssl.create_default_context(cafile=authority), Metrics()).start()
for number in range(2_000):
    trail.write(Event(EventID.IMPORT, Action.CREATE, (), detail=f"n{number}"), durable=False)
    print(number, flush=True)
sys.stdin.read()
"""


def test_a_killed_sender_loses_nothing(
    tmp_path: Path, authority: trustme.CA, calling: ssl.SSLContext, serving: ssl.SSLContext
) -> None:
    directory = tmp_path / "audit"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with TLSReceiver(serving) as receiver:
        command = [sys.executable, "-c", CHILD, str(directory), str(tmp_path / "ca.pem"), str(receiver.port)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=clean_environment(), text=True) as child:
            assert child.stdout is not None
            try:
                while int(child.stdout.readline()) < 200:
                    pass
                wait_for(lambda: len(receiver.records) >= 20, "a few records arrive")
            finally:
                child.send_signal(signal.SIGKILL)
        config = AuditConfig(directory=directory, syslog_host="127.0.0.1", syslog_port=receiver.port)
        with open_trail(config) as trail:
            written = [record.event.detail for record, _ in trail.records_after(None)]
            count = sum(detail.startswith("n") for detail in written)
            assert count >= 200
            forwarder = Forwarder(trail, config, calling, Metrics(), timing=TIMING)
            forwarder.start()
            try:
                arrived(receiver, count)
            finally:
                forwarder.stop()


def test_asleep_while_nothing_is_new_and_awake_at_once(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    read = trail.records_after

    def counted(position: Any) -> Any:
        looks.append(time.monotonic())
        return read(position)

    monkeypatch.setattr(trail, "records_after", counted)
    with TLSReceiver(serving) as receiver:
        start(receiver.port, timing=Timing(doubt=0.2))
        write(trail, range(1))
        arrived(receiver, 1)
        wait_for(lambda: kept(trail) == trail.sequence, "the position is kept")
        wait_for(lambda: time.monotonic() - looks[-1] > 1.0, "it sleeps")
        began = time.monotonic()
        write(trail, range(1, 2))
        arrived(receiver, 2)
        assert time.monotonic() - began < 30


def test_stopping_does_not_wait_for_a_silent_repository(trail: AuditTrail, start: Start) -> None:
    """The port accepts, the handshake never comes."""
    write(trail, range(3))
    with TLSReceiver(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as receiver:
        receiver._serve = lambda link: None  # type: ignore[method-assign]
        forwarder = start(receiver.port)
        wait_for(lambda: receiver.connections, "it calls")
        began = time.monotonic()
        forwarder.stop(timeout=0.2)
        assert time.monotonic() - began < 7


def test_stopping_does_not_wait_for_a_repository_that_reads_nothing(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext, metrics: Metrics
) -> None:
    with TLSReceiver(serving) as receiver:
        receiver.reading.clear()
        forwarder = start(receiver.port, timing=Timing(timeout=60.0, doubt=70.0))
        write(trail, range(40), detail="x" * 900_000)
        wait_for(lambda: forwarded(metrics) >= 1, "it sends")
        began = time.monotonic()
        forwarder.stop(timeout=0.2)
        assert time.monotonic() - began < 30
        assert not forwarder._thread.is_alive()
        assert forwarded(metrics) < 40


def test_a_record_that_somebody_damaged_holds_nothing_up(
    trail: AuditTrail, start: Start, serving: ssl.SSLContext
) -> None:
    write(trail, range(2))
    [file] = trail.directory.glob("audit-*.jsonl")
    first, _, rest = file.read_bytes().partition(b"\n")
    fields = json.loads(first)
    file.write_bytes(json.dumps(fields | {"host": 5}).encode() + b"\n" + rest)
    with TLSReceiver(serving) as receiver:
        start(receiver.port)
        wait_for(lambda: receiver.numbers() == [1], "the other one arrives")


def test_a_host_name_that_is_none_is_a_complaint(
    trail: AuditTrail, metrics: Metrics, calling: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    config = AuditConfig(directory=trail.directory, syslog_host="audit..example")
    forwarder = Forwarder(trail, config, calling, metrics, timing=TIMING)
    forwarder.start()
    wait_for(lambda: complaints(caplog), "a complaint")
    forwarder.stop()


def test_tls_takes_a_context(trail: AuditTrail, metrics: Metrics) -> None:
    config = AuditConfig(directory=trail.directory, syslog_host="127.0.0.1")
    with pytest.raises(ValueError, match="context"):
        Forwarder(trail, config, None, metrics)


# ------------------------------------------------------------------------------------ UDP


def test_udp(trail: AuditTrail, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Down at first: the system says that the port is closed, and what was sent goes again."""
    port = free_port()
    write(trail, range(20))
    start(port, syslog_protocol="udp")
    wait_for(lambda: complaints(caplog), "a complaint")
    with UDPReceiver(port) as receiver:
        arrived(receiver, 20)
        assert len(complaints(caplog)) == 1


def test_what_does_not_fit_into_a_datagram_is_shortened(trail: AuditTrail, start: Start) -> None:
    with UDPReceiver() as receiver:
        start(receiver.port, syslog_protocol="udp")
        write(trail, range(1), detail="y" * 100_000)
        write(trail, range(1, 2))
        wait_for(lambda: 1 in receiver.numbers(), "the one behind it arrives")
        [first, *_] = receiver.records
        assert b"the audit trail holds the whole record; n0yyy" in first
        check(first.partition(b"\xef\xbb\xbf")[2])


# ------------------------------------------------------------------------------------ a server


def test_a_server_tells_its_repository_what_happens(tmp_path: Path, authority: trustme.CA) -> None:
    """From its start to its stop, with the server's certificate, in messages that the schema allows."""
    asking = server_context(authority, "127.0.0.1")
    authority.configure_trust(asking)
    asking.verify_mode = ssl.CERT_REQUIRED
    own = authority.issue_cert("pacs.example.org")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = TLSConfig(cert_path=tmp_path / "cert.pem", key_path=tmp_path / "key.pem", ca_path=tmp_path / "ca.pem")
    with TLSReceiver(asking) as receiver:
        audit = AuditConfig(directory=tmp_path / "audit", syslog_host="127.0.0.1", syslog_port=receiver.port)
        with running(config(tmp_path).model_copy(update={"tls": tls, "audit": audit})) as pacs:
            assert store(pacs, make_ct(PatientID="4711")) == [0]
            with associated(pacs, STUDY_FIND) as association:
                query = identifier("STUDY", PatientID="4711", StudyInstanceUID="")
                assert len(list(association.send_c_find(query, STUDY_FIND))) == 2
        messages = [check(record.partition(b"\xef\xbb\xbf")[2]) for record in receiver.records]
    codes = [message.find("EventIdentification/EventID").get("csd-code") for message in messages]
    assert {"110100", "110102", "110104", "110112"} <= set(codes)
    # Application Start and Stop.
    types = [code.get("csd-code") for message in messages for code in message.iter("EventTypeCode")]
    assert {"110120", "110121"} <= set(types)
    [transferred] = [message for message, code in zip(messages, codes, strict=True) if code == "110104"]
    patients = [item.get("ParticipantObjectID") for item in transferred.iter("ParticipantObjectIdentification")]
    assert "4711" in patients
