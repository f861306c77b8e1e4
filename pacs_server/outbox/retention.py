"""The task that removes tasks of the outbox which were over long ago, while a server runs."""

import logging
from typing import Final

from pacs_server.errors import PacsError
from pacs_server.kit.periodic import Periodic
from pacs_server.services.tasks import TaskService

log = logging.getLogger(__name__)

_HOUR_SECONDS: Final = 3600.0


def task_retention(service: TaskService) -> Periodic:
    """Remove tasks that were done or cancelled long ago, every hour; a thread of its own, so that no lease waits."""

    def remove() -> None:
        try:
            service.remove_finished(remover.stopping.is_set)
        except PacsError as error:
            log.warning("finished tasks not removed", extra={"reason": str(error)})

    remover = Periodic("task-retention", _HOUR_SECONDS, remove, at_once=False)
    return remover
