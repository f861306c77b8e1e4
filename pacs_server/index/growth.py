"""How fast the archive grows."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, case, func, select

from pacs_server.index.database import Database
from pacs_server.index.models import instance

_WINDOW: Final = timedelta(days=7)
# The rate of an archive that is younger than a day is not representative.
_SHORTEST: Final = timedelta(days=1)
# How many of the latest rows are read, and how long a result is reused, in seconds.
_ROWS: Final = 300_000
_FRESH_SECONDS: Final = 300.0


class Growth:
    """Measures the recent growth of the archive; thread-safe."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._known: tuple[float, float] | None = None

    def bytes_per_day(self) -> float:
        """Bytes a day over the last week, or since the archive began; minutes old at most. Raises IndexUnavailable."""
        with self._lock:
            if self._known is None or self._clock() - self._known[0] >= _FRESH_SECONDS:
                with self._database.connect() as connection:
                    self._known = (self._clock(), _rate(connection, self._now()))
            return self._known[1]


def _rate(connection: Connection, now: datetime) -> float:
    """Bytes a day. If a week has more rows than are read, the rate is that of the time which those rows cover."""
    since = now - _WINDOW
    columns = instance.c.id, instance.c.received_at, instance.c.size
    latest = select(*columns).order_by(instance.c.id.desc()).limit(_ROWS).subquery()
    recent: Any = func.sum(case((latest.c.received_at >= since, latest.c.size), else_=0))
    looked_at = select(func.count(), func.min(latest.c.id), recent, func.min(latest.c.received_at))
    count, oldest, size, first = connection.execute(looked_at).one()
    if count == _ROWS:
        # Restored instances are among the latest rows, although they were received much earlier.
        first = connection.scalar(select(instance.c.received_at).where(instance.c.id == oldest))
    if first is None:
        return 0.0
    # SQLite returns UTC without a time zone.
    began = first if first.tzinfo else first.replace(tzinfo=UTC)
    span = max(min(now - began, _WINDOW), _SHORTEST)
    days: float = span / timedelta(days=1)
    return float(size) / days
