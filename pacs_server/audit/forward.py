"""Sends the audit trail to the audit repository: every record, in order, at least once (PS3.15 A.6, A.7).

Syslog has no answer, so what was sent is only believed to have arrived when the link still stands ten
seconds later, or when a TLS peer said goodbye. Up to there the position is kept on the disk; after a lost
link, a crash or a stop without a goodbye everything behind it is sent again.
"""

import contextlib
import logging
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Final

from pacs_server.audit.events import Event, Outcome
from pacs_server.audit.progress import Progress
from pacs_server.audit.record import Record
from pacs_server.audit.syslog import SyslogConnection, SyslogOverTLS, SyslogOverUDP, syslog_record
from pacs_server.audit.trail import AuditTrail
from pacs_server.audit.xml import message, shortened
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.metrics import Metrics

log = logging.getLogger(__name__)

FILE_NAME: Final = "forwarded"


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the forwarder is; seconds."""

    # For connecting, the handshake and one write.
    timeout: float = 8.0
    # Until what was sent has arrived; longer than `timeout`, which ends a link that acknowledges nothing.
    doubt: float = 10.0
    # After a failure; it doubles up to the longest.
    first_pause: float = 0.5
    longest_pause: float = 30.0
    # Other processes write to the trail as well, and do not wake us.
    look_again: float = 60.0
    # Between two complaints in the log.
    complain: float = 60.0


class Forwarder:
    """The background thread that sends the trail, asleep while there is nothing new."""

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
        self._progress = Progress(trail.directory / FILE_NAME)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._link: SyslogConnection | None = None
        self._ended = False
        self._pause = timing.first_pause
        self._complained: float | None = None
        self._down = False
        self._thread = threading.Thread(target=self._run, name="audit-forwarder", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._trail.subscribe(self._wake.set)
        self._metrics.watch_audit_backlog(self.backlog)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what is there if the repository can be reached, and end, after `timeout` seconds at the latest.

        What was not sent is sent after the next start.
        """
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout)
        with self._lock:
            self._ended = True
            if self._link is not None:
                self._link.cut()
        # A connection that is being made has its own deadline; the process does not wait for it.
        self._thread.join(1.0)

    def renew(self, tls: ssl.SSLContext | None) -> None:
        """Use another context for the connections to come: there are new certificates."""
        if tls is not None:
            self._tls = tls

    def backlog(self) -> int:
        """How many records wait to be sent."""
        sent = self._progress.sent
        return max(self._trail.sequence - (sent.sequence if sent else 0), 0)

    def _run(self) -> None:
        done = False
        while not done:
            try:
                done = self._forward()
            # UnicodeError: a host name that is none.
            except (OSError, UnicodeError, AuditUnavailable) as error:
                self._progress.fall_back()
                self._complain(str(error))
                self._stopping.wait(self._pause)
                self._pause = min(self._pause * 2, self._timing.longest_pause)
                done = self._stopping.is_set()

    def _forward(self) -> bool:
        """Send over one link until we are to stop; False if it takes another one. Raises OSError if it is lost."""
        link = self._connect()
        try:
            while True:
                self._wake.clear()
                stopping = self._stopping.is_set()
                self._send_new(link)
                if stopping:
                    break
                self._wake.wait(self._sleep())
                if not self._stands(link):
                    return False
            if link.finish():
                self._progress.believe(time.monotonic())
            return True
        finally:
            with self._lock:
                self._link = None
            link.close()

    def _connect(self) -> SyslogConnection:
        host, port = self._settings.syslog_host or "", self._settings.syslog_port
        link: SyslogConnection
        if self._settings.syslog_protocol == "tls" and self._tls is not None:
            link = SyslogOverTLS(host, port, self._tls, timeout=self._timing.timeout)
        else:
            link = SyslogOverUDP(host, port, timeout=self._timing.timeout)
        with self._lock:
            self._link = link
            if self._ended:
                link.cut()
        return link

    def _send_new(self, link: SyslogConnection) -> None:
        with contextlib.closing(self._trail.records_after(self._progress.sent)) as records:
            for record, position in records:
                self._check(link)
                link.send(_encoded(record, link.largest))
                self._progress.add(position, time.monotonic())
                self._metrics.audit_forwarded()
        self._check(link)

    def _check(self, link: SyslogConnection) -> None:
        link.check()
        if self._progress.believe(time.monotonic() - self._timing.doubt):
            self._pause = self._timing.first_pause
            self._reached()

    def _stands(self, link: SyslogConnection) -> bool:
        """Whether the link is there still; repositories end idle ones, and then nothing is lost."""
        try:
            self._check(link)
        except OSError:
            if self._progress.oldest is not None:
                raise
            return False
        return True

    def _sleep(self) -> float:
        oldest = self._progress.oldest
        if oldest is None:
            return self._timing.look_again
        return max(oldest + self._timing.doubt - time.monotonic(), 0.0) + 0.01

    def _complain(self, reason: str) -> None:
        """Say what is wrong, but not at each try."""
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
    xml = message(event, at=record.time, source=record.host)
    warning = event.outcome is not Outcome.SUCCESS
    return syslog_record(xml, at=record.time, host=record.host, process=record.process, warning=warning)
