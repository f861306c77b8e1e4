"""Every SOP class that is stored has the record type that PS3.3 F.5 gives it, or none."""

import pytest
from pydicom.fileset import DIRECTORY_RECORDERS
from pynetdicom.sop_class import _STORAGE_CLASSES

from pacs_server.dicom.record_types import record_type


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "IMAGE"),  # CT Image
        ("1.2.840.10008.5.1.4.1.1.1.1", "IMAGE"),  # Digital X-Ray Image - For Presentation
        ("1.2.840.10008.5.1.4.1.1.20", "IMAGE"),  # Nuclear Medicine Image
        ("1.2.840.10008.5.1.4.1.1.5", "IMAGE"),  # Nuclear Medicine Image (Retired)
        ("1.2.840.10008.5.1.4.1.1.66.4", "IMAGE"),  # Segmentation
        ("1.2.840.10008.5.1.4.1.1.66.5", "SURFACE"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PRESENTATION"),  # Grayscale Softcopy Presentation State
        ("1.2.840.10008.5.1.4.1.1.88.11", "SR DOCUMENT"),  # Basic Text SR
        ("1.2.840.10008.5.1.4.1.1.88.67", "SR DOCUMENT"),  # X-Ray Radiation Dose SR
        ("1.2.840.10008.5.1.4.1.1.88.50", "SR DOCUMENT"),  # Mammography CAD SR
        ("1.2.840.10008.5.1.4.1.1.88.59", "KEY OBJECT DOC"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "ENCAP DOC"),  # Encapsulated PDF
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "WAVEFORM"),  # 12-lead ECG
        ("1.2.840.10008.5.1.4.1.1.481.2", "RT DOSE"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RT STRUCTURE SET"),
        ("1.2.840.10008.5.1.4.1.1.481.4", "RT TREAT RECORD"),  # RT Beams Treatment Record
        ("1.2.840.10008.5.1.4.1.1.481.5", "RT PLAN"),
        ("1.2.840.10008.5.1.4.1.1.66", "RAW DATA"),
        ("1.2.840.10008.5.1.4.1.1.66.1", "REGISTRATION"),
        ("1.2.840.10008.5.1.4.1.1.67", "VALUE MAP"),
        ("1.2.840.10008.5.1.4.1.1.78.1", "MEASUREMENT"),  # Lensometry
        ("1.2.840.10008.1.1", None),  # Verification
        ("1.2.840.10008.1.3.10", None),  # Media Storage Directory
        ("1.2.3.4", None),
        ("", None),
    ],
)
def test_record_types(sop_class: str, kind: str | None) -> None:
    assert record_type(sop_class) == kind


def test_all_of_them_are_known_to_what_makes_records() -> None:
    kinds = {record_type(str(uid)) for uid in _STORAGE_CLASSES.values()}
    assert kinds - {None} <= set(DIRECTORY_RECORDERS)
    unknown = [uid for uid in _STORAGE_CLASSES.values() if record_type(str(uid)) is None]
    # Those of the second generation of radiotherapy, and what is no object of a study.
    assert len(unknown) < len(_STORAGE_CLASSES) / 5
