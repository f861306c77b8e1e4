"""Studies of single projections: computed and digital radiographs of the chest, and mammograms."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from pacs_server.synthetic import phantom
from pacs_server.synthetic.organs import breast
from pacs_server.synthetic.pixels import add_pixels, label, whole
from pacs_server.synthetic.study import Options, Series, Study, code, item

_CR: Final = Series(1, "CR", "1.2.840.10008.5.1.4.1.1.1", "PA")
_DX: Final = Series(1, "DX", "1.2.840.10008.5.1.4.1.1.1.1", "PA")
_MG: Final = Series(1, "MG", "1.2.840.10008.5.1.4.1.1.1.2", "Standard views")
_FIELD: Final = 410.0
_BREAST: Final = 220.0
# Laterality, view, its code, and where rows and columns of the picture lead (PS3.3 C.8.11.7).
_VIEWS: Final = (
    ("R", "CC", ("399162004", "cranio-caudal"), ["P", "L"]),
    ("L", "CC", ("399162004", "cranio-caudal"), ["A", "R"]),
    ("R", "MLO", ("399368009", "medio-lateral oblique"), ["P", "FL"]),
    ("L", "MLO", ("399368009", "medio-lateral oblique"), ["A", "FR"]),
)


def cr_images(images: int, options: Options) -> Iterator[Dataset]:
    """Radiographs of the chest from an imaging plate."""
    study = Study.of("cr", options, 256, "Radiograph of the chest")
    for number in range(images):
        ds = study.start(_CR, number + 1, _taken(study), {
            "ImageType": ["ORIGINAL", "PRIMARY"], "PatientOrientation": ["L", "F"], "BodyPartExamined": "CHEST",
            "ViewPosition": "PA", "KVP": 120, "PlateID": "1",
            "ImagerPixelSpacing": [_spacing(_FIELD, study)] * 2, "WindowCenter": 2300, "WindowWidth": 3000,
        })  # fmt: skip
        yield _chest(ds, study, number, images)


def dx_images(images: int, options: Options) -> Iterator[Dataset]:
    """Digital radiographs of the chest."""
    study = Study.of("dx", options, 256, "Radiograph of the chest")
    for number in range(images):
        ds = study.start(_DX, number + 1, _taken(study), _digital(study, _FIELD), {
            "PatientOrientation": ["L", "F"], "BodyPartExamined": "CHEST", "ViewPosition": "PA", "ImageLaterality": "U",
            "AnatomicRegionSequence": [code("51185008", "SCT", "Chest")], "DetectorType": "DIRECT",
            "ViewCodeSequence": [code("272479007", "SCT", "postero-anterior")], "WindowCenter": 2300,
            "WindowWidth": 3000, "PositionerType": "COLUMN", "KVP": 120,
        })  # fmt: skip
        yield _chest(ds, study, number, images)


def mg_images(images: int, options: Options) -> Iterator[Dataset]:
    """Mammograms: right and left, from above, then oblique, and so on."""
    study = Study.of("mg", options, 256, "Mammography")
    for number in range(images):
        side, view, (value, meaning), orientation = _VIEWS[number % 4]
        ds = study.start(_MG, number + 1, _taken(study), _digital(study, _BREAST), _mammogram(), {
            "PatientOrientation": orientation, "ImageLaterality": side, "ViewPosition": view,
            "ViewCodeSequence": [item(
                CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning, ViewModifierCodeSequence=[],
            )],
        })  # fmt: skip
        values = breast(study.size, study.noise("breast") % 1000, oblique=view == "MLO")
        frame = _exposed(values * 3600, study, number)
        # A right breast has its chest at the right.
        frame = np.ascontiguousarray(frame[:, ::-1]) if side == "R" else frame
        label(frame, study, f"MG {side} {view}", f"{number + 1}/{images}", (4095, 0))
        yield add_pixels(ds, study, [frame], 12)


def _chest(ds: Dataset, study: Study, number: int, images: int) -> Dataset:
    frame = _exposed(phantom.radiograph(study.size), study, number)
    label(frame, study, f"{ds.Modality} CHEST PA", f"{number + 1}/{images}", (4095, 0))
    return add_pixels(ds, study, [frame], 12)


def _exposed(values: Any, study: Study, number: int) -> Any:
    return whole(values + 40 * phantom.noise(study.noise(number), values.shape), "u2", 0, 4095)


def _spacing(field: float, study: Study) -> float:
    return round(field / study.size, 4)


def _taken(study: Study) -> dict[str, Any]:
    return {
        "AcquisitionDate": study.shared["StudyDate"], "AcquisitionTime": study.shared["StudyTime"],
        "BurnedInAnnotation": "YES" if study.text else "NO", "LossyImageCompression": "00",
    }  # fmt: skip


def _digital(study: Study, field: float) -> dict[str, Any]:
    """The DX Series, Image and Detector modules (PS3.3 C.8.11)."""
    return {
        "ImageType": ["ORIGINAL", "PRIMARY", ""], "PresentationIntentType": "FOR PRESENTATION",
        "PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1, "RescaleIntercept": 0,
        "RescaleSlope": 1, "RescaleType": "US", "PresentationLUTShape": "IDENTITY",
        "ImagerPixelSpacing": [_spacing(field, study)] * 2, "AcquisitionContextSequence": [],
    }  # fmt: skip


def _mammogram() -> dict[str, Any]:
    """The Mammography Image module (PS3.3 C.8.11.7)."""
    return {
        "PositionerType": "MAMMOGRAPHIC", "OrganExposed": "BREAST", "BodyPartExamined": "BREAST",
        "AnatomicRegionSequence": [code("76752008", "SCT", "Breast")], "DetectorType": "DIRECT", "PartialView": "NO",
        "BreastImplantPresent": "NO", "KVP": 28, "AnodeTargetMaterial": "TUNGSTEN", "FilterMaterial": "RHODIUM",
        "BodyPartThickness": 52, "CompressionForce": 110, "WindowCenter": 2000, "WindowWidth": 4000,
    }  # fmt: skip
