"""The handler that finds out when a study is complete, and then applies the rules for complete studies."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from pacs_server.config.sections.routing import RoutingConfig
from pacs_server.index.routing import RoutingIndex, StudyArrival
from pacs_server.index.task_values import Task
from pacs_server.outbox.handler import Work
from pacs_server.services.actions import Actions
from pacs_server.services.rule_engine import RuleEngine

log = logging.getLogger(__name__)

# A sender that keeps its association open and sends nothing is waited for so many quiet times, and so long at least.
_PATIENCE_TIMES: Final = 10.0
_LEAST_PATIENCE: Final = 600.0
# How often a study whose sender is still there is looked at, in seconds.
_LOOK_AGAIN: Final = 5.0

# Whether an AE title has an association open now, from an address.
IsSending = Callable[[str, str], bool]


class CompletionHandler:
    """Waits until a study is complete: its procedure steps are and what they name is here, or nobody sends any more.

    The second means that nothing of it came for a while, and that who sent the last of it has closed its association.
    """

    together: Final = 20

    def __init__(
        self,
        index: RoutingIndex,
        engine: RuleEngine,
        actions: Actions,
        settings: Callable[[], RoutingConfig],
        is_sending: IsSending,
    ) -> None:
        self._index = index
        self._engine = engine
        self._actions = actions
        self._settings = settings
        self._is_sending = is_sending

    def at_once(self, target: str) -> int:
        """One at a time."""
        return 1

    def run(self, work: Work) -> None:
        """Apply the rules to each study that is complete, and put the others off."""
        for task in work.tasks:
            if work.is_interrupted():
                return
            self._look_at(task, work)

    def stop(self) -> None:
        """Nothing here takes long."""

    def _look_at(self, task: Task, work: Work) -> None:
        study = str(task.payload["study"])
        arrival = self._index.arrival(study)
        if arrival is None:
            # It was deleted meanwhile.
            work.done(task)
            return
        seconds = self._seconds_left(arrival, work.now)
        if seconds > 0:
            work.wait(task, "more of the study may come", seconds)
            return
        # The task is held before anything happens: after a crash the rules apply once more, which changes nothing for
        # deliveries that are there already.
        if not work.is_held(task):
            return
        decisions = self._engine.completed(study)
        self._index.commit(self._actions.effects(decisions))
        log.info("study complete", extra={"study": study, "instances": arrival.instances, "rules": len(decisions)})
        self._actions.wake()
        work.done(task)

    def _seconds_left(self, arrival: StudyArrival, now: datetime) -> float:
        """How long to wait before the study is looked at again; 0 if it is complete."""
        if arrival.expected is not None and not arrival.in_progress and 0 < arrival.expected <= arrival.received:
            return 0.0
        quiet = self._settings().quiet_time
        silent = (now - arrival.last_at) / timedelta(seconds=1)
        if silent < quiet:
            return quiet - silent
        patience = max(_LEAST_PATIENCE, _PATIENCE_TIMES * quiet)
        if silent < patience and self._is_sending(arrival.calling_ae, arrival.peer):
            return _LOOK_AGAIN
        return 0.0
