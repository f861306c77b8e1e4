"""A segmentation of the lungs and the nodule in the images of a CT study (PS3.3 A.51)."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pacs_server.synthetic import phantom
from pacs_server.synthetic.findings import Mask, Slice, slices
from pacs_server.synthetic.stack import AXIAL
from pacs_server.synthetic.study import Options, Series, Study, code, item, put, reference

_SERIES: Final = Series(20, "SEG", "1.2.840.10008.5.1.4.1.1.66.4", "Lungs and nodule")
_LABELS: Final = ("Lungs", "Nodule")


def segmentation(images: Sequence[Dataset], options: Options) -> Dataset:
    """A segmentation with a segment for the lungs and one for the nodule, a frame for each slice that they are in."""
    stack = slices(images)
    study = Study.beside("seg", images, options)
    frames = [
        (segment, number, mask)
        for segment, shown in ((1, _lungs), (2, phantom.nodule))
        for number, one in enumerate(stack, 1)
        if (mask := one.mask(shown)).any()
    ]
    uid = study.uid("dimensions")
    first = stack[0].image
    ds = study.start(_SERIES, 1, {
        "ImageType": ["DERIVED", "PRIMARY"], "ContentLabel": "LUNGS", "ContentDescription": "Lungs and nodule",
        "ContentCreatorName": "Synthetic^", "FrameOfReferenceUID": first.FrameOfReferenceUID,
        "PositionReferenceIndicator": first.get("PositionReferenceIndicator", ""), "NumberOfFrames": len(frames),
        "LossyImageCompression": "00", "SegmentationType": "BINARY",
        "SegmentSequence": [_segment(1), _segment(2)],
        "ReferencedSeriesSequence": [item(
            SeriesInstanceUID=first.SeriesInstanceUID,
            ReferencedInstanceSequence=[reference(one.image) for one in stack],
        )],
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=uid)],
        "DimensionIndexSequence": [
            _index(uid, "ReferencedSegmentNumber", "SegmentIdentificationSequence"),
            _index(uid, "ImagePositionPatient", "PlanePositionSequence"),
        ],
        "SharedFunctionalGroupsSequence": [_shared(stack)],
        "PerFrameFunctionalGroupsSequence": [
            _of_frame(stack[number - 1], segment, number) for segment, number, _ in frames
        ],
    })  # fmt: skip
    return _with_bits(ds, [mask for _, _, mask in frames])


def _lungs(x: Any, y: Any, z: float) -> Mask:
    return phantom.lung(np.abs(x), y, z) & ~phantom.heart(x, y, z) & ~phantom.liver(x, y, z)


def _segment(number: int) -> Dataset:
    kind, category = (
        (code("39607008", "SCT", "Lung"), code("123037004", "SCT", "Anatomical Structure")),
        (code("27925004", "SCT", "Nodule"), code("49755003", "SCT", "Morphologically Abnormal Structure")),
    )[number - 1]
    return item(
        SegmentNumber=number, SegmentLabel=_LABELS[number - 1], SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName="synthetic", SegmentedPropertyCategoryCodeSequence=[category],
        SegmentedPropertyTypeCodeSequence=[kind],
        # CIELab colours of blue and red (PS3.3 C.10.7.1.1).
        RecommendedDisplayCIELabValue=([30000, 40000, 15000], [35000, 52000, 47000])[number - 1],
    )  # fmt: skip


def _index(uid: str, pointer: str, group: str) -> Dataset:
    return item(
        DimensionIndexPointer=Tag(pointer), FunctionalGroupPointer=Tag(group), DimensionOrganizationUID=uid,
        DimensionDescriptionLabel=pointer,
    )  # fmt: skip


def _shared(stack: Sequence[Slice]) -> Dataset:
    first = stack[0]
    step = round(stack[1].height - first.height, 4) if len(stack) > 1 else float(first.image.get("SliceThickness", 1))
    return item(
        PixelMeasuresSequence=[item(
            PixelSpacing=[first.spacing] * 2, SliceThickness=step, SpacingBetweenSlices=step,
        )],
        PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
    )  # fmt: skip


def _of_frame(one: Slice, segment: int, number: int) -> Dataset:
    source = reference(one.image, PurposeOfReferenceCodeSequence=[
        code("121322", "DCM", "Source image for image processing operation"),
    ])  # fmt: skip
    return item(
        FrameContentSequence=[item(DimensionIndexValues=[segment, number])],
        PlanePositionSequence=[item(ImagePositionPatient=[one.left, one.top, one.height])],
        SegmentIdentificationSequence=[item(ReferencedSegmentNumber=segment)],
        DerivationImageSequence=[item(
            DerivationCodeSequence=[code("113076", "DCM", "Segmentation")], SourceImageSequence=[source],
        )],
    )  # fmt: skip


def _with_bits(ds: Dataset, masks: Sequence[Mask]) -> Dataset:
    """PS3.5 8.1.1: single bits are packed, the first one lowest, without padding between frames."""
    put(ds, {
        "Rows": masks[0].shape[0], "Columns": masks[0].shape[1], "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0,
        "PixelRepresentation": 0, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
    })  # fmt: skip
    data = np.packbits(np.concatenate([mask.ravel() for mask in masks]), bitorder="little").tobytes()
    ds.add_new(
        "PixelData", "OW" if ds.file_meta.TransferSyntaxUID.is_implicit_VR else "OB", data + b"\0" * (len(data) % 2)
    )
    return ds
