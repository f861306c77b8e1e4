"""A thread that does a task again and again, for as long as the server runs."""

import logging
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

DAY_SECONDS: Final = 86_400.0


class Periodic:
    """Runs `task` every `seconds` in its own thread, the first time at once unless `at_once` is False.

    The task may look at `stopping` to end early. It has to handle its own failures: what it raises is logged as a fault
    of the program, and the task is run again when it is due.
    """

    def __init__(self, name: str, seconds: float, task: Callable[[], None], *, at_once: bool = True) -> None:
        self.stopping = threading.Event()
        self._seconds = seconds
        self._task = task
        self._at_once = at_once
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a task that runs is waited for."""
        self.stopping.set()
        self._thread.join()

    def _run(self) -> None:
        if self._at_once:
            self._run_once()
        while not self.stopping.wait(self._seconds):
            self._run_once()

    def _run_once(self) -> None:
        try:
            self._task()
        except Exception:
            # The last resort: a fault of this program ends one run, and not all that are to follow.
            log.exception("periodic work failed unexpectedly", extra={"work": self._thread.name})
