"""Studies of moving pictures: ultrasound and X-ray angiography, each one instance of many frames."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pacs_server.synthetic.organs import arteries, heart
from pacs_server.synthetic.phantom import noise
from pacs_server.synthetic.pixels import Frame, add_pixels, label, whole
from pacs_server.synthetic.study import Options, Series, Study, item

_US: Final = Series(1, "US", "1.2.840.10008.5.1.4.1.1.3.1", "Four chambers")
_XA: Final = Series(1, "XA", "1.2.840.10008.5.1.4.1.1.12.1", "Left coronary artery")
_FRAME_TIME: Final = 40.0
_DEPTH: Final = 16.0
"""How many centimetres the ultrasound sees."""


def us_images(frames: int, options: Options) -> Iterator[Dataset]:
    """An ultrasound of the heart in colours: one beat in this many frames."""
    study = Study.of("us", options, 128, "Ultrasound of the heart")
    scale = _DEPTH / study.size
    region = item(
        RegionSpatialFormat=1, RegionDataType=1, RegionFlags=2, RegionLocationMinX0=0, RegionLocationMinY0=0,
        RegionLocationMaxX1=study.size - 1, RegionLocationMaxY1=study.size - 1, PhysicalUnitsXDirection=3,
        PhysicalUnitsYDirection=3, PhysicalDeltaX=scale, PhysicalDeltaY=scale,
    )  # fmt: skip
    ds = study.start(_US, 1, _moving(study, frames), {
        "ImageType": ["ORIGINAL", "PRIMARY", "TTE", "0001"], "SequenceOfUltrasoundRegions": [region],
        "PatientOrientation": "", "BodyPartExamined": "HEART",
    })  # fmt: skip
    yield add_pixels(ds, study, (_echo(study, number, frames) for number in range(frames)))


def xa_images(frames: int, options: Options) -> Iterator[Dataset]:
    """An angiogram of the coronary arteries: contrast comes in this many frames."""
    study = Study.of("xa", options, 128, "Coronary angiography")
    ds = study.start(_XA, 1, _moving(study, frames), {
        "ImageType": ["ORIGINAL", "PRIMARY", "SINGLE PLANE"], "PixelIntensityRelationship": "LIN", "KVP": 75,
        "RadiationSetting": "GR", "XRayTubeCurrent": 600, "ExposureTime": 8, "PositionerMotion": "STATIC",
        "PositionerPrimaryAngle": 30, "PositionerSecondaryAngle": 20, "DistanceSourceToDetector": 1000,
        "DistanceSourceToPatient": 750, "ImagerPixelSpacing": [round(180 / study.size, 4)] * 2,
        "PatientOrientation": ["L", "F"], "BodyPartExamined": "HEART", "WindowCenter": 128,
        "WindowWidth": 256,
    })  # fmt: skip
    yield add_pixels(ds, study, (_exposure(study, number, frames) for number in range(frames)))


def _moving(study: Study, frames: int) -> dict[str, Any]:
    """The Cine and Multi-frame modules (PS3.3 C.7.6.5, C.7.6.6)."""
    return {
        "NumberOfFrames": frames, "FrameTime": _FRAME_TIME, "FrameIncrementPointer": Tag("FrameTime"),
        "AcquisitionDate": study.shared["StudyDate"], "AcquisitionTime": study.shared["StudyTime"],
        "BurnedInAnnotation": "YES" if study.text else "NO", "LossyImageCompression": "00",
    }  # fmt: skip


def _echo(study: Study, number: int, frames: int) -> Frame:
    grey, flow = heart(study.size, number / frames, study.noise(number))
    picture = np.repeat((255 * grey)[..., np.newaxis], 3, axis=2)
    # Red flows to the probe, blue away from it.
    picture[flow > 0.25] = (230, 60, 30)
    picture[flow < -0.25] = (40, 80, 240)
    frame = whole(picture, "u1", 0, 255)
    return label(frame, study, "US HEART", f"{number + 1}/{frames}", ((255, 255, 160), (0, 0, 0)))


def _exposure(study: Study, number: int, frames: int) -> Frame:
    values = arteries(study.size, 1.1 * (number + 1) / frames)
    frame = whole(255 * values + 6 * noise(study.noise(number), values.shape), "u1", 0, 255)
    return label(frame, study, "XA LCA", f"{number + 1}/{frames}", (255, 0))
