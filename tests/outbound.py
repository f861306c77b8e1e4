"""What is to be sent, for tests: an archive with services on it, remotes that answer as they are told, and a clock."""

from collections.abc import Callable, Sequence
from typing import Any

from archives import SmallArchive
from outboxes import Clock
from sqlalchemy import delete, select

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import Event
from pacs_server.audit.recorder import Recorder
from pacs_server.config import FetchingConfig, ForwardingConfig, RemoteAEConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.index.deliveries import FORWARD, DeliveryIndex, follow
from pacs_server.index.delivery_overview import DeliveryOverview
from pacs_server.index.outgoing_models import delivery, remote_state
from pacs_server.index.queries import QueryIndex
from pacs_server.index.remote_states import RemoteStateIndex
from pacs_server.index.task_models import task as task_table
from pacs_server.index.task_overview import TaskFilter, TaskOverview
from pacs_server.index.task_values import Task, TaskState
from pacs_server.index.tasks import TaskIndex, Wanted
from pacs_server.outbox.forward import ForwardHandler
from pacs_server.outbox.handler import Work
from pacs_server.scu.sending import Answer, Outgoing, outgoing
from pacs_server.services.breakers import Breakers
from pacs_server.services.fetching import FETCH
from pacs_server.services.fetching import retry_policy as fetching_policy
from pacs_server.services.forwarding import ForwardingService, retry_policy
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.tasks import TaskService

OK = Answer(0, association="A #1")
FULL = Answer(0xA700, detail="0xA700 (out of resources)")
BAD = Answer(0xA900, permanent=True, detail="0xA900 (does not match the SOP class)")

ANN = Caller(Door.WEB, "10.0.0.7", user="ann")

Mood = Callable[[Outgoing], Answer]


class Senders:
    """Senders to remotes, each of which answers by its mood; a mood may raise."""

    def __init__(self) -> None:
        self.moods: dict[str, Mood] = {}
        # All that was answered, and what was taken.
        self.sent: list[tuple[str, str]] = []
        self.taken: list[tuple[str, str]] = []
        self.probed: list[str] = []
        # What was said to come next, with each one that was sent.
        self.upcoming: list[str | None] = []

    def answered(self, name: str, instance: Outgoing) -> Answer:
        answer = self.moods.get(name, lambda instance: OK)(instance)
        self.sent.append((name, instance.uids.sop))
        if answer.is_success:
            self.taken.append(self.sent[-1])
        return answer

    def open(self, remote: RemoteAEConfig) -> "_Sender":
        return _Sender(self, remote.name)

    def probe(self, remote: RemoteAEConfig) -> None:
        self.probed.append(remote.name)
        if remote.name in self.moods:
            self.moods[remote.name](None)  # type: ignore[arg-type]

    def stop(self) -> None:
        pass


class _Sender:
    def __init__(self, senders: Senders, name: str) -> None:
        self._senders, self._name = senders, name

    def __enter__(self) -> "_Sender":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, instance: Outgoing, upcoming: Outgoing | None = None) -> Answer:
        self._senders.upcoming.append(None if upcoming is None else upcoming.uids.sop)
        return self._senders.answered(self._name, instance)


class Trail:
    """An audit trail in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, *, durable: bool = True) -> None:
        self.events.append(event)

    def problem(self) -> str | None:
        return None


def remote(name: str = "A", **fields: Any) -> RemoteAEConfig:
    return RemoteAEConfig(ae_title=name, host="127.0.0.1", port=104, **fields)


class Outbound:
    """One process that sends what waits; several may share a database."""

    def __init__(
        self,
        small: SmallArchive,
        remotes: Sequence[RemoteAEConfig] = (),
        clock: Clock | None = None,
        **settings: Any,
    ) -> None:
        database = self.database = small.database
        self.clock = clock or Clock()
        self.remotes = list(remotes) or [remote()]
        self.settings = ForwardingConfig(**settings)
        self.trail = Trail()
        auditor = Auditor(Recorder(self.trail, lambda: "PACS"))
        retrieve = RetrieveService(small.archive, QueryIndex(database))
        self.tasks = TaskService(
            TaskIndex(database, {FORWARD: follow}),
            TaskOverview(database),
            {FORWARD: lambda: retry_policy(self.settings), FETCH: lambda: fetching_policy(FetchingConfig())},
            clock=self.clock,
            spread=lambda: 0.0,
        )
        self.index = DeliveryIndex(database)

        def now() -> list[RemoteAEConfig]:
            return self.remotes

        self.forwarding = ForwardingService(
            self.index, DeliveryOverview(database), retrieve=retrieve, tasks=self.tasks, remotes=now, auditor=auditor
        )
        self.breakers = Breakers(
            RemoteStateIndex(database), remotes=now, settings=lambda: self.settings, auditor=auditor, clock=self.clock
        )
        self.senders = Senders()
        self.counted: list[tuple[str, str]] = []
        self.handler = ForwardHandler(
            self.index,
            self.breakers,
            self.senders,
            tasks=self.tasks,
            prepare=lambda stored, forwarding: outgoing(retrieve, stored),
            auditor=auditor,
            retrieve=retrieve,
            counted=lambda remote, outcome, size: self.counted.append((remote, outcome)),
        )

    def clear(self) -> None:
        with self.database.begin() as connection:
            for table in (task_table, delivery, remote_state):
                connection.execute(delete(table))

    def send(self, study: str, *names: str, **options: Any) -> int:
        """Have a study sent as a person does; the number of the task."""
        keys = RetrieveKeys(Level.STUDY, study_instance_uids=(study,))
        return self.forwarding.forward(keys, names or ("A",), ANN, **options)[0].task

    def claim(self) -> list[Task]:
        return self.tasks.claim(Wanted({FORWARD: 1}, busy=self.handler.closed().keys()))

    def run(self, tasks: list[Task], stopping: Callable[[], bool] = lambda: False) -> None:
        self.handler.run(Work(tasks, self.tasks, stopping))

    def work(self) -> int:
        """Run what is due, and what becomes due by that; how many tasks were run."""
        count = 0
        while tasks := self.claim():
            self.run(tasks)
            count += 1
            assert count < 1000
        return count

    def task(self, key: int) -> Task:
        found = self.tasks.find(key)
        assert found is not None
        return found

    def states(self) -> list[TaskState]:
        return [task.state for task in self.tasks.tasks(TaskFilter(tuple(TaskState)), 1000)]

    def deliveries(self, *columns: str) -> list[Any]:
        """All deliveries in their order, as rows of these columns, or the values of one."""
        chosen = [delivery.c[name] for name in columns or ("state",)]
        with self.database.connect() as connection:
            rows = connection.execute(select(*chosen).order_by(delivery.c.id)).all()
        return [tuple(row) if len(chosen) > 1 else row[0] for row in rows]
