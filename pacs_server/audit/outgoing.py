"""The audit events of what this server asks of remotes: queries, and instances that it fetches (PS3.15 A.5.3)."""

from collections.abc import Mapping

from pacs_server.audit.auditor import participant_of
from pacs_server.audit.events import Action, Event, EventID, Outcome, Participant, Role
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.caller import Caller


class OutgoingAuditor:
    """Records what this server asks of remotes on behalf of callers; may be shared by all threads."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def ensure_writable(self) -> None:
        """Raise AuditUnavailable if nothing can be recorded: then nothing may be asked."""
        self._recorder.ensure_writable()

    def asked(
        self, caller: Caller, remote: Participant, service: str, keys: Mapping[str, str], detail: str, *, failed: bool
    ) -> None:
        """Record a query of a remote; `service` is the UID of its SOP class, or the name of the service."""
        outcome = Outcome.MINOR_FAILURE if failed else Outcome.SUCCESS
        self._recorder.note(
            Event(
                EventID.QUERY,
                Action.EXECUTE,
                (self._recorder.own(Role.SOURCE), remote, participant_of(caller)),
                outcome,
                sop_class_uid=service,
                query={name: text for name, text in keys.items() if text},
                detail=detail,
            )
        )

    def arrivals(self, caller: Caller, remote: Participant) -> Arrivals:
        """The instances that are fetched from a remote for a caller, for one thread, which ends them."""
        participants = (remote, self._recorder.own(Role.DESTINATION), participant_of(caller))
        return Arrivals(self._recorder, participants, EventID.INSTANCES_TRANSFERRED)
