"""Bodies that never were: a chest for CT, PET and radiographs, a head for MR, drawn from ellipsoids in any size.

Coordinates are those of the patient (PS3.3 C.7.6.2.1.1) in units of the body: x to the left, y to the back, z to the
head. The body lies within -1 to 1, and pictures show `FIELD` to each side.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]

FIELD: Final = 1.15
"""How far pictures reach to each side of the centre, in units of the body."""
REACH: Final = 0.95
"""How far slices reach up and down, in units of the body."""
NODULE: Final[tuple[Point, Point]] = (-0.46, -0.12, 0.10), (0.085, 0.085, 0.09)
"""Centre and radii of the nodule in the right lung."""


def chest(z: float, size: int) -> Plane:
    """An axial slice of the chest in Hounsfield units."""
    return _chest(*plane(size), z)


def head(z: float, size: int, *, t2: bool) -> Plane:
    """An axial slice of the head, T1 or T2 weighted, from 0 to about 2300."""
    return _head(*plane(size), z, t2=t2)


def uptake(z: float, size: int) -> Plane:
    """An axial slice of the chest as PET shows it: how much of a tracer is where, as a multiple of the mean (SUV)."""
    x, y = plane(size)
    values = np.zeros(x.shape, np.float32)
    values[wall(x, y, z) < 1] = 0.7
    values[lung(np.abs(x), y, z)] = 0.3
    values[liver(x, y, z)] = 2.2
    values[_ball(x, y, z, (0.14, -0.14, -0.25), (0.24, 0.20, 0.40))] = 4.5
    values[_ball(x, y, z, (0.14, -0.14, -0.25), (0.13, 0.11, 0.28))] = 1.6
    values[nodule(x, y, z)] = 9.0
    # A scanner cannot see edges this sharp.
    for _ in range(max(1, size // 64)):
        values[1:-1, 1:-1] = sum(values[1 + a : size - 1 + a, 1 + b : size - 1 + b] for a in _STEPS for b in _STEPS) / 9
    return values


def radiograph(size: int, reach: float = REACH) -> Plane:
    """The chest from the front: what X-rays would leave behind it, from 0 to 3800, bright where it is dense."""
    dense = stretched(stretched(_shadow(min(size, 128), reach), size).T, size).T
    light = np.exp(-dense / dense.max() * 2.6)
    return np.asarray((1 - light) / (1 - light.min()) * 3800, np.float32)


@lru_cache(maxsize=2)
def _shadow(size: int, reach: float) -> Plane:
    # What lies behind each other adds up; air lets everything through.
    x, y = plane(size)
    heights = np.linspace(reach, -reach, min(size, 64))
    return np.stack([np.maximum(_chest(x, y, z) + 1000, 0).sum(axis=0) for z in heights])


def wall(x: Plane, y: Plane, z: float) -> Plane:
    """How far out a point lies: 1 is the skin of the chest."""
    return np.asarray(np.hypot(x / (0.88 + 0.05 * z), y / 0.64))


def lung(side: Plane, y: Plane, z: float) -> Mask:
    """Where a lung is; `side` is how far a point lies to the side of it."""
    inside = _ball(side, y, z, (0.40, -0.02, 0.05), (0.30, 0.46, 1.02))
    return np.asarray(inside & (wall(side, y, z) < 0.86))


def heart(x: Plane, y: Plane, z: float) -> Mask:
    """Where the heart is."""
    return _ball(x, y, z, (0.10, -0.16, -0.25), (0.30, 0.25, 0.52))


def liver(x: Plane, y: Plane, z: float) -> Mask:
    """Where the liver is."""
    return _ball(x, y, z, (-0.55, -0.02, -1.05), (0.55, 0.55, 0.45)) & (wall(x, y, z) < 0.9)


def nodule(x: Plane, y: Plane, z: float) -> Mask:
    """Where the nodule is."""
    return _ball(x, y, z, *NODULE)


# ------------------------------------------------------------------------------------ bodies


def _chest(x: Plane, y: Plane, z: float) -> Plane:
    values = np.full(x.shape, -1000, np.float32)
    # The table, and the patient on it.
    values[(np.abs(y - 0.93 - 0.12 * x**2) < 0.02) & (np.abs(x) < 0.8)] = -300
    out, air = wall(x, y, z), lung(np.abs(x), y, z)
    values[out < 1] = -90
    values[out < 0.94] = 45
    values[air] = -850 + 60 * np.sin(23 * x[air]) * np.sin(19 * y[air] + 7 * z)
    _vessels(values, x, y, z, air)
    values[heart(x, y, z)] = 60
    values[_ball(x, y, z, (0.14, -0.14, -0.25), (0.13, 0.11, 0.28))] = 190
    values[liver(x, y, z)] = 70
    values[(np.hypot(x - 0.13, y - 0.32) < 0.065) & (out < 0.9)] = 210
    values[(np.hypot(x, y + 0.02 - 0.05 * z) < 0.055) & (z > 0.1)] = -990
    values[nodule(x, y, z)] = 55
    return _bones(values, x, y, z, out)


def _vessels(values: Plane, x: Plane, y: Plane, z: float, air: Mask) -> None:
    across, along = np.abs(x[air]) - 0.40, y[air] + 0.02
    inside = np.zeros(across.shape, bool)
    for number in range(14):
        angle, far, radius = 2.399 * number + z, 0.05 + 0.017 * number, 0.026 - 0.0012 * number
        there = (across - far * np.cos(angle)) ** 2 + (along - 1.3 * far * np.sin(angle)) ** 2
        inside |= there < radius**2
    shades = values[air]
    shades[inside] = 40
    values[air] = shades


def _bones(values: Plane, x: Plane, y: Plane, z: float, out: Plane) -> Plane:
    # A vertebra and a disc, again and again.
    disc = np.sin(16 * z) > 0.8
    spine = np.hypot(x / 1.25, y - 0.40)
    values[spine < 0.13] = 90 if disc else 260
    if not disc:
        values[(spine > 0.105) & (spine < 0.13)] = 650
    values[(np.abs(x) < 0.035) & (y > 0.52) & (y < 0.60)] = 600
    values[np.hypot(x, y - 0.545) < 0.05] = 25
    rib = (out > 0.86) & (out < 0.915) & (np.sin(15 * z + 7 * y) > 0.35) & (np.abs(x) > 0.1)
    values[rib] = 520
    values[(out > 0.82) & (out < 0.90) & (np.abs(x) < 0.09) & (y < 0) & (z > -0.6)] = 420
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


def _ball(x: Plane, y: Plane, z: float, centre: Point, radii: Point) -> Mask:
    """Where an ellipsoid is."""
    squares = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2
    return np.asarray(squares + ((z - centre[2]) / radii[2]) ** 2 < 1)


# ------------------------------------------------------------------------------------ planes

_STEPS: Final = (-1, 0, 1)


@lru_cache(maxsize=4)
def plane(size: int) -> tuple[Plane, Plane]:
    """The coordinates x and y of the pixels of a square picture; nobody may change them."""
    across = np.linspace(-FIELD, FIELD, size, dtype=np.float32)
    x, y = np.meshgrid(across, across)
    return x, y


def noise(seed: int, shape: tuple[int, ...]) -> Plane:
    """Noise around 0 that is the same wherever and whenever it is made, unlike that of random generators."""
    total = np.zeros(shape, np.float32)
    place = np.arange(total.size, dtype=np.uint64).reshape(shape)
    for turn in range(2):
        mixed = (place + np.uint64(1 + 1009 * (seed % (1 << 32)) + 97 * turn)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        total += (mixed >> np.uint64(40)).astype(np.float32) / (1 << 24)
    return np.asarray(1.4 * (total - 1), np.float32)


def stretched(values: Plane, rows: int) -> Plane:
    """The same picture with so many rows, with values in between."""
    place = np.linspace(0, len(values) - 1, rows)
    above = np.minimum(place.astype(int), len(values) - 2)
    part = (place - above)[:, np.newaxis]
    return np.asarray(values[above] * (1 - part) + values[above + 1] * part, np.float32)
