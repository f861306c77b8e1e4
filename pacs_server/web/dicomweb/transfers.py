"""Instances that leave the archive over HTTP, in the audit trail as C-GET has them.

Viewers ask for one instance, or one frame, after the other. The disk is waited for once in a minute for each study and
caller: then it is durable who gets at the study. What was sent of it is recorded all the same, without waiting.
"""

from collections.abc import Callable, Sequence

from pacs_server.audit.auditor import Auditor
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.subject import Subject
from pacs_server.index.instances import StoredInstance
from pacs_server.services.retrieve import counts_of


class Transfer:
    """One retrieval: recorded durably before the first byte is sent, and with its numbers at the end."""

    def __init__(
        self,
        auditor: Auditor,
        caller: Caller,
        instances: Sequence[StoredInstance],
        subjects: Callable[[], Sequence[Subject]],
        *,
        durable: bool = True,
    ) -> None:
        """Record that the retrieval begins; `durable` is as for `Auditor.departure`.

        Raises AuditUnavailable, and what `subjects` raises.
        """
        self._record = auditor.departure(caller, subjects, counts_of(instances), durable=durable)
        self._sent = self._record.sent
        self._ended = False

    def completed(self, instance: StoredInstance) -> None:
        """An instance was sent as a whole."""
        self._sent.completed[instance.uids.study][instance.sop_class_uid] += 1

    def failed(self, instance: StoredInstance) -> None:
        """An instance could not be sent."""
        self._sent.failed[instance.uids.study] += 1

    def end(self) -> None:
        """Record how many were sent; a second time changes nothing."""
        if not self._ended:
            self._ended = True
            self._record.end()
