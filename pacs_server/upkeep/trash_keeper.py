"""The task that keeps the trash in order while a server runs."""

import logging
from collections.abc import Callable
from datetime import timedelta

from pacs_server.audit.events import Participant
from pacs_server.errors import PacsError
from pacs_server.kit.periodic import DAY_SECONDS, Periodic
from pacs_server.services.deletion import DeletionService

log = logging.getLogger(__name__)


def trash_keeper(
    deletions: DeletionService, days: Callable[[], int | None], own: Callable[[], Participant]
) -> Periodic:
    """Finish interrupted deletions and purge those whose retention is over, at once and every day.

    `days` gives storage.trash_days, and `own` is this application in the audit trail. When the task is stopped it ends
    after the deletion at hand; the rest is purged after the next start.
    """

    def tidy() -> None:
        try:
            deletions.resume()
            kept = days()
            if kept is not None:
                deletions.empty(timedelta(days=kept), own(), keeper.stopping.is_set)
        except PacsError as error:
            log.error("trash not tidied", extra={"reason": str(error)})

    keeper = Periodic("trash", DAY_SECONDS, tidy)
    return keeper
