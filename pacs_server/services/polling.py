"""Polling: which of the studies that a remote names are fetched, when, and how far they have come.

A study is fetched when the remote names it for the first time, and again when the remote says that it has another
number of series or instances of it than before. The task that fetches compares what the remote has instance by instance
and retrieves only what is missing here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final

from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.uids import is_uid
from pacs_server.index.remote_studies import Cached, PollingState, RemoteStudy, RemoteStudyFilter, RemoteStudyIndex
from pacs_server.index.remote_studies import RemoteStudyState as State
from pacs_server.index.task_values import PATIENCE, Priority
from pacs_server.services.fetching import Fetching, fetch_task
from pacs_server.services.tasks import TaskService

# A remote that tells no counts is asked for the instances of a study so often at most, and each remote for those of a
# study that it still names once in a while.
_WITHOUT_COUNTS: Final = timedelta(hours=1)
_ONCE_IN_A_WHILE: Final = timedelta(days=1)
# PS3.5 6.2: an IS has so many characters at most and is below 2^31, and a column takes no more.
_LONGEST_COUNT: Final = 12
_HIGHEST_COUNT: Final = 2**31 - 1
# A study that fails and that its remote does not name any more is tried for so long.
_LONGEST_FAILING: Final = timedelta(days=7)
# The clocks of two processes differ by no more. What happens later than that was noted before the clock was set back.
_CLOCKS_APART: Final = timedelta(minutes=1)
# What to return of each study: enough to tell whether it has grown, and to show it.
RETURNED: Final = (
    "StudyInstanceUID", "PatientID", "StudyDate", "ModalitiesInStudy", "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finder:
    """What has studies fetched: its name, how urgently, and what holds for them; `source_ae` is the remote's title.

    With a `deadline` it needs these very studies by then, also those that failed or were here as cache. With
    `away_since` the remote answers again, and what failed since then failed because the remote did not answer.
    """

    remote: str
    name: str
    source_ae: str = ""
    priority: Priority = Priority.MEDIUM
    is_routed: bool = False
    is_cache: bool = False
    deadline: datetime | None = None
    away_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """How many studies were taken up of an answer, and how many are to be fetched, for the first time or again."""

    studies: int
    to_fetch: int


@dataclass(frozen=True, slots=True)
class Named:
    """A study as a remote names it; counts are None if it does not tell them."""

    study_instance_uid: str
    patients: tuple[str, ...]
    study_date: str = ""
    modalities: str = ""
    series: int | None = None
    instances: int | None = None


class PollingService:
    """Decides what to fetch of what remotes have. Thread-safe; everything raises IndexUnavailable."""

    def __init__(self, index: RemoteStudyIndex, tasks: TaskService, at_once: Callable[[str], int]) -> None:
        """`at_once` says how many studies of a remote may be in the queue of tasks at a time; it may change.

        Those that have failed and wait for another attempt do not count.
        """
        self._index = index
        self._tasks = tasks
        self._at_once = at_once

    def take(self, finder: Finder, matches: Sequence[DataSet], since: datetime | None = None) -> Taken:
        """Take up what a remote has answered.

        An answer may be taken up in parts: `since` is when it began. A study that an earlier part has named as well
        does not count again.
        """
        named = studies_of(matches)
        uids = [each.study_instance_uid for each in named]
        known, here = self._index.known(finder.remote, uids), self._index.here(uids)
        now, repeated = self._tasks.now(), 0
        if since is not None:
            repeated = sum(each.seen_at >= since for each in known.values())
            named = [with_earlier_part(each, known.get(each.study_instance_uid), since) for each in named]
        studies = [
            decided(finder, each, known.get(each.study_instance_uid), here.get(each.study_instance_uid, 0), now)
            for each in named
        ]
        self._index.put(studies)
        return Taken(len(studies) - repeated, sum(each.state is State.FOUND for each in studies))

    def start_waiting(self, remote: str) -> int:
        """Have as many of the found studies of a remote fetched as may be at a time; how many were begun."""
        begun, places = 0, self._at_once(remote)
        room = self._index.room(remote, places)
        for found in self._index.waiting(remote, room) if room > 0 else ():
            task = fetch_task(remote, Fetching(found.study_instance_uid), found.found_by, found.priority)
            begun += self._index.begin(found, task, self._tasks.now(), places)
        if begun:
            self._tasks.changed.set()
        return begun

    def take_back(self, remote: str) -> int:
        """Have studies found again whose task is not there any more; how many there were."""
        return self._index.take_back(remote, self._tasks.now())

    def try_again(self, remote: str) -> int:
        """Have studies found again that failed a day ago, also if the remote is asked for newer ones only by now."""
        now = self._tasks.now()
        return self._index.try_again(remote, (now - _ONCE_IN_A_WHILE, now - _LONGEST_FAILING), now)

    def cached(self) -> list[Cached]:
        """The studies that are here as cache and as nothing else, those fetched first first."""
        return self._index.cached(self._today())

    def is_still(self, cached: Cached) -> bool:
        """Whether a study is here as cache, and nothing of it has changed since it was listed."""
        return self._index.cached(self._today(), only=cached.id) == [cached]

    def is_needed(self, cached: Cached) -> bool:
        """Whether a study that was here as cache a moment ago waits to be sent, or is wanted for an examination."""
        return self._index.is_needed(cached, self._today())

    def drop(self, cached: Cached) -> datetime:
        """Keep that a study is deleted here because the remote still has it; return when, for `keep`."""
        now = self._tasks.now()
        self._index.drop(cached, now)
        return now

    def keep(self, cached: Cached, dropped_at: datetime) -> None:
        """Keep that a study is here after all that was to be dropped."""
        self._index.keep(cached, dropped_at, self._tasks.now())

    def _today(self) -> str:
        return f"{self._tasks.now().astimezone():%Y%m%d}"

    # ---------------------------------------------------------------- for people

    def studies(self, wanted: RemoteStudyFilter, limit: int, before: int | None = None) -> list[RemoteStudy]:
        """The newest studies of remotes that the filter lets through, the newest first."""
        return self._index.studies(wanted, limit, before)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many studies of remotes there are, by remote and state."""
        return self._index.counts()

    # ---------------------------------------------------------------- how the polling stands

    def state(self, name: str) -> PollingState:
        """How an entry of the polling stands."""
        return self._index.polling().get(name) or PollingState(name)

    def states(self) -> dict[str, PollingState]:
        """How each entry stands that was ever asked, by its name."""
        return self._index.polling()

    def ask_now(self, remote: str, name: str) -> bool:
        """Have the remote of an entry asked at once; False if the server has not begun to ask it yet."""
        return self._tasks.hasten(poll_key(remote, name))

    def answered(self, name: str, asked_at: datetime, matches: int, found: int) -> None:
        """Keep that the remote of an entry has answered."""
        self._index.set_polling(PollingState(name, asked_at, self._tasks.now(), matches, found))

    def failed(self, name: str, asked_at: datetime, reason: str) -> int:
        """Keep that the remote of an entry did not answer; how often in a row it has not."""
        state = self.state(name)
        failures = state.failures + 1
        self._index.set_polling(replace(state, asked_at=asked_at, failures=failures, last_error=reason))
        return failures


def poll_key(remote: str, name: str) -> str:
    """What tells the task of an entry of the polling from all others."""
    return f"poll:{remote}:{name}"


def first_day(today: date, window: float, answered_at: datetime | None) -> date:
    """The first Study Date to ask for: `window` seconds before today or before the last answer, and a day more.

    That day is for remotes in other time zones. A series that comes late belongs to a study of an earlier date, so the
    windows of two questions overlap, also when there was no answer for long between them.
    """
    last = answered_at.astimezone().date() if answered_at is not None else today
    return min(today, last) - timedelta(seconds=window) - timedelta(days=1)


def studies_of(matches: Iterable[DataSet]) -> list[Named]:
    """The studies in an answer, each once; one that belongs to several patients names them all."""
    found: dict[str, Named] = {}
    for match in matches:
        uid = text_of(match, "0020000D")
        if not is_uid(uid):
            continue
        patient = text_of(match, "00100020")
        before = found.get(uid)
        if before is not None and patient in before.patients:
            continue
        patients = (*(before.patients if before else ()), patient)
        found[uid] = Named(
            uid,
            tuple(dict.fromkeys(patients)),
            text_of(match, "00080020"),
            "\\".join(str(each) for each in match.get("00080061", {}).get("Value", ()) if each),
            _sum(before.series if before else None, _count(match, "00201206")),
            _sum(before.instances if before else None, _count(match, "00201208")),
        )
    return list(found.values())


def _count(match: DataSet, tag: str) -> int | None:
    text = text_of(match, tag)
    is_count = text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT
    return min(int(text), _HIGHEST_COUNT) if is_count else None


def _sum(before: int | None, count: int | None) -> int | None:
    return count if before is None else min(before + (count or 0), _HIGHEST_COUNT)


def with_earlier_part(named: Named, known: RemoteStudy | None, since: datetime) -> Named:
    """A study with what an earlier part of the same answer, which began then, said of another patient of it."""
    if known is None or known.seen_at < since or set(named.patients) <= {*known.patient_id.split("\\")}:
        return named
    return replace(
        named,
        patients=tuple(dict.fromkeys((*known.patient_id.split("\\"), *named.patients))),
        series=_sum(known.remote_series, named.series),
        instances=_sum(known.remote_instances, named.instances),
    )


def decided(finder: Finder, named: Named, known: RemoteStudy | None, here: int, now: datetime) -> RemoteStudy:
    """What becomes of a study that a remote names."""
    told: dict[str, Any] = {
        "seen_at": now, "patient_id": "\\".join(named.patients), "study_date": named.study_date,
        "modalities": named.modalities, "remote_series": named.series, "remote_instances": named.instances,
    }  # fmt: skip
    if known is None:
        known = RemoteStudy(
            finder.remote, named.study_instance_uid, finder.source_ae, State.COMPLETE, finder.priority, finder.name,
            found_at=now, changed_at=now, is_routed=finder.is_routed, is_cache=finder.is_cache and not here,
            deadline=finder.deadline, **told,
        )  # fmt: skip
        wanted = True
    else:
        wanted = _is_wanted(finder, named, known, here, now)
        # What is cache for one is not for another. And of what was dropped nothing is here that did not come otherwise.
        told["is_cache"] = known.is_cache and finder.is_cache and not (known.state is State.DROPPED and here)
        if finder.deadline is not None and (known.deadline is None or known.deadline < finder.deadline):
            told["deadline"] = finder.deadline
    if len(named.patients) > 1:
        # Which of them the images are of, only a person can find out.
        told["last_error"] = f"{finder.remote} has it under several patients: {', '.join(named.patients)}"
        return replace(known, state=State.FAILED, changed_at=now, **told)
    if wanted:
        return replace(_for(finder, known), state=State.FOUND, changed_at=now, last_error="", **told)
    if known.state is State.FOUND and PATIENCE[finder.priority] < PATIENCE[known.priority]:
        return replace(_for(finder, known), **told)
    return replace(known, **told)


def _for(finder: Finder, known: RemoteStudy) -> RemoteStudy:
    """A study as it is fetched for another reason than before."""
    return replace(known, priority=finder.priority, found_by=finder.name, is_routed=known.is_routed or finder.is_routed)


def _is_wanted(finder: Finder, named: Named, known: RemoteStudy, here: int, now: datetime) -> bool:
    """Whether a study that is known already is to be fetched again."""
    if known.state in (State.FOUND, State.FETCHING):
        return False
    grown = (named.series, named.instances) != (known.remote_series, known.remote_instances)
    needed = finder.deadline is not None
    if known.state is State.FAILED:
        # The other patient of one that had several may come in a later part of the answer.
        is_of_one = "\\" not in known.patient_id
        was_away = finder.away_since is not None and known.changed_at >= finder.away_since
        again = is_of_one and (grown or was_away)
        return again or needed or _is_over(known.changed_at, _ONCE_IN_A_WHILE, now)
    if known.state is State.DROPPED:
        return grown or needed or not finder.is_cache
    # What a person has deleted here is not fetched again.
    if not here or here < (known.listed_instances or 0):
        return grown and here > 0
    if known.listed_instances is None:
        # A remote that does not list its instances would send all of them again.
        return grown
    pause = _WITHOUT_COUNTS if named.instances is None else _ONCE_IN_A_WHILE
    return grown or _is_over(known.completed_at or known.changed_at, pause, now)


def _is_over(since: datetime, pause: timedelta, now: datetime) -> bool:
    """Whether so much time has passed, or the clock was set back, and nobody knows how much has."""
    return now - since > pause or since - now > _CLOCKS_APART
