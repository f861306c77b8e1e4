"""The rules of performed procedure steps: required attributes and changes of status (PS3.4 F.7.2).

Data sets are in the DICOM JSON Model, see `json_model`. All functions are pure.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydicom.datadict import keyword_dict

from pacs_server.dicom.json_model import (
    SPECIFIC_CHARACTER_SET,
    DataSet,
    empty_element,
    first_value,
    items_of,
    text_of,
    values_of,
)
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import is_uid
from pacs_server.dicom.vr import dictionary_vr
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import InvalidAttributeValue, MissingAttribute, MissingAttributeValue, ProcedureStepClosed


class StepStatus(StrEnum):
    """Performed Procedure Step Status (PS3.4 Table F.1-3)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


@dataclass(frozen=True, slots=True)
class Requirement:
    """A row of PS3.4 Table F.7.2-1.

    `type` is the type for N-CREATE, `settable` tells whether N-SET may change the attribute, and `final` whether a
    finished step needs a value. `items` are the rows for the items of a sequence.
    """

    keyword: str
    type: int
    settable: bool = False
    final: bool = False
    items: tuple["Requirement", ...] = ()

    @property
    def tag(self) -> str:
        """The tag as in the DICOM JSON Model."""
        return _tag(self.keyword)


def _tag(keyword: str) -> str:
    return f"{keyword_dict[keyword]:08X}"


def _rows(text: str, *, settable: bool = False) -> tuple[Requirement, ...]:
    words = text.split()
    return tuple(Requirement(word, int(kind), settable) for word, kind in zip(words[::2], words[1::2], strict=True))


_REFERENCE = _rows("ReferencedSOPClassUID 1 ReferencedSOPInstanceUID 1")
_SCHEDULED_STEP = (
    *_rows("StudyInstanceUID 1"),
    Requirement("ReferencedStudySequence", 2, items=_REFERENCE),
    *_rows("""
        AccessionNumber 2 IssuerOfAccessionNumberSequence 3 PlacerOrderNumberImagingServiceRequest 3
        OrderPlacerIdentifierSequence 3 FillerOrderNumberImagingServiceRequest 3 OrderFillerIdentifierSequence 3
        RequestedProcedureID 2 RequestedProcedureCodeSequence 3 RequestedProcedureDescription 2
        ScheduledProcedureStepID 2 ScheduledProcedureStepDescription 2 ScheduledProtocolCodeSequence 2"""),
)
_SERIES = (
    *_rows("PerformingPhysicianName 2 ProtocolName 1 OperatorsName 2 SeriesInstanceUID 1 SeriesDescription 2"),
    *_rows("RetrieveAETitle 2 ArchiveRequested 3"),
    Requirement("ReferencedImageSequence", 2, items=_REFERENCE),
    Requirement("ReferencedNonImageCompositeSOPInstanceSequence", 2, items=_REFERENCE),
)
# PS3.4 Table F.7.2-1 without the macros of codes and issuers. All other attributes are of type 3 and may be set.
REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement("ScheduledStepAttributesSequence", 1, items=_SCHEDULED_STEP),
    *_rows("""
        PatientName 2 PatientID 2 IssuerOfPatientID 3 IssuerOfPatientIDQualifiersSequence 3 OtherPatientIDsSequence 3
        PatientBirthDate 2 PatientSex 2"""),
    Requirement("ReferencedPatientSequence", 2, items=_REFERENCE),
    *_rows("""
        AdmissionID 3 IssuerOfAdmissionIDSequence 3 ServiceEpisodeID 3 IssuerOfServiceEpisodeIDSequence 3
        ServiceEpisodeDescription 3 PerformedProcedureStepID 1 PerformedStationAETitle 1 PerformedStationName 2
        PerformedLocation 2 PerformedProcedureStepStartDate 1 PerformedProcedureStepStartTime 1"""),
    *_rows(
        """
        PerformedProcedureStepStatus 1 PerformedProcedureStepDescription 2 PerformedProcedureTypeDescription 2
        ProcedureCodeSequence 2 ReasonForPerformedProcedureCodeSequence 3""",
        settable=True,
    ),
    Requirement("PerformedProcedureStepEndDate", 2, settable=True, final=True),
    Requirement("PerformedProcedureStepEndTime", 2, settable=True, final=True),
    *_rows(
        """
        CommentsOnThePerformedProcedureStep 3 PerformedProcedureStepDiscontinuationReasonCodeSequence 3
        PerformedProtocolCodeSequence 2""",
        settable=True,
    ),
    *_rows("Modality 1 StudyID 2"),
    Requirement("PerformedSeriesSequence", 2, settable=True, final=True, items=_SERIES),
)
_BY_TAG = {requirement.tag: requirement for requirement in REQUIREMENTS}
_STATUS, _SCHEDULED, _PERFORMED = (
    _tag(keyword)
    for keyword in ("PerformedProcedureStepStatus", "ScheduledStepAttributesSequence", "PerformedSeriesSequence")
)
_PATIENT_ID, _ISSUER_OF_PATIENT_ID = _tag("PatientID"), _tag("IssuerOfPatientID")
# The command set gives the SOP Class and Instance, so these attributes are not kept in the data set.
_IDENTITY = frozenset({_tag("SOPClassUID"), _tag("SOPInstanceUID")})
# PS3.4 Table F.7.2-2.
CLOSED_COMMENT = "Performed Procedure Step Object may no longer be updated"


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """The scheduled step that an item of Scheduled Step Attributes Sequence refers to; '' means unknown."""

    study_instance_uid: str
    accession_number: str
    requested_procedure_id: str
    scheduled_procedure_step_id: str


@dataclass(frozen=True, slots=True)
class PerformedInstance:
    """An instance that was created in a performed procedure step, as the step lists it."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def created(attributes: DataSet) -> dict[str, Any]:
    """The step that an N-CREATE with these attributes creates (PS3.4 F.7.2.1).

    A missing attribute of type 2 is accepted like an empty one. Raises MissingAttribute, MissingAttributeValue,
    InvalidAttributeValue.
    """
    _check(attributes, REQUIREMENTS)
    if status_of(attributes) != StepStatus.IN_PROGRESS:
        # PS3.4 F.7.2.1.3
        raise InvalidAttributeValue("PerformedProcedureStepStatus is not IN PROGRESS", tag=_STATUS)
    return {tag: element for tag, element in attributes.items() if tag not in _IDENTITY}


def updated(step: DataSet, modifications: DataSet) -> dict[str, Any]:
    """The step after an N-SET with these modifications (PS3.4 F.7.2.2).

    Raises ProcedureStepClosed, MissingAttribute, MissingAttributeValue, InvalidAttributeValue.
    """
    # PS3.4 F.7.2.2.3: a step may be changed only while it is IN PROGRESS.
    if status_of(step) != StepStatus.IN_PROGRESS:
        raise ProcedureStepClosed(CLOSED_COMMENT)
    # PS3.4 F.7.2.2.3: the character set of an N-SET does not replace that of the step; both are Unicode here.
    changes = {t: e for t, e in modifications.items() if t not in _IDENTITY and t != SPECIFIC_CHARACTER_SET}
    for tag, element in changes.items():
        requirement = _BY_TAG.get(tag)
        # "Not allowed" in the table. An attribute that a modality repeats unchanged is accepted.
        if requirement is not None and not requirement.settable and element != step.get(tag):
            raise InvalidAttributeValue(f"{requirement.keyword} may not be set", tag=tag)
    merged = {**step, **changes}
    _check(changes, [_BY_TAG[tag] for tag in changes if tag in _BY_TAG])
    if status_of(merged) not in list(StepStatus):
        raise InvalidAttributeValue("PerformedProcedureStepStatus has no value that it may have", tag=_STATUS)
    if status_of(merged) != StepStatus.IN_PROGRESS:
        _check_final(merged)
    return merged


def selected(step: DataSet, tags: Collection[int]) -> tuple[dict[str, Any], bool]:
    """The attributes of an N-GET response (PS3.4 F.8.2), and whether all requested ones are supported.

    If `tags` is empty, all attributes are returned.
    """
    # PS3.4 Table F.8.2-1: attributes of type 1 and 2 are always present.
    whole = {r.tag: empty_element(int(r.tag, 16)) for r in REQUIREMENTS if r.type < 3} | dict(step)
    if not tags:
        return whole, True
    wanted = [f"{tag:08X}" for tag in tags]
    # Text cannot be read without its character set.
    found = {tag: whole[tag] for tag in (SPECIFIC_CHARACTER_SET, *wanted) if tag in whole}
    known = _BY_TAG.keys() | whole.keys() | {SPECIFIC_CHARACTER_SET}
    return found, all(tag in known for tag in wanted)


def status_of(step: DataSet) -> str:
    """Performed Procedure Step Status, '' if there is none."""
    return first_value(step, _STATUS)


def scheduled_steps(step: DataSet) -> tuple[ScheduledStep, ...]:
    """The scheduled steps that a performed step refers to."""
    keywords = ("StudyInstanceUID", "AccessionNumber", "RequestedProcedureID", "ScheduledProcedureStepID")
    return tuple(
        ScheduledStep(*(first_value(item, _tag(keyword)) for keyword in keywords))
        for item in items_of(step, _SCHEDULED)
    )


def performed_instances(step: DataSet) -> tuple[PerformedInstance, ...]:
    """The instances that the step refers to, images and others, each listed once."""
    found = {each.sop_instance_uid: each for each in _references(step)}
    return tuple(found.values())


def subjects_of(step: DataSet) -> tuple[Subject, ...]:
    """The subjects of a procedure step: one for each study that the step refers to."""
    patient = text_of(step, _PATIENT_ID), text_of(step, _ISSUER_OF_PATIENT_ID)
    if not any(patient) and _SCHEDULED not in step:
        return ()
    studies = {scheduled.study_instance_uid: scheduled.accession_number for scheduled in scheduled_steps(step)}
    return tuple(Subject(*patient, *study) for study in studies.items()) or (Subject(*patient),)


def status_of_item(steps: Iterable[str], *, discontinued_returns: bool) -> ItemStatus:
    """The status of a worklist item, from the statuses of the performed steps that refer to it.

    The item is IN PROGRESS while any step is, and after that COMPLETED if any step is. If all steps were discontinued,
    it is SCHEDULED again if `discontinued_returns`, else DISCONTINUED.
    """
    statuses = set(steps)
    if StepStatus.IN_PROGRESS in statuses:
        return ItemStatus.IN_PROGRESS
    if StepStatus.COMPLETED in statuses:
        return ItemStatus.COMPLETED
    return ItemStatus.SCHEDULED if discontinued_returns else ItemStatus.DISCONTINUED


def _references(step: DataSet) -> Iterator[PerformedInstance]:
    for series in items_of(step, _PERFORMED):
        series_uid = first_value(series, _tag("SeriesInstanceUID"))
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            for item in items_of(series, _tag(keyword)):
                sop_class, sop = (first_value(item, row.tag) for row in _REFERENCE)
                yield PerformedInstance(series_uid, sop_class, sop)


def _check(data_set: DataSet, requirements: Iterable[Requirement]) -> None:
    for requirement in requirements:
        if requirement.type == 1:
            _require(data_set, requirement)
        if requirement.tag in data_set:
            _check_values(data_set, requirement)


def _check_final(step: DataSet) -> None:
    for requirement in REQUIREMENTS:
        if requirement.final:
            # Table F.7.2-1 note 2: every finished step has a series, even if the series has no instances.
            _require(step, requirement)


def _require(data_set: DataSet, requirement: Requirement) -> None:
    if requirement.tag not in data_set:
        raise MissingAttribute(f"{requirement.keyword} is missing", tag=requirement.tag)
    if not values_of(data_set, requirement.tag):
        raise MissingAttributeValue(f"{requirement.keyword} is empty", tag=requirement.tag)


def _check_values(data_set: DataSet, requirement: Requirement) -> None:
    vr = dictionary_vr(int(requirement.tag, 16))
    if (vr == "SQ") != (data_set[requirement.tag]["vr"] == "SQ"):
        raise InvalidAttributeValue(f"{requirement.keyword} has a wrong VR", tag=requirement.tag)
    if vr == "UI" and not all(is_uid(str(value)) for value in values_of(data_set, requirement.tag)):
        raise InvalidAttributeValue(f"{requirement.keyword} is no UID", tag=requirement.tag)
    for item in items_of(data_set, requirement.tag):
        _check(item, requirement.items)
