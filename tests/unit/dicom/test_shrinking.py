"""Smaller pictures are those of Pillow's bilinear filter."""

import numpy as np
import pytest
from PIL import Image

from pacs_server.dicom.shrinking import can_shrink, shrunk

NOISE = np.random.default_rng(1).integers(0, 256, (150, 200)).astype("u1")


@pytest.mark.parametrize("size", [(200, 150), (199, 150), (200, 149), (190, 100), (100, 75), (77, 131), (50, 38)])
def test_smaller_pictures_are_those_of_pillow(size: tuple[int, int]) -> None:
    assert can_shrink((200, 150), size)
    wanted = np.asarray(Image.fromarray(NOISE).resize(size, Image.Resampling.BILINEAR)).astype(int)
    got = shrunk(NOISE, *size)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 2
    assert np.abs(got - wanted).mean() < 0.3


@pytest.mark.parametrize("shade", [0, 1, 128, 255])
def test_a_plain_shade_stays(shade: int) -> None:
    assert np.array_equal(shrunk(np.full((40, 60), shade, "u1"), 47, 13), np.full((13, 47), shade, "u1"))


def test_what_is_larger_or_becomes_much_smaller_is_for_pillow() -> None:
    assert not can_shrink((200, 150), (201, 150))
    assert not can_shrink((200, 150), (49, 150))
    assert not can_shrink((1025, 150), (1000, 150))
