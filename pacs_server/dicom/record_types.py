"""The types of directory records: which one stands for an object of which SOP class (PS3.3 Table F.4-1, F.5)."""

import re
from typing import Final

from pydicom.uid import UID

# By the names of the SOP classes in PS3.6, without "Storage" at their end.
_BY_NAME: Final = {
    **dict.fromkeys(
        (
            *("Segmentation", "Label Map Segmentation", "Height Map Segmentation", "Parametric Map"),
            *("Corneal Topography Map", "Ophthalmic Thickness Map", "Enhanced US Volume"),
            "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis",
        ),
        "IMAGE",
    ),
    **dict.fromkeys(
        ("Procedure Log", "Spectacle Prescription Report", "Macular Grid Thickness and Volume Report"),
        "SR DOCUMENT",
    ),
    "RT Dose": "RT DOSE",
    "RT Structure Set": "RT STRUCTURE SET",
    "RT Plan": "RT PLAN",
    "RT Ion Plan": "RT PLAN",
    "RT Treatment Summary Record": "RT TREAT RECORD",
    "Basic Structured Display": "PRESENTATION",
    "Key Object Selection Document": "KEY OBJECT DOC",
    "MR Spectroscopy": "SPECTROSCOPY",
    "Raw Data": "RAW DATA",
    "Spatial Registration": "REGISTRATION",
    "Deformable Spatial Registration": "REGISTRATION",
    "Spatial Fiducials": "FIDUCIAL",
    "Real World Value Mapping": "VALUE MAP",
    "Stereometric Relationship": "STEREOMETRIC",
    "Surface Segmentation": "SURFACE",
    "Surface Scan Mesh": "SURFACE SCAN",
    "Surface Scan Point Cloud": "SURFACE SCAN",
    "Tractography Results": "TRACT",
    "Content Assessment Results": "ASSESSMENT",
}
# By a part of such a name; the first that fits.
_BY_PART: Final = (
    (re.compile(r"\bImage\b"), "IMAGE"),
    (re.compile(r" SR$"), "SR DOCUMENT"),
    (re.compile(r"Presentation State$"), "PRESENTATION"),
    (re.compile(r"Waveform$"), "WAVEFORM"),
    (re.compile(r"Measurements$"), "MEASUREMENT"),
    (re.compile(r"^RT .*Treatment Record$"), "RT TREAT RECORD"),
    (re.compile(r"^Encapsulated "), "ENCAP DOC"),
    (re.compile(r"^RT (Physician Intent|Segment Annotation|Radiation |Treatment Preparation)"), "RADIOTHERAPY"),
    (re.compile(r"Radiation( Record)?$"), "RADIOTHERAPY"),
)
_END = re.compile(r" Storage( - For (Presentation|Processing))?( - Trial)?( \(Retired\))?$")


def record_type(sop_class_uid: str) -> str | None:
    """The Directory Record Type below a SERIES record for objects of a SOP class; None if there is none for it."""
    name = UID(sop_class_uid).name
    if not _END.search(name):
        return None
    name = _END.sub("", name)
    return _BY_NAME.get(name) or next((kind for pattern, kind in _BY_PART if pattern.search(name)), None)
