"""Images of bodies that never were: a chest for CT and radiographs, a head for MR, drawn from ellipsoids.

Coordinates are those of the patient (PS3.3 C.7.6.2.1.1), from -1 to 1: x to the left, y to the back, z to the head.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating[Any]]

SIZE: Final = 256
CHEST_SLICES: Final = 40
HEAD_SLICES: Final = 20
# For the part of a picture that shows a patient, not all of the field of view.
_FIELD: Final = 1.15


def chest_slice(number: int) -> npt.NDArray[np.int16]:
    """An axial slice of the chest in Hounsfield units, the lowest one first; `number` is below CHEST_SLICES."""
    x, y = _plane()
    values = _chest(x, y, _height(number, CHEST_SLICES)) + 14 * _noise(number)
    return np.clip(values, -1024, 3071).astype(np.int16)


def radiograph(rows: int = 1024, columns: int = 1024) -> npt.NDArray[np.uint16]:
    """The chest from the front: what X-rays would leave behind it, with 12 bits, bright where it is dense."""
    x, y = _plane(SIZE // 2)
    # What lies behind each other adds up; air lets everything through.
    heights = np.linspace(0.95, -0.95, 64)
    sums = np.stack([np.maximum(_chest(x, y, z) + 1000, 0).sum(axis=0) for z in heights])
    dense = _stretched(_stretched(sums, rows).T, columns).T
    light = np.exp(-dense / dense.max() * 2.6)
    shades = (1 - light) / (1 - light.min()) * 3800 + 60 * _noise(7, rows, columns)
    return np.asarray(np.clip(shades, 0, 4095), np.uint16)


def head_slice(number: int, *, t2: bool) -> npt.NDArray[np.uint16]:
    """An axial slice of the head, T1 or T2 weighted, the lowest one first; `number` is below HEAD_SLICES."""
    x, y = _plane()
    values = _head(x, y, _height(number, HEAD_SLICES), t2=t2) + 22 * _noise(number + 100 * t2)
    return np.clip(values, 0, 4095).astype(np.uint16)


# ------------------------------------------------------------------------------------ bodies


def _chest(x: Plane, y: Plane, z: float) -> Plane:
    values = np.full(x.shape, -1000, np.float32)
    # The table, and the patient on it.
    values[(np.abs(y - 0.93 - 0.12 * x**2) < 0.02) & (np.abs(x) < 0.8)] = -300
    wall = np.hypot(x / (0.88 + 0.05 * z), y / 0.64)
    values[wall < 1] = -90
    values[wall < 0.94] = 45
    lung = _ball(np.abs(x), y, z, (0.40, -0.02, 0.05), (0.30, 0.46, 1.02)) & (wall < 0.86)
    values[lung] = -850 + 60 * np.sin(23 * x[lung]) * np.sin(19 * y[lung] + 7 * z)
    _vessels(values, x, y, z, lung)
    values[_ball(x, y, z, (0.10, -0.16, -0.25), (0.30, 0.25, 0.52))] = 60
    values[_ball(x, y, z, (0.14, -0.14, -0.25), (0.13, 0.11, 0.28))] = 190
    values[_ball(x, y, z, (-0.55, -0.02, -1.05), (0.55, 0.55, 0.45)) & (wall < 0.9)] = 70
    values[(np.hypot(x - 0.13, y - 0.32) < 0.065) & (wall < 0.9)] = 210
    values[(np.hypot(x, y + 0.02 - 0.05 * z) < 0.055) & (z > 0.1)] = -990
    values[_ball(x, y, z, (-0.46, -0.12, 0.28), (0.065, 0.065, 0.09))] = 55
    return _bones(values, x, y, z, wall)


def _vessels(values: Plane, x: Plane, y: Plane, z: float, lung: npt.NDArray[np.bool_]) -> None:
    across, along = np.abs(x[lung]) - 0.40, y[lung] + 0.02
    inside = np.zeros(across.shape, bool)
    for number in range(14):
        angle, far, radius = 2.399 * number + z, 0.05 + 0.017 * number, 0.026 - 0.0012 * number
        there = (across - far * np.cos(angle)) ** 2 + (along - 1.3 * far * np.sin(angle)) ** 2
        inside |= there < radius**2
    shades = values[lung]
    shades[inside] = 40
    values[lung] = shades


def _bones(values: Plane, x: Plane, y: Plane, z: float, wall: Plane) -> Plane:
    # A vertebra and a disc, again and again.
    disc = np.sin(16 * z) > 0.8
    spine = np.hypot(x / 1.25, y - 0.40)
    values[spine < 0.13] = 90 if disc else 260
    if not disc:
        values[(spine > 0.105) & (spine < 0.13)] = 650
    values[(np.abs(x) < 0.035) & (y > 0.52) & (y < 0.60)] = 600
    values[np.hypot(x, y - 0.545) < 0.05] = 25
    rib = (wall > 0.86) & (wall < 0.915) & (np.sin(15 * z + 7 * y) > 0.35) & (np.abs(x) > 0.1)
    values[rib] = 520
    values[(wall > 0.82) & (wall < 0.90) & (np.abs(x) < 0.09) & (y < 0) & (z > -0.6)] = 420
    return values


def _head(x: Plane, y: Plane, z: float, *, t2: bool) -> Plane:
    fat, bone, grey, white, water = (900, 60, 1050, 780, 2100) if t2 else (2000, 60, 820, 1150, 260)
    around = np.sqrt((x / 0.66) ** 2 + (y / 0.84) ** 2 + (0.72 * (z + 0.1)) ** 2)
    values = np.full(x.shape, 18, np.float32)
    values[around < 1] = fat
    values[around < 0.94] = bone
    values[around < 0.86] = water
    # Folds: the grey matter goes in and out.
    folds = 0.80 + 0.025 * np.sin(26 * np.arctan2(y, x) + 9 * z)
    values[around < folds] = grey
    values[around < folds - 0.085] = white
    values[(np.abs(x) < 0.012) & (around < 0.84)] = water
    side = np.abs(x)
    values[_ball(side, y, z, (0.27, 0.02, 0.0), (0.09, 0.13, 0.30))] = grey
    values[_ball(side, y, z, (0.17, -0.05, -0.02), (0.08, 0.10, 0.26))] = grey
    values[_ball(side, y - 0.25 * side, z, (0.10, -0.13, 0.12), (0.06, 0.22, 0.30))] = water
    values[_ball(side, y + 0.4 * side, z, (0.12, 0.25, 0.08), (0.05, 0.14, 0.26))] = water
    values[_ball(x, y, z, (0.30, 0.30, 0.20), (0.07, 0.08, 0.16))] = 2300 if t2 else 500
    if z < -0.55:
        values[_ball(side, y, z, (0.30, -0.78, -0.75), (0.15, 0.17, 0.22))] = water if t2 else 500
    return values


def _ball(
    x: Plane, y: Plane, z: float, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> npt.NDArray[np.bool_]:
    """Where an ellipsoid is."""
    squares = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return np.asarray(squares + ((z - centre[2]) / radii[2]) ** 2 < 1)


# ------------------------------------------------------------------------------------ planes


@lru_cache(maxsize=2)
def _plane(size: int = SIZE) -> tuple[Plane, Plane]:
    across = np.linspace(-_FIELD, _FIELD, size, dtype=np.float32)
    x, y = np.meshgrid(across, across)
    return x, y


def _height(number: int, slices: int) -> float:
    return -0.95 + 1.9 * number / (slices - 1)


def _noise(seed: int, rows: int = SIZE, columns: int = SIZE) -> Plane:
    """Noise around 0 that is the same wherever and whenever it is made, unlike that of random generators."""
    total = np.zeros((rows, columns), np.float32)
    place = np.arange(rows * columns, dtype=np.uint64).reshape(rows, columns)
    for turn in range(2):
        mixed = (place + np.uint64(1 + 1009 * seed + 97 * turn)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        total += (mixed >> np.uint64(40)).astype(np.float32) / (1 << 24)
    return np.asarray(1.4 * (total - 1), np.float32)


def _stretched(values: Plane, rows: int) -> Plane:
    """The same picture with so many rows, with values in between."""
    place = np.linspace(0, len(values) - 1, rows)
    above = np.minimum(place.astype(int), len(values) - 2)
    part = (place - above)[:, np.newaxis]
    return np.asarray(values[above] * (1 - part) + values[above + 1] * part, np.float32)
