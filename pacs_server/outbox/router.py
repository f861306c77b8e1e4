"""The router: reads the feed of changes and has done what the routing rules say, in the transaction of its cursor."""

import logging
import threading
from typing import Final

from pacs_server.archive.changes import Batch, Feed
from pacs_server.errors import PacsError
from pacs_server.index.changes import ChangeKind
from pacs_server.index.feed import Consumer
from pacs_server.services.actions import Actions
from pacs_server.services.rule_engine import RuleEngine

log = logging.getLogger(__name__)

CONSUMER: Final = Consumer("routing")
# So many changes share a transaction, and so long the thread rests after one that was not full: each costs the disk a
# sync, which would slow down those who store.
_TOGETHER: Final = 500
_PACE_SECONDS: Final = 0.2
_PAUSE_AFTER_FAILURE: Final = 5.0


class Router:
    """A thread that follows the feed while there are rules; without rules it sleeps, and keeps no cursor."""

    def __init__(self, feed: Feed, engine: RuleEngine, actions: Actions) -> None:
        self._feed = feed
        self._engine = engine
        self._actions = actions
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="router", daemon=True)

    def start(self) -> None:
        """Begin to follow the feed; rules apply to what arrives from now on, or since the server stopped."""
        self._follow()
        self._thread.start()

    def reload(self) -> None:
        """Take over other rules: they apply to what is read from now on."""
        self._follow()
        self._changed.set()
        self._feed.wake()

    def stop(self) -> None:
        """Stop after the batch at hand; the rest is read after the next start."""
        self._stopping.set()
        self._changed.set()
        self._feed.wake()
        self._thread.join()

    def _follow(self) -> None:
        """Have a cursor if there are rules, and none otherwise, so that nothing is kept for nobody."""
        try:
            if self._engine.rules():
                self._feed.join(CONSUMER)
            else:
                self._feed.leave(CONSUMER.name)
        except PacsError as error:
            log.warning("routing not ready", extra={"reason": str(error)})

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._engine.rules():
                self._changed.wait()
                self._changed.clear()
                continue
            try:
                batch = self._next()
            except PacsError as error:
                log.warning("rules not applied yet", extra={"reason": str(error)})
                self._stopping.wait(_PAUSE_AFTER_FAILURE)
                continue
            except Exception as error:
                # The last resort: after a fault of this program the thread goes on, because no other one routes.
                log.exception("rules not applied yet", extra={"reason": f"internal error ({type(error).__name__})"})
                self._stopping.wait(_PAUSE_AFTER_FAILURE)
                continue
            if not batch:
                self._feed.wait(batch)
            elif len(batch) < _TOGETHER:
                self._stopping.wait(_PACE_SECONDS)

    def _next(self) -> Batch:
        """Apply the rules to the next changes; an empty batch if there are none."""
        with self._feed.batch(CONSUMER, _TOGETHER) as batch:
            changes = list(batch)
            decisions = self._engine.arrived(changes)
            for change in changes:
                if change.kind is ChangeKind.FINDING:
                    decisions += self._engine.found(change)
            effects = [*self._actions.effects(decisions), *self._actions.completions(changes)]
            for effect in effects:
                batch.then(effect)
        if batch.is_taken and effects:
            self._actions.wake()
        return batch
