"""The patient and the study that an operation was about, for the audit trail."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Subject:
    """One patient and one study. `sop_classes` maps SOP Class UIDs to numbers of instances, if these are known."""

    patient_id: str
    issuer_of_patient_id: str = ""
    study_instance_uid: str = ""
    accession_number: str = ""
    sop_classes: Mapping[str, int] = field(default_factory=dict)
