"""The audit trail while a server runs: start and stop recorded, sent on, and what is past its time deleted."""

import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pacs_server.audit.forward import Forwarder
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.trail import AuditTrail
from pacs_server.config import AuditConfig
from pacs_server.errors import AuditUnavailable
from pacs_server.metrics import Metrics

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0


@contextmanager
def recording(
    trail: AuditTrail | None,
    recorder: Recorder,
    settings: Callable[[], AuditConfig],
    tls: ssl.SSLContext | None,
    metrics: Metrics,
) -> Iterator[Forwarder | None]:
    """Record from the application's start to its stop; `tls` is for the audit repository.

    Gives the forwarder if records are sent to a repository.

    Raises AuditUnavailable if the start cannot be recorded.
    """
    forwarder: Forwarder | None = None
    with ExitStack() as stack:
        if trail is not None:
            if settings().syslog_host is not None:
                forwarder = Forwarder(trail, settings(), tls, metrics)
                forwarder.start()
                # The last record is sent too.
                stack.callback(forwarder.stop)
            retention = _Retention(trail, settings)
            retention.start()
            stack.callback(retention.stop)
        recorder.begin()
        stack.callback(recorder.end)
        yield forwarder


class _Retention:
    """Deletes what is past its time, at once and every day."""

    def __init__(self, trail: AuditTrail, settings: Callable[[], AuditConfig]) -> None:
        self._trail = trail
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._trail.prune(self._settings().retention_years)
            except AuditUnavailable as error:
                log.error("audit trail not pruned", extra={"reason": str(error)})
            self._stopping.wait(_DAY_SECONDS)
