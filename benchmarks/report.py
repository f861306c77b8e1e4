"""The table and what it was measured on, as Markdown."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.goals import goal_cell
from benchmarks.peers import Peer
from benchmarks.rows import Row

BASELINE = "orthanc"


@dataclass(slots=True)
class Cell:
    """The numbers of one row and peer, one per round, or why there is none."""

    rounds: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def median(self) -> float | None:
        """The median of the rounds; None after a failure."""
        return statistics.median(self.rounds) if self.rounds and self.failure is None else None


Results = Mapping[str, Mapping[str, Cell]]


def markdown(rows: Sequence[Row], peers: Sequence[Peer], results: Results) -> str:
    """The table: medians, in brackets how many times as good as the baseline, goals; below it why cells are empty."""
    labels = " | ".join(peer.label for peer in peers)
    lines = [f"| | unit | {labels} | goal |", "|---|---|" + "---:|" * len(peers) + "---|"]
    for row in rows:
        cells = [_cell(row, peer.key, results[row.key]) for peer in peers]
        medians = {key: cell.median for key, cell in results[row.key].items()}
        cells.append(goal_cell(row.key, medians, lower_is_better=row.lower_is_better))
        lines.append(f"| {row.title} | {row.unit} | " + " | ".join(cells) + " |")
    reasons = [
        f"- {row.title}, {peer.label}: {failure}"
        for row in rows
        for peer in peers
        if (failure := results[row.key][peer.key].failure) is not None
    ]
    return "\n".join([*lines, *(["", "Not measured:", *reasons] if reasons else [])])


def _cell(row: Row, key: str, cells: Mapping[str, Cell]) -> str:
    value = cells[key].median
    if value is None:
        return "-"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    baseline = cells[BASELINE].median if BASELINE in cells else None
    if key == BASELINE or not baseline or not value:
        return text
    ratio = baseline / value if row.lower_is_better else value / baseline
    return f"{text} ({ratio:.1f}x)" if ratio < 100 else f"{text} ({ratio:.0f}x)"


def machine(directory: Path) -> str:
    """The machine in one line; `directory` is where the servers keep their files."""
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {_cpu_model()}; Python {platform.python_version()}; {platform.system()} "
        f"{platform.release()}; files on {file_system(directory)}; load average {load:.1f} at the start"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def file_system(directory: Path) -> str:
    """The type of the file system that `directory` is on."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown file system"
    path = directory.resolve()
    holding = [mount for mount in mounts if path.is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2] if holding else "an unknown file system"
