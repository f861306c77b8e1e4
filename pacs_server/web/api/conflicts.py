"""REST: conflicts between patients, and what operators decide about them: merge and reassign."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.dicom.patient_id import patient_of
from pacs_server.index.accepted_conflicts import Acceptance, digest_of
from pacs_server.index.patients import Person, StudyOf
from pacs_server.web.api.operation import Answer, Body, Call, Operation, Parameters, unlimited
from pacs_server.web.api.stored import PATIENT_ROOT_FIND
from pacs_server.web.services import WebServices

_TAG: Final = "conflicts"
_HOW: Final = "its reference, its ID, or ID^^^ISSUER"
_NO_CONFLICT: Final = {409: "There is no such conflict any more."}
_ERRORS: Final = {409: "There is no such patient or study, or it cannot be changed so; `detail` says why."}

Reason = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"\S", description="Why; it is kept and audited.")]


class PersonRow(Answer):
    """A patient."""

    reference: Annotated[str, Field(description="Names this patient for merge and reassign.")]
    merged: Annotated[bool, Field(description="Whether its studies were moved to another patient.")]
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    studies: int
    instances: int


class StudyOfPerson(Answer):
    """A study with its patient."""

    reference: Annotated[str, Field(description="Names this study for reassign.")]
    study_instance_uid: str
    accession_number: str
    study_date: str
    study_description: str
    instances: int
    patient: PersonRow


class ConflictSearch(Parameters):
    """Which conflicts to list."""

    accepted: Annotated[bool, Field(description="Those that were accepted, instead of those to decide about.")] = False


class ConflictRow(Answer):
    """What is to be said of a conflict, beside who is in it."""

    digest: Annotated[str, Field(description="Names this conflict for accept and reopen; another one has another.")]
    reason: Annotated[str | None, Field(description="Why it was accepted; null if it was not.")] = None
    accepted_by: str | None = None
    accepted_at: datetime | None = None


class ConflictList(Answer):
    """What somebody has to decide about."""

    patients: Annotated[
        list[list[PersonRow]], Field(description="Patients with the same ID who cannot be the same person.")
    ]
    studies: Annotated[
        list[list[StudyOfPerson]], Field(description="Studies with the same UID that came with several patients.")
    ]
    about: Annotated[
        list[ConflictRow], Field(description="One for each of `patients` and then each of `studies`, in their order.")
    ]


class PeopleSearch(Parameters):
    """Whose patients to list; one of the two is needed."""

    patient: Annotated[str | None, Field(description="The ID, or ID^^^ISSUER.")] = None
    study: Annotated[str | None, Field(description="Study Instance UID.")] = None


class People(Answer):
    """Patients of an ID or of a study, with those that were merged."""

    items: list[PersonRow]


class StudiesSearch(Parameters):
    """Whose studies to list."""

    patient: Annotated[str, Field(description=f"The patient: {_HOW}.")]


class StudiesOfPerson(Answer):
    """The studies of a patient: what a merge would move."""

    items: list[StudyOfPerson]


class Merge(Body):
    """Which patients to merge."""

    source: Annotated[str, Field(description=f"The patient who is no more afterwards: {_HOW}.")]
    target: Annotated[str, Field(description="The patient who gets all the studies, named the same way.")]
    reason: Reason
    dry_run: Annotated[bool, Field(description="Only say what would be moved.")] = False


class Reassign(Body):
    """Which study to give to which patient."""

    study: Annotated[str, Field(description="Its UID, or its reference.")]
    target: Annotated[str, Field(description=f"The patient who gets it: {_HOW}.")]
    reason: Reason
    dry_run: Annotated[bool, Field(description="Only say what would be moved.")] = False


class Accept(Body):
    """Which conflict is none."""

    digest: Annotated[str, Field(max_length=64, description="As in the list of conflicts.")]
    reason: Reason


class Reopen(Body):
    """Which accepted conflict is one after all."""

    digest: Annotated[str, Field(max_length=64, description="As in the list of conflicts.")]


class Moved(Answer):
    """What was moved, or would be."""

    source: PersonRow
    target: PersonRow
    studies: list[str]
    instances: int


class Conflicts:
    """The resource conflicts."""

    def __init__(self, services: WebServices) -> None:
        self._patients = services.patients
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/conflicts", name="list_conflicts", tag=_TAG, role=Role.OPERATOR,
                summary="List the conflicts between patients.", query=ConflictSearch, answer=ConflictList,
                run=self._list,
            ),
            Operation(
                method="POST", path="/conflicts/accept", name="accept_conflict", tag=_TAG, role=Role.OPERATOR,
                summary="Take a conflict off the list: these are different people, and all is right as it is.",
                description="It comes back if somebody else joins it.",
                body=Accept, run=self._accept, errors=_NO_CONFLICT,
            ),
            Operation(
                method="POST", path="/conflicts/reopen", name="reopen_conflict", tag=_TAG, role=Role.OPERATOR,
                summary="Put an accepted conflict on the list again.", body=Reopen, run=self._reopen,
                errors=_NO_CONFLICT,
            ),
            Operation(
                method="GET", path="/conflicts/patients", name="list_patients_of", tag=_TAG, role=Role.OPERATOR,
                summary="List the patients of an ID or of a study with their references, and those that were merged.",
                query=PeopleSearch, answer=People, run=self._people, errors=_ERRORS,
            ),
            Operation(
                method="GET", path="/conflicts/studies", name="list_studies_of", tag=_TAG, role=Role.OPERATOR,
                summary="List the studies of a patient with their references.",
                query=StudiesSearch, answer=StudiesOfPerson, run=self._studies, errors=_ERRORS,
            ),
            Operation(
                method="POST", path="/conflicts/merge", name="merge_patients", tag=_TAG, role=Role.OPERATOR,
                summary="Give all studies of a patient, and those still to come, to another one.",
                body=Merge, answer=Moved, run=self._merge, errors=_ERRORS,
            ),
            Operation(
                method="POST", path="/conflicts/reassign", name="reassign_study", tag=_TAG, role=Role.OPERATOR,
                summary="Give a study, and what still comes of it, to another patient.",
                body=Reassign, answer=Moved, run=self._reassign, errors=_ERRORS,
            ),
        ]  # fmt: skip

    def _list(self, call: Call[ConflictSearch, None]) -> Answer:
        unlimited(call)
        with self._auditor.query(call.caller, PATIENT_ROOT_FIND) as record:
            found, notes = self._patients.accepted() if call.query.accepted else (self._patients.conflicts(), {})
            record.matched(sum(map(len, (*found.patients, *found.studies))), complete=True)
        return ConflictList(
            patients=[[_person(each) for each in group] for group in found.patients],
            studies=[[_study(each) for each in group] for group in found.studies],
            about=[_about(digest_of(group), notes) for group in found.groups],
        )

    def _accept(self, call: Call[Any, Accept]) -> None:
        unlimited(call)
        self._patients.accept(call.body.digest, call.body.reason, by=participant_of(call.caller))

    def _reopen(self, call: Call[Any, Reopen]) -> None:
        unlimited(call)
        self._patients.reopen(call.body.digest, by=participant_of(call.caller))

    def _people(self, call: Call[PeopleSearch, None]) -> Answer:
        unlimited(call)
        patient, study = call.query.patient, call.query.study
        patient_id, issuer = patient_of(patient or "")
        keys = {"PatientID": patient_id, "IssuerOfPatientID": issuer, "StudyInstanceUID": study or ""}
        with self._auditor.query(call.caller, PATIENT_ROOT_FIND) as record:
            record.keys({keyword: value for keyword, value in keys.items() if value})
            found = [] if patient is None else self._patients.people(patient)
            found += [] if study is None else self._patients.people_of(study)
            record.matched(len(found), complete=True)
        return People(items=[_person(each) for each in found])

    def _studies(self, call: Call[StudiesSearch, None]) -> Answer:
        unlimited(call)
        with self._auditor.query(call.caller, PATIENT_ROOT_FIND) as record:
            person = self._patients.person(call.query.patient)
            record.keys({"PatientID": person.identity.patient_id})
            found = self._patients.studies_of(person)
            record.matched(len(found), complete=True)
        return StudiesOfPerson(items=[_study(each) for each in found])

    def _merge(self, call: Call[Any, Merge]) -> Answer:
        unlimited(call)
        self._patients.catch_up()
        asked = call.body
        source, target = self._patients.person(asked.source), self._patients.person(asked.target)
        who = participant_of(call.caller)
        if asked.dry_run:
            self._shown(call, source, target)
        moved = self._patients.merge(source, target, asked.reason, by=who, dry_run=asked.dry_run)
        return _moved(source, target, moved)

    def _reassign(self, call: Call[Any, Reassign]) -> Answer:
        unlimited(call)
        self._patients.catch_up()
        asked = call.body
        study, target = self._patients.study(asked.study), self._patients.person(asked.target)
        who = participant_of(call.caller)
        if asked.dry_run:
            self._shown(call, study.person, target)
        self._patients.reassign(study, target, asked.reason, by=who, dry_run=asked.dry_run)
        return _moved(study.person, target, [study])

    def _shown(self, call: Call[Any, Any], *people: Person) -> None:
        """Record that patients are shown to the caller, where nothing else is done that is recorded."""
        for person in people:
            with self._auditor.query(call.caller, PATIENT_ROOT_FIND) as record:
                record.keys({"PatientID": person.identity.patient_id})
                record.matched(1, complete=True)


def _about(digest: str, notes: Mapping[str, Acceptance]) -> ConflictRow:
    note = notes.get(digest)
    if note is None:
        return ConflictRow(digest=digest)
    return ConflictRow(
        digest=digest, reason=note.reason, accepted_by=note.accepted_by, accepted_at=note.accepted_at
    )  # fmt: skip


def _person(person: Person) -> PersonRow:
    names = ("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex")
    known = {name: person.attributes.get(name, "") for name in names}
    return PersonRow.model_validate(
        known | {name: getattr(person, name) for name in ("reference", "merged", "studies", "instances")}
    )


def _study(study: StudyOf) -> StudyOfPerson:
    return StudyOfPerson(
        reference=study.reference, study_instance_uid=study.study_instance_uid,
        accession_number=study.accession_number, study_date=study.study_date,
        study_description=study.study_description, instances=study.instances, patient=_person(study.person),
    )  # fmt: skip


def _moved(source: Person, target: Person, studies: Iterable[StudyOf]) -> Moved:
    moved = list(studies)
    return Moved(
        source=_person(source), target=_person(target), studies=[study.study_instance_uid for study in moved],
        instances=sum(study.instances for study in moved),
    )  # fmt: skip
