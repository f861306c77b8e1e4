"""What tests of the quick look need: images that are easy to recognise, and what is on its canvas."""

from typing import Any

import numpy as np
from datasets import make_ct
from playwright.sync_api import Page, expect
from pydicom.dataset import Dataset

SIDE = 64
# Reads the canvas in the middle of each quarter of the image, which is as high as the canvas: the colours.
READ = """() => {
  const canvas = document.querySelector('.pane.active canvas'), { width, height } = canvas;
  const quarter = Math.min(width, height) / 4;
  const copy = Object.assign(document.createElement('canvas'), { width, height });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  return [[-1, -1], [1, -1], [-1, 1], [1, 1]].map(([x, y]) =>
    [...context.getImageData(width / 2 + x * quarter, height / 2 + y * quarter, 1, 1).data].slice(0, 3));
}"""
# Reads the canvas in the middle of each pixel of a picture that is as large as possible.
PIXELS = """([columns, rows]) => {
  const canvas = document.querySelector('.pane.active canvas'), { width, height } = canvas;
  const scale = Math.min(width / columns, height / rows);
  const copy = Object.assign(document.createElement('canvas'), { width, height });
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const all = context.getImageData(0, 0, width, height).data;
  return Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_, column) => {
    const x = Math.floor(width / 2 + (column + 0.5 - columns / 2) * scale);
    const y = Math.floor(height / 2 + (row + 0.5 - rows / 2) * scale);
    return [...all.slice(4 * (y * width + x), 4 * (y * width + x) + 3)];
  }));
}"""
Quarters = list[list[int]]


def image(values: list[int], study: str, number: int = 1, series: str | None = None, **attributes: object) -> Dataset:
    """A CT image of four quarters with these stored values."""
    ds = make_ct(study, series, rows=SIDE, columns=SIDE, SeriesNumber=number, **attributes)
    half = SIDE // 2
    ds.PixelData = b"".join(
        value.to_bytes(2, "little", signed=value < 0) * half for pair in (values[:2], values[2:]) for _ in range(half)
        for value in pair
    )  # fmt: skip
    return ds


def grey(levels: list[int]) -> Quarters:
    """The quarters of these shades."""
    return [[level] * 3 for level in levels]


def close(found: Quarters, wanted: Quarters, apart: int = 0) -> bool:
    """Whether no part of a colour is further apart."""
    return all(
        abs(a - b) <= apart for left, right in zip(found, wanted, strict=True) for a, b in zip(left, right, strict=True)
    )


def shown(page: Page, ds: Dataset, frame: int = 1) -> Quarters:
    """The quarters once this image is on the canvas."""
    expect(page.locator(f'.pane.active[data-shown="{ds.SOPInstanceUID}/{frame}"]')).to_be_visible()
    found: Quarters = page.evaluate(READ)
    return found


def pixels(page: Page, columns: int, rows: int) -> Any:
    """The colours on the canvas, (rows, columns, 3), in the middle of each pixel of a picture of this size."""
    return np.array(page.evaluate(PIXELS, [columns, rows]))
