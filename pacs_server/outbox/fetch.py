"""The handler of fetch tasks: brings instances here from a remote, and compares with what the remote has.

What the remote has is asked by queries at the levels of series and instances. Only what is missing is retrieved, so
that another attempt goes on where the last one ended. A task is done when nothing is missing.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from pacs_server.audit.events import Role
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.audit.transfers import Arrivals
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InstanceMismatch, PacsError, RemoteBusy, RemoteError, RemoteUnreachable, StorageFull
from pacs_server.index.remote_studies import NOTHING_OF_THAT
from pacs_server.index.task_values import Task
from pacs_server.kit.words import counted
from pacs_server.outbox.handler import Work, tell_dead
from pacs_server.scu.find import STUDY_ROOT
from pacs_server.scu.inventory import inventory
from pacs_server.scu.queries import QIDO
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.remotes import Remotes, participant
from pacs_server.scu.retrieving import Progress, Retrieved, Wanted
from pacs_server.services.breakers import Breakers, Probe
from pacs_server.services.fetching import FETCH, Fetching
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreRequest, StoreService
from pacs_server.services.tasks import TaskService

# When to come back to a remote that is busy and does not say when, in seconds.
_BUSY_SECONDS: Final = 30.0
# When to come back to a remote that is away, until it has been away so often that it is left alone, in seconds.
_AWAY_SECONDS: Final = 10.0
# The progress is told, and the task looked at, so often, in seconds.
_TOLD_SECONDS: Final = 2.0
# A remote that does not list its instances is asked for the list so many times more if something of the study is here.
_MAY_PASS: Final = 2
# So many UIDs are asked for at once.
_TOGETHER: Final = 100
# So many of the missing instances are named.
_NAMED: Final = 20


class FetchHandler:
    """Fetches; the target of a task is the name of a remote."""

    together: Final = 1

    def __init__(  # noqa: PLR0913 - what a fetch needs of the server
        self,
        remotes: Remotes,
        store: StoreService,
        retrieve: RetrieveService,
        auditor: OutgoingAuditor,
        *,
        tasks: TaskService,
        breakers: Breakers,
        probe: Probe,
        ae_title: Callable[[], str],
        problem: Callable[[], str | None] = lambda: None,
        most: Callable[[str], int] = lambda target: 2,
        ended: Callable[[str], object] = lambda target: None,
    ) -> None:
        """`ae_title` is our own, which had the instances sent here.

        `most` says how many fetches from a remote may run at once; `ended` is told its name when one has ended.
        `probe` asks a remote whether it is there, and says why not. `problem` says why nothing can be stored here now.
        """
        self.remotes = remotes
        self.store = store
        self.retrieve = retrieve
        self.ae_title = ae_title
        self.auditor = auditor
        self._tasks = tasks
        self.breakers = breakers
        self.problem = problem
        self._probe = probe
        self._most = most
        self._ended = ended

    def at_once(self, target: str) -> int:
        """As many as the remote takes associations, and not so many that others wait for it."""
        return min(self._most(target), 4)

    def closed(self) -> dict[tuple[str, str], float]:
        """The remotes that have failed as a whole and are not asked now, for the worker."""
        return {(FETCH, name): seconds for name, seconds in self.breakers.all_failing().items()}

    def stop(self) -> None:
        """End all associations at once."""
        self.remotes.stop()

    def run(self, work: Work) -> None:
        """Fetch what is missing of what the task names, and settle it."""
        (task,) = work.tasks
        remote = self.breakers.remote(task.target)
        closed = self.breakers.failing_after_probe(remote, self._probe) if remote is not None else None
        if closed is not None:
            self._put_off(work, task, closed.reason, max(closed.seconds, 1.0))
            # Those that wait with this task are not tried either, and some may have waited for too long.
            for each in self._tasks.give_up_overdue(FETCH, task.target, _late(closed.reason)):
                tell_dead(each)
            return
        try:
            _Attempt(self, work, task).run()
        except RemoteBusy as busy:
            self._put_off(work, task, str(busy), busy.seconds or _BUSY_SECONDS)
        except RemoteUnreachable as error:
            if remote is None or work.is_interrupted() or self._is_away(work, task, remote, error):
                return
        except RemoteError as error:
            if not work.is_interrupted():
                work.failed(task, str(error))
        self._ended(task.target)

    def _is_away(self, work: Work, task: Task, remote: RemoteAEConfig, error: RemoteUnreachable) -> bool:
        """Settle a task whose remote did not answer; whether the remote as a whole is away.

        Then the task waits and loses no attempt, however long that is; only one with a deadline is given up then. A
        remote that says that it is there has failed at this study alone.
        """
        reason = self._probe(remote)
        if work.is_interrupted():
            return True
        if reason is None:
            work.failed(task, str(error))
            return False
        self.breakers.failed(remote.name, reason)
        closed = self.breakers.failing(remote.name)
        self._put_off(work, task, str(error), closed.seconds if closed is not None else _AWAY_SECONDS)
        return True

    @staticmethod
    def _put_off(work: Work, task: Task, reason: str, seconds: float) -> None:
        """Leave a task for later, without an attempt, or give it up if somebody has ordered it long ago."""
        is_late = task.deadline is not None and work.now >= task.deadline
        work.busy(task, _late(reason) if is_late else reason, seconds)


def _late(reason: str) -> str:
    """Why a task is given up that somebody has ordered, where `reason` is why it waits."""
    return f"not fetched within fetching.give_up_after: {reason}"


class _Attempt:
    """One attempt at a fetch task, for one thread."""

    def __init__(self, handler: FetchHandler, work: Work, task: Task) -> None:
        self._handler = handler
        self._work = work
        self._task = task
        self._fetching = Fetching.of(task)
        self._remote = handler.remotes.known(task.target)
        self._caller = Caller(Door.COMMAND, "", user=task.created_by)
        self._other_side = participant(self._remote, Role.SOURCE)
        side = self._other_side
        self._origin = Origin(side.ae_title, "", side.address, Door.DIMSE, handler.ae_title())
        # What the remote has, as far as it tells: series and SOP class by SOP Instance UID.
        self._expected: dict[str, tuple[str, str]] | None = None
        self._told = time.monotonic()
        self._reasons: list[str] = []
        # Whether the disk was full when an instance came.
        self._is_full = False

    def run(self) -> None:
        """Ask what there is, retrieve what is missing, and compare."""
        self._handler.auditor.ensure_writable()
        self._expected = self._listed()
        if self._expected is not None and not self._expected:
            self._work.give_up(self._task, f"{self._task.target} {NOTHING_OF_THAT}")
            return
        try:
            done = self._retrieve_all()
        except RemoteUnreachable as error:
            if self._expected is None:
                raise
            self._reasons.append(str(error))
            done = None
        if self._work.is_interrupted():
            return
        missing = self._missing()
        self._tell(missing)
        if missing or self._expected is None:
            self._ensure_room()
        if self._expected is None and (done is None or done.failed or not done.completed):
            self._work.failed(self._task, f"{self._task.target} did not send all: {self._why()}")
        elif missing:
            self._work.failed(self._task, self._sentence(missing))
        else:
            self._work.done(self._task)

    # ---------------------------------------------------------------- what there is

    def _listed(self) -> dict[str, tuple[str, str]] | None:
        """The instances that the remote has; None if it cannot be asked for them."""
        study, detail = self._fetching.study_instance_uid, "0 instances"
        keys = {"StudyInstanceUID": study}
        failed = True
        try:
            wanted = self._fetching
            found = inventory(
                self._handler.remotes, self._task.target, study, wanted.series_instance_uid, wanted.sop_instance_uid
            )
            detail, failed = counted(len(found), "instance"), False
            self._handler.breakers.succeeded(self._task.target)
            return found
        except (RemoteBusy, RemoteUnreachable) as error:
            detail = str(error)
            raise
        except RemoteError as error:
            detail = str(error)
            if self._task.attempts < _MAY_PASS and self._is_begun():
                # Without the list all of it would come again, and the next answer may be another one.
                raise
            return None
        finally:
            there = participant(self._remote, Role.DESTINATION)
            service = STUDY_ROOT if isinstance(self._remote, RemoteAE) else QIDO
            self._handler.auditor.asked(self._caller, there, service, keys, detail, failed=failed)

    def _is_begun(self) -> bool:
        """Whether something of the study is here."""
        keys = RetrieveKeys(Level.STUDY, study_instance_uids=(self._fetching.study_instance_uid,))
        return bool(self._handler.retrieve.select(keys))

    def _missing(self) -> list[str]:
        """The instances that the remote has and that are not here."""
        wanted = list(self._expected or ())
        here = self._handler.retrieve.present(wanted)
        return [uid for uid in wanted if uid not in here]

    # ---------------------------------------------------------------- retrieving

    def _retrieve_all(self) -> Retrieved | None:
        """Retrieve what is missing, and by C-MOVE what C-GET did not bring; what the last request came to."""
        done = None
        for may_get in (True, False):
            missing = self._missing()
            self._tell(missing)
            if self._expected is not None and not missing:
                return done
            self._ensure_room()
            with self._arriving() as arrivals:
                for wanted in self._plan(missing):
                    if self._is_over():
                        return done
                    done = self._retrieve(wanted, arrivals, may_get=may_get)
            if done is None or done.way != "C-GET" or (self._expected is None and not done.failed):
                return done
        return done

    def _retrieve(self, wanted: Wanted, arrivals: Arrivals, *, may_get: bool) -> Retrieved:
        def begin(subject: Subject, sop_class: str) -> None:
            if subject.study_instance_uid != wanted.study:
                raise InstanceMismatch("the remote sent an instance of another study than it was asked for")
            arrivals.begin(subject, sop_class)

        def take(sop_class: str, uid: str, transfer_syntax: str, pieces: object) -> None:
            request = StoreRequest(sop_class, uid, transfer_syntax, self._origin)
            try:
                outcome = self._handler.store.store(request, pieces, begin)  # type: ignore[arg-type]
            except PacsError as error:
                self._is_full |= isinstance(error, StorageFull)
                arrivals.failed(str(error))
                raise
            arrivals.stored(outcome.value)

        began = len(self._missing())
        progress = Progress(self._is_over, lambda so_far: self._progress(so_far, began))
        try:
            done = self._handler.remotes.retrieve(self._task.target, wanted, take, progress, may_get=may_get)
        except (RemoteUnreachable, RemoteBusy):
            raise
        except RemoteError as error:
            # Without C-MOVE, or without this server among its destinations, it sends what it can by C-GET only.
            if may_get:
                raise
            self._reasons.append(str(error))
            return Retrieved("C-MOVE")
        self._reasons += done.reasons
        return done

    def _plan(self, missing: Sequence[str]) -> Iterator[Wanted]:
        """The requests for what is missing: whole series as far as possible, and the whole study if all is missing."""
        study, expected = self._fetching.study_instance_uid, self._expected
        if expected is None:
            instance, series = self._fetching.sop_instance_uid, self._fetching.series_instance_uid
            yield Wanted(study, (series,) if series else (), (instance,) if instance else ())
            return
        classes = frozenset(expected[uid][1] for uid in missing) - {""}
        of_series: defaultdict[str, list[str]] = defaultdict(list)
        for uid in missing:
            of_series[expected[uid][0]].append(uid)
        if len(missing) == len(expected) and not self._fetching.series_instance_uid:
            yield Wanted(study, sop_classes=classes)
            return
        sizes: defaultdict[str, int] = defaultdict(int)
        for series, _ in expected.values():
            sizes[series] += 1
        for series, uids in of_series.items():
            if len(uids) == sizes[series] and not self._fetching.sop_instance_uid:
                yield Wanted(study, (series,), sop_classes=classes)
                continue
            for begin in range(0, len(uids), _TOGETHER):
                yield Wanted(study, (series,), tuple(uids[begin : begin + _TOGETHER]), classes)

    @contextmanager
    def _arriving(self) -> Iterator[Arrivals]:
        arrivals = self._handler.auditor.arrivals(self._caller, self._other_side)
        try:
            yield arrivals
        finally:
            arrivals.end()

    # ---------------------------------------------------------------- telling

    def _ensure_room(self) -> None:
        """Raise StorageFull if nothing can be stored here: then the remote has not failed, and nothing is given up."""
        if (problem := self._handler.problem()) is not None:
            raise StorageFull(problem)
        if self._is_full:
            raise StorageFull("the storage had no space left for an instance")

    def _is_over(self) -> bool:
        return self._is_full or self._work.is_interrupted()

    def _progress(self, so_far: Retrieved, began: int) -> None:
        """Tell how far the task has come, now and then; what came by C-MOVE is counted in the index."""
        if time.monotonic() - self._told < _TOLD_SECONDS:
            return
        missing = self._missing()
        if so_far.way == "C-MOVE":
            so_far.taken = began - len(missing)
        self._tell(missing)
        if not self._work.is_held(self._task):
            # It was cancelled, or taken over.
            self._work.lost.add(self._task.id)

    def _tell(self, missing: Sequence[str]) -> None:
        self._told = time.monotonic()
        if self._expected is None:
            return
        told: Mapping[str, object] = {
            "expected": len(self._expected),
            "here": len(self._expected) - len(missing),
            "missing": list(missing[:_NAMED]),
        }
        self._work.progress(self._task, **told)

    def _sentence(self, missing: Sequence[str]) -> str:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        return f"{len(missing)} of {len(self._expected or ())} are missing: {self._why()}{named}"

    def _why(self) -> str:
        return "".join(f"{reason}; " for reason in dict.fromkeys(self._reasons[:5]))
