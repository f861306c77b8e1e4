"""What failed last, for readiness: remembered until it works again, and not for long."""

import time
from collections.abc import Callable
from typing import Final

# A server that is not ready may get no work, and would never learn that the work succeeds again.
_SECONDS: Final = 30.0


class LastFailure:
    """Why something failed the last time it was tried; may be shared by all threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, str] | None = None

    def failed(self, reason: str) -> None:
        """It was tried and failed."""
        self._last = (self._clock(), reason)

    def worked(self) -> None:
        """It was tried and worked."""
        self._last = None

    def reason(self) -> str | None:
        """Why it failed, None if it works or was not tried for 30 seconds."""
        last = self._last
        return last[1] if last is not None and self._clock() - last[0] < _SECONDS else None
