"""Crops, scales and encodes pictures as the media types that browsers show (PS3.18 8.3.5, 8.7.4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from PIL import Image, ImageCms

from pacs_server.dicom.rendering import Picture
from pacs_server.dicom.shrinking import can_shrink, shrunk
from pacs_server.errors import InvalidRequest

JPEG: Final = "image/jpeg"
PNG: Final = "image/png"
GIF: Final = "image/gif"
PICTURES: Final = (JPEG, PNG, GIF)
"""The media types of pictures, the default first."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image, in pixels or, if `relative`, as parts of its width and height.

    No width or height means up to the end. A negative one flips the picture (PS3.18 8.3.5.1.3).
    """

    x: float = 0
    y: float = 0
    width: float | None = None
    height: float | None = None
    relative: bool = False

    def of(self, image: Image.Image) -> Image.Image:
        """The region of an image; raises InvalidRequest if it lies beyond."""
        across, down = image.size if self.relative else (1, 1)
        left, right, mirrored = _span(self.x * across, self.width and self.width * across, image.width)
        upper, lower, flipped = _span(self.y * down, self.height and self.height * down, image.height)
        image = image.crop((left, upper, right, lower))
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if flipped else image


def _span(start: float, length: float | None, size: int) -> tuple[int, int, bool]:
    end = size if length is None else start + abs(length)
    first, last = max(0, round(start)), min(size, round(end))
    if first >= last:
        raise InvalidRequest("the region to show lies outside of the image")
    return first, last, length is not None and length < 0


@dataclass(frozen=True, slots=True)
class Appearance:
    """How a picture is to look; it is scaled to fit into `width` and `height`, as far as they are given."""

    media_type: str = JPEG
    width: int | None = None
    height: int | None = None
    region: Region | None = None
    quality: int = 90
    icc_profile: str = "no"


def encode(picture: Picture, appearance: Appearance) -> bytes:
    """The picture in the media type of `appearance`."""
    image, profile = _shown(picture, appearance)
    out = BytesIO()
    extra: dict[str, Any] = {"icc_profile": profile} if profile else {}
    if appearance.media_type == PNG:
        # Level 1 is four times as fast as the usual 6 and makes files that are a tenth larger.
        image.save(out, "PNG", compress_level=1, **extra)
    elif appearance.media_type == GIF:
        image.save(out, "GIF")
    else:
        subsampling = 0 if appearance.quality >= 90 else 2
        image.save(out, "JPEG", quality=appearance.quality, subsampling=subsampling, **extra)
    return out.getvalue()


def encode_animation(pictures: Iterable[Picture], milliseconds: float, appearance: Appearance) -> bytes:
    """All pictures as one GIF that repeats, each shown for so long."""
    images = [_shown(picture, appearance)[0] for picture in pictures]
    out = BytesIO()
    # PS3.3 does not limit the rate, but browsers slow down what takes less than 20 ms a picture.
    duration = max(20, round(milliseconds))
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return out.getvalue()


def _shown(picture: Picture, appearance: Appearance) -> tuple[Image.Image, bytes]:
    """The image as it is to be encoded, and the ICC profile to go with it."""
    samples = picture.samples
    size = _fitted((samples.shape[1], samples.shape[0]), appearance)
    if samples.ndim == 2 and appearance.region is None and can_shrink((samples.shape[1], samples.shape[0]), size):
        return Image.fromarray(shrunk(samples, *size)), b""
    image = Image.fromarray(samples)
    profile = b"" if appearance.icc_profile == "no" else picture.icc_profile
    if profile and appearance.icc_profile == "srgb":
        image, profile = _in_srgb(image, profile)
    if appearance.region is not None:
        image = appearance.region.of(image)
    size = _fitted(image.size, appearance)
    return (image if size == image.size else _resized(image, size)), profile


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Reducing by whole numbers first is much faster, and nothing of it can be seen.
    smaller = size[0] < image.width
    how = Image.Resampling.BILINEAR if smaller else Image.Resampling.BICUBIC
    return image.resize(size, how, reducing_gap=2.0)


def _fitted(size: tuple[int, int], appearance: Appearance) -> tuple[int, int]:
    """The size of the picture: the aspect ratio stays (PS3.18 8.3.5.1.3)."""
    ratios = [wanted / now for wanted, now in zip((appearance.width, appearance.height), size, strict=True) if wanted]
    if not ratios:
        return size
    width, height = (max(1, round(min(ratios) * each)) for each in size)
    return width, height


def _in_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, bytes]:
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, target, outputMode=image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, b""  # a profile that is none, or one for something else
    return converted or image, target.tobytes()
