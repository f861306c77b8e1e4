"""The handler of forward tasks: sends the deliveries of a study that wait for a remote, and notes each answer.

A delivery is noted right after its answer, a few together: after a crash in between, these few are sent once more.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final, Protocol

from pacs_server.audit.auditor import Auditor, SentCounts
from pacs_server.audit.events import Participant, Role
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.status import Status
from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable, StorageUnavailable
from pacs_server.index.deliveries import (
    FORWARD,
    DeliveryIndex,
    DeliveryState,
    Forwarding,
    Note,
    Waiting,
    forwarding_of,
)
from pacs_server.index.instances import StoredInstance
from pacs_server.index.task_values import Task
from pacs_server.outbox.handler import Work, tell_dead
from pacs_server.outbox.notes import Notes
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.sending import Answer, Outgoing, Sender
from pacs_server.services.breakers import Breakers, Closed, Probe
from pacs_server.services.retrieve import RetrieveService, counts_of
from pacs_server.services.tasks import TaskService

# So many deliveries are looked up at a time, and recorded together in the audit trail.
_CHUNK: Final = 500
# After so many failures in a row the others wait for the next attempt: a remote that is full is full for all.
_FAILURES_IN_A_ROW: Final = 3
# An instance with which the association ended so often is given up, if others come through.
_MOST_BREAKS: Final = 5
# When to come back to a remote that is busy and does not say when, in seconds.
_BUSY_SECONDS: Final = 10.0

# What an instance is sent as: the stored data set, or a changed one.
Prepare = Callable[[StoredInstance, Forwarding], Outgoing]
# Told of each answer: the remote, the outcome, the size of the instance in bytes.
Counted = Callable[[str, str, int], None]


class Senders(Protocol):
    """Opens senders to remotes, and asks remotes whether they are there."""

    def open(self, remote: RemoteAEConfig) -> Sender:
        """A sender to a remote, to be used as a context manager."""

    def probe(self, remote: RemoteAEConfig) -> None:
        """Return if the remote answers. Raises RemoteError."""

    def stop(self) -> None:
        """End what blocks, because the server shuts down."""


def probe_by(senders: Senders) -> Probe:
    """What asks a remote whether it is there, and says why not."""

    def probe(remote: RemoteAEConfig) -> str | None:
        try:
            senders.probe(remote)
        except RemoteUnreachable as error:
            return str(error)
        except RemoteError:
            # It is busy, or does not like the question: it is there.
            return None
        return None

    return probe


class ForwardHandler:
    """Sends deliveries. The target of a task is the name of its remote; a backup may stand in for it."""

    together: Final = 1

    def __init__(
        self,
        index: DeliveryIndex,
        breakers: Breakers,
        senders: Senders,
        *,
        tasks: TaskService,
        prepare: Prepare,
        auditor: Auditor,
        retrieve: RetrieveService,
        counted: Counted = lambda remote, outcome, size: None,
    ) -> None:
        self.index = index
        self.breakers = breakers
        self.senders = senders
        self.tasks = tasks
        self.prepare = prepare
        self.auditor = auditor
        self.retrieve = retrieve
        self.count = counted
        # Told of each task before it is done.
        self.delivered: Callable[[Forwarding], None] = lambda forwarding: None

    def at_once(self, target: str) -> int:
        """As many as the remote takes associations."""
        remote = self.breakers.remote(target)
        return 1 if remote is None else remote.max_associations

    def closed(self) -> dict[tuple[str, str], float]:
        """The remotes to which nothing can be sent now, for the worker."""
        return {(FORWARD, name): seconds for name, seconds in self.breakers.unusable().items()}

    def stop(self) -> None:
        """End all associations at once."""
        self.senders.stop()

    def run(self, work: Work) -> None:
        """Send what waits for the study, remote and rule of the task."""
        (task,) = work.tasks
        remote = self.breakers.choose(task.target, probe_by(self.senders))
        if isinstance(remote, Closed):
            self._put_off(work, task, remote)
        else:
            _Attempt(self, work, task, remote).run()

    def _put_off(self, work: Work, task: Task, closed: Closed) -> None:
        """Leave a task for later, without an attempt; time does not run out while people want it to wait."""
        seconds = max(closed.seconds, 1.0)
        if not closed.fails:
            work.wait(task, closed.reason, seconds)
            return
        work.busy(task, closed.reason, seconds)
        # Those that wait with this task are not tried either, and some may have waited for too long.
        for each in self.tasks.give_up_overdue(FORWARD, task.target, closed.reason):
            tell_dead(each)


class _Attempt:
    """One attempt at a forward task, for one thread."""

    def __init__(self, handler: ForwardHandler, work: Work, task: Task, remote: RemoteAEConfig) -> None:
        self._handler = handler
        self._work = work
        self._task = task
        self._remote = remote
        self._forwarding = forwarding_of(task)
        self._tried: set[int] = set()
        # The instance that is sent next, as far as it is known.
        self._ready: tuple[Waiting, Outgoing] | None = None
        self._notes = Notes(self._keep)
        self._counts: Counter[DeliveryState] = Counter()
        self._in_a_row = 0
        self._reason = ""
        # Why the remote as a whole cannot be sent to any more, and when to come back to it if it is only busy.
        self._broken = False
        self._busy: RemoteBusy | None = None

    def run(self) -> None:
        """Send what waits, as long as the remote takes it, and settle the task."""
        try:
            with self._handler.senders.open(self._remote) as sender:
                while self._goes_on() and (batch := self._next()):
                    self._send_all(sender, batch)
        finally:
            self._notes.close()
        if not self._work.is_interrupted():
            self._settle()

    def _goes_on(self) -> bool:
        stopped = self._broken or self._busy is not None or self._in_a_row >= _FAILURES_IN_A_ROW
        return not (stopped or self._work.is_interrupted())

    def _next(self) -> list[Waiting]:
        """Deliveries that were not tried yet; what cannot be sent any more is cancelled."""
        self._notes.flush()
        while found := self._handler.index.waiting(self._forwarding, _CHUNK):
            fresh = [each for each in found if each.id not in self._tried]
            by_age = sorted(fresh, key=lambda each: each.instance_id)
            newest = {each.sop_instance_uid: each.instance_id for each in by_age}
            gone = {each.id for each in fresh if each.stored is None}
            older = {each.id for each in fresh if newest[each.sop_instance_uid] != each.instance_id} - gone
            if not gone and not older:
                return fresh
            self._handler.index.cancel(gone, "the instance was deleted")
            self._handler.index.cancel(older, "the instance was replaced, and its new version is sent")
        return []

    def _send_all(self, sender: Sender, batch: Sequence[Waiting]) -> None:
        stored = [each.stored for each in batch if each.stored is not None]
        if isinstance(sender, DIMSESender):
            # One association proposes what all of them need.
            sender.expect(*{(each.sop_class_uid, each.transfer_syntax_uid) for each in stored})
        with self._recorded(stored) as sent:
            for each, following in zip(batch, (*batch[1:], None), strict=True):
                if not self._goes_on():
                    return
                self._send(sender, each, following, sent)

    def _recorded(self, stored: Sequence[StoredInstance]) -> AbstractContextManager[SentCounts]:
        """The audit of a disclosure: who caused it, whose data, and where they go."""
        caller = Caller(Door.COMMAND, "", user=self._forwarding.caused_by)
        remote = self._remote
        to = Participant(remote.name, remote.ae_title, remote.host or remote.url, Role.DESTINATION)
        subjects = self._handler.retrieve.subjects
        return self._handler.auditor.sending(caller, lambda: subjects(stored), counts_of(stored), to)

    def _send(self, sender: Sender, each: Waiting, following: Waiting | None, sent: SentCounts) -> None:
        assert each.stored is not None
        self._tried.add(each.id)
        study, sop_class = each.stored.uids.study, each.stored.sop_class_uid
        try:
            answer = sender.send(self._outgoing(each), self._upcoming(following))
        except RemoteBusy as busy:
            self._busy, self._reason = busy, str(busy)
            self._handler.count(self._remote.name, "busy", 0)
            return
        except RemoteUnreachable as error:
            sent.failed[study] += 1
            self._failed_as_a_whole(each, str(error))
            return
        except StorageUnavailable as error:
            # Perhaps it was deleted or replaced a moment ago; the next look at the index tells.
            sent.failed[study] += 1
            self._reason = str(error)
            self._in_a_row += 1
            self._note(each, DeliveryState.WAITING, Answer(0, detail=str(error)), None)
            return
        if answer.is_success:
            sent.completed[study][sop_class] += 1
        else:
            sent.failed[study] += 1
        if answer.status == Status.PROCESSING_FAILURE and not answer.permanent:
            # The association ended while the instance was sent, perhaps because of it.
            self._failed_as_a_whole(each, answer.detail, answer.association)
            return
        self._handler.breakers.succeeded(self._remote.name)
        self._take(each, answer)

    def _outgoing(self, each: Waiting) -> Outgoing:
        assert each.stored is not None
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] is each:
            return ready[1]
        return self._handler.prepare(each.stored, self._forwarding)

    def _upcoming(self, following: Waiting | None) -> Outgoing | None:
        """What is sent next; None if it is changed, because then its turn is soon enough for the work on it."""
        if following is None or following.stored is None or self._forwarding.changes:
            return None
        instance = self._handler.prepare(following.stored, self._forwarding)
        self._ready = (following, instance)
        return instance

    def _take(self, each: Waiting, answer: Answer) -> None:
        """Note the answer about one instance."""
        assert each.stored is not None
        if answer.is_success:
            self._in_a_row = 0
            self._note(each, DeliveryState.DELIVERED, answer, answer.status)
            self._handler.count(self._remote.name, "delivered", each.stored.size)
            return
        self._reason = answer.detail or f"{self._remote.name} answered 0x{answer.status:04X}"
        state = DeliveryState.DEAD if answer.permanent else DeliveryState.WAITING
        self._in_a_row = 0 if answer.permanent else self._in_a_row + 1
        self._note(each, state, answer, answer.status)
        self._handler.count(self._remote.name, "refused" if answer.permanent else "failed", 0)

    def _failed_as_a_whole(self, each: Waiting, reason: str, association: str = "") -> None:
        """The remote did not answer about this instance. If it did about others, this one may be the cause."""
        self._reason = reason
        self._handler.count(self._remote.name, "unreachable", 0)
        came_through = self._in_a_row == 0 and self._counts[DeliveryState.DELIVERED] > 0
        if came_through and each.attempts + 1 >= _MOST_BREAKS:
            detail = f"{reason}, each time that it is sent"
            self._note(each, DeliveryState.DEAD, Answer(0, detail=detail, association=association), None)
            return
        self._in_a_row += 1
        self._note(each, DeliveryState.WAITING, Answer(0, detail=reason, association=association), None)
        self._handler.breakers.failed(self._remote.name, reason)
        self._broken = not came_through

    def _note(self, each: Waiting, state: DeliveryState, answer: Answer, status: int | None) -> None:
        self._counts[state] += 1
        task = self._task.id if state == DeliveryState.DEAD else None
        now: datetime = self._handler.tasks.now()
        detail = answer.detail[:500]
        self._notes.add(Note(each.id, state, now, detail, status, self._remote.name, answer.association, task))

    def _keep(self, notes: Sequence[Note]) -> None:
        self._handler.index.note(notes, self._task, self._progress())

    def _progress(self) -> dict[str, int]:
        return {str(state): self._counts[state] for state in DeliveryState if self._counts[state]}

    def _settle(self) -> None:
        """Say what became of the task: done when nothing waits, dead when what is left was given up."""
        if self._busy is not None:
            self._work.busy(self._task, self._reason, self._busy.seconds or _BUSY_SECONDS)
        elif left := self._handler.index.waiting(self._forwarding, 1):
            if self._goes_on() and left[0].id not in self._tried:
                # It came after the last look.
                self._work.release(self._task)
            else:
                self._work.failed(self._task, self._reason)
        elif (given_up := self._handler.index.given_up(self._task.id)) is not None:
            self._work.give_up(self._task, given_up)
        else:
            # Before the task is done: after a crash in between it is told once more.
            self._handler.delivered(self._forwarding)
            self._work.done(self._task)
