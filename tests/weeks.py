"""A server that polls remotes through days that pass when told, and what it has to have in the end."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import schema
from datasets import make_study
from pairs import stored
from pydicom.dataset import Dataset
from servers import config, eventually
from sqlalchemy import update

from pacs_server.app.server import PacsServer
from pacs_server.config import DatabaseConfig, RemoteAEConfig
from pacs_server.config.sections.polling import PollingConfig
from pacs_server.index.models import study as study_table
from pacs_server.index.remote_studies import RemoteStudy, RemoteStudyFilter
from pacs_server.index.remote_studies import RemoteStudyState as State
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import TaskState
from pacs_server.outbox.polling import POLL
from pacs_server.services.fetching import FETCH
from pacs_server.testing.preload import preload
from pacs_server.testing.temporary import TemporaryPacs

Put = Callable[[Sequence[Dataset]], object]


class Week:
    """The days of a server whose clock is the one here; `put` adds instances to a remote, by its name."""

    def __init__(self, here: PacsServer, put: dict[str, Put], patch: pytest.MonkeyPatch) -> None:
        self.here = here
        self._put = put
        self._offset = timedelta(0)
        # What each remote has of each study that is to be here, and how often each instance came in.
        self.wanted: dict[str, list[Dataset]] = defaultdict(list)
        self.received = Counter[str]()
        store = here.archive.store
        original = store.store

        def counted(request: Any, *rest: Any) -> Any:
            outcome = original(request, *rest)
            self.received[request.sop_instance_uid] += 1
            return outcome

        patch.setattr(store, "store", counted)
        patch.setattr(here.archive.tasks, "now", self.now)
        patch.setattr(here.archive.breakers, "_clock", self.now)

    # ---------------------------------------------------------------- the time

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    def pass_time(self, **time: float) -> None:
        """Let time pass; less than none sets the clock back."""
        self._offset += timedelta(**time)
        self.here.archive.tasks.changed.set()

    # ---------------------------------------------------------------- what remotes do

    def study(self, remote: str, n_series: int = 1, n_instances: int = 2, **attributes: str) -> list[Dataset]:
        """A new study of today at a remote."""
        today = f"{self.now().astimezone():%Y%m%d}"
        made = make_study(n_series, n_instances, StudyDate=today, **attributes)
        self.add(remote, made)
        return made

    def add(self, remote: str, instances: Sequence[Dataset], *, wanted: bool = True) -> None:
        """A remote gets instances, which are to come here if they are `wanted`."""
        self._put[remote](instances)
        if wanted:
            self.wanted[str(instances[0].StudyInstanceUID)] += instances

    # ---------------------------------------------------------------- what is done here

    def poll(self, *names: str) -> None:
        """Ask remotes what they have, and wait until they were asked."""
        polling = self.here.archive.polling
        assert eventually(self._is_idle)
        before = {name: polling.state(name).asked_at for name in names}
        for name in names:
            assert eventually(lambda name=name: polling.ask_now(name, name))  # type: ignore[misc]
        assert eventually(lambda: all(polling.state(name).asked_at != before[name] for name in names))
        assert eventually(self._is_idle)

    def _is_idle(self) -> bool:
        """Whether no remote is being asked: what is done then is not done once more at once."""
        return not self.here.archive.tasks.tasks(TaskFilter((TaskState.RUNNING,), POLL), 1)

    def settle(self) -> None:
        """Wait until nothing is to be fetched; what is put off for a while is waited for by the clock here."""
        assert eventually(self._is_settled), [each for each in self.studies() if each.state != State.COMPLETE]

    def _is_settled(self) -> bool:
        tasks = self.here.archive.tasks
        waiting = [each.due for each in tasks.tasks(TaskFilter((TaskState.READY,), FETCH), 100)]
        late = min(waiting, default=self.now()) - self.now()
        running = tasks.tasks(TaskFilter((TaskState.RUNNING,), FETCH), 1)
        if waiting and not running and late > timedelta(0):
            self.pass_time(seconds=late.total_seconds())
        return not any(each.state in (State.FOUND, State.FETCHING) for each in self.studies())

    def day(self, *names: str) -> None:
        """Ask, fetch and let the rest of the day pass."""
        self.poll(*names)
        self.settle()
        self.pass_time(days=1)

    def studies(self) -> list[RemoteStudy]:
        return self.here.archive.polling.studies(RemoteStudyFilter(), 10_000)

    def state(self, study: Iterable[Dataset]) -> State:
        uid = str(next(iter(study)).StudyInstanceUID)
        return next(each.state for each in self.studies() if each.study_instance_uid == uid)

    # ---------------------------------------------------------------- how it ends

    def missing(self) -> dict[str, set[str]]:
        """What is wanted and not here, by study."""
        short = {
            uid: {str(each.SOPInstanceUID) for each in wanted} - {each.uids.sop for each in stored(self.here, uid)}
            for uid, wanted in self.wanted.items()
        }
        return {uid: lacks for uid, lacks in short.items() if lacks}

    def twice(self) -> dict[str, int]:
        """The instances that were received more than once."""
        return {uid: count for uid, count in self.received.items() if count > 1}


@contextmanager
def weeks_of(
    tmp_path: Path, url: str, remotes: Sequence[RemoteAEConfig], put: dict[str, Put], **server: Any
) -> Iterator[Week]:
    """A server that polls these remotes when it is told to; `server` are settings of its section."""
    entries = tuple(PollingConfig.model_validate({"remote": name, "every": "30d"}) for name in put)
    mine = config(tmp_path / "here", ae_title="HERE", remote_aes=remotes, **server)
    mine = mine.model_copy(update={"polling": entries})
    if url.startswith("sqlite"):
        schema.prepare(mine.database.path)
    else:
        mine = mine.model_copy(update={"database": DatabaseConfig(url=url)})
    with PacsServer(mine) as here, pytest.MonkeyPatch.context() as patch:
        # The server asks by itself when it starts.
        assert eventually(lambda: all(here.archive.polling.state(name).asked_at for name in put))
        yield Week(here, put, patch)


def into(there: TemporaryPacs) -> Put:
    """What adds instances to a remote that is in this process."""
    return lambda instances: preload(there.server.archive.store, [instances], "THERE")


def lie(there: TemporaryPacs, uid: str, instances: int) -> None:
    """Have a server say that a study has so many instances."""
    wrong = {"number_of_study_related_instances": instances}
    with there.server.archive.database.begin() as connection:
        connection.execute(update(study_table).where(study_table.c.study_instance_uid == uid).values(**wrong))
