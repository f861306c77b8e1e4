"""A whole slide image: tissue on glass in tiles, in levels of less and less detail (PS3.3 A.32.8)."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from pacs_server.synthetic import font
from pacs_server.synthetic.organs import tissue
from pacs_server.synthetic.pixels import Frame, add_pixels
from pacs_server.synthetic.study import Options, Series, Study, code, item

_SERIES: Final = Series(1, "SM", "1.2.840.10008.5.1.4.1.1.77.1.6", "Slide")
_SIDE: Final = 15.0
"""How long a side of the picture is on the glass, in mm."""


def slide_images(levels: int, options: Options) -> Iterator[Dataset]:
    """A slide: the first level in full detail, each following one with half the rows and columns."""
    study = Study.of("slide", options, 256, "Whole slide image")
    picture = tissue(study.size, study.noise("tissue") % 1000)
    for level in range(levels):
        small = np.ascontiguousarray(picture[:: 2**level, :: 2**level])
        if study.text:
            font.draw(small, [*study.lines("SM H&E"), f"{level + 1}/{levels}"], ((40, 20, 80), (255, 255, 255)))
        tile = min(max(64, study.size // 4), 512)
        ds = study.start(_SERIES, level + 1, _image(study, level), _matrix(small, tile), _specimen(study), {
            "SharedFunctionalGroupsSequence": [_shared(study, _SIDE / len(small), level)],
        })  # fmt: skip
        yield add_pixels(ds, study, _tiles(small, tile))


def _tiles(picture: Frame, tile: int) -> list[Frame]:
    """The tiles from left to right and from top to bottom; those at the edges are filled up with white."""
    count = -(-len(picture) // tile)
    full = np.full((count * tile, count * tile, 3), 255, np.uint8)
    full[: len(picture), : len(picture)] = picture
    places = ((row * tile, column * tile) for row in range(count) for column in range(count))
    return [full[y : y + tile, x : x + tile] for y, x in places]


def _type(level: int) -> list[str]:
    return ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if level == 0 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]


def _matrix(picture: Frame, tile: int) -> dict[str, Any]:
    """What the Whole Slide Microscopy Image module says of the picture as a whole (PS3.3 C.8.12.4)."""
    return {
        "TotalPixelMatrixRows": len(picture), "TotalPixelMatrixColumns": len(picture),
        "TotalPixelMatrixFocalPlanes": 1, "NumberOfOpticalPaths": 1, "NumberOfFrames": (-(-len(picture) // tile)) ** 2,
        "ImagedVolumeWidth": _SIDE, "ImagedVolumeHeight": _SIDE, "ImagedVolumeDepth": 0.001,
        "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
        "TotalPixelMatrixOriginSequence": [
            item(XOffsetInSlideCoordinateSystem=20.0, YOffsetInSlideCoordinateSystem=40.0)
        ],
    }  # fmt: skip


def _image(study: Study, level: int) -> dict[str, Any]:
    uid = study.uid("dimensions")
    path = item(
        OpticalPathIdentifier="1", IlluminationTypeCodeSequence=[code("111744", "DCM", "Brightfield illumination")],
        IlluminationColorCodeSequence=[code("414298005", "SCT", "Full Spectrum")], ICCProfile=_profile(),
        ObjectiveLensPower=20,
    )  # fmt: skip
    return {
        "ImageType": _type(level), "FrameOfReferenceUID": study.uid("frame of reference"),
        "PositionReferenceIndicator": "SLIDE_CORNER", "DimensionOrganizationType": "TILED_FULL",
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=uid)],
        "AcquisitionDateTime": study.shared["StudyDate"] + study.shared["StudyTime"],
        "AcquisitionContextSequence": [], "FocusMethod": "AUTO", "ExtendedDepthOfField": "NO",
        "VolumetricProperties": "VOLUME", "SpecimenLabelInImage": "NO", "LossyImageCompression": "00",
        "BurnedInAnnotation": "YES" if study.text else "NO", "OpticalPathSequence": [path],
        "PyramidUID": study.uid("pyramid"),
    }  # fmt: skip


def _specimen(study: Study) -> dict[str, Any]:
    """The Specimen module (PS3.3 C.7.6.22)."""
    name = f"{study.shared['AccessionNumber']}-1"
    return {
        "ContainerIdentifier": name, "IssuerOfTheContainerIdentifierSequence": [],
        "ContainerTypeCodeSequence": [code("433466003", "SCT", "Microscope slide")],
        "SpecimenDescriptionSequence": [item(
            SpecimenIdentifier=name, SpecimenUID=study.uid("specimen"), IssuerOfTheSpecimenIdentifierSequence=[],
            SpecimenPreparationSequence=[],
        )],
    }  # fmt: skip


def _shared(study: Study, spacing: float, level: int) -> Dataset:
    measures = item(PixelSpacing=[round(spacing, 6)] * 2, SliceThickness=0.001, SpacingBetweenSlices=0.001)
    return item(
        PixelMeasuresSequence=[measures],
        WholeSlideMicroscopyImageFrameTypeSequence=[item(FrameType=_type(level))],
        OpticalPathIdentificationSequence=[item(OpticalPathIdentifier="1")],
    )


@cache
def _profile() -> bytes:
    """The ICC profile of sRGB, without the time at which it was made (ICC.1 7.2)."""
    from PIL.ImageCms import ImageCmsProfile, createProfile

    profile = bytearray(ImageCmsProfile(createProfile("sRGB")).tobytes())
    profile[24:36] = bytes((0x07, 0xEA, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0))
    return bytes(profile)
