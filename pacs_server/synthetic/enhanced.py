"""A study with one enhanced CT image: all slices are frames of one instance (PS3.3 A.38)."""

from collections.abc import Iterator
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pacs_server.synthetic import font, phantom
from pacs_server.synthetic.pixels import Frame, add_pixels, whole
from pacs_server.synthetic.stack import AXIAL, CHEST, Stack
from pacs_server.synthetic.study import Options, Series, Study, code, item

_SERIES: Final = Series(1, "CT", "1.2.840.10008.5.1.4.1.1.2.1", "Chest, enhanced")
_TYPE: Final = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]


def enhanced_ct_images(frames: int, options: Options) -> Iterator[Dataset]:
    """An enhanced CT of the chest with this many frames."""
    study = Study.of("enhanced_ct", options, 128, "Enhanced CT of the chest")
    stack = Stack(CHEST, frames, study.size)
    ds = study.start(_SERIES, 1, _image(study, frames), {
        "FrameOfReferenceUID": study.uid("frame of reference"), "PositionReferenceIndicator": "",
        "SharedFunctionalGroupsSequence": [_shared(stack, study.uid("irradiation event"))],
        "PerFrameFunctionalGroupsSequence": [_of_frame(study, stack, number) for number in range(frames)],
    }, dimensions(study.uid("dimensions")))  # fmt: skip
    yield add_pixels(ds, study, (_slice(study, stack, number) for number in range(frames)))


def dimensions(uid: str) -> dict[str, Any]:
    """The Multi-frame Dimension module (PS3.3 C.7.6.17): frames by stack and place in it."""
    pointers = [("StackID", "FrameContentSequence"), ("InStackPositionNumber", "FrameContentSequence")]
    return {
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=uid)],
        "DimensionOrganizationType": "3D",
        "DimensionIndexSequence": [
            item(
                DimensionIndexPointer=Tag(pointer), FunctionalGroupPointer=Tag(group), DimensionOrganizationUID=uid,
                DimensionDescriptionLabel=pointer,
            )
            for pointer, group in pointers
        ],
    }  # fmt: skip


def _image(study: Study, frames: int) -> dict[str, Any]:
    """The Enhanced CT Image, Acquisition Context and CT Series modules (PS3.3 C.8.15)."""
    return {
        "ImageType": _TYPE, "NumberOfFrames": frames, "PixelPresentation": "MONOCHROME",
        "VolumetricProperties": "VOLUME", "VolumeBasedCalculationTechnique": "NONE", "AcquisitionNumber": 1,
        "AcquisitionDateTime": study.shared["StudyDate"] + study.shared["StudyTime"], "AcquisitionDuration": 4.0,
        "ContentQualification": "RESEARCH", "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00", "PresentationLUTShape": "IDENTITY", "AcquisitionContextSequence": [],
        "PatientPosition": "HFS",
    }  # fmt: skip


def _shared(stack: Stack, event: str) -> Dataset:
    """The functional groups that are the same for all frames (PS3.3 C.7.6.16.2, C.8.15.3)."""
    return item(
        PixelMeasuresSequence=[item(
            PixelSpacing=[stack.spacing] * 2, SliceThickness=stack.step, SpacingBetweenSlices=stack.step,
        )],
        PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
        FrameAnatomySequence=[item(FrameLaterality="U", AnatomicRegionSequence=[code("51185008", "SCT", "Chest")])],
        FrameVOILUTSequence=[item(
            WindowCenter=[40, -500], WindowWidth=[400, 1500], WindowCenterWidthExplanation=["BODY", "LUNG"],
        )],
        PixelValueTransformationSequence=[item(RescaleIntercept=0, RescaleSlope=1, RescaleType="HU")],
        CTImageFrameTypeSequence=[item(
            FrameType=_TYPE, PixelPresentation="MONOCHROME", VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        )],
        CTAcquisitionTypeSequence=[item(AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")],
        CTAcquisitionDetailsSequence=[item(
            RotationDirection="CW", RevolutionTime=0.5, SingleCollimationWidth=0.6, TotalCollimationWidth=38.4,
            TableHeight=150.0, GantryDetectorTilt=0.0, DataCollectionDiameter=500.0,
        )],
        CTTableDynamicsSequence=[item(
            TableSpeed=stack.step * 2, TableFeedPerRotation=stack.step, SpiralPitchFactor=1.0,
        )],
        CTGeometrySequence=[item(DistanceSourceToDetector=1085.0, DistanceSourceToDataCollectionCenter=595.0)],
        CTReconstructionSequence=[item(
            ReconstructionAlgorithm="FILTER_BACK_PROJ", ConvolutionKernel="STANDARD", ConvolutionKernelGroup="BODY",
            ReconstructionDiameter=stack.body.field, ReconstructionAngle=360.0, ImageFilter="NONE",
            ReconstructionPixelSpacing=[stack.spacing] * 2,
        )],
        CTExposureSequence=[item(
            ExposureTimeInms=500.0, XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0, ExposureModulationType="NONE",
        )],
        CTXRayDetailsSequence=[item(KVP=120.0, FocalSpots=[0.9], FilterType="FLAT", FilterMaterial="ALUMINUM")],
        IrradiationEventIdentificationSequence=[item(IrradiationEventUID=event)],
    )  # fmt: skip


def _of_frame(study: Study, stack: Stack, number: int) -> Dataset:
    """The functional groups of a frame."""
    when = study.shared["StudyDate"] + study.shared["StudyTime"]
    place = stack.position(number)
    return item(
        FrameContentSequence=[item(
            FrameAcquisitionNumber=1, FrameReferenceDateTime=when, FrameAcquisitionDateTime=when,
            FrameAcquisitionDuration=500.0, StackID="1", InStackPositionNumber=number + 1,
            DimensionIndexValues=[1, number + 1],
        )],
        PlanePositionSequence=[item(ImagePositionPatient=place)],
        CTPositionSequence=[item(
            TablePosition=place[2], ReconstructionTargetCenterPatient=[0.0, 0.0, place[2]],
            DataCollectionCenterPatient=[0.0, 0.0, place[2]],
        )],
    )  # fmt: skip


def _slice(study: Study, stack: Stack, number: int) -> Frame:
    values = phantom.chest(stack.unit(number), study.size)
    frame = whole(values + 14 * phantom.noise(study.noise(number), values.shape), "i2", -1024, 3071)
    if study.text:
        # PS3.3 C.8.15.2: Burned In Annotation is NO, so nothing in the picture may say whose it is.
        font.draw(frame, ["CT ENHANCED"], (1000, -1024))
        font.draw(frame, [f"{number + 1}/{stack.images}"], (1000, -1024), bottom=True)
    return frame
