"""Storage commitment by remotes: their reports, and what may be deleted here because of them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pacs_server.audit.events import Participant
from pacs_server.config.sections.routing import DeletionRule
from pacs_server.dicom.commitment import CommitmentReport
from pacs_server.dicom.levels import Level
from pacs_server.errors import InstanceNotFound, PacsError
from pacs_server.index.remote_commitments import RemoteCommitmentIndex
from pacs_server.services.deletion import DeletionService
from pacs_server.services.tasks import TaskService

log = logging.getLogger(__name__)

ASK_COMMITMENT: Final = "ask_commitment"
"""The kind of tasks that ask a remote to commit to the storage of a study."""

# So many studies are looked for at a time.
_TOGETHER: Final = 20


def asking_key(remote: str, study_instance_uid: str) -> str:
    """The dedupe key of the task that asks a remote for a study."""
    return f"{ASK_COMMITMENT}:{remote}:{study_instance_uid}"


@dataclass(frozen=True, slots=True)
class AskedRemote:
    """A remote that was asked to commit to the storage of a study."""

    transaction_uid: str
    remote: str
    study_instance_uid: str


class RemoteCommitmentService:
    """Takes reports, and deletes what rules allow; may be shared by all threads."""

    def __init__(self, index: RemoteCommitmentIndex, tasks: TaskService, deletions: DeletionService) -> None:
        self._index = index
        self._tasks = tasks
        self._deletions = deletions

    def asked(self, transaction_uid: str) -> AskedRemote | None:
        """Who was asked with this Transaction UID. Raises IndexUnavailable."""
        found = self._index.remote_of(transaction_uid)
        return None if found is None else AskedRemote(transaction_uid, *found)

    def take(self, asked: AskedRemote, report: CommitmentReport, now: datetime) -> None:
        """Keep a report; the task that asked goes on with what is left. Raises IndexUnavailable."""
        self._index.answer(asked.transaction_uid, report.committed, report.failed, now)
        self._tasks.hasten(asking_key(asked.remote, asked.study_instance_uid))

    def delete(
        self, rules: Sequence[DeletionRule], own: Callable[[], Participant], interrupted: Callable[[], bool]
    ) -> int:
        """Move the studies into the trash that rules allow to delete, until `interrupted`; returns how many.

        A study that cannot be moved is passed over. Raises IndexUnavailable.
        """
        count = 0
        for rule in rules:
            before = self._tasks.now() - timedelta(seconds=rule.after)
            passed: set[str] = set()
            while not interrupted():
                found = self._index.deletable(rule.committed_by, before, _TOGETHER + len(passed))
                studies = [(uid, instances) for uid, instances in found if uid not in passed]
                if not studies:
                    break
                for uid, instances in studies:
                    if interrupted():
                        break
                    if self._delete(rule, uid, instances, own()):
                        count += 1
                    else:
                        passed.add(uid)
        return count

    def _delete(self, rule: DeletionRule, study_instance_uid: str, instances: int, own: Participant) -> bool:
        reason = f"rule {rule.name}: {', '.join(rule.committed_by)} committed to its storage"
        try:
            deletion = self._deletions.delete(Level.STUDY, study_instance_uid, reason, own)
            if deletion.instances > instances:
                # Something came a moment ago, to which nobody has committed.
                self._deletions.restore(deletion.folder, own)
                return False
        except InstanceNotFound:
            return False
        except PacsError as error:
            log.warning("study not deleted", extra={"study": study_instance_uid, "reason": str(error)})
            return False
        return True
