"""The audit events of what callers do: the same for every door, which says who the `Caller` is."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals, outcome_of
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.subject import Subject
from pacs_server.errors import PacsError
from pacs_server.kit.recently import Recently
from pacs_server.kit.words import counted

InstanceCounts = Mapping[str, Mapping[str, int]]
"""Numbers of instances by Study Instance UID and SOP Class UID."""


NOT_LOGGED_IN = "not logged in"
"""Who asked, where nobody has to log in."""


class Auditor:
    """Records in the audit trail what callers do; may be shared by all threads."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    # ---------------------------------------------------------------- alerts

    def logged_in(self, caller: Caller, origin: str = "", *, often: bool = False) -> None:
        """Record that the caller has logged in as a user; of one that does so `often`, only once a minute.

        `origin` says who the user is elsewhere.
        """
        event = Event(EventID.USER_AUTHENTICATION, Action.EXECUTE, (), event_type=EventType.LOGIN, detail=origin)
        if often:
            self.alert(participant_of(caller), f"login {caller.user} {origin}", event)
        else:
            self._recorder.note(replace(event, participants=(participant_of(caller),)))

    def logged_out(self, caller: Caller) -> None:
        """Record that a user has logged out."""
        participants = (participant_of(caller),)
        kind = EventType.LOGOUT
        self._recorder.note(Event(EventID.USER_AUTHENTICATION, Action.EXECUTE, participants, event_type=kind))

    def login_failed(self, caller: Caller, name: str, reason: str, *, put_off: bool = False) -> None:
        """Record that somebody could not log in, with the name that was given, '' for none.

        `put_off` if nothing was checked: names are not told apart then.
        """
        kind = EventType.LOGIN
        event = Event(EventID.USER_AUTHENTICATION, Action.EXECUTE, (), Outcome.MINOR_FAILURE, kind, detail=reason)
        who = participant_of(caller)
        what = "login put off" if put_off else f"login failed {name[:64]}"
        self.alert(replace(who, user_id=name[:64]) if name else who, what, event)

    def refused(self, caller: Caller, operation: str, reason: str) -> None:
        """Record that the caller asked for an operation that the caller may not use."""
        event = Event(
            EventID.SECURITY_ALERT,
            Action.EXECUTE,
            (),
            Outcome.MINOR_FAILURE,
            EventType.USE_OF_RESTRICTED_FUNCTION,
            detail=f"{operation} refused: {reason}",
        )
        self.alert(participant_of(caller), f"{operation} {caller.user or ''}", event)

    def restricted(self, caller: Caller, detail: str) -> None:
        """Record durably that the caller does what few may do and no other event tells. Raises AuditUnavailable."""
        kind = EventType.USE_OF_RESTRICTED_FUNCTION
        participants = (participant_of(caller), self._archive(caller))
        self._recorder.write(
            Event(EventID.SECURITY_ALERT, Action.EXECUTE, participants, event_type=kind, detail=detail)
        )

    def trail_read(self, caller: Caller, detail: str) -> None:
        """Record durably that the caller reads the audit trail (PS3.15 A.5.3.2). Raises AuditUnavailable."""
        participants = (participant_of(caller), self._archive(caller))
        self._recorder.write(Event(EventID.AUDIT_LOG_USED, Action.READ, participants, detail=detail))

    def trail_verified(self, caller: Caller, detail: str, *, failed: bool) -> None:
        """Record durably that the caller has the audit trail verified, and the result. Raises AuditUnavailable."""
        participants = (participant_of(caller), self._archive(caller))
        outcome = Outcome.SERIOUS_FAILURE if failed else Outcome.SUCCESS
        self._recorder.write(Event(EventID.AUDIT_LOG_USED, Action.READ, participants, outcome=outcome, detail=detail))

    def alert(self, who: Participant, kind: str, event: Event) -> None:
        """Record an event that `who` can cause at will: once a minute for each address and kind."""
        self._recorder.alert(replace(event, participants=(who,)), peer=who.address, kind=kind)

    # ---------------------------------------------------------------- storing

    def arrivals(self, caller: Caller, *, recent: Recently | None = None) -> Arrivals:
        """The arrivals from one caller, for one thread, which ends them; `recent` is as for `Arrivals`."""
        participants = (participant_of(caller, Role.SOURCE), self._archive(caller, Role.DESTINATION))
        return Arrivals(self._recorder, participants, EventID.INSTANCES_TRANSFERRED, recent=recent)

    # ---------------------------------------------------------------- queries

    def query(self, caller: Caller, sop_class_uid: str) -> "QueryRecord":
        """The record of one query, for the `with` block in which its keys are read and its matches are sent.

        Raises AuditUnavailable.
        """
        self._recorder.ensure_writable()
        participants = (participant_of(caller, Role.SOURCE), self._archive(caller, Role.DESTINATION))
        return QueryRecord(self._recorder, participants, sop_class_uid)

    # ---------------------------------------------------------------- retrieving

    @contextmanager
    def sending(
        self,
        caller: Caller,
        subjects: Callable[[], Sequence[Subject]],
        planned: InstanceCounts,
        destination: Participant | None = None,
    ) -> Iterator["SentCounts"]:
        """Record the instances of one retrieval: durably before they are sent, and with their number afterwards.

        The instances go to `destination`, or else to the caller. Raises AuditUnavailable, and what `subjects` raises.
        """
        departure = self.departure(caller, subjects, planned, destination)
        try:
            yield departure.sent
        finally:
            departure.end()

    def departure(
        self,
        caller: Caller,
        subjects: Callable[[], Sequence[Subject]],
        planned: InstanceCounts,
        destination: Participant | None = None,
        *,
        durable: bool = True,
    ) -> "Departure":
        """The record of one retrieval, begun as `sending` does; who takes it ends it.

        Without `durable` the records wait for no disk: that is for those who have just had the same study recorded
        durably. Raises AuditUnavailable, and what `subjects` raises.
        """
        requestor = participant_of(caller, None if destination else Role.DESTINATION)
        participants = (self._archive(caller, Role.SOURCE), *((destination,) if destination else ()), requestor)
        return Departure(self._recorder, participants, subjects, planned, _SENDING, durable=durable)

    @contextmanager
    def exporting(
        self, caller: Caller, subjects: Callable[[], Sequence[Subject]], planned: InstanceCounts, media: str
    ) -> Iterator["SentCounts"]:
        """Record an export to `media`, such as a path: durably before, and with its numbers afterwards (A.5.3.5).

        Raises AuditUnavailable, and what `subjects` raises.
        """
        destination = Participant(media, role=Role.DESTINATION_MEDIA)
        participants = (self._archive(caller, Role.SOURCE), destination, participant_of(caller))
        departure = Departure(self._recorder, participants, subjects, planned, _EXPORTING)
        try:
            yield departure.sent
        finally:
            departure.end()

    # ---------------------------------------------------------------- procedure steps, storage commitment

    @contextmanager
    def procedure(self, caller: Caller, sop_class_uid: str, action: Action, uid: str) -> Iterator["ProcedureRecord"]:
        """Record one operation on a procedure step or a request for storage commitment, by its `uid`.

        The record is written when the operation is done. Raises AuditUnavailable.
        """
        participants = (participant_of(caller), self._archive(caller))
        event = Event(EventID.PROCEDURE_RECORD, action, participants, sop_class_uid=sop_class_uid)
        self._recorder.ensure_writable()
        record = ProcedureRecord(detail=uid)
        try:
            yield record
        except PacsError as error:
            detail = f"{record.detail}: {error}"
            failed = replace(event, outcome=Outcome.MINOR_FAILURE, subjects=record.subjects, detail=detail)
            self._recorder.note(failed)
            raise
        self._recorder.write(replace(event, subjects=record.subjects, detail=record.detail))

    def _archive(self, caller: Caller, role: Role | None = None) -> Participant:
        """This archive as a participant, under the AE title by which the caller knows it."""
        if not caller.called_ae:
            return self._recorder.own(role)
        return Participant(caller.called_ae, caller.called_ae, role=role)


class QueryRecord:
    """The record of one query, written before the first match is sent, and once more at the end if matches follow."""

    def __init__(self, recorder: Recorder, participants: tuple[Participant, ...], sop_class_uid: str) -> None:
        self._recorder = recorder
        self._participants = participants
        self._sop_class_uid = sop_class_uid
        self._keys: Mapping[str, str] = {}
        # The number of matches that the last record tells: None if there is no record, -1 if it was not final.
        self._recorded: int | None = None
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, PacsError):
                self.failed(str(error))
        finally:
            self.end()

    def keys(self, keys: Mapping[str, str]) -> None:
        """Say which keys the query has, and what they have to match."""
        self._keys = keys

    def matched(self, count: int, *, complete: bool) -> None:
        """Say how many matches were found; to be called before they are sent. Raises AuditUnavailable."""
        self._count = count
        if self._recorded is None:
            detail = counted(count, "match", "matches") + ("" if complete else " or more")
            self._recorder.write(self._event(detail), durable=False)
            self._recorded = count if complete else -1
        elif complete:
            self.end()

    def failed(self, reason: str) -> None:
        """Record that the query was refused or could not be answered."""
        self._recorder.note(self._event(reason, Outcome.MINOR_FAILURE))
        self._recorded = self._count

    def end(self) -> None:
        """Record the final number of matches, if the record so far does not tell it."""
        if self._recorded is not None and self._recorded != self._count:
            self._recorder.note(self._event(counted(self._count, "match", "matches")))
            self._recorded = self._count

    def _event(self, detail: str, outcome: Outcome = Outcome.SUCCESS) -> Event:
        return Event(
            EventID.QUERY, Action.EXECUTE, self._participants, outcome,
            sop_class_uid=self._sop_class_uid, query=self._keys, detail=detail,
        )  # fmt: skip


@dataclass(slots=True)
class SentCounts:
    """How many instances of a retrieval were sent, by study and SOP class, and how many failed, by study."""

    completed: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failed: Counter[str] = field(default_factory=Counter)


class Departure:
    """Instances that leave the archive: one event before they do, and one afterwards, for each patient."""

    def __init__(
        self,
        recorder: Recorder,
        participants: tuple[Participant, ...],
        subjects: Callable[[], Sequence[Subject]],
        planned: InstanceCounts,
        way: "_Way",
        *,
        durable: bool = True,
    ) -> None:
        """Record that they are going to leave. Raises AuditUnavailable, and what `subjects` raises."""
        self.sent = SentCounts()
        self._recorder = recorder
        self._participants = participants
        self._planned = planned
        self._way = way
        self._patients = _by_patient(subjects()) if planned else []
        for number, studies in enumerate(self._patients, 1):
            counted = tuple([_counted(study, planned) for study in studies])
            event = Event(EventID.BEGIN_TRANSFERRING, Action.EXECUTE, participants, subjects=counted)
            # One sync makes all records before it durable as well.
            recorder.write(event, durable=durable and number == len(self._patients))

    def end(self) -> None:
        """Record how many have left."""
        for studies in self._patients:
            self._recorder.note(_left(studies, self._planned, self.sent, self._participants, self._way))


@dataclass(slots=True)
class ProcedureRecord:
    """What the record of one operation is going to say; the operation adds what it finds out."""

    subjects: tuple[Subject, ...] = ()
    detail: str = ""


def participant_of(caller: Caller, role: Role | None = None) -> Participant:
    """The caller as the participant who asked for the event."""
    name = caller.user or caller.ae_title or (NOT_LOGGED_IN if caller.door is Door.WEB else "")
    return Participant(name, caller.ae_title, caller.address, role, requestor=True)


def _by_patient(subjects: Collection[Subject]) -> list[list[Subject]]:
    """PS3.15 A.5.3.3: one message is about one patient."""
    patients: dict[tuple[str, ...], list[Subject]] = {}
    for subject in subjects:
        # An empty Patient ID identifies nobody, so each study without one counts as a patient of its own.
        study = () if subject.patient_id else (subject.study_instance_uid,)
        patients.setdefault((subject.patient_id, subject.issuer_of_patient_id, *study), []).append(subject)
    return list(patients.values())


def _counted(subject: Subject, counts: InstanceCounts) -> Subject:
    # dataclasses.replace would take three times as long, twice for each request.
    return Subject(
        subject.patient_id,
        subject.issuer_of_patient_id,
        subject.study_instance_uid,
        subject.accession_number,
        dict(counts.get(subject.study_instance_uid, {})),
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """In which way instances leave: the event that tells how many, and the word for it."""

    event_id: EventID
    word: str


_SENDING = _Way(EventID.INSTANCES_TRANSFERRED, "sent")
_EXPORTING = _Way(EventID.EXPORT, "exported")


def _left(
    studies: Sequence[Subject],
    planned: InstanceCounts,
    sent: SentCounts,
    participants: tuple[Participant, ...],
    way: _Way,
) -> Event:
    wanted = sum(sum(planned[study.study_instance_uid].values()) for study in studies)
    failed = sum(sent.failed[study.study_instance_uid] for study in studies)
    counted = tuple(_counted(study, sent.completed) for study in studies)
    completed = sum(sum(study.sop_classes.values()) for study in counted)
    detail = f"{completed} of {wanted} {way.word}, {failed} failed"
    outcome = outcome_of(completed, wanted - completed)
    return Event(way.event_id, Action.READ, participants, outcome, subjects=counted, detail=detail)
