"""What the list of studies is sorted by, and the place in it where a page begins.

A list has one section, or several that follow each other: sorted by labels, the studies without a label come last.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from pacs_server.dicom.levels import Level
from pacs_server.index.matching import Clause
from pacs_server.index.scope import joined_from

_FROM: Final = joined_from(Level.STUDY)


class StudyOrder(StrEnum):
    """What the list is sorted by."""

    DATE = "date"
    NAME = "name"
    PATIENT_ID = "patient_id"
    ACCESSION = "accession"
    DESCRIPTION = "description"
    PHYSICIAN = "physician"
    RECEIVED = "received"
    MODALITY = "modality"
    LABELS = "labels"
    SERIES = "series"
    IMAGES = "images"


class Section(NamedTuple):
    """Studies that are sorted by the same keys, and by their id where these are equal.

    The keys are columns of `study` and of the tables that `joined` adds to it. With `walked`, which begins with the
    table of the keys, SQLite reads the list in the order of an index: a CROSS JOIN keeps its order there. `condition`
    is true for the studies of the section.
    """

    keys: tuple[str, ...]
    joined: str = ""
    walked: str = _FROM
    condition: str = ""
    # Numbers have no index, because every instance that is stored changes them: all studies are read.
    are_numbers: bool = False

    def order(self, *, descending: bool) -> str:
        """The keys in SQL, as what comes behind ORDER BY."""
        sign = " DESC" if descending else ""
        # What is equal stays in the order in which all are read: otherwise each row would take the place of another.
        return ", ".join([f"{key}{sign}" for key in self.keys] + [f"study.id{'' if self.are_numbers else sign}"])


_FROM_PATIENTS: Final = "patient CROSS JOIN study ON study.patient_fk = patient.id"
_LABELLED: Final = "study.study_instance_uid = study_label.study_instance_uid"
_LESSER: Final = (
    "NOT EXISTS (SELECT 1 FROM study_label AS lesser WHERE lesser.study_instance_uid = study_label.study_instance_uid"
    " AND lesser.label < study_label.label)"
)
_UNLABELLED: Final = f"NOT EXISTS (SELECT 1 FROM study_label WHERE {_LABELLED})"  # noqa: S608

_SECTIONS: Final = {
    StudyOrder.DATE: (Section(("study.study_date", "study.study_time_match")),),
    StudyOrder.NAME: (Section(("patient.patient_name_match",), walked=_FROM_PATIENTS),),
    StudyOrder.PATIENT_ID: (Section(("patient.patient_id",), walked=_FROM_PATIENTS),),
    StudyOrder.ACCESSION: (Section(("study.accession_number",)),),
    StudyOrder.DESCRIPTION: (Section(("study.study_description",)),),
    StudyOrder.PHYSICIAN: (Section(("study.referring_physician_name_match",)),),
    StudyOrder.RECEIVED: (Section(("study.received_at",)),),
    StudyOrder.MODALITY: (Section(("study.modalities_in_study",)),),
    StudyOrder.LABELS: (
        # By the first label of each.
        Section(
            ("study_label.label", "study_label.study_instance_uid"),
            f" JOIN study_label ON {_LABELLED}",
            f"study_label CROSS JOIN study ON {_LABELLED} CROSS JOIN patient ON patient.id = study.patient_fk",
            _LESSER,
        ),
        Section((), condition=_UNLABELLED),
    ),
    StudyOrder.SERIES: (Section(("study.number_of_study_related_series",), are_numbers=True),),
    StudyOrder.IMAGES: (Section(("study.number_of_study_related_instances",), are_numbers=True),),
}


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Which rows of the list to read: at most `limit`, those behind the row of these values and this id, if given."""

    limit: int
    order: StudyOrder = StudyOrder.DATE
    descending: bool = True
    after: tuple[tuple[str, ...], int] | None = None

    def sections(self) -> tuple[Section, ...]:
        """The sections of the list from this place on."""
        every = _SECTIONS[self.order]
        if self.after is None:
            return every
        first = next((n for n, each in enumerate(every) if len(each.keys) == len(self.after[0])), len(every))
        return every[first:]

    def behind(self, section: Section) -> list[Clause]:
        """The conditions for the rows of a section that are behind the page before."""
        if self.after is None or section is not self.sections()[0]:
            return []
        values, key = self.after
        sign = "<" if self.descending else ">"
        if section.are_numbers:
            column, last = section.keys[0], int(values[0])
            return [Clause(f"({column} {sign} {last} OR {column} = {last} AND study.id > {int(key)})", ())]
        if not values:
            return [Clause(f"study.id {sign} {int(key)}", ())]
        row = f"({', '.join((*section.keys, 'study.id'))}) {sign} ({', '.join('?' * len(values))}, {int(key)})"
        # The first of the two is what the databases use the index for.
        return [Clause(f"{section.keys[0]} {sign}= ?", values[:1]), Clause(row, values)]


def is_place(order: StudyOrder, values: tuple[object, ...]) -> bool:
    """Whether a page of a list in this order may end with these values."""
    return any(
        len(values) == len(each.keys)
        and all(isinstance(value, str) and (not each.are_numbers or is_count(value)) for value in values)
        for each in _SECTIONS[order]
    )


def is_count(text: str) -> bool:
    """Whether a text is a number that a study may have of something."""
    return text.isascii() and text.isdecimal() and len(text) <= 18
