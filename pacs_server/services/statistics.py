"""Statistics of the storage: the largest studies, and how much was received on each day.

They are counted in the background when somebody asks and the last count is old, in small steps, so that neither the
database nor whoever asks has to wait for a count.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, TypeVar

from pacs_server.errors import PacsError, ResourceLimitation
from pacs_server.index.statistics import NamedStudy, StatisticsIndex, StudyDay

log = logging.getLogger(__name__)

K = TypeVar("K")

# So many studies are counted by one query, and for so long others have the database then, in seconds.
_STEP: Final = 500
_PAUSE: Final = 0.01
_LARGEST: Final = 20
# A count is good for so long, in seconds.
FRESH_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Day:
    """What was received on a day (UTC) and is still stored."""

    day: date
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sized:
    """A study and its size."""

    study: NamedStudy
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A count: when it began, the days in their order, and the largest studies as (bytes, instances, id)."""

    counted_at: datetime
    days: tuple[Day, ...]
    largest: tuple[tuple[int, int, int], ...]


class StatisticsService:
    """Counts, and keeps the last count; thread-safe."""

    def __init__(
        self,
        index: StatisticsIndex,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._index = index
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._known: tuple[float, Statistics] | None = None

    def statistics(self) -> Statistics | None:
        """The last count; None if there is none yet. If it is old, a new one begins.

        Raises ResourceLimitation if the system has no more threads.
        """
        with self._lock:
            if not (self._is_fresh() or self.counting or self._stopping.is_set()):
                thread = threading.Thread(target=self._run, name="statistics", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise ResourceLimitation("there can be no more threads") from error
                self._thread = thread
            return None if self._known is None else self._known[1]

    @property
    def counting(self) -> bool:
        """Whether a count is under way."""
        return self._thread is not None and self._thread.is_alive()

    def largest(self, found: Statistics) -> list[Sized]:
        """The largest studies of a count that are still there, the largest first. Raises IndexUnavailable."""
        named = self._index.named([key for _, _, key in found.largest])
        return [Sized(named[key], count, size) for size, count, key in found.largest if key in named]

    def count(self) -> Statistics | None:
        """Count now; None if the service was stopped meanwhile. Raises IndexUnavailable."""
        began, days, largest = self._now(), dict[date, tuple[int, int]](), list[tuple[int, int, int]]()
        last = self._index.last_study()
        for after in range(0, last, _STEP):
            if self._stopping.wait(_PAUSE if after else 0.0):
                return None
            studies: dict[int, tuple[int, int]] = {}
            for row in self._index.sizes(after, after + _STEP):
                _add(days, row.day, row)
                _add(studies, row.study, row)
            sized = ((size, instances, key) for key, (instances, size) in studies.items())
            largest = heapq.nlargest(_LARGEST, [*largest, *sized])
        return Statistics(began, tuple(Day(day, *days[day]) for day in sorted(days)), tuple(largest))

    def stop(self) -> None:
        """End a count that is under way, and begin no other."""
        self._stopping.set()
        if (thread := self._thread) is not None:
            thread.join()

    def _is_fresh(self) -> bool:
        return self._known is not None and self._clock() - self._known[0] < FRESH_SECONDS

    def _run(self) -> None:
        try:
            counted = self.count()
        except PacsError as error:
            log.warning("statistics not counted", extra={"reason": str(error)})
            return
        if counted is not None:
            self._known = self._clock(), counted


def _add(counts: dict[K, tuple[int, int]], key: K, row: StudyDay) -> None:
    instances, size = counts.get(key, (0, 0))
    counts[key] = instances + row.instances, size + row.bytes
