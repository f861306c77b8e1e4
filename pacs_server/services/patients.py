"""Whose studies are: what is in conflict, and what operators decide: written down, made so, and audited."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from pacs_server.audit.events import Action, Event, EventID
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.dicom.same_patient import compatible
from pacs_server.dicom.subject import Subject
from pacs_server.errors import AuditUnavailable, PatientError, StorageUnavailable
from pacs_server.index.database import Database
from pacs_server.index.decisions import Decision, DecisionIndex
from pacs_server.index.patients import Conflicts, PatientIndex, Person, StudyOf
from pacs_server.services.decisions import DecisionJournal

_REFERENCE: Final = re.compile(r"@(m?)([0-9]{1,18})-[0-9a-f]{4}")
# As HL7 writes a patient's ID with its issuer (CX).
_WITH_ISSUER: Final = "^^^"
_ATTEMPTS: Final = 10


def read_decisions(directory: Path) -> list[Decision]:
    """What operators decided in an archive's directory, in order. Raises StorageUnavailable."""
    return DecisionJournal(directory).read()


class PatientService:
    """Conflicts, merges and reassignments; knows no door."""

    def __init__(self, database: Database, directory: Path, audit: Recorder, system: Callable[[], str]) -> None:
        """`directory` is that of the storage; `system` says what this one is called in what it changes."""
        self._index = PatientIndex(database)
        self._decisions = DecisionIndex(database)
        self._journal = DecisionJournal(directory)
        self._audit = audit
        self._system = system

    def conflicts(self) -> Conflicts:
        """All that operators have to decide about. Raises IndexUnavailable."""
        return self._index.conflicts()

    def count(self) -> int:
        """How many conflicts there are. Raises IndexUnavailable."""
        return self._index.count_conflicts()

    def people(self, text: str) -> list[Person]:
        """The patients of an ID, or of ID^^^ISSUER, with those that were merged. Raises IndexUnavailable."""
        patient_id, issued, issuer = text.partition(_WITH_ISSUER)
        return self._index.people(patient_id, issuer if issued else None)

    def people_of(self, study_instance_uid: str) -> list[Person]:
        """Whose a study is, and whose it was before operators decided. Raises IndexUnavailable."""
        there = [study.person for study in self._index.studies(study_instance_uid)]
        return there + self._index.moved_away(study_instance_uid)

    def person(self, text: str) -> Person:
        """The one patient that is meant: by key, by ID, or by ID^^^ISSUER. Raises PatientError, IndexUnavailable."""
        if match := _REFERENCE.fullmatch(text):
            found = self._index.person(int(match[2]), merged=bool(match[1]))
            if found is None or found.reference != text:
                raise PatientError(f"there is no patient {text} any more; list them again")
            return found
        people = self.people(text) if text.partition(_WITH_ISSUER)[0] else []
        if not people:
            raise PatientError(f"there is no patient of ID {text}")
        if len(people) > 1:
            references = ", ".join(person.reference for person in people)
            raise PatientError(f"there are several patients of ID {text}: name one of {references}")
        return people[0]

    def study(self, text: str) -> StudyOf:
        """The one study that is meant: by key or by UID. Raises PatientError, IndexUnavailable."""
        if match := _REFERENCE.fullmatch(text):
            one = self._index.study(int(match[2]))
            found = [one] if one is not None and one.reference == text else []
        else:
            found = self._index.studies(text)
        if not found:
            raise PatientError(f"there is no study {text}" + (" any more; list them again" if match else ""))
        if len(found) > 1:
            references = ", ".join(study.reference for study in found)
            raise PatientError(f"there are several studies of UID {text}: name one of {references}")
        return found[0]

    def studies_of(self, person: Person) -> list[StudyOf]:
        """The studies that a merge would move. Raises IndexUnavailable."""
        return self._index.studies_of(person)

    def merge(self, source: Person, target: Person, reason: str, *, dry_run: bool = False) -> list[StudyOf]:
        """Give all studies of a patient, and those still to come, to another; returns the studies.

        Raises PatientError, StorageFull, StorageUnavailable, IndexUnavailable, AuditUnavailable.
        """
        if source.merged or target.merged:
            raise PatientError("a patient that was merged into another one is not there to be merged")
        if not target.identity.patient_id:
            raise PatientError(f"{target.reference} has no Patient ID, which identifies nobody")
        studies = self.studies_of(source)
        self._decide(studies, source, target, reason, whole=True, dry_run=dry_run)
        return studies

    def reassign(self, study: StudyOf, target: Person, reason: str, *, dry_run: bool = False) -> None:
        """Give a study, and what still comes of it, to another patient; raises as `merge` does."""
        if not target.identity.patient_id and target not in self._index.moved_away(study.study_instance_uid):
            raise PatientError(f"{target.reference} has no Patient ID, which identifies nobody")
        self._decide([study], study.person, target, reason, whole=False, dry_run=dry_run)

    def replay(self, decision: Decision) -> None:
        """Make a change in an index that is made anew, unless it is made already. Raises IndexUnavailable."""
        self._decisions.apply(decision)

    def catch_up(self) -> int:
        """Make the changes that were written down before a crash kept the index from having them; returns how many.

        Raises StorageFull, StorageUnavailable, IndexUnavailable, AuditUnavailable.
        """
        applied = self._decisions.applied()
        missing = [decision for decision in self._journal.read() if decision.number > applied]
        if missing:
            # An index that had what the journal lost would take no other change.
            self._journal.sync()
        return sum(self._decisions.apply(decision, partial(self._record, decision)) for decision in missing)

    def _decide(
        self, studies: list[StudyOf], source: Person, target: Person, reason: str, *, whole: bool, dry_run: bool
    ) -> None:
        if _same(source, target):
            raise PatientError("that is one and the same patient")
        if not reason.strip():
            raise PatientError("a reason has to be given")
        if dry_run:
            return
        self._audit.ensure_writable()
        who = local_user()
        uids = tuple(study.study_instance_uid for study in studies)
        accession_numbers = {study.study_instance_uid: study.accession_number for study in studies}
        for _ in range(_ATTEMPTS):
            self.catch_up()
            number = self._next_number()
            decision = Decision(
                number, datetime.now(UTC), who.user_id, reason, whole,
                source.attributes, target.attributes, uids, self._system(),
            )  # fmt: skip
            if self._decisions.apply(decision, partial(self._write_down, decision, accession_numbers)):
                return
        raise PatientError("somebody else changes patients all the time; nothing was changed")

    def _next_number(self) -> int:
        written, applied = len(self._journal.read()), self._decisions.applied()
        if written < applied:
            raise StorageUnavailable(
                f"{self._journal.path} holds {written} changes and the index {applied}: put it back from a backup"
            )
        return written + 1

    def _write_down(self, decision: Decision, accession_numbers: Mapping[str, str]) -> bool:
        """Into the journal and the audit trail, or into none of them; False if the number is taken."""
        if not self._journal.append(decision):
            return False
        try:
            return self._record(decision, accession_numbers)
        except AuditUnavailable:
            self._journal.take_back(decision)
            raise

    def _record(self, decision: Decision, accession_numbers: Mapping[str, str] | None = None) -> bool:
        """One event for each of the two patients (PS3.15 A.5.3: a message is about one).

        A decision that a crash interrupted is recorded once more when it is made: better twice than never.
        """
        verb = "merged" if decision.whole else "reassigned"
        gone = Action.DELETE if decision.whole else Action.UPDATE
        for attributes, action in ((decision.source, gone), (decision.target, Action.UPDATE)):
            who = attributes.get("patient_id", ""), attributes.get("issuer_of_patient_id", "")
            subjects = [Subject(*who, uid, (accession_numbers or {}).get(uid, "")) for uid in decision.studies]
            detail = f"{verb}, change {decision.number}: {decision.reason}"
            about = tuple(subjects) or (Subject(*who),)
            user = replace(local_user(), user_id=decision.by)
            self._audit.write(Event(EventID.PATIENT_RECORD, action, (user,), subjects=about, detail=detail))
        return True


def _same(one: Person, other: Person) -> bool:
    """Whether both are one patient of the index, or would be if both were there."""
    identified = bool(one.identity.patient_id)
    return one.attributes == other.attributes or (identified and compatible(one.identity, other.identity))
