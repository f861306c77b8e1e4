"""Whose data an operation touched."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose study it is about; `sop_classes` counts the instances of each SOP Class UID, where they are known."""

    patient_id: str
    issuer_of_patient_id: str = ""
    study_instance_uid: str = ""
    accession_number: str = ""
    sop_classes: Mapping[str, int] = field(default_factory=dict)
