"""Send the audit trail to the audit repository: every record, in order, at least once (PS3.15 A.6, A.7).

Syslog has no acknowledgment. A record counts as confirmed when the connection still stands ten seconds after the record
was sent, or when the repository has answered the end of a TLS connection. The position of the last confirmed record is
kept on the disk. After a lost connection, a crash, or a stop without that answer, the records behind it are sent again.
"""

import contextlib
import logging
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Final

from pacs_server.audit.events import Event, Outcome
from pacs_server.audit.forward_cursor import ForwardCursor
from pacs_server.audit.record import Record
from pacs_server.audit.syslog import SyslogConnection, SyslogOverTLS, SyslogOverUDP, syslog_record
from pacs_server.audit.trail import AuditTrail
from pacs_server.audit.xml import audit_message, shortened
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.metrics import Metrics

log = logging.getLogger(__name__)

FILE_NAME: Final = "forwarded"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the forwarder waits, in seconds."""

    # The deadline of connecting, of the handshake and of each write.
    timeout: float = 8.0
    # How long after sending a record counts as confirmed. Longer than `timeout`: by then a connection whose peer
    # acknowledges nothing has ended.
    doubt: float = 10.0
    # The backoff after a failure: the first pause, doubled each time up to the longest one.
    first_pause: float = 0.5
    longest_pause: float = 30.0
    # How often to look for records of other processes, which cannot wake the forwarder.
    look_again: float = 60.0
    # The least time between two complaints in the log.
    complain: float = 60.0


class Forwarder:
    """The background thread that sends the trail; it sleeps while there are no new records."""

    def __init__(
        self,
        trail: AuditTrail,
        settings: AuditConfig,
        tls: ssl.SSLContext | None,
        metrics: Metrics,
        *,
        timing: Timing = Timing(),
    ) -> None:
        if settings.syslog_protocol == "tls" and tls is None:
            raise ValueError("syslog over TLS takes a TLS context")
        self._trail = trail
        self._settings = settings
        self._tls = tls
        self._metrics = metrics
        self._timing = timing
        self._cursor = ForwardCursor(trail.directory / FILE_NAME)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connection: SyslogConnection | None = None
        self._ended = False
        self._pause = timing.first_pause
        self._complained: float | None = None
        self._down = False
        self._thread = threading.Thread(target=self._run, name="audit-forwarder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._trail.subscribe(self._wake.set)
        self._metrics.watch_audit_backlog(self.backlog)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Send the remaining records if the repository can be reached, and end after `timeout` seconds at the latest.

        Records that were not sent are sent after the next start.
        """
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout)
        with self._lock:
            self._ended = True
            if self._connection is not None:
                self._connection.cut()
        # Connecting has a deadline of its own, and the process does not wait for it.
        self._thread.join(1.0)

    def renew(self, tls: ssl.SSLContext | None) -> None:
        """Use another TLS context for later connections: there are new certificates."""
        if tls is not None:
            self._tls = tls

    def backlog(self) -> int:
        """The number of records that are still to be sent."""
        sent = self._cursor.sent
        return max(self._trail.sequence - (sent.sequence if sent else 0), 0)

    def _run(self) -> None:
        done = False
        while not done:
            try:
                done = self._forward()
            # UnicodeError: the configured host is no host name.
            except (OSError, UnicodeError, AuditUnavailable) as error:
                self._cursor.rewind()
                self._complain(str(error))
                self._stopping.wait(self._pause)
                self._pause = min(self._pause * 2, self._timing.longest_pause)
                done = self._stopping.is_set()

    def _forward(self) -> bool:
        """Send over one connection; return whether the thread is to end. Raises OSError if the connection is lost."""
        connection = self._connect()
        try:
            while True:
                self._wake.clear()
                stopping = self._stopping.is_set()
                self._send_new(connection)
                if stopping:
                    break
                self._wake.wait(self._sleep())
                if not self._is_open(connection):
                    return False
            if connection.finish():
                self._cursor.confirm(time.monotonic())
            return True
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def _connect(self) -> SyslogConnection:
        host, port = self._settings.syslog_host or "", self._settings.syslog_port
        connection: SyslogConnection
        if self._settings.syslog_protocol == "tls" and self._tls is not None:
            connection = SyslogOverTLS(host, port, self._tls, timeout=self._timing.timeout)
        else:
            connection = SyslogOverUDP(host, port, timeout=self._timing.timeout)
        with self._lock:
            self._connection = connection
            if self._ended:
                connection.cut()
        return connection

    def _send_new(self, connection: SyslogConnection) -> None:
        with contextlib.closing(self._trail.records_after(self._cursor.sent)) as records:
            for record, position in records:
                self._check(connection)
                connection.send(_encoded(record, connection.largest))
                self._cursor.advance(position, time.monotonic())
                self._metrics.audit_forwarded()
        self._check(connection)

    def _check(self, connection: SyslogConnection) -> None:
        connection.check()
        if self._cursor.confirm(time.monotonic() - self._timing.doubt):
            self._pause = self._timing.first_pause
            self._reached()

    def _is_open(self, connection: SyslogConnection) -> bool:
        """Whether the connection still stands. Repositories end idle connections, and no record is lost then."""
        try:
            self._check(connection)
        except OSError:
            if self._cursor.oldest_unconfirmed is not None:
                raise
            return False
        return True

    def _sleep(self) -> float:
        oldest = self._cursor.oldest_unconfirmed
        if oldest is None:
            return self._timing.look_again
        return max(oldest + self._timing.doubt - time.monotonic(), 0.0) + 0.01

    def _complain(self, reason: str) -> None:
        """Log what is wrong, but not after each attempt."""
        self._down = True
        now = time.monotonic()
        if self._complained is None or now - self._complained >= self._timing.complain:
            self._complained = now
            host, port = self._settings.syslog_host, self._settings.syslog_port
            log.error(
                "audit repository not reached",
                extra={"repository": f"{host}:{port}", "reason": reason, "waiting": self.backlog()},
            )

    def _reached(self) -> None:
        if self._down:
            self._down = False
            log.info("audit repository reached", extra={"waiting": self.backlog()})


def _encoded(record: Record, largest: int) -> bytes:
    whole = _syslog(record, record.event)
    return whole if len(whole) <= largest else _syslog(record, shortened(record.event))


def _syslog(record: Record, event: Event) -> bytes:
    xml = audit_message(event, at=record.time, source=record.host)
    warning = event.outcome is not Outcome.SUCCESS
    return syslog_record(xml, at=record.time, host=record.host, process=record.process, warning=warning)
