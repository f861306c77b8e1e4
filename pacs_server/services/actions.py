"""What rules have done: deliveries, webhooks, marks, and looking whether studies are complete.

Everything comes as effects, to happen in the transaction that notes that the rules were applied.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from pacs_server.config.model import Config
from pacs_server.dicom.mpps import StepStatus
from pacs_server.index.changes import ChangeKind
from pacs_server.index.feed import Change, Effect
from pacs_server.index.marks import MarkKind
from pacs_server.index.routing import adding, making_due
from pacs_server.index.task_values import NewTask, Priority
from pacs_server.kit.words import counted
from pacs_server.services.marks import MarkService
from pacs_server.services.routing import Facts
from pacs_server.services.rule_engine import Decision, RuleEngine
from pacs_server.services.tasks import TaskService

log = logging.getLogger(__name__)

WEBHOOK: Final = "webhook"
STUDY_COMPLETE: Final = "study_complete"
_ARRIVALS: Final = (ChangeKind.ARRIVED, ChangeKind.REPLACED, ChangeKind.RESTORED)


@dataclass(frozen=True, slots=True)
class ForwardOrder:
    """Instances of one study that a rule sends to one remote, and what is changed in them on the way."""

    remote: str
    rule: str
    study_instance_uid: str
    instances: Sequence[Facts]
    alteration: dict[str, Any]
    priority: Priority | None


Forwarding = Callable[[Sequence[ForwardOrder], datetime], Sequence[Effect]]
"""Makes the effects that have instances sent."""


class Actions:
    """Makes effects of decisions; thread-safe."""

    def __init__(
        self,
        config: Callable[[], Config],
        engine: RuleEngine,
        tasks: TaskService,
        forwarding: Forwarding,
        marks: MarkService,
    ) -> None:
        self._config = config
        self._engine = engine
        self._tasks = tasks
        self._forwarding = forwarding
        self._marks = marks

    def wake(self) -> None:
        """Tell the worker that there may be more to do."""
        self._tasks.changed.set()

    def effects(self, decisions: Iterable[Decision]) -> list[Effect]:
        """What these decisions lead to."""
        now = self._tasks.now()
        orders: list[ForwardOrder] = []
        new: list[NewTask] = []
        effects: list[Effect] = []
        for decision in decisions:
            orders += self._orders(decision)
            new += self._webhook(decision, now)
            marks = marks_of(decision)
            if marks:
                effects.append(self._marks.effect(marks, f"rule {decision.rule.name}", now))
        effects += self._forwarding(orders, now) if orders else []
        return [*effects, adding(new, now)] if new else effects

    def _orders(self, decision: Decision) -> list[ForwardOrder]:
        rule = decision.rule
        orders = []
        for name in rule.settings.forward:
            going, back = decision.for_remote(titles_of(self._config(), name))
            for reason, count in back.items():
                fields = {"rule": rule.name, "remote": name, "instances": count, "reason": reason}
                log.info("not sent back to where it came from", extra=fields)
            if going:
                priority = Priority(rule.settings.priority) if rule.settings.priority else None
                study, alteration = decision.study_instance_uid, rule.alteration.as_json()
                orders.append(ForwardOrder(name, rule.name, study, going, alteration, priority))
        return orders

    def _webhook(self, decision: Decision, now: datetime) -> list[NewTask]:
        settings = decision.rule.settings
        if settings.webhook is None:
            return []
        # The host is the target, so that a receiver that hangs holds up nobody else. The address stays in the
        # settings: it may hold a secret.
        payload = {
            "rule": settings.name,
            "event": settings.when,
            "study": decision.study_instance_uid,
            "instances": len(decision.instances),
            "at": now.isoformat(timespec="milliseconds"),
            **({"finding": decision.finding} if decision.finding else {}),
        }
        target = urlsplit(settings.webhook).hostname or ""
        priority = Priority(settings.priority or "medium")
        deadline = self._tasks.policy(WEBHOOK).deadline(now)
        return [NewTask(WEBHOOK, f"rule {settings.name}", target, payload, priority, deadline=deadline)]

    def completions(self, changes: Sequence[Change]) -> list[Effect]:
        """Have it found out when studies of which something came are complete, if a rule asks for that."""
        if not self._engine.rules().at("study_complete"):
            return []
        now = self._tasks.now()
        due = now + timedelta(seconds=self._config().routing.quiet_time)
        arrived = dict.fromkeys(change.study_instance_uid for change in changes if change.kind in _ARRIVALS)
        new = [
            NewTask(STUDY_COMPLETE, "routing", "", {"study": study}, due=due, dedupe_key=completion_key(study))
            for study in arrived
        ]
        effects = [adding(new, now)] if new else []
        # A step that was completed may be the end of its study: there is no need to wait for silence.
        ended = dict.fromkeys(
            change.study_instance_uid
            for change in changes
            if change.kind is ChangeKind.STEP and change.detail == StepStatus.COMPLETED and change.study_instance_uid
        )
        return [*effects, *(making_due(completion_key(study), now) for study in ended)]


def circles(config: Config, decision: Decision) -> list[str]:
    """What a decision does not send where it would come back to, for people."""
    return [
        f"{counted(count, 'instance')} not to {name}: {reason}"
        for name in decision.rule.settings.forward
        for reason, count in decision.for_remote(titles_of(config, name))[1].items()
    ]


def titles_of(config: Config, name: str) -> set[str]:
    """The names under which the remote `name` may have sent something."""
    remote = config.remote(name)
    return ({name} if remote is None else {name, remote.ae_title}) - {""}


def marks_of(decision: Decision) -> list[tuple[str, MarkKind, str]]:
    """The marks that a decision gives its study."""
    settings, study = decision.rule.settings, decision.study_instance_uid
    marks = [(study, MarkKind.LABEL, label) for label in settings.label]
    marks += [(study, MarkKind.ASSIGN, settings.assign)] if settings.assign else []
    return [*marks, (study, MarkKind.READING, settings.reading)] if settings.reading else marks


def completion_key(study_instance_uid: str) -> str:
    """The dedupe key of the task that finds out when a study is complete."""
    return f"{STUDY_COMPLETE}:{study_instance_uid}"
