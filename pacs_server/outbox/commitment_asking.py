"""The handler that asks remotes to commit to the storage of what they got (PS3.4 J.3), until they have."""

import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Final

from pacs_server.errors import IndexUnavailable, RemoteBusy, RemoteError
from pacs_server.index.remote_commitments import Promised, RemoteCommitmentIndex
from pacs_server.index.task_values import NewTask, Task
from pacs_server.kit.words import counted
from pacs_server.net.association import Association
from pacs_server.outbox.handler import Work
from pacs_server.scu.normalized import Listening, request_commitment
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.services.remote_commitments import ASK_COMMITMENT, asking_key

log = logging.getLogger(__name__)

# How long to wait for a report on the association that asked, in seconds.
HERE_SECONDS: Final = 3.0
# How long a remote may take to report before it is asked again, in seconds.
REPORT_SECONDS: Final = 3600.0
_BUSY_SECONDS: Final = 30.0


def asking(remote: str, study_instance_uid: str) -> NewTask:
    """The task that asks a remote for a study."""
    key = asking_key(remote, study_instance_uid)
    return NewTask(ASK_COMMITMENT, "commitment", remote, {"study": study_instance_uid}, dedupe_key=key)


class CommitmentAskingHandler:
    """Asks for one study at a time; the report comes later and makes the task due again."""

    together: Final = 1

    def __init__(
        self,
        index: RemoteCommitmentIndex,
        pool: Pool,
        remote: Callable[[str], RemoteAE | None],
        except_rules: Callable[[], Collection[str]],
        serve: Callable[[Association, float], None],
    ) -> None:
        """`except_rules` name the rules whose objects have other UIDs at the remote.

        `serve` serves one message of a remote that reports where it was asked; see `Listening`.
        """
        self._serve = serve
        # The last transaction for which each remote let us wait in vain.
        self._in_vain: dict[str, str] = {}
        self._index = index
        self._pool = pool
        self._remote = remote
        self._except_rules = except_rules

    def at_once(self, target: str) -> int:
        """One at a time: what is forwarded goes first."""
        return 1

    def run(self, work: Work) -> None:
        """Ask, unless the remote has committed to everything, or was asked a moment ago."""
        (task,) = work.tasks
        remote, study = self._remote(task.target), str(task.payload["study"])
        if remote is None or not remote.commitment:
            work.give_up(task, f"{task.target} is not asked for storage commitment any more")
            return
        promised = self._index.outstanding(task.target, study, self._except_rules())
        if not promised:
            work.done(task)
            return
        last = self._index.last(task.target, study)
        if last is not None and not last.is_answered:
            seconds = REPORT_SECONDS - (work.now - last.asked_at).total_seconds()
            if seconds > 0:
                work.wait(task, "asked, and the report has not come yet", seconds)
                return
            # The lost report counts as a failure, so that this ends some day.
            self._index.answer(last.transaction_uid, (), {}, work.now)
            work.failed(task, f"{task.target} has not reported within {REPORT_SECONDS / 60:.0f} minutes")
            return
        if last is not None and last.refused and task.progress.get("transaction") == last.transaction_uid:
            work.progress(task)
            work.failed(
                task, f"{task.target} did not commit to {counted(last.refused, 'instance')} (0x{last.reason:04X})"
            )
            return
        self._ask(work, task, remote, promised)

    def stop(self) -> None:
        """The pool ends its associations by itself."""

    def _ask(self, work: Work, task: Task, remote: RemoteAE, promised: Sequence[Promised]) -> None:
        study = str(task.payload["study"])
        # PS3.5 B.2: a UUID as a UID.
        transaction = f"2.25.{uuid.uuid4().int}"
        work.progress(task, transaction=transaction, instances=len(promised))
        self._index.ask(transaction, task.target, study, promised, work.now)
        try:
            references = ((each.sop_class_uid, each.sop_instance_uid) for each in promised)
            seconds = 0.0 if self._reports_elsewhere(task.target) else HERE_SECONDS
            listening = Listening(self._serve, lambda: self._is_answered(transaction), seconds)
            request_commitment(self._pool, remote, transaction, references, listening)
        except RemoteBusy as busy:
            self._index.forget(transaction)
            work.busy(task, str(busy), busy.seconds or _BUSY_SECONDS)
        except RemoteError as error:
            self._index.forget(transaction)
            work.failed(task, str(error))
        else:
            log.info("commitment asked for", extra={"remote": task.target, "study": study, "instances": len(promised)})
            is_answered = self._is_answered(transaction)
            if not is_answered:
                self._in_vain[task.target] = transaction
            # After a report there is more to ask for, or nothing.
            work.wait(task, "asked, and the report has not come yet", 0.0 if is_answered else REPORT_SECONDS)

    def _reports_elsewhere(self, target: str) -> bool:
        """Whether a remote is known to report on associations of its own: it does not have to be waited for."""
        before = self._in_vain.get(target)
        return before is not None and self._is_answered(before)

    def _is_answered(self, transaction: str) -> bool:
        try:
            return self._index.is_answered(transaction)
        except IndexUnavailable:
            # It is found out when the task is due.
            return False
