"""The last failure of an operation, for readiness: remembered until the operation succeeds, and not for long."""

import time
from collections.abc import Callable
from typing import Final

# A load balancer may send no work to a server that is not ready. The server would then never learn that the operation
# works again, so that a failure counts for this long only, in seconds.
_SECONDS: Final = 30.0


class LastFailure:
    """Why an operation failed the last time it was tried. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, str] | None = None

    def failed(self, reason: str) -> None:
        """Record that the operation failed."""
        self._last = (self._clock(), reason)

    def worked(self) -> None:
        """Record that the operation succeeded."""
        self._last = None

    def reason(self) -> str | None:
        """Why the operation failed; None if it succeeded or was not tried for 30 seconds."""
        last = self._last
        return last[1] if last is not None and self._clock() - last[0] < _SECONDS else None
