"""What keeps the trash in order while a server runs."""

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
    """Finishes what was interrupted and removes for good what is past its time, at once and every day.

    `days` is storage.trash_days, and `own` this application in the audit trail. It ends after the deletion at hand;
    what is left has time until the next start.
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
