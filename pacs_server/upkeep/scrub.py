"""Read every stored instance again and again, slowly, so that a loss is known before the instance is needed.

A pass reads the instances in the order of their arrival. Its position and its findings are kept in the index, so that a
restart continues the pass. The thread sleeps between reads, and while there is nothing to do.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from pacs_server.errors import PacsError
from pacs_server.index.changes import ChangeKind, NewChange
from pacs_server.index.database import Database
from pacs_server.index.integrity import IndexedInstance, IntegrityIndex
from pacs_server.index.state import StateIndex
from pacs_server.storage.contract import Storage
from pacs_server.upkeep.checking import Checks, Finding, FindingKind, check

log = logging.getLogger(__name__)

_STATE: Final = "scrub"
SCRUB_FINDINGS: Final = "scrub.finding."
# What the feed of changes says of an instance that is in order again, in the place of the kind of a finding.
_IN_ORDER: Final = "in order"
_PAGE: Final = 50
_SAVE_SECONDS: Final = 30.0
# Two passes begin at least so far apart, so that a small archive is not read all day.
_PASS_SECONDS: Final = 24 * 3600.0
# Each instance counts as so many bytes more, so that a pass over missing files does not rush either.
_LEAST: Final = 4096
# How long to wait after the index or the storage has failed, in seconds.
_PAUSE: Final = 60.0


@dataclass(slots=True)
class _ScrubPosition:
    """The number of the pass, and the key of the last instance that it has read; kept as JSON, times are Unix times."""

    number: int = 0
    key: int = 0
    reading: bool = False
    began: float = 0.0
    last_pass: float | None = None


class _Stopped(Exception):
    """The scrub was stopped or switched off in the middle of a file."""


class Scrub:
    """The background thread that reads the stored instances."""

    def __init__(
        self,
        storage: Storage,
        database: Database,
        rate: Callable[[], int | None],
        *,
        counted: Callable[[int], None],
    ) -> None:
        """`rate` gives the current `storage.scrub_rate` in bytes a second, None for off.

        `counted` is told the size of each instance that was read.
        """
        self._storage = storage
        self._index = IntegrityIndex(database)
        self._state = StateIndex(database)
        self._rate = rate
        self._counted = counted
        self._free_at = 0.0
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._findings: dict[str, FindingKind] = {}
        self._position = _ScrubPosition()
        self._saved_at = 0.0
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        """Start the thread, which continues the pass of the last process."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread at once, in the middle of a file if need be."""
        self._stopping.set()
        self._news.set()
        self._thread.join()

    def reload(self) -> None:
        """Take over the rate; a wait under the old rate ends."""
        self._free_at = 0.0
        self._news.set()

    def findings(self) -> dict[str, int]:
        """The number of instances with a known fault, by the kind of the fault; every kind is there."""
        with self._lock:
            found = Counter(self._findings.values())
        return {
            kind.value: found[kind]
            for kind in (FindingKind.MISSING, FindingKind.SIZE, FindingKind.CHANGED, FindingKind.UNREADABLE)
        }

    def status(self) -> dict[str, object]:
        """The section of the status page: the number of faults, and when the last pass ended."""
        ended = self._position.last_pass
        last_pass = None if ended is None else datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds")
        return {"scrub": {"findings": sum(self.findings().values()), "last_pass": last_pass}}

    def gauges(self) -> dict[str, float]:
        """Its values of `metrics.GAUGES`."""
        ended = self._position.last_pass
        return {} if ended is None else {"pacs_scrub_last_pass_seconds": ended}

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        loaded = False
        while not self._stopping.is_set():
            self._news.clear()
            try:
                if not loaded:
                    self._load()
                    loaded = True
                pause = self._pause()
                if pause == 0:
                    self._pass()
                    continue
            except _Stopped:
                continue
            except PacsError as error:
                log.warning("scrub cannot go on yet", extra={"reason": str(error)})
                pause = _PAUSE
            if not self._stopping.is_set():
                self._news.wait(pause)
        self._end(loaded=loaded)

    def _pause(self) -> float | None:
        """Seconds until there is something to read: 0 in the middle of a pass, None while the scrub is off."""
        if self._rate() is None:
            return None
        position = self._position
        return 0.0 if position.reading else max(0.0, position.began + _PASS_SECONDS - time.time())

    def _pass(self) -> None:
        """Finish the pass that was begun, or read a whole one."""
        position = self._position
        if not position.reading:
            position.number, position.key, position.reading, position.began = position.number + 1, 0, True, time.time()
            self._save(now=True)
        while page := self._index.page(position.key, _PAGE):
            for row in page:
                self._take(row)
                position.key = row.key
                self._save()
        self._passed()

    def _take(self, row: IndexedInstance) -> None:
        self._spend(_LEAST)
        found = check(self._storage, row, Checks(header=False), self._spend)
        if found is not None:
            # The instance may have been replaced or deleted meanwhile.
            now = self._index.find([row.stored.uids.sop]).get(row.stored.uids.sop)
            found = None if now is None else check(self._storage, now, Checks(header=False), self._spend)
        self._counted(row.stored.size)
        self._note(row.stored.uids.sop, found)

    def _note(self, uid: str, found: Finding | None) -> None:
        """Keep a finding, or forget the earlier finding of an instance that is in order again."""
        with self._lock:
            known = self._findings.get(uid)
        if found is None:
            if known is not None:
                self._state.remove([SCRUB_FINDINGS + uid], [_change(uid, _IN_ORDER)])
                log.info("instance is in order again", extra={"sop_instance_uid": uid})
        else:
            kept = asdict(found) | {"number": self._position.number}
            # Every pass finds it again, which is no news.
            changes = [_change(uid, found.kind)] if found.kind != known else []
            self._state.put({SCRUB_FINDINGS + uid: json.dumps(kept)}, changes)
            what = {"sop_instance_uid": uid, "path": found.path, "found": found.kind, "detail": found.detail}
            log.error("stored instance is not in order", extra=what)
        with self._lock:
            if found is None:
                self._findings.pop(uid, None)
            else:
                self._findings[uid] = found.kind

    def _passed(self) -> None:
        """End a pass: instances that only an earlier pass found are no longer in the archive."""
        position = self._position
        items = self._state.items(SCRUB_FINDINGS)
        gone = [key for key, text in items if json.loads(text)["number"] < position.number]
        if gone:
            self._state.remove(gone)
        with self._lock:
            for key in gone:
                self._findings.pop(key.removeprefix(SCRUB_FINDINGS), None)
        position.reading, position.last_pass = False, time.time()
        self._save(now=True)
        log.info("scrub has read the whole archive", extra={"findings": sum(self.findings().values())})

    def _spend(self, size: int) -> None:
        """Wait until `size` bytes more may be read. Raises _Stopped if the scrub was stopped or switched off."""
        rate = self._rate()
        now = time.monotonic()
        if rate is not None:
            self._free_at = max(self._free_at, now) + size / rate
            self._news.wait(max(0.0, self._free_at - now))
        self._news.clear()
        if self._stopping.is_set() or self._rate() is None:
            raise _Stopped

    # ---------------------------------------------------------------- what is kept in the index

    def _load(self) -> None:
        kept = self._state.get(_STATE)
        if kept is not None:
            self._position = _ScrubPosition(**json.loads(kept))
        items = self._state.items(SCRUB_FINDINGS)
        known = {key.removeprefix(SCRUB_FINDINGS): FindingKind(json.loads(text)["kind"]) for key, text in items}
        with self._lock:
            self._findings = known
        self._saved_at = time.monotonic()

    def _save(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._saved_at >= _SAVE_SECONDS:
            self._state.put({_STATE: json.dumps(asdict(self._position))})
            self._saved_at = time.monotonic()

    def _end(self, *, loaded: bool) -> None:
        try:
            if loaded:
                self._save(now=True)
        except PacsError as error:
            log.warning("position of the scrub not kept", extra={"reason": str(error)})


def _change(uid: str, detail: str) -> NewChange:
    return NewChange(ChangeKind.FINDING, sop_instance_uid=uid, detail=detail)
