"""A radiotherapy set for the images of a CT study: structure set, plan and dose (PS3.3 A.19, A.20, A.18)."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pacs_server.synthetic import phantom
from pacs_server.synthetic.findings import Contour, Slice, body_contour, lung_contour, nodule_contour, slices
from pacs_server.synthetic.phantom import NODULE, REACH
from pacs_server.synthetic.pixels import add_pixels
from pacs_server.synthetic.stack import AXIAL, CHEST, millimetres, units
from pacs_server.synthetic.study import Options, Series, Study, item, reference

_STRUCTURES: Final = Series(30, "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "Structures")
_PLAN: Final = Series(31, "RTPLAN", "1.2.840.10008.5.1.4.1.1.481.5", "Plan")
_DOSE: Final = Series(32, "RTDOSE", "1.2.840.10008.5.1.4.1.1.481.2", "Dose")
_STUDY_CLASS: Final = "1.2.840.10008.3.1.2.3.1"
_MARGIN: Final = 8.0
_PRESCRIBED: Final = 60.0
_FRACTIONS: Final = 30
_SCALING: Final = 0.001
# Name, kind, colour, and the outline in a slice.
_REGIONS: Final[Sequence[tuple[str, str, list[int], Callable[[Slice], Contour]]]] = (
    ("BODY", "EXTERNAL", [0, 200, 0], body_contour),
    ("LUNG_L", "ORGAN", [60, 120, 255], lambda one: lung_contour(one, 1)),
    ("LUNG_R", "ORGAN", [120, 180, 255], lambda one: lung_contour(one, -1)),
    ("GTV", "GTV", [255, 160, 0], nodule_contour),
    ("PTV", "PTV", [255, 0, 0], lambda one: nodule_contour(one, _MARGIN)),
)
_TARGET: Final = 5


def radiotherapy(images: Sequence[Dataset], options: Options) -> list[Dataset]:
    """Structure set, plan and dose; the target is the nodule."""
    stack = slices(images)
    study = Study.beside("rt", images, options)
    structures = _structures(study, stack)
    plan = _plan(study, structures)
    return [structures, plan, _dose(study, stack, plan, structures)]


def _frame_of_reference(stack: Sequence[Slice]) -> dict[str, Any]:
    first = stack[0].image
    return {
        "FrameOfReferenceUID": first.FrameOfReferenceUID,
        "PositionReferenceIndicator": first.get("PositionReferenceIndicator", ""),
    }


# ------------------------------------------------------------------------------------ structures


def _structures(study: Study, stack: Sequence[Slice]) -> Dataset:
    shared, first = study.shared, stack[0].image
    contours = [[(one, outline(one)) for one in stack] for _, _, _, outline in _REGIONS]
    series = item(
        SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[reference(one.image) for one in stack]
    )
    referenced = item(
        ReferencedSOPClassUID=_STUDY_CLASS, ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )  # fmt: skip
    return study.start(_STRUCTURES, 1, _frame_of_reference(stack), {
        "StructureSetLabel": "SYNTHETIC", "StructureSetDate": shared["StudyDate"],
        "StructureSetTime": shared["StudyTime"], "OperatorsName": "",
        "ReferencedFrameOfReferenceSequence": [item(
            FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[referenced],
        )],
        "StructureSetROISequence": [
            item(ROINumber=number, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID, ROIName=name,
                 ROIGenerationAlgorithm="AUTOMATIC")
            for number, (name, _, _, _) in enumerate(_REGIONS, 1)
        ],
        "ROIContourSequence": [
            item(ReferencedROINumber=number, ROIDisplayColor=_REGIONS[number - 1][2],
                 ContourSequence=[_contour(one, points) for one, points in found if points])
            for number, found in enumerate(contours, 1)
        ],
        "RTROIObservationsSequence": [
            item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=kind, ROIInterpreter="")
            for number, (_, kind, _, _) in enumerate(_REGIONS, 1)
        ],
        "ApprovalStatus": "UNAPPROVED", "ContentDate": None, "ContentTime": None,
    })  # fmt: skip


def _contour(one: Slice, points: Contour) -> Dataset:
    return item(
        ContourImageSequence=[reference(one.image)], ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points), ContourData=[v for x, y in points for v in (x, y, one.height)],
    )  # fmt: skip


# ------------------------------------------------------------------------------------ plan


def isocentre() -> list[float]:
    """The middle of the nodule, in mm."""
    (x, y, z), _ = NODULE
    return [round(millimetres(x), 2), round(millimetres(y), 2), round(z * CHEST.height / (2 * REACH), 2)]


def _plan(study: Study, structures: Dataset) -> Dataset:
    shared, beams = study.shared, ((1, "AP", 0), (2, "LATERAL", 270))
    target = item(
        DoseReferenceNumber=1, DoseReferenceStructureType="VOLUME", DoseReferenceType="TARGET",
        ReferencedROINumber=_TARGET, TargetPrescriptionDose=_PRESCRIBED, DoseReferenceDescription="PTV",
    )  # fmt: skip
    fractions = item(
        FractionGroupNumber=1, NumberOfFractionsPlanned=_FRACTIONS, NumberOfBeams=len(beams),
        NumberOfBrachyApplicationSetups=0, ReferencedBeamSequence=[
            item(ReferencedBeamNumber=number, BeamDose=_PRESCRIBED / _FRACTIONS / len(beams), BeamMeterset=120)
            for number, _, _ in beams
        ],
    )  # fmt: skip
    return study.start(_PLAN, 1, {
        "FrameOfReferenceUID": structures.FrameOfReferenceUID, "PositionReferenceIndicator": "",
        "RTPlanLabel": "SYNTHETIC", "RTPlanDate": shared["StudyDate"], "RTPlanTime": shared["StudyTime"],
        "OperatorsName": "", "RTPlanGeometry": "PATIENT", "ReferencedStructureSetSequence": [reference(structures)],
        "DoseReferenceSequence": [target], "FractionGroupSequence": [fractions],
        "PatientSetupSequence": [item(PatientSetupNumber=1, PatientPosition="HFS")],
        "BeamSequence": [_beam(*beam) for beam in beams], "ApprovalStatus": "UNAPPROVED",
        "ContentDate": None, "ContentTime": None,
    })  # fmt: skip


def _beam(number: int, name: str, angle: int) -> Dataset:
    limits = ("ASYMX", "ASYMY")
    positions = [item(RTBeamLimitingDeviceType=kind, LeafJawPositions=[-30, 30]) for kind in limits]
    first = item(
        ControlPointIndex=0, NominalBeamEnergy=6, BeamLimitingDevicePositionSequence=positions, GantryAngle=angle,
        GantryRotationDirection="NONE", BeamLimitingDeviceAngle=0, BeamLimitingDeviceRotationDirection="NONE",
        PatientSupportAngle=0, PatientSupportRotationDirection="NONE", TableTopEccentricAngle=0,
        TableTopEccentricRotationDirection="NONE", TableTopVerticalPosition="", TableTopLongitudinalPosition="",
        TableTopLateralPosition="", IsocenterPosition=isocentre(), CumulativeMetersetWeight=0,
    )  # fmt: skip
    return item(
        BeamNumber=number, BeamName=name, BeamType="STATIC", RadiationType="PHOTON", TreatmentMachineName="SYNTHETIC",
        PrimaryDosimeterUnit="MU", SourceAxisDistance=1000, TreatmentDeliveryType="TREATMENT", NumberOfWedges=0,
        NumberOfCompensators=0, NumberOfBoli=0, NumberOfBlocks=0, FinalCumulativeMetersetWeight=1,
        NumberOfControlPoints=2, ReferencedPatientSetupNumber=1,
        BeamLimitingDeviceSequence=[item(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=1) for kind in limits],
        ControlPointSequence=[first, item(ControlPointIndex=1, CumulativeMetersetWeight=1)],
    )  # fmt: skip


# ------------------------------------------------------------------------------------ dose


def _dose(study: Study, stack: Sequence[Slice], plan: Dataset, structures: Dataset) -> Dataset:
    # A grid of every second pixel, and as many planes as the CT has slices.
    spacing, heights = 2 * stack[0].spacing, [one.height for one in stack]
    grids = [_grid(one, spacing) for one in stack]
    planes = [_gray(one, *grid) for one, grid in zip(stack, grids, strict=True)]
    ds = study.start(_DOSE, 1, _frame_of_reference(stack), _planes(heights), {
        "ImagePositionPatient": [stack[0].left, stack[0].top, heights[0]], "ImageOrientationPatient": AXIAL,
        "PixelSpacing": [spacing, spacing], "SliceThickness": "", "DoseUnits": "GY", "DoseType": "PHYSICAL",
        "DoseSummationType": "PLAN", "DoseGridScaling": _SCALING, "TissueHeterogeneityCorrection": "IMAGE",
        "ReferencedRTPlanSequence": [reference(plan)], "ReferencedStructureSetSequence": [reference(structures)],
        "OperatorsName": "", "DVHSequence": _histograms(stack, grids, planes),
    })  # fmt: skip
    return add_pixels(ds, study, [np.round(plane / _SCALING).astype("u2") for plane in planes])


def _planes(heights: Sequence[float]) -> dict[str, Any]:
    """Where the planes lie, as offsets from the first one; a single plane is no multi-frame image (PS3.3 C.8.8.3)."""
    if len(heights) == 1:
        return {}
    return {
        "NumberOfFrames": len(heights),
        "FrameIncrementPointer": Tag("GridFrameOffsetVector"),
        "GridFrameOffsetVector": [round(height - heights[0], 4) for height in heights],
    }


def _grid(one: Slice, spacing: float) -> tuple[Any, Any]:
    """The coordinates x and y of the points of the grid, in mm."""
    count = np.arange(max(int(one.image.Rows) // 2, 1))
    x, y = np.meshgrid(one.left + spacing * count, one.top + spacing * count)
    return x, y


def _gray(one: Slice, x: Any, y: Any) -> Any:
    """The dose in a plane in Gy: two beams that cross in the target, weaker the deeper they get."""
    middle_x, middle_y, middle_z = isocentre()
    near = np.exp(-(((one.height - middle_z) / 30) ** 8))
    front = np.exp(-(((x - middle_x) / 30) ** 8) - (y - middle_y) / 250)
    side = np.exp(-(((y - middle_y) / 30) ** 8) - (x - middle_x) / 250)
    return np.clip(_PRESCRIBED * near * (front + side) / 2, 0, 65) * _body(one, x, y)


def _body(one: Slice, x: Any, y: Any) -> Any:
    return phantom.wall(units(x), units(y), one.unit) < 1


def _target(one: Slice, x: Any, y: Any) -> Any:
    return phantom.nodule(units(x), units(y), one.unit)


def _histograms(stack: Sequence[Slice], grids: Sequence[Any], planes: Sequence[Any]) -> list[Dataset]:
    """The RT DVH module (PS3.3 C.8.8.4) of the body and, where it is in the images, of the target."""
    step = round(heights[1] - heights[0], 4) if len(heights := [one.height for one in stack]) > 1 else CHEST.thickest
    cell = float(grids[0][0][0, 1] - grids[0][0][0, 0]) ** 2 * step / 1000
    found = []
    for number, inside in ((1, _body), (_TARGET - 1, _target)):
        doses = np.concatenate(
            [plane[inside(one, *grid)] for one, grid, plane in zip(stack, grids, planes, strict=True)]
        )
        if doses.size:
            found.append(_histogram(number, doses, cell))
    return found


def _histogram(number: int, doses: Any, cell: float) -> Dataset:
    """How many cubic centimetres get at least 0, 1, 2 ... Gy; `cell` is how many one value stands for."""
    volumes = [round(float((doses >= gray).sum()) * cell, 3) for gray in range(int(doses.max()) + 1)]
    return item(
        DVHReferencedROISequence=[item(ReferencedROINumber=number, DVHROIContributionType="INCLUDED")],
        DVHType="CUMULATIVE", DoseUnits="GY", DoseType="PHYSICAL", DVHDoseScaling=1, DVHVolumeUnits="CM3",
        DVHNumberOfBins=len(volumes), DVHData=[value for volume in volumes for value in (1, volume)],
        DVHMinimumDose=round(float(doses.min()), 3), DVHMaximumDose=round(float(doses.max()), 3),
        DVHMeanDose=round(float(doses.mean()), 3),
    )  # fmt: skip
