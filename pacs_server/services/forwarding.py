"""Forwarding: have instances sent to remotes, for people and for rules.

What is to be sent is a delivery for each instance and remote, and a task for each study, remote and rule. Both are
committed together, with whatever caused them, so nothing is forgotten; the worker sends them.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pacs_server.config.sections.forwarding import ForwardingConfig
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import NotFound
from pacs_server.index.deliveries import FORWARD, DeliveryIndex, Forwarding, NewDelivery, planned
from pacs_server.index.feed import Effect
from pacs_server.index.task_values import Priority
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.tasks import RetryPolicy, TaskService

_CHANGED_RULE: Final = "changed:"


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


def retry_policy(settings: ForwardingConfig) -> RetryPolicy:
    """When sending is tried again."""
    return RetryPolicy(settings.retry_first, settings.retry_max, attempts=None, lasts=settings.give_up_after)


class ForwardingService:
    """Has instances sent to remotes. Thread-safe; everything raises IndexUnavailable."""

    def __init__(
        self,
        index: DeliveryIndex,
        retrieve: RetrieveService,
        tasks: TaskService,
        remotes: Callable[[], Sequence[RemoteAEConfig]],
    ) -> None:
        """`remotes` may change while the server runs."""
        self._index = index
        self._retrieve = retrieve
        self._tasks = tasks
        self._remotes = remotes

    # ---------------------------------------------------------------- for people

    def forward(
        self,
        keys: RetrieveKeys,
        remotes: Sequence[str],
        caused_by: str,
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
        instances = self._retrieve.select(keys, scope)
        if not instances:
            raise NotFound("there is nothing of that in the archive")
        ids = dict(self._index.ids([each.uids.sop for each in instances]))
        # Other changes are other deliveries, so that neither replaces the other one.
        rule = _CHANGED_RULE + hashlib.sha256(_text(changes).encode()).hexdigest()[:8] if changes else ""
        rows: defaultdict[tuple[str, str], list[NewDelivery]] = defaultdict(list)
        for name in remotes:
            for each in instances:
                if (key := ids.get(each.uids.sop)) is not None:
                    uids = (each.uids.study, each.uids.series, each.uids.sop)
                    rows[name, each.uids.study].append(NewDelivery(name, rule, key, *uids, caused_by))
        wanted = [
            (self.forwarding(name, rule, study, caused_by, priority=priority, changes=changes), some)
            for (name, study), some in rows.items()
        ]
        now = self._tasks.now()
        numbers = self._index.add(wanted, now, self._tasks.policy(FORWARD).deadline(now))
        self.wake()
        return [
            Forwarded(forwarding.remote, forwarding.study_instance_uid, len(some), number)
            for (forwarding, some), number in zip(wanted, numbers, strict=True)
        ]

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


def _text(changes: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(changes), sort_keys=True)
