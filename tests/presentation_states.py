"""Synthetic presentation states (PS3.3 A.33), and the images that they are about."""

from collections.abc import Sequence
from typing import Any

from datasets import make_ct, uid
from pydicom.dataset import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

_PIXELS = (
    "PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "ImageType",
)  # fmt: skip


def item(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def reference(image: Dataset, *frames: int) -> Dataset:
    """An item that names an image, or some of its frames."""
    found = item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    if frames:
        found.ReferencedFrameNumber = list(frames)
    return found


def area(image: Dataset, left: int = 1, top: int = 1, right: int = 0, bottom: int = 0, **attributes: Any) -> Dataset:
    """An item of Displayed Area Selection Sequence: all of the image, or a part of it; pixels count from 1."""
    return item(
        DisplayedAreaTopLeftHandCorner=[left, top],
        DisplayedAreaBottomRightHandCorner=[right or image.Columns, bottom or image.Rows],
        **{"PresentationSizeMode": "SCALE TO FIT", "PresentationPixelAspectRatio": [1, 1]} | attributes,
    )


def make_state(images: Sequence[Dataset], label: str, **attributes: Any) -> Dataset:
    """A grayscale presentation state in its own series, about images of one series; `attributes` come last."""
    first = images[0]
    ds = make_ct(first.StudyInstanceUID, uid(), Modality="PR", SeriesNumber=90)
    for keyword in _PIXELS:
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = GrayscaleSoftcopyPresentationStateStorage
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = label, "made by a test", "Reader^One"
    ds.PresentationCreationDate, ds.PresentationCreationTime = "20240229", "110000"
    references = [reference(each) for each in images]
    ds.ReferencedSeriesSequence = [item(SeriesInstanceUID=first.SeriesInstanceUID, ReferencedImageSequence=references)]
    ds.DisplayedAreaSelectionSequence = [area(first)]
    ds.PresentationLUTShape = "IDENTITY"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds
