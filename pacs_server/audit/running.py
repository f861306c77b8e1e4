"""The audit trail while a server runs: start and stop recorded, sent on, and what is past its time deleted."""

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pacs_server.audit.forward import Forwarder
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.trail import AuditTrail
from pacs_server.config.model import AuditConfig
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.metrics import Metrics
from pacs_server.kit.periodic import DAY_SECONDS, Periodic

log = logging.getLogger(__name__)


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
            stack.enter_context(_retention(trail, settings))
        recorder.begin()
        stack.callback(recorder.end)
        yield forwarder


def _retention(trail: AuditTrail, settings: Callable[[], AuditConfig]) -> Periodic:
    """Deletes what is past its time, at once and every day."""

    def prune() -> None:
        try:
            trail.prune(settings().retention_years)
        except AuditUnavailable as error:
            log.error("audit trail not pruned", extra={"reason": str(error)})

    return Periodic("audit-retention", DAY_SECONDS, prune)
