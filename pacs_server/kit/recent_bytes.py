"""What was asked for last, by key, as much as fits into a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class RecentBytes(Generic[V]):
    """Keeps what was asked for last; may be shared by all threads."""

    def __init__(self, limit: int, size: Callable[[Any], int] = len) -> None:
        """`limit` is in bytes, and so is what `size` says of a value."""
        self._limit = limit
        self._size_of = size
        self._kept: OrderedDict[Hashable, V] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """What is kept under a key, or None."""
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
            return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep something unless it is larger than the limit, and forget what was not asked for longest."""
        size = self._size_of(value)
        with self._lock:
            if (before := self._kept.pop(key, None)) is not None:
                self._size -= self._size_of(before)
            if size > self._limit:
                return
            self._kept[key] = value
            self._size += size
            while self._size > self._limit:
                _, oldest = self._kept.popitem(last=False)
                self._size -= self._size_of(oldest)
