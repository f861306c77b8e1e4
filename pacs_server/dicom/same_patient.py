"""Who a patient is: when two data sets may be about the same person, and when they cannot be.

Pure rules: the index goes by them when it places an instance, and operators when they undo what a
modality got wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pacs_server.dicom.matching import date_key
from pacs_server.dicom.person_name import fold_name, paired_groups


@dataclass(frozen=True, slots=True)
class Identity:
    """What a data set says of whose it is, as text."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """The identity in the values of an instance or patient, by column."""
        return cls(**{name: values.get(name, "") for name in cls.__dataclass_fields__})

    @property
    def key(self) -> tuple[str, str]:
        """Patient ID and its issuer; without the ID it identifies nobody."""
        return self.patient_id, self.issuer_of_patient_id


def compatible(one: Identity, other: Identity) -> bool:
    """Whether both may be the same person: same ID and issuer, and neither name nor birth date speaks against it.

    Names are compared folded, component group by component group; what only one of them has tells nothing.
    """
    return one == other or (
        one.key == other.key
        and all(not a or not b or a == b for a, b in _pairs(one.patient_name, other.patient_name))
        and _may_be_equal(_date(one.patient_birth_date), _date(other.patient_birth_date))
    )


def combined_name(known: str, sent: str) -> str:
    """The known name with the component groups that only the other one has; both have to be compatible."""
    if not fold_name(known) or "\\" in known + sent:
        return known if fold_name(known) else sent
    return "=".join(a if fold_name(a) else b for a, b in paired_groups(known, sent)).rstrip("=")


def _pairs(one: str, other: str) -> list[tuple[str, str]]:
    folded = fold_name(one), fold_name(other)
    # More than one value is no name of the Standard's; such are the same or they are not.
    return [folded] if "\\" in one + other else paired_groups(*folded)


def _date(text: str) -> str:
    return date_key(text) or text


def _may_be_equal(one: str, other: str) -> bool:
    return not one or not other or one == other
