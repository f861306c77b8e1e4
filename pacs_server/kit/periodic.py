"""A thread that does a task again and again, for as long as the server runs."""

import threading
from collections.abc import Callable
from typing import Final

DAY_SECONDS: Final = 86_400.0


class Periodic:
    """Runs `task` every `seconds` in its own thread, the first time at once unless `at_once` is False.

    The task may look at `stopping` to end early. An exception from the task would end the thread, so the task has to
    handle its own failures.
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
            self._task()
        while not self.stopping.wait(self._seconds):
            self._task()
