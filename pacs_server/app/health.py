"""The health of the server: status page, gauges, readiness, and log lines when somebody has to look after it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pacs_server import __version__
from pacs_server.app.runtime import ReloadResult, Runtime
from pacs_server.errors import PacsError
from pacs_server.index.growth import Growth
from pacs_server.index.state import StateIndex
from pacs_server.kit.metrics import PollingCounts, RemoteCounts
from pacs_server.upkeep.last_backup import LastBackup, last_backup

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long the database may take to answer, in seconds: whoever asks whether the server is ready waits no longer.
_TIMEOUT: Final = 3.0
# Warn of a disk that will be full within this many days.
_WARN_DAYS: Final = 7.0
# How often HealthLog is updated, and how often it repeats its warning, in seconds.
UPDATE_SECONDS: Final = 10.0
_REMIND_SECONDS: Final = 86400.0


@dataclass(frozen=True, slots=True)
class _IndexStatus:
    """What the database tells for the status page; None for what it cannot tell."""

    counts: dict[str, int] | None = None
    days_left: float | None = None
    bytes_per_day: float | None = None
    revision: str | None = None
    size_bytes: int | None = None
    tasks: dict[str, object] | None = None
    backup: LastBackup | None = None


class Health:
    """How the server is: its status page, whether it is ready, and its gauges; a part of a running server.

    What a component cannot tell is None, and the rest is still told.
    """

    def __init__(self, runtime: Runtime) -> None:
        archive = runtime.archive
        self._runtime = runtime
        self._archive = archive
        self._addresses = runtime.addresses
        self._started = time.monotonic()
        self._growth = Growth(archive.database)
        self._state = StateIndex(archive.database)
        self._database_problem = TimedProbe(archive.database.problem, lambda reason: reason)
        self._index_status = TimedProbe(self._read_index_status, lambda reason: _IndexStatus())
        self._index_gauges = TimedProbe(self._read_index_gauges, lambda reason: {})
        # How many background tasks there are, see `Metrics.watch_tasks`.
        self.task_counts = TimedProbe(lambda: _or_none(archive.tasks.counts), lambda reason: None).result
        # How the remotes are, see `Metrics.watch_remotes`.
        self.remote_counts = TimedProbe(lambda: _or_none(self._read_remotes), lambda reason: None).result
        self.polling_counts = TimedProbe(lambda: _or_none(self._read_polling), lambda reason: None).result

    def status(self) -> dict[str, object]:
        """The sections of `/status` and `pacs-server status` about the server as a whole."""
        config, files, connections = self._runtime.config(), self._archive.files, self._runtime.connections
        index = self._index_status.result()
        dicom, tls = self._addresses.dicom, self._addresses.tls
        return {
            "version": __version__,
            "ae_title": config.server.ae_title,
            "address": f"{dicom[0]}:{dicom[1]}",
            "tls_address": None if tls is None else f"{tls[0]}:{tls[1]}",
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "not_ready": self.not_ready(),
            "associations": {"active": connections.associations(), "connections": len(connections)},
            "counts": index.counts,
            "storage": {
                "directory": str(config.storage.directory),
                "free_bytes": _or_none(files.spool.free_bytes),
                "total_bytes": _or_none(files.spool.total_bytes),
                "days_left": index.days_left,
                "bytes_per_day": index.bytes_per_day,
                "quarantine_files": _or_none(files.quarantine.count),
                **self._fsync(config.storage.fsync),
            },
            "database": {
                "url": self._archive.database.url_without_password,
                "revision": index.revision,
                "size_bytes": index.size_bytes,
            },
            "tasks": index.tasks,
            "backup": None if index.backup is None else index.backup.fields(),
            "last_reload": _reload_fields(self._runtime.last_reload),
        }

    def not_ready(self) -> str | None:
        """All reasons why instances cannot be stored or retrieved right now, as one text; None if they can."""
        if self._runtime.stopping:
            return "shutting down"
        archive = self._archive
        found = (
            archive.files.spool.problem(),
            self._database_problem.result(),
            archive.audit.problem(),
            archive.archive.checkpoints.problem(),
        )
        reasons = [reason for reason in found if reason is not None]
        # A failed store also tells of problems that cannot be asked for: a quota, a disk that fails.
        return "; ".join(reasons) or archive.store.problem()

    def days_left(self) -> float | None:
        """The days until the storage is full if as much comes in as lately; None if nothing comes in.

        Raises StorageUnavailable, IndexUnavailable.
        """
        growth = self._growth.bytes_per_day()
        room = self._archive.files.spool.free_bytes() - self._runtime.config().storage.min_free_space
        return max(room, 0) / growth if growth else None

    def gauges(self) -> dict[str, float]:
        """The gauges about the server as a whole."""
        connections, files = self._runtime.connections, self._archive.files
        values: dict[str, float] = {
            "pacs_associations_active": connections.associations(),
            "pacs_connections_open": len(connections),
            "pacs_ready": self.not_ready() is None,
            "pacs_checkpoint_waiting": self._archive.archive.checkpoints.waiting,
        }
        free = _or_none(files.spool.free_bytes)
        if free is not None:
            values["pacs_storage_free_bytes"] = free
        quarantined = _or_none(files.quarantine.count)
        if quarantined is not None:
            values["pacs_quarantine_files"] = quarantined
        return values | self._index_gauges.result()

    def _fsync(self, configured: str) -> dict[str, object]:
        """How instances are synced, and why it is not as `configured`."""
        reason = self._archive.archive.checkpoints.hindrance if configured == "slots" else None
        return {"fsync": configured if reason is None else "each", "fsync_reason": reason}

    def _read_index_status(self) -> _IndexStatus:
        database, days = self._archive.database, _or_none(self.days_left)
        return _IndexStatus(
            counts=self._counts(),
            days_left=None if days is None else round(days, 1),
            bytes_per_day=_or_none(self._growth.bytes_per_day),
            revision=_or_none(database.revision),
            size_bytes=_or_none(database.size_bytes),
            tasks=_or_none(self._archive.tasks.summary),
            backup=_or_none(lambda: last_backup(self._state)),
        )

    def _read_remotes(self) -> list[RemoteCounts]:
        archive = self._archive
        return [
            RemoteCounts(each.name, each.state, each.waiting, each.dead, each.oldest_seconds)
            for each in archive.forwarding.remotes(archive.breakers)
        ]

    def _read_polling(self) -> PollingCounts:
        polling, states = self._archive.polling, self._archive.polling.states()
        entries = {
            each.name: (state.failures, state.answered_at.timestamp() if state.answered_at else None)
            for each in self._runtime.config().polling
            if (state := states.get(each.name)) is not None
        }
        return PollingCounts(polling.counts(), entries)

    def _read_index_gauges(self) -> dict[str, float]:
        """The gauges that come from the database."""
        values: dict[str, float] = {}
        days = _or_none(self.days_left)
        if days is not None:
            values["pacs_storage_days_left"] = days
        values |= _or_none(self._archive.commitment.gauges) or {}
        values |= _or_none(self._archive.feed.gauges) or {}
        conflicts = _or_none(self._archive.patients.count)
        if conflicts is not None:
            values["pacs_identity_conflicts"] = conflicts
        backup = _or_none(lambda: last_backup(self._state))
        if backup is not None:
            values["pacs_last_backup_seconds"] = backup.ended
        return values | {f"pacs_{name}": count for name, count in (self._counts() or {}).items()}

    def _counts(self) -> dict[str, int] | None:
        counts = _or_none(self._archive.archive.counts)
        if counts is None:
            return None
        names = ("patients", "studies", "series", "instances")
        return {name: getattr(counts, name) for name in names}


class HealthLog:
    """Logs when the server stops being ready and when it is ready again, and once a day that the disk fills up."""

    def __init__(self, health: Health, *, stopping: Callable[[], bool]) -> None:
        self._health = health
        self._stopping = stopping
        self._reason: str | None = None
        self._reminded = float("-inf")

    def update(self) -> None:
        """Log what has changed since the last call. A server that stops has said so already."""
        if self._stopping():
            return
        reason, before = self._health.not_ready(), self._reason
        self._reason = reason
        if reason is not None and before is None:
            log.error("not ready", extra={"reason": reason})
        elif reason is None and before is not None:
            log.info("ready again")
        if reason is None and time.monotonic() - self._reminded >= _REMIND_SECONDS:
            days = _or_none(self._health.days_left)
            if days is not None and days < _WARN_DAYS:
                log.warning("the storage will be full soon", extra={"days": round(days, 1)})
                self._reminded = time.monotonic()


class TimedProbe(Generic[T]):
    """Runs a check of the database in a background thread and reports a timeout instead of blocking the caller.

    While a check has not come back, no second one is started; the callers of all of them wait for the first.
    """

    def __init__(self, check: Callable[[], T], timed_out: Callable[[str], T]) -> None:
        """`timed_out` makes the result of the reason why `check` has none, also where that has failed."""
        self._check = check
        self._timed_out = timed_out
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._result = timed_out("the database was not asked yet")

    def result(self) -> T:
        """The result of a check that runs now, or that it takes longer than three seconds."""
        with self._lock:
            thread = self._thread
            if thread is None or not thread.is_alive():
                thread = self._thread = threading.Thread(target=self._run, name="readiness", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    self._thread = None
                    return self._timed_out("the system has no more threads")
        thread.join(_TIMEOUT)
        if thread.is_alive():
            return self._timed_out(f"the database has not answered for {_TIMEOUT:g} s")
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._check()
        except Exception as error:
            # The last resort: what was found before a fault of this program is not told for ever.
            log.exception("check failed unexpectedly")
            self._result = self._timed_out(f"internal error ({type(error).__name__}), see the server's log")


def _reload_fields(reload: ReloadResult | None) -> dict[str, object] | None:
    if reload is None:
        return None
    fields: dict[str, object] = {"at": reload.at.isoformat(timespec="seconds"), "result": reload.text}
    return fields if reload.needs_restart is None else fields | {"needs_restart": reload.needs_restart}


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except PacsError:
        return None
