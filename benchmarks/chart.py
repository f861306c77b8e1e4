"""Lines over sizes as SVG, both axes logarithmic."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _LEGEND, _LINE = 640, 420, 60, 20, 330, 16
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
_DASHES = ("", "6 3", "2 2", "8 2 2 2")


@dataclass(frozen=True, slots=True)
class _Axis:
    """Whole decades from one end of the picture to the other."""

    low: int
    high: int
    start: float
    length: float

    def at(self, value: float) -> float:
        return self.start + self.length * (math.log10(value) - self.low) / (self.high - self.low)

    def marks(self) -> Iterator[tuple[float, str]]:
        for power in range(self.low, self.high + 1):
            yield self.at(10.0**power), f"{10.0**power:,g}" if power < 0 else f"{10**power:,}"


def chart(sizes: Sequence[int], lines: Mapping[str, Sequence[float]]) -> str:
    """A line of milliseconds for each row, with a legend."""
    across = _axis(sizes, _LEFT, _WIDTH)
    # From the bottom up.
    up = _axis([value for values in lines.values() for value in values], _TOP + _HEIGHT, -_HEIGHT)
    height = max(_HEIGHT, _LINE * len(lines)) + _TOP + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + _LEGEND}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    ]
    for y, mark in up.marks():
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/><text x="4" y="{y:.1f}">{mark} ms</text>')
    for x, mark in across.marks():
        parts.append(f'<path d="M{x:.1f} {_TOP}v{_HEIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + _LINE}" text-anchor="middle">{mark}</text>')
    for number, (title, values) in enumerate(lines.items()):
        points = " ".join(
            f"{across.at(size):.1f},{up.at(value):.1f}" for size, value in zip(sizes, values, strict=True)
        )
        parts += _line(number, title, points)
    return "\n".join([*parts, "</svg>\n"])


def _line(number: int, title: str, points: str) -> list[str]:
    """A line and its entry in the legend."""
    dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    style = f'stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-dasharray="{dashes}"'
    x, y = _LEFT + _WIDTH + 20, _TOP + _LINE * number
    return [
        f'<polyline points="{points}" fill="none" stroke-width="1.5" {style}/>',
        f'<path d="M{x} {y}h24" stroke-width="2" {style}/><text x="{x + 30}" y="{y + 4}">{escape(title)}</text>',
    ]


def _axis(values: Sequence[float], start: float, length: float) -> _Axis:
    """The decades around all values, one at least."""
    low = math.floor(math.log10(min(values)))
    return _Axis(low, max(math.ceil(math.log10(max(values))), low + 1), start, length)
