"""What was found a moment ago, so that it need not be looked up for each of many requests."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Keeps values for a moment; may be shared by all threads."""

    def __init__(self, seconds: float, clock: Callable[[], datetime], *, most: int = 1000) -> None:
        """Of more than `most` values none is kept."""
        self._lasts = timedelta(seconds=seconds)
        self._clock = clock
        self._most = most
        self._kept: dict[str, tuple[datetime, V]] = {}

    def get(self, key: str) -> V | None:
        """The value that was put there a moment ago; None if there is none."""
        kept = self._kept.get(key)
        return kept[1] if kept is not None and self._clock() < kept[0] else None

    def put(self, key: str, value: V) -> None:
        """Keep a value for a moment."""
        if len(self._kept) >= self._most:
            self._kept.clear()
        self._kept[key] = (self._clock() + self._lasts, value)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
