"""Where the slices of a volume lie: parallel, axial, of one frame of reference (PS3.3 C.7.6.2)."""

from dataclasses import dataclass
from typing import Any, Final

from pacs_server.synthetic.phantom import FIELD, NODULE, REACH

AXIAL: Final = [1, 0, 0, 0, 1, 0]


@dataclass(frozen=True, slots=True)
class Body:
    """How large a phantom is, in mm: the field of view, the height of what can be seen, and the thickest slice.

    Few slices lie around `focus`, a height in units of the body.
    """

    field: float
    height: float
    thickest: float
    focus: float


CHEST: Final = Body(408.0, 312.0, 8.0, NODULE[0][2])
HEAD: Final = Body(229.5, 114.0, 6.0, 0.1)


@dataclass(frozen=True, slots=True)
class Stack:
    """So many slices of a body, the lowest one first, counted from 0."""

    body: Body
    images: int
    size: int

    @property
    def spacing(self) -> float:
        """Between the centres of two pixels, in mm."""
        return round(self.body.field / (self.size - 1), 4)

    @property
    def step(self) -> float:
        """Between two slices, in mm."""
        return round(min(self.body.thickest, self.body.height / max(self.images - 1, 1)), 4)

    def height(self, number: int) -> float:
        """The coordinate z of a slice, in mm."""
        extent = (self.images - 1) * self.step
        middle = self.body.focus * self.body.height / (2 * REACH) * (1 - extent / self.body.height)
        return round(round(middle - extent / 2, 2) + number * self.step, 4)

    def unit(self, number: int) -> float:
        """The coordinate z of a slice in units of the body."""
        return self.height(number) / self.body.height * 2 * REACH

    def position(self, number: int) -> list[float]:
        """Image Position (Patient) of a slice: where the centre of its first pixel is."""
        edge = round(-self.spacing * (self.size - 1) / 2, 4)
        return [edge, edge, self.height(number)]

    def plane(self, number: int) -> dict[str, Any]:
        """The Image Plane module of a slice."""
        return {
            "ImagePositionPatient": self.position(number),
            "ImageOrientationPatient": AXIAL,
            "PixelSpacing": [self.spacing, self.spacing],
            "SliceThickness": self.step,
            "SpacingBetweenSlices": self.step,
            "SliceLocation": self.height(number),
            "PositionReferenceIndicator": "",
        }


def units(length: Any, body: Body = CHEST) -> Any:
    """Lengths across the body, given in mm, in its units."""
    return length * (2 * FIELD / body.field)


def millimetres(length: float, body: Body = CHEST) -> float:
    """A length across the body, given in its units, in mm."""
    return length * body.field / (2 * FIELD)
