"""The task that applies the retention of the audit trail while a server runs."""

import logging
from collections.abc import Callable

from pacs_server.audit.trail import AuditTrail
from pacs_server.errors import AuditUnavailable
from pacs_server.kit.periodic import DAY_SECONDS, Periodic

log = logging.getLogger(__name__)


def retention(trail: AuditTrail, years: Callable[[], int | None]) -> Periodic:
    """The task that deletes the days whose retention has ended, at the start and every day.

    `years` is audit.retention_years as it is now.
    """

    def prune() -> None:
        try:
            trail.prune(years())
        except AuditUnavailable as error:
            log.error("audit trail not pruned", extra={"reason": str(error)})

    return Periodic("audit-retention", DAY_SECONDS, prune)
