"""The handler of polling tasks: asks a remote what it has, again and again; one task for each entry of the polling.

The task of an entry is never done. Each time it has run it is put off until the entry is to be asked again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Final

from pacs_server.audit.events import Role
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.config.sections.polling import PollingConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.levels import Level
from pacs_server.errors import InvalidIdentifier, PacsError, RemoteError
from pacs_server.index.remote_studies import PollingState
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import NewTask, Priority, Task, TaskState
from pacs_server.kit.periodic import Periodic
from pacs_server.kit.words import counted
from pacs_server.outbox.handler import Work
from pacs_server.outbox.modalities import StudyModalities
from pacs_server.scu.queries import RemoteQueries
from pacs_server.scu.query_keys import is_study_date
from pacs_server.scu.remotes import Remotes, participant
from pacs_server.scu.search import Search
from pacs_server.services.fetching import FETCH
from pacs_server.services.polling import RETURNED, Finder, PollingService, Taken, first_day, poll_key
from pacs_server.services.tasks import TaskService

log = logging.getLogger(__name__)

POLL: Final = "poll"
# So many studies of an answer are taken up at once.
_TOGETHER: Final = 200
# How often it is looked whether each entry has its task, in seconds.
_LOOK_SECONDS: Final = 10.0
# A remote that fails is not asked more often than this, in seconds.
_LEAST_PAUSE: Final = 5.0
# A clock that is behind by more was set back, and did not only drift.
_SET_BACK: Final = timedelta(seconds=2)
# No fetch is put off for longer: remotes may ask for an hour, and no failure costs more than that.
_LONGEST_PAUSE: Final = timedelta(hours=1.5)
_EVER: Final = datetime.min.replace(tzinfo=UTC)


class PollHandler:
    """Polls remotes; the target of a task is the name of a remote, its payload names the entry of the polling."""

    together: Final = 1

    def __init__(
        self,
        entries: Callable[[], Sequence[PollingConfig]],
        remotes: Remotes,
        polling: PollingService,
        auditor: OutgoingAuditor,
    ) -> None:
        """`entries` are those in force now."""
        self._entries = entries
        self._remotes = remotes
        self._queries = RemoteQueries(remotes, auditor)
        self._polling = polling
        self._modalities = StudyModalities(remotes.find)

    def at_once(self, target: str) -> int:
        """One at a time, so that fetches have the other associations."""
        return 1

    def stop(self) -> None:
        """What is asked at a remote ends with its associations, see `FetchHandler`."""

    def run(self, work: Work) -> None:
        """Ask the remote of an entry, take up what it has, and put the task off."""
        (task,) = work.tasks
        entry = next((each for each in self._entries() if each.name == task.payload["name"]), None)
        if entry is None:
            work.done(task)
            return
        asked_at = work.now
        try:
            taken = self._ask(work, entry)
        except (RemoteError, InvalidIdentifier) as error:
            if work.is_interrupted():
                return
            failures = self._polling.failed(entry.name, asked_at, str(error))
            if failures == 1:
                log.warning("remote not polled", extra={"polling": entry.name, "reason": str(error)})
            work.wait(task, f"not polled: {error}", max(_LEAST_PAUSE, entry.every))
            return
        if work.is_interrupted():
            return
        if self._polling.state(entry.name).failures:
            log.info("remote polled again", extra={"polling": entry.name})
        self._polling.answered(entry.name, asked_at, taken.studies, taken.to_fetch)
        if taken.to_fetch:
            fields = {"polling": entry.name, "studies": taken.studies, "to_fetch": taken.to_fetch}
            log.info("studies found", extra=fields)
        self._polling.take_back(entry.remote)
        self._polling.start_waiting(entry.remote)
        studies = counted(taken.studies, "study", "studies")
        work.wait(task, f"{studies}, {taken.to_fetch} of them to fetch; next in {entry.every:g} s", entry.every)

    def _ask(self, work: Work, entry: PollingConfig) -> Taken:
        """Ask the remote of an entry, and take up what it has."""
        state = self._polling.state(entry.name)
        finder = self._finder(entry, state)
        caller = Caller(Door.COMMAND, "", user=finder.name)
        search = Search(Level.STUDY, _keys(entry, work.now, state.answered_at), RETURNED)
        modalities = self._modalities.asked(entry.remote, search.keys)
        answers = modalities.told(self._queries.find(caller, entry.remote, search))
        began, studies, to_fetch = work.now, 0, 0
        # What tells no modalities comes last, when its association is free to ask for series.
        for matches in _batches(chain(answers, modalities.asked_for())):
            if work.is_interrupted():
                break
            taken = self._polling.take(finder, matches, began)
            studies, to_fetch = studies + taken.studies, to_fetch + taken.to_fetch
        return Taken(studies, to_fetch)

    def _finder(self, entry: PollingConfig, state: PollingState) -> Finder:
        source = participant(self._remotes.known(entry.remote), Role.SOURCE).ae_title
        priority, away_since = Priority(entry.priority), (state.answered_at or _EVER) if state.failures else None
        return Finder(
            entry.remote, f"polling {entry.name}", source, priority, entry.then == "route", entry.cache,
            away_since=away_since,
        )  # fmt: skip


class Polls:
    """Sees to it that each entry of the polling has its task, and that no task is left without its entry."""

    def __init__(
        self,
        entries: Callable[[], Sequence[PollingConfig]],
        tasks: TaskService,
        also: Callable[[], None] = lambda: None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`also` is what else is to be looked at as often."""
        self._entries = entries
        self._tasks = tasks
        self._also = also
        self._monotonic = monotonic
        # The clock at the last look, and the time that nobody sets.
        self._looked = tasks.now(), monotonic()
        self._looking = Periodic("polls", _LOOK_SECONDS, self.look)

    def start(self) -> None:
        """Begin to look."""
        self._looking.start()

    def stop(self) -> None:
        """Stop looking."""
        self._looking.stop()

    def reload(self) -> None:
        """Take over other entries."""
        self.look()

    def look(self) -> None:
        """Add the tasks that are missing, end those that are left, and correct those that the clock put too far off."""
        try:
            self._look()
        except PacsError as error:
            log.warning("polling not looked after", extra={"reason": str(error)})
        self._also()

    def _look(self) -> None:
        self._hasten_fetches()
        entries = {each.name: each for each in self._entries()}
        alive: set[str] = set()
        for task in self._tasks.tasks(TaskFilter(kind=POLL), limit=10_000):
            entry = entries.get(task.payload["name"])
            if entry is None or entry.remote != task.target or task.state == TaskState.DEAD:
                self._tasks.cancel(task.id)
                continue
            alive.add(entry.name)
            if _is_too_late(task, entry, self._tasks.now()):
                self._tasks.hasten(poll_key(entry.remote, entry.name))
        for name in entries.keys() - alive:
            entry = entries[name]
            payload = {"name": name}
            self._tasks.add(
                NewTask(POLL, f"polling {name}", entry.remote, payload, dedupe_key=poll_key(entry.remote, entry.name))
            )

    def _hasten_fetches(self) -> None:
        """Make fetches due that were put off before the clock was set back: they would wait until it has caught up."""
        now, monotonic = self._tasks.now(), self._monotonic()
        expected = self._looked[0] + timedelta(seconds=monotonic - self._looked[1])
        # After a restart nobody knows; but then none is put off for longer than this.
        latest = now if expected - now > _SET_BACK else now + _LONGEST_PAUSE
        for task in self._tasks.tasks(TaskFilter((TaskState.READY,), FETCH), limit=10_000):
            if task.due > latest and task.dedupe_key is not None:
                self._tasks.hasten(task.dedupe_key)
        # Not before all of them are: what fails is done at the next look.
        self._looked = now, monotonic


def _is_too_late(task: Task, entry: PollingConfig, now: datetime) -> bool:
    """Whether a task waits for longer than its entry says: the entry has changed, or the clock was set back."""
    return task.state == TaskState.READY and task.due > now + timedelta(seconds=entry.every + _LEAST_PAUSE)


def _keys(entry: PollingConfig, now: datetime, answered_at: datetime | None) -> dict[str, str]:
    keys = dict(entry.query)
    if not any(map(is_study_date, keys)):
        keys["StudyDate"] = f"{first_day(now.astimezone().date(), entry.window, answered_at):%Y%m%d}-"
    return keys


def _batches(answers: Iterator[DataSet]) -> Iterator[list[DataSet]]:
    while batch := list(islice(answers, _TOGETHER)):
        yield batch
