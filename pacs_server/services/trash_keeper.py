"""The thread that keeps the trash in order while a server runs."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from pacs_server.audit.events import Participant
from pacs_server.errors import PacsError
from pacs_server.services.deletion import DeletionService

log = logging.getLogger(__name__)

_DAY_SECONDS: Final = 86_400.0


class TrashKeeper:
    """Finishes what was interrupted and removes for good what is past its time, at once and every day."""

    def __init__(
        self, deletions: DeletionService, days: Callable[[], int | None], own: Callable[[], Participant]
    ) -> None:
        """`days` is storage.trash_days, and `own` this application in the audit trail."""
        self._deletions = deletions
        self._days = days
        self._own = own
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trash", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the deletion at hand; what is left has time until the next start."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._tidy()
            except PacsError as error:
                log.error("trash not tidied", extra={"reason": str(error)})
            self._stopping.wait(_DAY_SECONDS)

    def _tidy(self) -> None:
        self._deletions.resume()
        days = self._days()
        if days is not None:
            self._deletions.empty(timedelta(days=days), self._own(), self._stopping.is_set)
