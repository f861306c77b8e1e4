"""Bytes that were asked for last, by key, as many as fit into a limit."""

import threading
from collections import OrderedDict
from collections.abc import Hashable


class RecentBytes:
    """Keeps what was asked for last; may be shared by all threads."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes."""
        self._limit = limit
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        """What is kept under a key, or None."""
        with self._lock:
            data = self._kept.get(key)
            if data is not None:
                self._kept.move_to_end(key)
            return data

    def put(self, key: Hashable, data: bytes) -> None:
        """Keep something unless it is larger than the limit, and forget what was not asked for longest."""
        with self._lock:
            self._size -= len(self._kept.pop(key, b""))
            if len(data) > self._limit:
                return
            self._kept[key] = data
            self._size += len(data)
            while self._size > self._limit:
                _, oldest = self._kept.popitem(last=False)
                self._size -= len(oldest)
