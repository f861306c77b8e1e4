"""How values spread over buckets, counted in a few steps: what metrics measure at each operation."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple


class Counted(NamedTuple):
    """What was counted: how many values are in each bucket, the last one for those above all bounds, and their sum."""

    buckets: tuple[int, ...]
    total: float

    @property
    def cumulative(self) -> list[int]:
        """How many values are within each bound, and how many there are."""
        return list(accumulate(self.buckets))

    @classmethod
    def together(cls, several: "Iterable[Counted]") -> "Counted":
        """What several have counted, all with the same bounds."""
        buckets, totals = zip(*several, strict=True)
        return cls(tuple(map(sum, zip(*buckets, strict=True))), sum(totals))


class Tally:
    """A number that only grows. Thread-safe."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        """Make the number larger by so much."""
        with self._lock:
            self.value += amount


class Spread:
    """Counts values by the first of `bounds` that they do not exceed, and adds them up. Thread-safe."""

    __slots__ = ("_bounds", "_buckets", "_lock", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count a value."""
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            self._buckets[bucket] += 1
            self._total += value

    def counted(self) -> Counted:
        """What was counted so far."""
        with self._lock:
            return Counted(tuple(self._buckets), self._total)
