"""A thread that does a task again and again, for as long as the server runs."""

import threading
from collections.abc import Callable
from typing import Final, Self

DAY_SECONDS: Final = 86_400.0


class Periodic:
    """Does `task` at once, unless told otherwise, and then every `seconds` in a thread of its own.

    As a context manager it runs until the block ends. The task may ask `stopping` whether it is to end early; what
    it raises would end the thread, so it sees to its own failures.
    """

    def __init__(self, name: str, seconds: float, task: Callable[[], None], *, at_once: bool = True) -> None:
        self.stopping = threading.Event()
        self._seconds = seconds
        self._task = task
        self._at_once = at_once
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._thread.join()

    def _run(self) -> None:
        if self._at_once:
            self._task()
        while not self.stopping.wait(self._seconds):
            self._task()
