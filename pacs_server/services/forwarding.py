"""Forwarding: have instances sent to remotes, for people and for rules.

What is to be sent is a delivery for each instance and remote, and a task for each study, remote and rule. Both are
committed together, with whatever caused them, so nothing is forgotten; the worker sends them.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.config.sections.forwarding import ForwardingConfig
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import Conflict, NotFound
from pacs_server.index.deliveries import (
    CHANGED_RULE,
    FORWARD,
    DeliveryIndex,
    Forwarding,
    NewDelivery,
    Retargeting,
    planned,
)
from pacs_server.index.delivery_overview import OPEN_STATES, Delivery, DeliveryFilter, DeliveryGroup, DeliveryOverview
from pacs_server.index.feed import Effect
from pacs_server.index.task_values import Priority
from pacs_server.services.breakers import Breakers
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.tasks import RetryPolicy, TaskService


class Arrived(Protocol):
    """An instance of the study that is sent."""

    @property
    def instance_id(self) -> int | None:
        """Its id in the index, None if it is not there any more."""

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID."""

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What is going to be sent of one study to one remote, by which task."""

    remote: str
    study_instance_uid: str
    instances: int
    task: int


@dataclass(frozen=True, slots=True)
class RemoteOverview:
    """Whether a remote can be sent to now, and what waits for it.

    `state` is ready, paused, failing (the breaker is open or half open) or closed (not at this time of day).
    """

    name: str
    state: str
    reason: str
    until: datetime | None
    failures: int
    waiting: int
    dead: int
    oldest_seconds: float

    def as_json(self) -> dict[str, object]:
        """All fields by name."""
        return asdict(self)


def retry_policy(settings: ForwardingConfig) -> RetryPolicy:
    """When sending is tried again."""
    return RetryPolicy(settings.retry_first, settings.retry_max, attempts=None, lasts=settings.give_up_after)


class ForwardingService:
    """Has instances sent to remotes. Thread-safe; everything raises IndexUnavailable."""

    def __init__(
        self,
        index: DeliveryIndex,
        overview: DeliveryOverview,
        *,
        retrieve: RetrieveService,
        tasks: TaskService,
        remotes: Callable[[], Sequence[RemoteAEConfig]],
        auditor: Auditor,
    ) -> None:
        """`remotes` may change while the server runs."""
        self._index = index
        self._overview = overview
        self._retrieve = retrieve
        self._tasks = tasks
        self._remotes = remotes
        self._auditor = auditor

    # ---------------------------------------------------------------- for people

    def forward(
        self,
        keys: RetrieveKeys,
        remotes: Sequence[str],
        caller: Caller,
        *,
        scope: Scope = EVERYTHING,
        priority: Priority | None = None,
        changes: Sequence[Mapping[str, Any]] = (),
    ) -> list[Forwarded]:
        """Have what `keys` select and `scope` shows sent to remotes, also if they have it already.

        Raises NotFound if there is nothing of that, or a remote is not known.
        """
        for name in remotes:
            self._remote(name)
        who = caused_by(caller)
        instances = self._retrieve.select(keys, scope)
        if not instances:
            raise NotFound("there is nothing of that in the archive")
        ids = dict(self._index.ids([each.uids.sop for each in instances]))
        # Other changes are other deliveries, so that neither replaces the other one.
        rule = CHANGED_RULE + hashlib.sha256(_text(changes).encode()).hexdigest()[:8] if changes else ""
        rows: defaultdict[tuple[str, str], list[NewDelivery]] = defaultdict(list)
        for name in remotes:
            for each in instances:
                if (key := ids.get(each.uids.sop)) is not None:
                    uids = (each.uids.study, each.uids.series, each.uids.sop)
                    rows[name, each.uids.study].append(NewDelivery(name, rule, key, *uids, who))
        wanted = [
            (self.forwarding(name, rule, study, who, priority=priority, changes=changes), some)
            for (name, study), some in rows.items()
        ]
        now = self._tasks.now()
        numbers = self._index.add(wanted, now, self._tasks.policy(FORWARD).deadline(now))
        self.wake()
        return [
            Forwarded(forwarding.remote, forwarding.study_instance_uid, len(some), number)
            for (forwarding, some), number in zip(wanted, numbers, strict=True)
        ]

    def retarget(self, source: str, target: str, caller: Caller, study: str | None = None) -> list[int]:
        """Have another remote get what waits for `source` or was given up, of one study or all; the tasks' numbers.

        Raises NotFound if the other remote is not known, Conflict if it is the same one, AuditUnavailable.
        """
        if self._remote(target).name == source:
            raise Conflict(f"{source} is that remote itself")
        what = f"what waits for {source}" if study is None else f"what waits for {source} of study {study}"
        self._auditor.restricted(caller, f"{what} goes to {target}")
        now, who = self._tasks.now(), caused_by(caller)
        change = Retargeting(target, who, now, self._tasks.policy(FORWARD).deadline(now))
        numbers = self._index.retarget(source, change, study)
        self.wake()
        return numbers

    def deliveries(
        self, wanted: DeliveryFilter, limit: int, before: int | None = None, scope: Scope = EVERYTHING
    ) -> list[Delivery]:
        """The last added deliveries of instances that `scope` shows; `before` is a number that all are below."""
        return self._overview.deliveries(wanted, limit, before, scope)

    def groups(self, wanted: DeliveryFilter, limit: int) -> list[DeliveryGroup]:
        """The deliveries by study, remote, rule and state, those added last at the end."""
        return self._overview.groups(wanted, limit)

    def remotes(self, breakers: Breakers) -> list[RemoteOverview]:
        """All remotes, in the order of the settings."""
        counts, oldest = self.counts()
        found = []
        for remote in self._remotes():
            name = remote.name
            state, reason, until = breakers.standing(remote)
            waiting, dead = (counts[name, str(each)] for each in OPEN_STATES)
            failures = breakers.state(name).failures
            found.append(RemoteOverview(name, state, reason, until, failures, waiting, dead, oldest[name]))
        return found

    def counts(self) -> tuple[Mapping[tuple[str, str], int], Mapping[str, float]]:
        """How many deliveries wait for each remote and are dead, and the age in seconds of the oldest that waits."""
        now = self._tasks.now()
        names = [remote.name for remote in self._remotes()]
        known = {(name, str(state)): 0 for name in names for state in OPEN_STATES}
        oldest = {name: (now - created).total_seconds() for name, created in self._overview.oldest().items()}
        return known | self._overview.counts(), dict.fromkeys(names, 0.0) | oldest

    # ---------------------------------------------------------------- for rules

    def plan(self, forwarding: Forwarding, arrivals: Sequence[Arrived]) -> Effect:
        """The effect that has instances of one study sent, for `Batch.then`: it happens if the cursor moves.

        The same instances may be planned again; they are sent once. Call `wake` after the batch.
        """
        uids = (forwarding.study_instance_uid,)
        rows = [
            NewDelivery(
                forwarding.remote, forwarding.rule, each.instance_id,
                *uids, each.series_instance_uid, each.sop_instance_uid, forwarding.caused_by,
            )
            for each in arrivals
            if each.instance_id is not None
        ]  # fmt: skip
        now = self._tasks.now()
        return planned(rows, forwarding, now, self._tasks.policy(FORWARD).deadline(now))

    def forwarding(
        self,
        remote: str,
        rule: str,
        study_instance_uid: str,
        caused_by: str,
        *,
        priority: Priority | None = None,
        changes: Sequence[Mapping[str, Any]] = (),
        origin: Sequence[str] = (),
    ) -> Forwarding:
        """What a forward task is about; its priority is that of the remote unless it has another one.

        Raises NotFound if the remote is not known.
        """
        own = Priority(self._remote(remote).priority)
        values = (remote, rule, study_instance_uid, caused_by)
        return Forwarding(*values, priority or own, tuple(changes), tuple(origin))

    def wake(self) -> None:
        """Have the worker of this process look for tasks now."""
        self._tasks.changed.set()

    def _remote(self, name: str) -> RemoteAEConfig:
        for remote in self._remotes():
            if remote.name == name:
                return remote
        raise NotFound(f"{name} is not in remote_aes")


def caused_by(caller: Caller) -> str:
    """How a delivery names the person who wanted it."""
    return participant_of(caller).user_id


def _text(changes: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(changes), sort_keys=True)
