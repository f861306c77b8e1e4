"""Conflicts between patients, and what operators decide about them: merge patients, reassign studies.

A decision is written to the journal, applied to the index and recorded in the audit trail.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.dicom.patient_id import WITH_ISSUER, patient_of
from pacs_server.dicom.same_patient import compatible
from pacs_server.dicom.subject import Subject
from pacs_server.errors import AuditUnavailable, PatientError, StorageUnavailable
from pacs_server.index.accepted_conflicts import Acceptance, AcceptedConflictIndex, digest_of, without
from pacs_server.index.database import Database
from pacs_server.index.decisions import Decision, DecisionIndex
from pacs_server.index.patients import Conflicts, PatientIndex, Person, StudyOf
from pacs_server.services.decisions import DecisionJournal
from pacs_server.storage.archive_files import DecisionLog

_REFERENCE: Final = re.compile(r"@(m?)([0-9]{1,18})-[0-9a-f]{4}")
_ATTEMPTS: Final = 10


class PatientService:
    """Lists conflicts, merges patients and reassigns studies."""

    def __init__(self, database: Database, log: DecisionLog, audit: Recorder, system: Callable[[], str]) -> None:
        """`system` gives the name of this system, which the changed studies keep."""
        self._index = PatientIndex(database)
        self._accepted = AcceptedConflictIndex(database)
        self._decisions = DecisionIndex(database)
        self._journal = DecisionJournal(log)
        self._audit = audit
        self._system = system

    def conflicts(self) -> Conflicts:
        """The conflicts that operators have to decide about. Raises IndexUnavailable."""
        return without(self._index.conflicts(), set(self._accepted.all()))

    def count(self) -> int:
        """How many conflicts there are to decide about. Raises IndexUnavailable."""
        if not self._accepted.all():
            # That is fast also where there are many.
            return self._index.count_conflicts()
        found = self.conflicts()
        return len(found.patients) + len(found.studies)

    def accepted(self) -> tuple[Conflicts, Mapping[str, Acceptance]]:
        """The conflicts that were accepted, and by their digests who said so. Raises IndexUnavailable."""
        found, accepted = self._index.conflicts(), self._accepted.all()
        others = {digest_of(group) for group in found.groups} - accepted.keys()
        return without(found, others), accepted

    def accept(self, digest: str, reason: str, *, by: Participant | None = None) -> None:
        """Take a conflict off the list: everything is right as it is. It comes back if somebody else joins it.

        Raises PatientError if there is no conflict of this digest, and as `merge` does.
        """
        if not reason.strip():
            raise PatientError("a reason has to be given")
        group = self._conflict(self.conflicts(), digest)
        who = by or local_user()
        self._audit.ensure_writable()
        self._record_of(group, who, f"kept apart: {reason}")
        self._accepted.put(Acceptance(digest, reason, who.user_id, datetime.now(UTC)))

    def reopen(self, digest: str, *, by: Participant | None = None) -> None:
        """Put an accepted conflict on the list again; raises as `accept` does."""
        group = self._conflict(self.accepted()[0], digest)
        self._audit.ensure_writable()
        self._record_of(group, by or local_user(), "to be decided again")
        self._accepted.remove(digest)

    @staticmethod
    def _conflict(among: Conflicts, digest: str) -> list[Person]:
        """The patients of the conflict of this digest."""
        for group in among.groups:
            if digest_of(group) == digest:
                return [each.person if isinstance(each, StudyOf) else each for each in group]
        raise PatientError("there is no such conflict any more; list them again")

    def _record_of(self, people: list[Person], who: Participant, detail: str) -> None:
        """Record one event for each patient (PS3.15 A.5.3: a message is about one patient)."""
        for person in people:
            about = (Subject(*person.identity.key),)
            self._audit.write(Event(EventID.PATIENT_RECORD, Action.UPDATE, (who,), subjects=about, detail=detail))

    def people(self, text: str) -> list[Person]:
        """The patients of an ID, or of ID^^^ISSUER, with those that were merged. Raises IndexUnavailable."""
        patient_id, issued, issuer = text.partition(WITH_ISSUER)
        return self._index.people(patient_id, issuer if issued else None)

    def people_of(self, study_instance_uid: str) -> list[Person]:
        """The patient of a study, and the patients that had it before operators decided. Raises IndexUnavailable."""
        current = [study.person for study in self._index.studies(study_instance_uid)]
        return current + self._index.moved_away(study_instance_uid)

    def decisions_about(self, study_instance_uid: str) -> list[Decision]:
        """What operators decided about a study, the first first. Raises StorageUnavailable."""
        return [each for each in self._journal.read() if study_instance_uid in each.studies]

    @staticmethod
    def key_of(reference: str) -> int | None:
        """The id in the reference of a patient who was not merged; None if it is no such reference."""
        match = _REFERENCE.fullmatch(reference)
        return int(match[2]) if match and not match[1] else None

    def person(self, text: str) -> Person:
        """The one patient that `text` names by reference, ID, or ID^^^ISSUER. Raises PatientError, IndexUnavailable."""
        if match := _REFERENCE.fullmatch(text):
            found = self._index.person(int(match[2]), merged=bool(match[1]))
            if found is None or found.reference != text:
                raise PatientError(f"there is no patient {text} any more; list them again", text)
            return found
        people = self.people(text) if patient_of(text)[0] else []
        if not people:
            raise PatientError(
                f"there is no patient of ID {text}: only a patient who has a study here can get others; correct the ID "
                "at the modality, and send the study again",
                text,
            )
        if len(people) > 1:
            references = ", ".join(person.reference for person in people)
            raise PatientError(f"there are several patients of ID {text}: name one of {references}", text)
        return people[0]

    def study(self, text: str) -> StudyOf:
        """The one study that `text` names by reference or UID. Raises PatientError, IndexUnavailable."""
        if match := _REFERENCE.fullmatch(text):
            one = self._index.study(int(match[2]))
            found = [one] if one is not None and one.reference == text else []
        else:
            found = self._index.studies(text)
        if not found:
            raise PatientError(f"there is no study {text}" + (" any more; list them again" if match else ""), text)
        if len(found) > 1:
            references = ", ".join(study.reference for study in found)
            raise PatientError(f"there are several studies of UID {text}: name one of {references}", text)
        return found[0]

    def studies_of(self, person: Person) -> list[StudyOf]:
        """The studies that a merge would move. Raises IndexUnavailable."""
        return self._index.studies_of(person)

    def merge(
        self, source: Person, target: Person, reason: str, *, by: Participant | None = None, dry_run: bool = False
    ) -> list[StudyOf]:
        """Move all studies of a patient to another one, and those still to come; returns the studies.

        `by` is the participant who asks for it; without it, that is the user who runs this process.

        Raises PatientError, StorageFull, StorageUnavailable, IndexUnavailable, AuditUnavailable.
        """
        if source.merged or target.merged:
            raise PatientError("a patient that was merged into another one is not there to be merged")
        if not target.identity.patient_id:
            raise PatientError(f"{target.reference} has no Patient ID, which identifies nobody")
        studies = self.studies_of(source)
        self._decide(studies, source, target, reason, by or local_user(), whole=True, dry_run=dry_run)
        return studies

    def reassign(
        self, study: StudyOf, target: Person, reason: str, *, by: Participant | None = None, dry_run: bool = False
    ) -> None:
        """Move a study to another patient, and what still arrives for the study; raises as `merge` does."""
        if not target.identity.patient_id and target not in self._index.moved_away(study.study_instance_uid):
            raise PatientError(f"{target.reference} has no Patient ID, which identifies nobody")
        self._decide([study], study.person, target, reason, by or local_user(), whole=False, dry_run=dry_run)

    def catch_up(self) -> int:
        """Apply the decisions that are in the journal and not in the index, because of a crash; returns how many.

        Raises StorageFull, StorageUnavailable, IndexUnavailable, AuditUnavailable.
        """
        applied = self._decisions.applied()
        missing = [decision for decision in self._journal.read() if decision.number > applied]
        if missing:
            # If the index had decisions that the journal lost, it could take no other decision.
            self._journal.sync()
        return sum(self._decisions.apply(decision, partial(self._record, decision)) for decision in missing)

    def _decide(
        self, studies: list[StudyOf], source: Person, target: Person, reason: str, who: Participant,
        *, whole: bool, dry_run: bool,
    ) -> None:  # fmt: skip
        if _same(source, target):
            raise PatientError("that is one and the same patient")
        if not reason.strip():
            raise PatientError("a reason has to be given")
        if dry_run:
            return
        self._audit.ensure_writable()
        uids = tuple(study.study_instance_uid for study in studies)
        accession_numbers = {study.study_instance_uid: study.accession_number for study in studies}
        for _ in range(_ATTEMPTS):
            self.catch_up()
            number = self._next_number()
            decision = Decision(
                number, datetime.now(UTC), who.user_id, reason, whole,
                source.attributes, target.attributes, uids, self._system(),
            )  # fmt: skip
            if self._decisions.apply(decision, partial(self._write_down, decision, accession_numbers, who)):
                return
        raise PatientError("somebody else changes patients all the time; nothing was changed")

    def _next_number(self) -> int:
        written, applied = len(self._journal.read()), self._decisions.applied()
        if written < applied:
            raise StorageUnavailable(
                f"{self._journal.name} holds {written} changes and the index {applied}: put it back from a backup"
            )
        return written + 1

    def _write_down(self, decision: Decision, accession_numbers: Mapping[str, str], who: Participant) -> bool:
        """Write a decision to the journal and the audit trail, or to neither; False if its number is taken."""
        if not self._journal.append(decision):
            return False
        try:
            return self._record(decision, accession_numbers, who)
        except AuditUnavailable:
            self._journal.take_back(decision)
            raise

    def _record(
        self, decision: Decision, accession_numbers: Mapping[str, str] | None = None, who: Participant | None = None
    ) -> bool:
        """Record one event for each of the two patients (PS3.15 A.5.3: a message is about one patient).

        A decision that a crash interrupted is recorded once more when it is applied: better twice than never.
        """
        verb = "merged" if decision.whole else "reassigned"
        gone = Action.DELETE if decision.whole else Action.UPDATE
        for attributes, action in ((decision.source, gone), (decision.target, Action.UPDATE)):
            patient = attributes.get("patient_id", ""), attributes.get("issuer_of_patient_id", "")
            subjects = [Subject(*patient, uid, (accession_numbers or {}).get(uid, "")) for uid in decision.studies]
            detail = f"{verb}, change {decision.number}: {decision.reason}"
            about = tuple(subjects) or (Subject(*patient),)
            user = who or replace(local_user(), user_id=decision.by)
            self._audit.write(Event(EventID.PATIENT_RECORD, action, (user,), subjects=about, detail=detail))
        return True


def _same(one: Person, other: Person) -> bool:
    """Whether both are one patient of the index, or would be if both were there."""
    identified = bool(one.identity.patient_id)
    return one.attributes == other.attributes or (identified and compatible(one.identity, other.identity))
