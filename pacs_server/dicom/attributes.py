"""THE attribute table: every attribute the index keeps or computes, and what C-FIND does with it.

Each row is one attribute with the level it is answered at. `INDEXED` ones are read from the data
set at ingest and kept in the column of the same name (the keyword in snake case); `COMPUTED` ones
are counted, collected or made up by the index. What is not in the table is an unsupported key
(PS3.4 C.6.1.1, C.6.2.1).
"""

import re
from dataclasses import dataclass

from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword

from pacs_server.dicom.levels import Level


# There is one of each, in the table.
@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """One attribute of the index; `column` is the keyword in snake case: StudyInstanceUID -> study_instance_uid."""

    keyword: str
    column: str
    tag: int
    vr: str
    level: Level
    computed: bool
    multiple: bool


UNIQUE_KEYS = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}

_INDEXED = {
    Level.PATIENT: """
        PatientID PatientName IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs
        EthnicGroup PatientComments""",
    Level.STUDY: """
        StudyInstanceUID StudyDate StudyTime AccessionNumber StudyID StudyDescription ReferringPhysicianName
        NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription PatientAge PatientSize PatientWeight
        TimezoneOffsetFromUTC ProcedureCodeSequence""",
    Level.SERIES: """
        SeriesInstanceUID Modality SeriesNumber SeriesDescription SeriesDate SeriesTime BodyPartExamined Laterality
        ProtocolName StationName InstitutionName Manufacturer ManufacturerModelName PerformingPhysicianName
        OperatorsName FrameOfReferenceUID PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        PerformedProcedureStepID PerformedProcedureStepDescription RequestAttributesSequence""",
    Level.IMAGE: """
        SOPInstanceUID SOPClassUID InstanceNumber ImageType AcquisitionNumber AcquisitionDate AcquisitionTime
        ContentDate ContentTime InstanceCreationDate InstanceCreationTime NumberOfFrames Rows Columns BitsAllocated
        ContentLabel ContentDescription ConceptNameCodeSequence""",
}
_COMPUTED = {
    Level.PATIENT: "NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances",
    Level.STUDY: """
        ModalitiesInStudy SOPClassesInStudy NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances
        OriginalAttributesSequence""",
    Level.SERIES: "NumberOfSeriesRelatedInstances",
    Level.IMAGE: "AvailableTransferSyntaxUID",
}


def _attribute(keyword: str, level: Level, *, computed: bool) -> Attribute:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return Attribute(keyword, _column(keyword), tag, dictionary_VR(tag), level, computed, dictionary_VM(tag) != "1")


def _column(keyword: str) -> str:
    words = keyword.replace("IDs", "Ids")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", words).lower()


ATTRIBUTES: dict[int, Attribute] = {
    attribute.tag: attribute
    for table, computed in ((_INDEXED, False), (_COMPUTED, True))
    for level, keywords in table.items()
    for attribute in (_attribute(keyword, level, computed=computed) for keyword in keywords.split())
}
BY_KEYWORD: dict[str, Attribute] = {attribute.keyword: attribute for attribute in ATTRIBUTES.values()}
INDEXED: tuple[Attribute, ...] = tuple(a for a in ATTRIBUTES.values() if not a.computed)


def at_level(level: Level) -> tuple[Attribute, ...]:
    """The indexed attributes of one level, in the table's order."""
    return tuple(a for a in INDEXED if a.level is level)
