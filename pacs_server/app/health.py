"""What the server says of itself: status, gauges, readiness, and in the log what needs somebody soon."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from pacs_server import __version__
from pacs_server.app.assembly import OpenArchive
from pacs_server.config.model import Config
from pacs_server.errors import PacsError
from pacs_server.index.growth import Growth
from pacs_server.net.listener import Connections

log = logging.getLogger(__name__)

T = TypeVar("T")

# The database has so long to say that it is there, in seconds: whoever asks whether we are ready waits no longer.
_PATIENCE: Final = 3.0
# A disk that will be full sooner is warned of.
_WARN_DAYS: Final = 7.0
# How often the log is told, in seconds: a change of readiness, and a disk that will be full soon.
LOOK_SECONDS: Final = 10.0
_REMIND_SECONDS: Final = 86400.0


class Report:
    """Asks the running parts; what one of them cannot tell is None, and the rest is still told."""

    def __init__(self, parts: OpenArchive, connections: Connections, config: Callable[[], Config]) -> None:
        self.stopping = False
        self.last_reload: dict[str, object] | None = None
        self._parts = parts
        self._connections = connections
        self._config = config
        self._began = time.monotonic()
        self._growth = Growth(parts.database)
        self._problem = _Patiently(parts.database.problem, lambda late: late)
        self._index_status = _Patiently(self._ask_for_status, lambda late: {})
        self._index_gauges = _Patiently(self._ask_for_gauges, lambda late: {})

    def status(self, address: tuple[str, int], tls_address: tuple[str, int] | None) -> dict[str, object]:
        """What `/status` answers and `pacs-server status` prints; the server listens at these addresses."""
        config, storage = self._config(), self._parts.storage
        index = self._index_status.answer()
        return {
            "version": __version__,
            "ae_title": config.server.ae_title,
            "address": f"{address[0]}:{address[1]}",
            "tls_address": None if tls_address is None else f"{tls_address[0]}:{tls_address[1]}",
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "not_ready": self.not_ready(),
            "associations": {
                "active": self._connections.associations(),
                "connections": len(self._connections),
            },
            "counts": index.get("counts"),
            "storage": {
                "directory": str(config.storage.directory),
                "free_bytes": _or_none(storage.free_bytes),
                "total_bytes": _or_none(storage.total_bytes),
                "days_left": index.get("days_left"),
                "quarantine_files": _or_none(storage.quarantined),
                "fsync": config.storage.fsync,
            },
            "database": {
                "url": self._parts.database.url_without_password,
                "revision": index.get("revision"),
                "size_bytes": index.get("size_bytes"),
            },
            "last_reload": self.last_reload,
        }

    def not_ready(self) -> str | None:
        """Why instances cannot be taken or given right now, all reasons one after the other; None if they can."""
        if self.stopping:
            return "shutting down"
        parts = self._parts
        found = (parts.storage.problem(), self._problem.answer(), parts.audit.problem())
        reasons = [reason for reason in found if reason is not None]
        # What went wrong with an object tells of what cannot be asked for: a quota, a disk that fails.
        return "; ".join(reasons) or parts.store.problem()

    def days_left(self) -> float | None:
        """In how many days the storage is full if as much comes in as lately; None if nothing does.

        Raises StorageUnavailable, IndexUnavailable.
        """
        growth = self._growth.bytes_per_day()
        room = self._parts.storage.free_bytes() - self._config().storage.min_free_space
        return max(room, 0) / growth if growth else None

    def gauges(self) -> dict[str, float]:
        """The values of `metrics.GAUGES`."""
        values: dict[str, float] = {
            "pacs_associations_active": self._connections.associations(),
            "pacs_connections_open": len(self._connections),
            "pacs_ready": self.not_ready() is None,
        }
        free = _or_none(self._parts.storage.free_bytes)
        if free is not None:
            values["pacs_storage_free_bytes"] = free
        quarantined = _or_none(self._parts.storage.quarantined)
        if quarantined is not None:
            values["pacs_quarantine_files"] = quarantined
        return values | self._index_gauges.answer()

    def _ask_for_status(self) -> dict[str, Any]:
        """What of the status the database tells."""
        database, days = self._parts.database, _or_none(self.days_left)
        return {
            "counts": self._counts(),
            "days_left": None if days is None else round(days, 1),
            "revision": _or_none(database.revision),
            "size_bytes": _or_none(database.size_bytes),
        }

    def _ask_for_gauges(self) -> dict[str, float]:
        """Those of the gauges that the database tells."""
        values: dict[str, float] = {}
        days = _or_none(self.days_left)
        if days is not None:
            values["pacs_storage_days_left"] = days
        values |= _or_none(self._parts.commitment.gauges) or {}
        conflicts = _or_none(self._parts.identity.count)
        if conflicts is not None:
            values["pacs_identity_conflicts"] = conflicts
        return values | {f"pacs_{name}": count for name, count in (self._counts() or {}).items()}

    def _counts(self) -> dict[str, int] | None:
        counts = _or_none(self._parts.archive.counts)
        if counts is None:
            return None
        names = ("patients", "studies", "series", "instances")
        return {name: getattr(counts, name) for name in names}


class Watch:
    """Says in the log when the server is no longer ready and when it is again, and every day that the disk fills up."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._reason: str | None = None
        self._reminded = float("-inf")

    def look(self) -> None:
        """Say what has changed; that it stops is said already."""
        if self._report.stopping:
            return
        reason, before = self._report.not_ready(), self._reason
        self._reason = reason
        if reason is not None and before is None:
            log.error("not ready", extra={"reason": reason})
        elif reason is None and before is not None:
            log.info("ready again")
        if reason is None and time.monotonic() - self._reminded >= _REMIND_SECONDS:
            days = _or_none(self._report.days_left)
            if days is not None and days < _WARN_DAYS:
                log.warning("the storage will be full soon", extra={"days": round(days, 1)})
                self._reminded = time.monotonic()


class _Patiently(Generic[T]):
    """Asks in a thread of its own, so that nobody hangs with it; `late` makes an answer of why there is none."""

    def __init__(self, ask: Callable[[], T], late: Callable[[str], T]) -> None:
        self._ask = ask
        self._late = late
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._answer = late("the database was not asked yet")

    def answer(self) -> T:
        """The answer, or that there is none in time; then the question stands, and is not put again."""
        with self._lock:
            thread = self._thread
            if thread is None or not thread.is_alive():
                thread = self._thread = threading.Thread(target=self._run, name="readiness", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = None
                    return self._late("the system has no more threads")
        thread.join(_PATIENCE)
        if thread.is_alive():
            return self._late(f"the database has not answered for {_PATIENCE:g} s")
        return self._answer

    def _run(self) -> None:
        self._answer = self._ask()


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except PacsError:
        return None
