"""Function calls in the threads that serve peers, counted by operation; calls of C functions count as well."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median_low
from types import FrameType
from typing import Any

from pacs_server.scp.dispatch import Dispatcher
from pacs_server.scp.entity import ApplicationEntity

_BEGINNINGS = {Dispatcher._serve_one.__code__: "message", ApplicationEntity.serve.__code__: "connection"}


@dataclass(slots=True)
class Calls:
    """How often what was called, from each message and each connection to the next one of the same thread."""

    messages: list[Counter[str]] = field(default_factory=list)
    connections: list[Counter[str]] = field(default_factory=list)

    def profile(self, *_: object) -> None:
        """What `threading.setprofile` takes: each thread that serves peers gets a counter of its own."""
        peers = threading.current_thread().name.startswith(("listener", "peer-"))
        sys.setprofile(self._counter() if peers else None)

    def _counter(self) -> Callable[[FrameType, str, Any], None]:
        begun = {"message": self.messages, "connection": self.connections}
        now = Counter[str]()

        def count(frame: FrameType, event: str, function: Any) -> None:
            nonlocal now
            if event == "call":
                code = frame.f_code
                if (beginning := _BEGINNINGS.get(code)) is not None:
                    now = Counter()
                    begun[beginning].append(now)
                now[f"{code.co_filename} {code.co_qualname}"] += 1
            elif event == "c_call":
                now[f"{function.__module__} {function.__qualname__}"] += 1

        return count


@contextmanager
def counting() -> Iterator[Calls]:
    """Count the calls of the threads that are started within."""
    calls = Calls()
    threading.setprofile(calls.profile)
    try:
        yield calls
    finally:
        threading.setprofile(None)


def usual(counted: list[Counter[str]]) -> Counter[str]:
    """What an operation calls in most cases. What is done once in a while, such as making slots, is left out so."""
    totals = [each.total() for each in counted]
    return counted[totals.index(median_low(totals))]


def told(calls: Counter[str], most: int = 30) -> str:
    """The functions that were called most often, a line each."""
    return "\n".join(f"{count:5} {name}" for name, count in calls.most_common(most))
