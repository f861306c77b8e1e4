"""The worker: claims due tasks and has their handlers run them, a few at a time."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pacs_server.errors import PacsError
from pacs_server.index.presence import Presence
from pacs_server.index.task_values import Task, TaskState
from pacs_server.index.tasks import Wanted
from pacs_server.outbox.handler import Handler, Work, fields, tell, tell_dead
from pacs_server.services.tasks import TaskService

log = logging.getLogger(__name__)

# Batches of tasks that run at the same time; one more place is kept for urgent tasks.
_SLOTS: Final = 8
# Tasks that another process has added are noticed after so many seconds at the latest.
_LOOK_AGAIN: Final = 10.0
# Pauses in seconds: when others hold what is due, after a batch has begun, and when the index fails.
_PAUSE: Final = 0.2
_HEAD_START: Final = 0.005
_INDEX_PAUSE: Final = 5.0


# Kind and target of the tasks that cannot be done now, with the seconds after which to ask again.
Closed = Callable[[], Mapping[tuple[str, str], float]]


@dataclass(eq=False, slots=True)
class _Batch:
    """Claimed tasks, and the thread's view of them."""

    kind: str
    target: str
    work: Work


class Worker:
    """A thread that waits for due tasks, asleep while none is, and runs each batch of them in a thread of its own."""

    def __init__(
        self,
        service: TaskService,
        handlers: Mapping[str, Handler],
        *,
        stop_within: Callable[[], float],
        slots: int = _SLOTS,
        closed: Closed = dict,
        presence: Presence | None = None,
    ) -> None:
        """`handlers` by kind; tasks of other kinds are left to other processes.

        `stop_within` says how long handlers may take to stop, in seconds. Tasks for what is `closed` are not claimed.
        `presence` tells whether this is the only process that runs tasks.
        """
        self._service = service
        self._handlers = handlers
        self._kinds = {kind: handler.together for kind, handler in handlers.items()}
        self._stop_within = stop_within
        self._slots = slots
        self._closed = closed
        self._presence = presence or Presence(None)
        # Leases are renewed after a third of their time.
        self._renew_seconds = service.lease_seconds / 3
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._batches: set[_Batch] = set()
        self._ended = threading.Condition()
        self._renewed = time.monotonic()
        self._looked = 0.0

    def start(self) -> None:
        """Begin to run tasks, those first that processes have left which are not there any more."""
        try:
            self._presence.enter(lambda: self._tell_lost(self._service.take_back(self._kinds)))
        except PacsError as error:
            # The leases run out.
            log.warning("tasks not run yet", extra={"reason": str(error)})
        self._thread.start()

    def reload(self) -> None:
        """Look at once what can be done under the settings as they are now."""
        self._service.changed.set()

    def stop(self) -> None:
        """Tell the handlers to stop and wait for them; what they leave unsettled was not tried."""
        self._stopping.set()
        self._service.changed.set()
        for handler in self._handlers.values():
            handler.stop()
        # No lease runs out while this waits.
        ends = time.monotonic() + min(self._stop_within(), self._renew_seconds)
        self._thread.join(max(0.0, ends - time.monotonic()))
        with self._ended:
            self._ended.wait_for(lambda: not self._batches, max(0.0, ends - time.monotonic()))
            left = list(self._batches)
        for batch in left:
            log.warning("task not stopped in time", extra=fields(batch.work.tasks[0]))
            self._settle_rest(batch, "")
        self._presence.leave()

    # ---------------------------------------------------------------- the thread that waits and claims

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._service.changed.wait(self._pause())
                self._service.changed.clear()
                self._keep_leases()
                self._take_over()
                while not self._stopping.is_set() and self._start_batch():
                    # What has begun goes on before this thread takes the interpreter again.
                    self._service.changed.wait(_HEAD_START)
            except PacsError as error:
                log.warning("tasks not run yet", extra={"reason": str(error)})
            except Exception as error:
                # The last resort: after a fault of this program the thread goes on, because no other thread runs tasks.
                log.exception("tasks not run yet", extra={"reason": f"internal error ({type(error).__name__})"})
            else:
                continue
            # An index that can be read and not be written would be asked without end.
            self._stopping.wait(_INDEX_PAUSE)

    def _pause(self) -> float:
        longest = min(_LOOK_AGAIN, self._renew_seconds) if self._batches else _LOOK_AGAIN
        try:
            wanted = self._wanted()
            seconds = None if wanted is None else self._service.seconds_to_next(wanted)
            opens = min(self._closed().values(), default=longest)
        except PacsError:
            return min(_INDEX_PAUSE, longest)
        if wanted is None:
            return longest
        return min(max(opens if seconds is None else min(seconds, opens), _PAUSE), longest)

    def _wanted(self) -> Wanted | None:
        """What to claim next; None while all slots are in use."""
        running = [(batch.kind, batch.target) for batch in list(self._batches)]
        if len(running) > self._slots:
            return None
        busy = {pair for pair in running if running.count(pair) >= self._handlers[pair[0]].at_once(pair[1])}
        return Wanted(self._kinds, urgent_only=len(running) == self._slots, busy=busy | self._closed().keys())

    def _start_batch(self) -> bool:
        """Claim tasks and start a thread that runs them; whether there were any."""
        wanted = self._wanted()
        tasks = self._service.claim(wanted) if wanted else []
        if not tasks:
            return False
        work = Work(tasks, self._service, self._stopping.is_set)
        batch = _Batch(tasks[0].kind, tasks[0].target, work)
        with self._ended:
            self._batches.add(batch)
        thread = threading.Thread(target=self._run_batch, args=(batch,), name=f"task-{batch.kind}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The system has no more threads: this one will do.
            self._run_batch(batch)
        return True

    def _keep_leases(self) -> None:
        """Renew the leases of the tasks that run, and tell their handlers of lost ones."""
        if time.monotonic() - self._renewed < self._renew_seconds:
            return
        for batch in list(self._batches):
            held = self._service.renew(batch.work.tasks)
            # Those that the handler has settled are not held either, which makes no difference to it.
            batch.work.lost |= {task.id for task in batch.work.tasks} - held
        # If the index has failed, the renewal is tried again at once.
        self._renewed = time.monotonic()

    def _take_over(self) -> None:
        """Make tasks ready again that other processes have left; looks once in a while, as the next pause is short."""
        if time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        # The tasks that run here are not given up, however long the index was away or whatever the clock says.
        running = {batch.work.tasks[0].owner for batch in list(self._batches)}
        self._tell_lost(self._service.expire(self._kinds, running))

    def _tell_lost(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.state == TaskState.DEAD:
                tell_dead(task)
            else:
                log.warning("task taken over", extra={**fields(task), "reason": task.last_error})

    # ---------------------------------------------------------------- the threads that run

    def _run_batch(self, batch: _Batch) -> None:
        reason, pause = "the handler did not finish it", 0.0
        try:
            self._handlers[batch.kind].run(batch.work)
        except PacsError as error:
            # This server's own trouble, such as an index that is away, is no failed attempt.
            reason, pause = str(error), self._service.lease_seconds
            log.warning("tasks not run yet", extra={**fields(batch.work.tasks[0]), "reason": reason})
        except Exception as error:
            # The last resort: a fault of this program is one failed attempt, not a worker less.
            log.exception("task failed unexpectedly", extra=fields(batch.work.tasks[0]))
            reason = f"internal error ({type(error).__name__}), see the server's log"
        finally:
            self._settle_rest(batch, reason, pause)
            with self._ended:
                self._batches.discard(batch)
                self._ended.notify_all()
            self._service.changed.set()

    def _settle_rest(self, batch: _Batch, reason: str, pause: float = 0.0) -> None:
        """Settle what the handler has left: as failed, or as not tried if the server shuts down.

        With a `pause` it was not tried either, and is due after so many seconds.
        """
        try:
            for task in self._service.unsettled(batch.work.tasks):
                if self._stopping.is_set():
                    self._service.release(task)
                elif pause:
                    self._service.release(task, reason, pause)
                else:
                    tell(task, self._service.fail(task, reason))
        except PacsError as error:
            # The leases run out, and some worker tries again.
            log.warning("task not settled", extra={**fields(batch.work.tasks[0]), "reason": str(error)})
