"""The query parameters of rendered resources (PS3.18 8.3.5.1)."""

import math
import re
from typing import Final

from starlette.requests import Request

from pacs_server.dicom.lut import Window
from pacs_server.dicom.picture import Appearance, Region
from pacs_server.errors import InvalidRequest

_FUNCTIONS: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_ICC_PROFILES: Final = ("no", "yes", "srgb")
MOST_PIXELS: Final = 16_384
"""The greatest width and height of a picture."""


def appearance_of(request: Request) -> Appearance:
    """How the picture is to look; raises InvalidRequest."""
    width = height = region = None
    if text := request.query_params.get("viewport"):
        width, height, region = _viewport(text)
    profile = request.query_params.get("iccprofile", "no").lower()
    if profile not in _ICC_PROFILES:
        raise InvalidRequest(f"iccprofile is one of {', '.join(_ICC_PROFILES)}")
    quality = whole_number("quality", request.query_params.get("quality", "90"), 100)
    return Appearance(width=width, height=height, region=region, quality=quality, icc_profile=profile)


def window_of(request: Request) -> Window | None:
    """The window of the parameter `window` (center, width, function); raises InvalidRequest."""
    text = request.query_params.get("window")
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or parts[2].lower() not in _FUNCTIONS:
        raise InvalidRequest("window is a center, a width and one of linear, linear-exact and sigmoid, with commas")
    return window_from(parts[0], parts[1], _FUNCTIONS[parts[2].lower()])


def window_from(center: str, width: str, function: str) -> Window:
    """A window; raises InvalidRequest."""
    window = Window(number("the center of a window", center), number("the width of a window", width), function)
    # PS3.3 C.11.2.1.2: at least 1 for LINEAR, more than 0 for the others.
    if window.width <= 0 or (function == "LINEAR" and window.width < 1):
        raise InvalidRequest("the width of a window is 1 at least, and more than 0 for linear-exact and sigmoid")
    return window


def ignored_annotations(request: Request) -> str:
    """What the parameter `annotation` asks for: nothing of it can be had (PS3.18 8.3.5.1.1)."""
    words = re.findall(r"[a-z0-9-]+", request.query_params.get("annotation", "").lower())
    return ", ".join(words[:10])


def _viewport(text: str) -> tuple[int, int, Region | None]:
    """Width and height of the picture, and the region of the image that it shows."""
    parts = text.split(",")
    if len(parts) not in (2, 6):
        raise InvalidRequest("viewport is a width and a height, and perhaps the region: x, y, width, height")
    width, height = (whole_number("the size of a viewport", part, MOST_PIXELS) for part in parts[:2])
    if len(parts) == 2:
        return width, height, None
    x, y, across, down = (number("a region", part) if part.strip() else None for part in parts[2:])
    if 0 in (across, down):
        raise InvalidRequest("the region of a viewport has no pixels")
    return width, height, Region(x or 0, y or 0, across, down)


def number(what: str, text: str) -> float:
    """A number; raises InvalidRequest."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e15:
        raise InvalidRequest(f"{what} is a number, not {text[:40]!r}")
    return value


def whole_number(what: str, text: str, most: int) -> int:
    """A whole number from 1 to `most`; raises InvalidRequest."""
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"{what} is a whole number from 1 to {most}, not {text[:40]!r}")
    return int(text)
