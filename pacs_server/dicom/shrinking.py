"""Makes grey pictures smaller: each new pixel is a weighted mean of those that it covers, near ones counting more.

This is Pillow's resize with Resampling.BILINEAR, to within two shades of 255, in half of the time: numpy adds up whole
rows at a time, and the columns are rows of the transposed picture.
"""

from functools import lru_cache
from typing import Any, Final

import numpy as np

# Larger pictures, or those that become smaller by more than this factor, are not for `shrunk`: of them Pillow makes
# smaller ones first, and they would need more memory here.
_MOST_SIDE: Final = 1024
_MOST_TIMES: Final = 4
# The weights of a pixel add up to 256, so that a sum of 8-bit samples fits into 16 bits.
_BITS: Final = 8


def can_shrink(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether `shrunk` makes a picture of one size from one of the other."""
    pairs = zip(before, after, strict=True)
    return all(new <= old <= min(_MOST_TIMES * new, _MOST_SIDE) for old, new in pairs)


def shrunk(samples: Any, width: int, height: int) -> Any:
    """The picture in another size; the samples have 8 bits and one dimension for rows and one for columns."""
    if height < len(samples):
        samples = _fewer_rows(samples, height)
    if width < samples.shape[1]:
        samples = np.ascontiguousarray(_fewer_rows(np.ascontiguousarray(samples.T), width).T)
    return samples


def _fewer_rows(samples: Any, count: int) -> Any:
    rows, weights = _weights(len(samples), count)
    total = samples.take(rows[0], axis=0).astype("u2")
    total *= weights[0]
    part = np.empty_like(total)
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        part[...] = samples.take(row, axis=0)
        part *= weight
        total += part
    total += 1 << _BITS - 1
    total >>= _BITS
    return total.astype("u1")


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> tuple[Any, Any]:
    """Which rows make up each new row, and how much each of them counts: one line for each row that counts."""
    times = before / after
    middles = (np.arange(after) + 0.5) * times
    first = np.maximum((middles - times + 0.5).astype("i8"), 0)
    rows = first + np.arange(int(2 * times) + 2)[:, np.newaxis]
    weights = np.clip(1 - np.abs(rows + 0.5 - middles) / times, 0, None)
    weights[rows >= before] = 0
    # Sums are rounded, and not each weight, so that all of them add up to the same.
    sums = np.rint(weights.cumsum(axis=0) * ((1 << _BITS) / weights.sum(axis=0))).astype("u2")
    sums[1:] -= sums[:-1].copy()
    counting = sums.any(axis=1)
    return np.minimum(rows, before - 1)[counting], sums[counting][:, :, np.newaxis]
