"""Whole slide images for tests: tiles of a picture, as a microscope makes them (PS3.3 A.32.8)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import make_ct
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import VLWholeSlideMicroscopyImageStorage


def make_slide(
    picture: np.ndarray,
    tile: int,
    coder: tuple[str, Callable[[np.ndarray], bytes]],
    spacing: float,
    *,
    study: str,
    series: str,
    frame_of_reference: str,
) -> Dataset:
    """A level of a slide: the rows, columns and colours of the picture in square tiles, `spacing` mm between pixels.

    Tiles go from left to right and from top to bottom, and what sticks out at the right and below is black.
    """
    ds = make_ct(study, series, Modality="SM")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = frame_of_reference, "SLIDE_CORNER"
    for keyword, value in _slide(picture, tile, spacing).items():
        setattr(ds, keyword, value)
    tiles = _tiles(picture, tile)
    ds.NumberOfFrames = len(tiles)
    ds.file_meta.TransferSyntaxUID, encode = coder
    ds.PixelData = encapsulate([encode(each) for each in tiles])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def _tiles(picture: np.ndarray, tile: int) -> list[np.ndarray]:
    rows, columns = (math.ceil(size / tile) for size in picture.shape[:2])
    whole = np.zeros((rows * tile, columns * tile, 3), "u1")
    whole[: picture.shape[0], : picture.shape[1]] = picture
    places = ((row * tile, column * tile) for row in range(rows) for column in range(columns))
    return [np.ascontiguousarray(whole[y : y + tile, x : x + tile]) for y, x in places]


def _slide(picture: np.ndarray, tile: int, spacing: float) -> dict[str, Any]:
    height, width = picture.shape[:2]
    measures = _item(PixelSpacing=[spacing, spacing], SliceThickness=0.001, SpacingBetweenSlices=0.001)
    path = _item(
        OpticalPathIdentifier="1",
        IlluminationTypeCodeSequence=[_code("111744", "DCM", "Brightfield illumination")],
        IlluminationColorCodeSequence=[_code("414298005", "SCT", "Full Spectrum")],
    )
    return {
        "Rows": tile,
        "Columns": tile,
        "TotalPixelMatrixRows": height,
        "TotalPixelMatrixColumns": width,
        "TotalPixelMatrixFocalPlanes": 1,
        "NumberOfOpticalPaths": 1,
        "DimensionOrganizationType": "TILED_FULL",
        "ImagedVolumeWidth": width * spacing,
        "ImagedVolumeHeight": height * spacing,
        "ImagedVolumeDepth": 0.001,
        "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
        "TotalPixelMatrixOriginSequence": [_item(XOffsetInSlideCoordinateSystem=20, YOffsetInSlideCoordinateSystem=40)],
        "FocusMethod": "AUTO",
        "ExtendedDepthOfField": "NO",
        "VolumetricProperties": "VOLUME",
        "SpecimenLabelInImage": "NO",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "ContainerIdentifier": "C1",
        "AcquisitionDateTime": "20240229101530",
        "SharedFunctionalGroupsSequence": [_item(PixelMeasuresSequence=[measures])],
        "OpticalPathSequence": [path],
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "RGB",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    }


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, Sequence(value) if isinstance(value, list) and isinstance(value[0], Dataset) else value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
