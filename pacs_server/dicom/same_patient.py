"""The rules that decide whether two data sets may be about the same patient.

The index applies these rules when it assigns an instance to a patient, and when an operator corrects patient data.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

from pacs_server.dicom.matching import date_key
from pacs_server.dicom.person_name import fold_name, paired_groups


class Identity(NamedTuple):
    """The attributes of a data set that identify its patient, as text."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """The identity in `values`, which maps the columns of an instance or patient to their values."""
        get = values.get
        return cls(
            get("patient_id", ""),
            get("issuer_of_patient_id", ""),
            get("patient_name", ""),
            get("patient_birth_date", ""),
        )

    @property
    def key(self) -> tuple[str, str]:
        """Patient ID and its issuer. A key without Patient ID identifies nobody."""
        return self.patient_id, self.issuer_of_patient_id


def compatible(one: Identity, other: Identity) -> bool:
    """Whether both may be the same person: ID and issuer are equal, and names and birth dates do not contradict.

    Names are compared in folded form, component group by component group. A component group or birth date that only
    one of the two has is no contradiction.
    """
    return one == other or (
        one.key == other.key
        and all(not a or not b or a == b for a, b in _pairs(one.patient_name, other.patient_name))
        and _may_be_equal(_date(one.patient_birth_date), _date(other.patient_birth_date))
    )


def combined_name(known: str, sent: str) -> str:
    """The known name, plus the component groups that only the sent name has. The names have to be compatible."""
    if not fold_name(known) or "\\" in known + sent:
        return known if fold_name(known) else sent
    return "=".join(a if fold_name(a) else b for a, b in paired_groups(known, sent)).rstrip("=")


def _pairs(one: str, other: str) -> list[tuple[str, str]]:
    folded = fold_name(one), fold_name(other)
    # In the Standard, Patient's Name has one value. Names with several values are compared as a whole.
    return [folded] if "\\" in one + other else paired_groups(*folded)


def _date(text: str) -> str:
    return date_key(text) or text


def _may_be_equal(one: str, other: str) -> bool:
    return not one or not other or one == other
