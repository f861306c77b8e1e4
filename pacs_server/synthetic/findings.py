"""What is in the images of a CT study: where the nodule is in each, how large, and how dense.

It is found by where the images lie, so that contours, segments and measurements agree with each other and with them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from pacs_server.synthetic import phantom
from pacs_server.synthetic.phantom import NODULE, REACH
from pacs_server.synthetic.stack import CHEST, millimetres

Mask = npt.NDArray[np.bool_]
Contour = list[tuple[float, float]]
_CORNERS = 36


@dataclass(frozen=True, slots=True)
class Slice:
    """A CT image and where it lies: the coordinates of its first pixel in mm, and its spacing."""

    image: Dataset
    left: float
    top: float
    height: float
    spacing: float

    @property
    def unit(self) -> float:
        """The coordinate z in units of the body."""
        return self.height / CHEST.height * 2 * REACH

    def mask(self, shown: Any) -> Mask:
        """The pixels in which something of the phantom is; `shown` is a function of x, y and z in units of the body."""
        rows, columns = int(self.image.Rows), int(self.image.Columns)
        scale = 2 * phantom.FIELD / CHEST.field
        x, y = np.meshgrid(
            (self.left + self.spacing * np.arange(columns)) * scale, (self.top + self.spacing * np.arange(rows)) * scale
        )
        return np.asarray(shown(x, y, self.unit))

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of a point in mm, from 0.5 in the middle of the first pixel (PS3.3 C.10.5.1.2)."""
        return round((x - self.left) / self.spacing + 0.5, 3), round((y - self.top) / self.spacing + 0.5, 3)


def slices(images: Sequence[Dataset]) -> list[Slice]:
    """The images of a CT series by height, the lowest one first. Raises ValueError if they are not axial images."""
    try:
        found = [_slice(image) for image in images]
    except AttributeError:
        raise ValueError("there have to be axial images with a place, as those of ct()") from None
    if not found:
        raise ValueError("there has to be an image")
    return sorted(found, key=lambda one: one.height)


def _slice(image: Dataset) -> Slice:
    left, top, height = map(float, image.ImagePositionPatient)
    return Slice(image, left, top, height, float(image.PixelSpacing[0]))


def nodule_contour(one: Slice, margin: float = 0.0) -> Contour:
    """The edge of the nodule in a slice in mm, `margin` mm further out; empty where it is not."""
    (x, y, z), (across, _, up) = NODULE
    reach = millimetres(across) + margin
    half = up * CHEST.height / (2 * REACH) + margin
    far = (one.height - z * CHEST.height / (2 * REACH)) / half
    return _ellipse(millimetres(x), millimetres(y), *[reach * math.sqrt(1 - far**2)] * 2) if abs(far) < 1 else []


def body_contour(one: Slice) -> Contour:
    """The skin in a slice, in mm."""
    return _ellipse(0.0, 0.0, millimetres(0.88 + 0.05 * one.unit), millimetres(0.64))


def lung_contour(one: Slice, side: int) -> Contour:
    """About the edge of a lung in a slice, in mm; `side` is 1 for the left one and -1 for the right one."""
    far = (one.unit - 0.05) / 1.02
    wide = math.sqrt(1 - far**2) if abs(far) < 1 else 0.0
    return _ellipse(side * millimetres(0.40), millimetres(-0.02), millimetres(0.30 * wide), millimetres(0.46 * wide))


def _ellipse(x: float, y: float, across: float, along: float) -> Contour:
    angles = [2 * math.pi * number / _CORNERS for number in range(_CORNERS)]
    return [(round(x + across * math.cos(a), 2), round(y + along * math.sin(a), 2)) for a in angles]
