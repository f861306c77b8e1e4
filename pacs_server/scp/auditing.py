"""What DIMSE operations and associations are in the audit trail: the doors say what they do, here it becomes events."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals, outcome_of
from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.mpps import scheduled_steps
from pacs_server.dicom.subject import Subject
from pacs_server.errors import AuditUnavailable, PacsError, ResourceLimitation
from pacs_server.net.association import Association, Message
from pacs_server.net.negotiation import Proposal
from pacs_server.net.peer import Admitted, Caller

# PS3.7 D.3.3.7.1: a user name, alone or with a passcode.
_USER_NAMES = (1, 2)
_PATIENT_ID, _ISSUER, _SCHEDULED = "00100020", "00100021", "00400270"


class Auditing:
    """The audit trail as the DIMSE doors see it; may be shared by all threads."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._arrivals: dict[Association, Arrivals] = {}

    # ---------------------------------------------------------------- associations

    def associated(self, proposal: Proposal, caller: Caller, admitted: Admitted) -> None:
        """A peer was admitted; worth an event if a user logged in."""
        if admitted.user is not None:
            who = Participant(admitted.user, proposal.calling_ae, caller.address, requestor=True)
            self._alert(who, caller.address, f"login {admitted.user}", _login())

    def rejected(self, proposal: Proposal, caller: Caller, name: str) -> None:
        """A peer was not admitted; `name` says why, as `Rejection` does."""
        identity = proposal.user.identity
        # Of the other kinds it is a ticket, and nobody else's business.
        named = identity is not None and identity.kind in _USER_NAMES
        user = identity.primary.decode(errors="replace") if identity is not None and named else proposal.calling_ae
        who = Participant(user, proposal.calling_ae, caller.address, requestor=True)
        detail = f"association to {proposal.called_ae} rejected: {name}"
        event = _login() if name.startswith("user") else _security(EventType.NODE_AUTHENTICATION)
        self._alert(who, caller.address, name, replace(event, outcome=Outcome.MINOR_FAILURE, detail=detail))

    def handshake_failed(self, address: str, reason: str) -> None:
        """A peer and the server could not agree on TLS."""
        who = Participant(address, address=address, requestor=True)
        event = _security(EventType.NODE_AUTHENTICATION)
        detail = f"TLS handshake failed: {reason}"
        self._alert(who, address, "tls", replace(event, outcome=Outcome.MINOR_FAILURE, detail=detail))

    def refused(self, association: Association, operation: str, reason: str) -> None:
        """A peer asked for what it may not do."""
        event = replace(_security(EventType.USE_OF_RESTRICTED_FUNCTION), outcome=Outcome.MINOR_FAILURE)
        detail = f"{operation} refused: {reason}"
        self._alert(_peer(association), association.peer, operation, replace(event, detail=detail))

    def ended(self, association: Association) -> None:
        """The association is over."""
        arrivals = self._arrivals.pop(association, None)
        if arrivals is not None:
            arrivals.end()

    def _alert(self, who: Participant, address: str, kind: str, event: Event) -> None:
        self._recorder.alert(replace(event, participants=(who,)), peer=address, kind=kind)

    # ---------------------------------------------------------------- C-STORE

    @contextmanager
    def arriving(self, association: Association) -> Iterator[Arrivals]:
        """The arrivals on this association, for one C-STORE; what is raised counts as a failed instance."""
        arrivals = self._arrivals.get(association)
        if arrivals is None:
            participants = (_peer(association, Role.SOURCE), _own(association, Role.DESTINATION))
            arrivals = Arrivals(self._recorder, participants, EventID.INSTANCES_TRANSFERRED)
            self._arrivals[association] = arrivals
        try:
            yield arrivals
        except PacsError as error:
            arrivals.failed(str(error))
            raise

    # ---------------------------------------------------------------- C-FIND

    @contextmanager
    def query(self, association: Association, message: Message) -> Iterator["Asked"]:
        """One query, from before its identifier is read until its matches are out. Raises AuditUnavailable."""
        self._recorder.ensure()
        participants = (_peer(association, Role.SOURCE), _own(association, Role.DESTINATION))
        asked = Asked(self._recorder, participants, message.context.abstract_syntax)
        try:
            yield asked
        except PacsError as error:
            asked.failed(str(error))
            raise
        finally:
            asked.end()

    # ---------------------------------------------------------------- C-GET, C-MOVE

    @contextmanager
    def sending(
        self,
        association: Association,
        subjects: Callable[[], Sequence[Subject]],
        planned: "Counts",
        destination: Participant | None = None,
    ) -> Iterator["Sent"]:
        """The instances of one retrieval, durably told before and counted after it.

        They go to `destination`, or else to who asks. Raises AuditUnavailable, and what `subjects` raises.
        """
        sent = Sent()
        if not planned:
            yield sent
            return
        peer = _peer(association) if destination else _peer(association, Role.DESTINATION)
        participants = (_own(association, Role.SOURCE), *((destination,) if destination else ()), peer)
        patients = _by_patient(subjects())
        self._begin(patients, planned, participants)
        try:
            yield sent
        finally:
            for studies in patients:
                self._recorder.note(_transferred(studies, planned, sent, participants))

    def _begin(
        self,
        patients: Sequence[Sequence[Subject]],
        planned: "Counts",
        participants: tuple[Participant, ...],
    ) -> None:
        for number, studies in enumerate(patients, 1):
            counted = tuple(_counted(study, planned) for study in studies)
            event = Event(EventID.BEGIN_TRANSFERRING, Action.EXECUTE, participants, subjects=counted)
            # A sync takes all that was written before it along.
            self._recorder.write(event, durable=number == len(patients))

    # ---------------------------------------------------------------- N-services

    @contextmanager
    def procedure(self, association: Association, message: Message, action: Action, uid: str) -> Iterator["Recorded"]:
        """One operation on a procedure step or a request for storage commitment, by its `uid`; told when it is done.

        Raises ResourceLimitation when the trail cannot be written: a status of C-STORE means nothing here.
        """
        event = Event(
            EventID.PROCEDURE_RECORD,
            action,
            (_peer(association), _own(association)),
            sop_class_uid=message.context.abstract_syntax,
        )
        try:
            self._recorder.ensure()
            recorded = Recorded(detail=uid)
            try:
                yield recorded
            except PacsError as error:
                detail = f"{recorded.detail}: {error}"
                failed = replace(event, outcome=Outcome.MINOR_FAILURE, subjects=recorded.subjects, detail=detail)
                self._recorder.note(failed)
                raise
            self._recorder.write(replace(event, subjects=recorded.subjects, detail=recorded.detail))
        except AuditUnavailable as error:
            raise ResourceLimitation(str(error)) from error


Counts = Mapping[str, Mapping[str, int]]
"""Numbers of instances by Study Instance UID and SOP Class UID."""


class Asked:
    """A query on its way into the audit trail: once before its first match goes out, and again if many did."""

    def __init__(self, recorder: Recorder, participants: tuple[Participant, ...], sop_class_uid: str) -> None:
        self._recorder = recorder
        self._participants = participants
        self._sop_class_uid = sop_class_uid
        self._keys: Mapping[str, str] = {}
        self._told: int | None = None
        self._count = 0

    def keys(self, keys: Mapping[str, str]) -> None:
        """The keys with what they have to match."""
        self._keys = keys

    def matched(self, count: int, *, complete: bool) -> None:
        """So many matches have been found; called before they are sent. Raises AuditUnavailable."""
        self._count = count
        if self._told is None:
            detail = f"{count} matches" if complete else f"{count} matches or more"
            self._recorder.write(self._event(detail), durable=False)
            self._told = count if complete else -1
        elif complete:
            self.end()

    def failed(self, reason: str) -> None:
        """The query was refused or could not be answered."""
        self._recorder.note(self._event(reason, Outcome.MINOR_FAILURE))
        self._told = self._count

    def end(self) -> None:
        """Tell how many matches there were, if nobody could know before."""
        if self._told is not None and self._told != self._count:
            self._recorder.note(self._event(f"{self._count} matches"))
            self._told = self._count

    def _event(self, detail: str, outcome: Outcome = Outcome.SUCCESS) -> Event:
        return Event(
            EventID.QUERY, Action.EXECUTE, self._participants, outcome,
            sop_class_uid=self._sop_class_uid, query=self._keys, detail=detail,
        )  # fmt: skip


@dataclass(slots=True)
class Sent:
    """What of a retrieval really went out, and what did not."""

    completed: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Recorded:
    """What an operation was about, as far as it is known."""

    subjects: tuple[Subject, ...] = ()
    detail: str = ""


def subjects_of_step(step: DataSet) -> tuple[Subject, ...]:
    """Whose a procedure step is: one subject for each study that it refers to."""
    who = text_of(step, _PATIENT_ID), text_of(step, _ISSUER)
    if not any(who) and _SCHEDULED not in step:
        return ()
    studies = {scheduled.study_instance_uid: scheduled.accession_number for scheduled in scheduled_steps(step)}
    return tuple(Subject(*who, *study) for study in studies.items()) or (Subject(*who),)


def _peer(association: Association, role: Role | None = None) -> Participant:
    user = association.admitted.user or association.calling_ae
    return Participant(user, association.calling_ae, association.peer, role, requestor=True)


def _own(association: Association, role: Role | None = None) -> Participant:
    return Participant(association.called_ae, association.called_ae, role=role)


def _login() -> Event:
    return Event(EventID.USER_AUTHENTICATION, Action.EXECUTE, (), event_type=EventType.LOGIN)


def _security(kind: EventType) -> Event:
    return Event(EventID.SECURITY_ALERT, Action.EXECUTE, (), event_type=kind)


def _by_patient(subjects: Collection[Subject]) -> list[list[Subject]]:
    """PS3.15 A.5.3.3: one message is about one patient."""
    patients: dict[tuple[str, ...], list[Subject]] = {}
    for subject in subjects:
        # An empty Patient ID identifies nobody: such patients are as many as their studies.
        study = () if subject.patient_id else (subject.study_instance_uid,)
        patients.setdefault((subject.patient_id, subject.issuer_of_patient_id, *study), []).append(subject)
    return list(patients.values())


def _counted(subject: Subject, counts: Counts) -> Subject:
    return replace(subject, sop_classes=dict(counts.get(subject.study_instance_uid, {})))


def _transferred(
    studies: Sequence[Subject], planned: Counts, sent: Sent, participants: tuple[Participant, ...]
) -> Event:
    wanted = sum(sum(planned[study.study_instance_uid].values()) for study in studies)
    failed = sum(sent.failed[study.study_instance_uid] for study in studies)
    counted = tuple(_counted(study, sent.completed) for study in studies)
    completed = sum(sum(study.sop_classes.values()) for study in counted)
    detail = f"{completed} of {wanted} sent, {failed} failed"
    outcome = outcome_of(completed, wanted - completed)
    return Event(EventID.INSTANCES_TRANSFERRED, Action.READ, participants, outcome, subjects=counted, detail=detail)
