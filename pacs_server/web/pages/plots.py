"""Plots as SVG that needs no script: the growth of the archive, as shapes for templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate, groupby
from typing import Final, Protocol

WIDTH: Final = 1000.0
HEIGHT: Final = 200.0
# More points than that nobody sees.
_MOST_POINTS: Final = 250


class Day(Protocol):
    """What was received on a day."""

    day: date
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Area:
    """A line over time with the area below it: the `d` of two paths, and what the axes say."""

    line: str
    area: str
    first: date
    last: date
    highest: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One day of a plot of bars: its place and size, and what was received."""

    x: float
    width: float
    height: float
    day: date
    bytes: int


@dataclass(frozen=True, slots=True)
class Month:
    """What was received in a month, for the table that says the same as the plots; `day` is its first one."""

    day: date
    instances: int
    bytes: int


def growth(days: Sequence[Day], today: date) -> Area | None:
    """How the archive grew from the first day until today; None if there is nothing to show."""
    if not days or not (total := sum(day.bytes for day in days)):
        return None
    first, last = days[0].day - timedelta(days=1), max(today, days[-1].day)
    span = (last - first).days
    sums = list(zip(days, accumulate(day.bytes for day in days), strict=True))
    # The last day is always there, so that the line ends at the total.
    step = max(1, len(sums) // _MOST_POINTS)
    points = [(0.0, HEIGHT)]
    for day, size in [*sums[:-1:step], sums[-1]]:
        points.append(((day.day - first).days / span * WIDTH, HEIGHT * (1 - size / total)))
    points.append((WIDTH, 0.0))
    line = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Area(line, f"{line} L{WIDTH:.0f},{HEIGHT:.0f} Z", first, last, total)


def bars(days: Sequence[Day], today: date, count: int = 60) -> list[Bar]:
    """The last `count` days until today, each as high as what came on it."""
    sizes = {day.day: day.bytes for day in days}
    shown = [today - timedelta(days=back) for back in range(count - 1, -1, -1)]
    highest = max((sizes.get(day, 0) for day in shown), default=0)
    each = WIDTH / count
    return [
        Bar(number * each, each * 0.75, HEIGHT * sizes.get(day, 0) / (highest or 1), day, sizes.get(day, 0))
        for number, day in enumerate(shown)
    ]


def months(days: Sequence[Day]) -> list[Month]:
    """The months in which something came, the last one first."""
    found = []
    for first, members in groupby(days, lambda day: day.day.replace(day=1)):
        every = list(members)
        found.append(Month(first, sum(day.instances for day in every), sum(day.bytes for day in every)))
    return found[::-1]
