"""Pictures of organs that never were: a breast, a beating heart in ultrasound, arteries with contrast, tissue on glass.

Coordinates run from -1 to 1 over the picture: x to the right, y down.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pacs_server.synthetic.phantom import Plane, noise

_TURN: Final = 2 * math.pi
# Each artery: where it begins, where it bends, where it ends; its width there; how far the contrast has to go to it.
_ARTERIES: Final = (
    ((-0.55, -0.75), (-0.25, -0.85), (0.00, -0.50), 0.040, 0.0),
    ((0.00, -0.50), (0.30, -0.35), (0.25, 0.85), 0.032, 0.2),
    ((0.00, -0.50), (-0.35, -0.20), (-0.60, 0.55), 0.030, 0.2),
    ((0.19, -0.15), (0.60, -0.05), (0.72, 0.50), 0.020, 0.4),
    ((0.25, 0.20), (0.05, 0.30), (-0.05, 0.75), 0.016, 0.5),
    ((-0.33, -0.10), (-0.10, 0.05), (-0.22, 0.60), 0.016, 0.5),
    ((-0.50, 0.18), (-0.80, 0.25), (-0.85, 0.65), 0.014, 0.6),
)


def breast(size: int, seed: int, *, oblique: bool) -> Plane:
    """A breast from 0 (air) to 1 (dense), with the chest at the left; `oblique` shows the muscle of the chest too."""
    x, y = _square(size)
    y = y - 0.25 * oblique * (1 + x)
    # How far in a point lies: 0 is the skin.
    inside = 1 - np.hypot((x + 1) / 1.45, y / 0.78)
    body = inside > 0
    gland = np.hypot((x + 0.55) / 0.62, y / 0.48) + 0.16 * _texture(x, y, seed) < 0.85
    threads = 0.5 + 0.5 * _texture(3 * x, 3 * y, seed + 1)
    values = np.where(body, 0.28 + 0.25 * np.clip(4 * inside, 0, 1), 0.0)
    values = values + np.where(gland & body, 0.14 + 0.22 * threads, 0.0)
    values[body & (np.abs(inside) < 0.02)] = 0.62
    values[np.hypot(x + 0.35, y - 0.12) < 0.075] = 0.98
    if oblique:
        values[(y + 0.25 + 0.25 * (1 + x) < -1.15 * (x + 1) + 0.25) & (x < 0)] = 0.88
    return np.asarray(values, np.float32)


def heart(size: int, beat: float, seed: int) -> tuple[Plane, Plane]:
    """Four chambers of a heart in a sector, from 0 to 1, and the flow in it from -1 to 1; `beat` runs from 0 to 1."""
    x, y = _square(size)
    depth, angle = np.hypot(x, y + 0.95), np.arctan2(x, y + 0.95)
    sector = (np.abs(angle) < 0.68) & (depth < 1.85) & (depth > 0.12)
    squeeze = 0.5 - 0.5 * math.cos(_TURN * beat)
    values = np.full(x.shape, 0.30, np.float32)
    values[np.hypot(x / 0.66, (y - 0.08) / 0.78) < 1] = 0.62
    for centre_x, centre_y, width, height, part in (
        (-0.22, -0.20, 0.17, 0.36, 1.0), (0.22, -0.20, 0.15, 0.34, 1.0),
        (-0.22, 0.48, 0.20, 0.22, -0.6), (0.22, 0.48, 0.19, 0.22, -0.6),
    ):  # fmt: skip
        room = 1 - 0.28 * part * squeeze
        values[np.hypot((x - centre_x) / (width * room), (y - centre_y) / (height * room)) < 1] = 0.05
    # The valves, which open and close.
    for side in (-1, 1):
        opening = 0.16 * (1 - squeeze)
        valve = np.abs(y - 0.20 + opening * (1 - np.abs(x - 0.22 * side) / 0.18)) < 0.02
        values[valve & (np.abs(x - 0.22 * side) < 0.18)] = 0.9
    speckle = 1 + 0.45 * noise(seed, values.shape)
    flow = np.exp(-(((x + 0.22) / 0.10) ** 2) - ((y - 0.10) / 0.26) ** 2) * math.sin(_TURN * beat)
    return np.clip(values * speckle, 0, 1) * sector * (1.1 - 0.3 * depth), np.asarray(flow * sector, np.float32)


def arteries(size: int, filled: float) -> Plane:
    """The arteries of a heart from 0 to 1, dark where the contrast is; `filled` from 0 to 1 is how far it has come."""
    x, y = _square(size)
    values = 0.72 - 0.16 * x + 0.06 * np.sin(9 * y + 3 * x)
    values = np.where(y > 0.62 - 0.45 * x * x, values - 0.22, values)
    spine = np.exp(-((x / 0.22) ** 2))
    values = values - 0.10 * spine * (1 + 0.5 * np.sign(np.sin(14 * y)))
    for start, bend, end, width, late in _ARTERIES:
        for step in np.linspace(0, 1, max(32, size)):
            if late + 0.4 * step > filled:
                break
            centre = [
                (1 - step) ** 2 * a + 2 * step * (1 - step) * b + step**2 * c
                for a, b, c in zip(start, bend, end, strict=True)
            ]
            _dot(values, centre[0], centre[1], max(width * (1 - 0.45 * step), 2.2 / size))
    return np.asarray(np.clip(values, 0, 1), np.float32)


def _dot(values: Plane, x: float, y: float, radius: float) -> None:
    """Darken a round spot; only the pixels around it are looked at."""
    last = len(values) - 1
    column, row, reach = ((x + 1) / 2 * last, (y + 1) / 2 * last, radius / 2 * last)
    top, left = max(int(row - reach), 0), max(int(column - reach), 0)
    window = values[top : int(row + reach) + 2, left : int(column + reach) + 2]
    down, across = np.arange(window.shape[0]) + (top - row), np.arange(window.shape[1]) + (left - column)
    window[down[:, np.newaxis] ** 2 + across**2 < reach**2] = 0.16


def tissue(size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Tissue on glass, stained with haematoxylin and eosin: a picture in RGB."""
    x, y = _square(size)
    piece = np.hypot(x / 0.86, y / 0.74) + 0.10 * _texture(x, y, seed) < 1
    picture = np.full((size, size, 3), (244, 242, 245), np.float32)
    strands = _texture(5 * x, 5 * y, seed + 2)[..., np.newaxis]
    picture[piece] = (np.array((226, 150, 190)) + strands * np.array((14, 26, 18)))[piece]
    _glands(picture, x, y, piece)
    picture += 5 * noise(seed, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _glands(picture: npt.NDArray[Any], x: Plane, y: Plane, piece: npt.NDArray[np.bool_]) -> None:
    """Rings of cells around openings, with a nucleus in each cell."""
    row = np.round(y / 0.22)
    shift = 0.5 * (row % 2)
    column = np.round(x / 0.22 - shift)
    number = column + 7 * row
    across, along = x - 0.22 * (column + shift), (y - 0.22 * row) * (1 + 0.15 * np.sin(number))
    far, angle = np.hypot(across, along), np.arctan2(along, across)
    picture[piece & (far < 0.085)] = (205, 120, 178)
    picture[piece & (far < 0.085) & (far > 0.055) & (np.sin(11 * angle + number) > 0.1)] = (92, 58, 140)
    picture[piece & (far < 0.040)] = (246, 240, 246)


def _square(size: int) -> tuple[Plane, Plane]:
    across = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(across, across)
    return x, y


def _texture(x: Plane, y: Plane, seed: int) -> Plane:
    """Something irregular and smooth, from -1 to 1."""
    total = np.zeros(x.shape, np.float32)
    for number in range(1, 6):
        turned = 2.4 * number + seed % 100
        along = x * math.cos(turned) + y * math.sin(turned)
        total += np.sin((3 + 2.3 * number) * along + turned).astype(np.float32)
    return total / 5
