"""Keeps the metadata of every stored instance in the index, behind the answers to those who store."""

import logging
import threading
import time
from typing import Final

from pacs_server.archive.changes import Batch, Feed
from pacs_server.errors import PacsError
from pacs_server.index.feed import Consumer
from pacs_server.index.instances import StoredInstance
from pacs_server.index.metadata import FORMAT
from pacs_server.index.state import StateIndex
from pacs_server.services.metadata import MetadataService

log = logging.getLogger(__name__)

CONSUMER: Final = Consumer("metadata", from_beginning=True)
# So many instances share a transaction.
_TOGETHER: Final = 50
# Stores have ended when so many seconds have passed without one; nobody waits longer for that than `_PATIENCE`.
_QUIET: Final = 1.0
_PATIENCE: Final = 20.0
# After a batch the thread rests for a multiple of the time that it took: long while others store.
_REST, _REST_BESIDE_STORES = 4.0, 40.0
_PAUSE_AFTER_FAILURE: Final = 30.0
# In which epoch of the feed, and in which format, everything was kept from the beginning on.
_BEGUN: Final = "metadata.begun"


class MetadataKeeper:
    """A thread that reads each new instance once, when there is little else to do, and keeps its metadata."""

    def __init__(self, service: MetadataService, feed: Feed, state: StateIndex) -> None:
        self._service = service
        self._feed = feed
        self._state = state
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metadata", daemon=True)
        # How often this thread was woken for what was read for requests; all other wake-ups are commits.
        self._woken = 0
        service.on_read = self._wake

    def start(self) -> None:
        """Begin to keep metadata."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch at hand; the rest is kept after the next start."""
        self._stopping.set()
        self._feed.wake()
        self._thread.join()

    def catch_up(self) -> int:
        """Keep the metadata of all instances that are there; returns how many were looked at."""
        self._begin()
        looked_at = 0
        while batch := self._next():
            looked_at += len(batch)
        return looked_at

    def _run(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                begun = begun or self._begin()
                self._service.keep_waiting()
                started, commits = time.monotonic(), self._commits
                batch = self._next()
                if batch:
                    is_beside_stores = self._commits != commits
                    rest = _REST_BESIDE_STORES if is_beside_stores else _REST
                    self._stopping.wait(rest * (time.monotonic() - started))
                elif self._feed.wait(batch):
                    self._wait_for_quiet()
            except PacsError as error:
                log.warning("metadata not kept yet", extra={"reason": str(error)})
                self._stopping.wait(_PAUSE_AFTER_FAILURE)

    def _begin(self) -> bool:
        """Begin with the first instance if this is another index than before, or if other things are to be kept."""
        if self._state.get(_BEGUN) != self._mark():
            self._feed.leave(CONSUMER.name)
            self._state.put({_BEGUN: self._mark()})
        return True

    def _mark(self) -> str:
        # Each rebuild and each restore begins an epoch.
        return f"{self._feed.epoch(CONSUMER)} {FORMAT}"

    def _next(self) -> Batch:
        """Keep the metadata of the next instances; an empty batch if there are none."""
        failures: list[tuple[StoredInstance, PacsError]] = []
        with self._feed.batch(CONSUMER, _TOGETHER) as batch:
            if ids := [change.instance_id for change in batch if change.instance_id is not None]:
                batch.then(self._service.keeping(ids, lambda *failure: failures.append(failure)))
        if failures:
            stored, error = failures[0]
            fields = {"instances": len(failures), "sop_instance_uid": stored.uids.sop, "reason": str(error)}
            log.warning("metadata not kept: instances cannot be read", extra=fields)
        return batch

    def _wait_for_quiet(self) -> None:
        until = time.monotonic() + _PATIENCE
        seen = None
        while seen != self._commits and time.monotonic() < until and not self._stopping.is_set():
            seen = self._commits
            self._service.keep_waiting()
            self._stopping.wait(_QUIET)

    @property
    def _commits(self) -> int:
        return self._feed.wakeups - self._woken

    def _wake(self) -> None:
        self._woken += 1
        self._feed.wake()
