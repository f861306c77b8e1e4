"""Fetching: have studies, series and instances brought here from a remote, by a background task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pacs_server.config.sections.fetching import FetchingConfig
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.remote_studies import RemoteStudyIndex
from pacs_server.index.task_values import NewTask, Priority, Task
from pacs_server.services.tasks import RetryPolicy, TaskService

FETCH: Final = "fetch"


@dataclass(frozen=True, slots=True)
class Fetching:
    """What is to be fetched: a study, a series of it, or an instance of that series."""

    study_instance_uid: str
    series_instance_uid: str = ""
    sop_instance_uid: str = ""

    @classmethod
    def of(cls, task: Task) -> Self:
        """What a task is to fetch."""
        payload: dict[str, Any] = dict(task.payload)
        return cls(payload["study"], payload.get("series", ""), payload.get("instance", ""))

    def payload(self) -> dict[str, str]:
        """What the task keeps of it."""
        named = {
            "study": self.study_instance_uid,
            "series": self.series_instance_uid,
            "instance": self.sop_instance_uid,
        }
        return {name: uid for name, uid in named.items() if uid}


def retry_policy(settings: FetchingConfig) -> RetryPolicy:
    """When fetching is tried again; only what somebody has ordered has a deadline."""
    return RetryPolicy(lasts=settings.give_up_after)


class FetchService:
    """Has instances fetched. Thread-safe; everything raises IndexUnavailable."""

    def __init__(
        self,
        tasks: TaskService,
        remotes: Callable[[], Sequence[RemoteAEConfig]],
        studies: RemoteStudyIndex,
    ) -> None:
        """`remotes` may change while the server runs."""
        self._tasks = tasks
        self._remotes = remotes
        self._studies = studies

    def fetch(self, remote: str, wanted: Fetching, caused_by: str, *, priority: Priority = Priority.MEDIUM) -> int:
        """Add the task that fetches, and return its number; while one does the same, that one.

        What somebody has fetched is cache no more, however it came here first.
        Raises NotFound if there is no such remote, and InvalidRequest if a UID is none.
        """
        if not any(each.name == remote for each in self._remotes()):
            raise NotFound(f"there is no remote {remote} in remote_aes")
        for uid in wanted.payload().values():
            if not is_uid(uid):
                raise InvalidRequest(f"{uid[:64]!r} is no UID")
        if wanted.sop_instance_uid and not wanted.series_instance_uid:
            raise InvalidRequest("an instance is fetched with the UID of its series")
        self._studies.end_cache(wanted.study_instance_uid)
        return self._tasks.add(fetch_task(remote, wanted, caused_by, priority))


def fetch_task(remote: str, wanted: Fetching, caused_by: str, priority: Priority = Priority.MEDIUM) -> NewTask:
    """The task that fetches from a remote; at most one that does the same is ready or running."""
    key = ":".join((FETCH, remote, *wanted.payload().values()))
    return NewTask(FETCH, caused_by, remote, wanted.payload(), priority, dedupe_key=key)
