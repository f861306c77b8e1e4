"""Studies of single slices: CT, MR and PET."""

from collections.abc import Iterator
from typing import Any, Final

from pydicom.dataset import Dataset

from pacs_server.synthetic import phantom
from pacs_server.synthetic.pixels import add_pixels, label, whole
from pacs_server.synthetic.stack import CHEST, HEAD, Stack
from pacs_server.synthetic.study import Options, Series, Study, code, item

_CT: Final = Series(1, "CT", "1.2.840.10008.5.1.4.1.1.2", "Chest")
_MR: Final = (
    (Series(1, "MR", "1.2.840.10008.5.1.4.1.1.4", "T1"), False),
    (Series(2, "MR", "1.2.840.10008.5.1.4.1.1.4", "T2"), True),
)
_PET: Final = Series(1, "PT", "1.2.840.10008.5.1.4.1.1.128", "FDG")
_BECQUEREL: Final = 5000
"""Bq/ml for a standardized uptake value of 1: 350 MBq in 70 kg (PS3.3 C.8.9.1)."""


def ct_images(images: int, options: Options) -> Iterator[Dataset]:
    """A CT of the chest: one series of this many slices."""
    study = Study.of("ct", options, 128, "CT of the chest")
    stack = Stack(CHEST, images, study.size)
    for number in range(images):
        ds = study.start(_CT, number + 1, _at(study, stack, number), {
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "KVP": 120, "RescaleIntercept": 0, "RescaleSlope": 1,
            "RescaleType": "HU", "WindowCenter": [40, -500], "WindowWidth": [400, 1500],
            "WindowCenterWidthExplanation": ["SOFT TISSUE", "LUNG"], "BodyPartExamined": "CHEST",
        })  # fmt: skip
        values = phantom.chest(stack.unit(number), study.size)
        frame = whole(values + 14 * phantom.noise(study.noise(number), values.shape), "i2", -1024, 3071)
        label(frame, study, "CT CHEST", f"{number + 1}/{images}", (1000, -1024))
        yield add_pixels(ds, study, [frame])


def mr_images(images: int, options: Options) -> Iterator[Dataset]:
    """An MR of the head: two series of this many slices each, T1 and T2 weighted, of one frame of reference."""
    study = Study.of("mr", options, 128, "MR of the head")
    stack = Stack(HEAD, images, study.size)
    for series, t2 in _MR:
        for number in range(images):
            ds = study.start(series, number + 1, _at(study, stack, number), {
                "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "ScanningSequence": "SE", "SequenceVariant": "NONE",
                "ScanOptions": "", "MRAcquisitionType": "2D", "EchoTime": 100 if t2 else 14,
                "RepetitionTime": 4000 if t2 else 500, "EchoTrainLength": 1, "MagneticFieldStrength": 1.5,
                "WindowCenter": 1050, "WindowWidth": 2100, "BodyPartExamined": "HEAD",
            })  # fmt: skip
            values = phantom.head(stack.unit(number), study.size, t2=t2)
            frame = whole(values + 22 * phantom.noise(study.noise(number, t2), values.shape), "u2", 0, 4095)
            label(frame, study, f"MR {series.description}", f"{number + 1}/{images}", (2400, 0))
            yield add_pixels(ds, study, [frame], 12)


def pet_images(images: int, options: Options) -> Iterator[Dataset]:
    """A PET of the chest with FDG: one series of this many slices, in Bq/ml."""
    study = Study.of("pet", options, 128, "PET of the chest")
    stack = Stack(CHEST, images, study.size)
    for number in range(images):
        ds = study.start(_PET, number + 1, _at(study, stack, number), _pet(study, images), {"ImageIndex": number + 1})
        values = phantom.uptake(stack.unit(number), study.size)
        values = values * (1 + 0.1 * phantom.noise(study.noise(number), values.shape))
        frame = whole(_BECQUEREL * values / 2, "i2", 0, 32767)
        label(frame, study, "PET FDG", f"{number + 1}/{images}", (3 * _BECQUEREL, 0))
        yield add_pixels(ds, study, [frame])


def _at(study: Study, stack: Stack, number: int) -> dict[str, Any]:
    """Where and when a slice was made."""
    return stack.plane(number) | {
        "FrameOfReferenceUID": study.uid("frame of reference"), "PatientPosition": "HFS", "AcquisitionNumber": 1,
        "AcquisitionDate": study.shared["StudyDate"], "AcquisitionTime": study.shared["StudyTime"],
        "BurnedInAnnotation": "YES" if study.text else "NO",
    }  # fmt: skip


def _pet(study: Study, images: int) -> dict[str, Any]:
    """The PET Series, Isotope and Image modules (PS3.3 C.8.9)."""
    injected = item(
        Radiopharmaceutical="FDG", RadiopharmaceuticalStartTime=f"{int(study.shared['StudyTime'][:2]) - 1:02}0000",
        RadionuclideTotalDose=350e6, RadionuclideHalfLife=6586.2, RadionuclidePositronFraction=0.97,
        RadionuclideCodeSequence=[code("77004003", "SCT", "^18^Fluorine")],
        RadiopharmaceuticalCodeSequence=[code("35321007", "SCT", "Fluorodeoxyglucose F^18^")],
    )  # fmt: skip
    return {
        "ImageType": ["ORIGINAL", "PRIMARY"], "Units": "BQML", "CountsSource": "EMISSION",
        "SeriesType": ["STATIC", "IMAGE"], "NumberOfSlices": images, "CorrectedImage": ["DECY", "ATTN", "SCAT", "NORM"],
        "DecayCorrection": "START", "CollimatorType": "NONE", "PatientWeight": 70, "PatientSize": 1.75,
        "RadiopharmaceuticalInformationSequence": [injected], "FrameReferenceTime": 60000,
        "ActualFrameDuration": 120000, "RescaleIntercept": 0, "RescaleSlope": 2, "DecayFactor": 1.0,
        "PatientOrientationCodeSequence": [item(
            CodeValue="102538003", CodingSchemeDesignator="SCT", CodeMeaning="recumbent",
            PatientOrientationModifierCodeSequence=[code("40199007", "SCT", "supine")],
        )],
        "PatientGantryRelationshipCodeSequence": [code("102540008", "SCT", "headfirst")], "PatientPosition": None,
        "WindowCenter": 2.5 * _BECQUEREL, "WindowWidth": 5 * _BECQUEREL, "BodyPartExamined": "CHEST",
        "AttenuationCorrectionMethod": "MEASURED", "ScatterCorrectionMethod": "MODEL",
        "RandomsCorrectionMethod": "NONE",
    }  # fmt: skip
