"""Decisions about what waits for remotes or was given up: try it now, or do not send it."""

from dataclasses import dataclass
from typing import Final

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.caller import Caller
from pacs_server.index.deliveries import FORWARD
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import Task
from pacs_server.services.tasks import TaskService

# So many tasks are looked at at a time.
_CHUNK: Final = 1000


@dataclass(frozen=True, slots=True)
class Sending:
    """What is to be sent to a remote: all of it, that of one study, or what follows from one rule.

    The rule '' means what persons wanted; None stands for all rules.
    """

    remote: str
    study_instance_uid: str | None = None
    rule: str | None = None

    @property
    def in_words(self) -> str:
        """For the audit trail."""
        study = "" if self.study_instance_uid is None else f" of study {self.study_instance_uid}"
        rule = "" if self.rule is None else f" by rule {self.rule or '(none)'}"
        return f"what waits for {self.remote}{study}{rule}"

    def is_about(self, task: Task) -> bool:
        """Whether a forward task sends some of this."""
        payload = task.payload
        return self.study_instance_uid in (None, payload["study"]) and self.rule in (None, payload["rule"])


class SendQueue:
    """Decides for people about forward tasks. Thread-safe; everything raises IndexUnavailable and AuditUnavailable."""

    def __init__(self, tasks: TaskService, auditor: Auditor) -> None:
        self._tasks = tasks
        self._auditor = auditor

    def retry(self, which: Sending, caller: Caller) -> int:
        """Have what waits or was given up tried now, with all its time before it; how many tasks that are."""
        tasks = self._chosen(which)
        if tasks:
            self._auditor.restricted(caller, f"{which.in_words} tried again now")
        return sum(self._tasks.retry(task) for task in tasks)

    def cancel(self, which: Sending, caller: Caller) -> int:
        """Send nothing of what waits or was given up; how many tasks were cancelled."""
        tasks = self._chosen(which)
        if tasks:
            self._auditor.restricted(caller, f"{which.in_words} cancelled")
        return sum(self._tasks.cancel(task.id) for task in tasks)

    def _chosen(self, which: Sending) -> list[Task]:
        wanted = TaskFilter(kind=FORWARD, target=which.remote)
        found: list[Task] = []
        before = None
        while some := self._tasks.tasks(wanted, _CHUNK, before):
            found += [task for task in some if which.is_about(task)]
            before = some[0].id
        return found
