"""The peers seen: who has asked for an association, and whether it was accepted."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pacs_server.dicom.caller import Caller
from pacs_server.errors import PacsError
from pacs_server.index.peers import MAX_PEERS, PeerIndex, PeerSeen
from pacs_server.kit.logs import escaped

log = logging.getLogger(__name__)

# The least time between two writes to the index, in seconds.
WRITE_SECONDS = 60.0
# How long stopping waits for the last write, in seconds.
_LAST_WRITE_SECONDS = 5.0
# The Standard allows 16 characters for AE titles and Implementation Version Names (PS3.7 D.3.3.2.3); peers send more.
_MAX_TEXT = 64


@dataclass(slots=True)
class _Visits:
    """The associations that one peer has asked for since the last write."""

    first: datetime
    last: datetime
    count: int
    outcome: str
    tls: bool
    version: str

    def seen(self, calling_ae: str, called_ae: str, address: str) -> PeerSeen:
        """The value for the index; AE titles of peers may hold any characters, and are escaped."""
        calling_ae, called_ae, address, version = (
            escaped(text)[:_MAX_TEXT] for text in (calling_ae, called_ae, address, self.version)
        )
        return PeerSeen(
            calling_ae, called_ae, address, self.first, self.last, self.count, self.outcome, self.tls, version
        )


class PeersSeenService:
    """Remembers the peers that `saw` is called for; a background thread writes them to the index.

    The first peer after a pause is written at once. Others are written together, up to `interval` seconds later. Peers
    that the database does not take are dropped.
    """

    def __init__(
        self,
        index: PeerIndex,
        *,
        interval: float = WRITE_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._index = index
        self._interval = interval
        self._now = now
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str, str], _Visits] = {}
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers-seen", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Write the remaining peers, if the database takes them soon."""
        self._stopping.set()
        self._news.set()
        self._thread.join(_LAST_WRITE_SECONDS)

    def saw(self, caller: Caller, outcome: str, *, implementation_version_name: str) -> None:
        """Remember that this peer has asked for an association. Never waits, never raises."""
        key, now, tls = (caller.ae_title, caller.called_ae, caller.address), self._now(), caller.tls
        with self._lock:
            visits = self._pending.get(key)
            if visits is None:
                if len(self._pending) >= MAX_PEERS:
                    return
                visits = self._pending[key] = _Visits(now, now, 0, outcome, tls, "")
            visits.last, visits.outcome, visits.tls = now, outcome, tls
            visits.count += 1
            visits.version = implementation_version_name[:_MAX_TEXT]
        if not self._news.is_set():
            self._news.set()

    def list(self, *, rejected: bool = False, calling_ae: str | None = None) -> list[PeerSeen]:
        """As PeerIndex.list; raises IndexUnavailable."""
        return self._index.list(rejected=rejected, calling_ae=calling_ae)

    def write(self) -> None:
        """Write the peers seen since the last write."""
        with self._lock:
            pending, self._pending = self._pending, {}
            self._news.clear()
        try:
            if pending:
                self._index.add([visits.seen(*key) for key, visits in pending.items()])
        except PacsError as error:
            log.warning("peers seen not written", extra={"peers": len(pending), "reason": str(error)})

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._news.wait()
            self.write()
            self._stopping.wait(self._interval)
        self.write()
