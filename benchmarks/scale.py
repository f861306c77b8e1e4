"""What a store and queries cost the index at growing sizes, by the server's own classes.

python -m benchmarks.scale [--instances N ...] [--database postgresql://...] [--json FILE] [--plot FILE.svg]
fills an empty index to each size in turn and prints a table: medians in milliseconds, matches in brackets.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.filling import PER_STUDY, STUDIES_PER_PATIENT, fill
from benchmarks.report import machine
from benchmarks.scale_rows import ROWS, fill_worklist, measure
from pacs_server.index.database import Database

SIZES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row at one size: medians of the milliseconds and of the matches."""

    milliseconds: float
    matches: float


Results = dict[str, list[Cell]]


def main() -> int:
    """Measure as the command line says; returns the exit code."""
    options = _options()
    sizes = sorted(set(options.instances))
    with tempfile.TemporaryDirectory(prefix="pacs-scale-", dir=options.directory) as name:
        about = machine(Path(name))
        results = run(options.database or f"sqlite:///{name}/pacs.db", sizes)
    print(f"{about}; {'PostgreSQL' if options.database else 'SQLite'}.\n")
    print(markdown(sizes, results))
    if options.json is not None:
        rows = {title: [[cell.milliseconds, cell.matches] for cell in cells] for title, cells in results.items()}
        options.json.write_text(json.dumps({"machine": about, "instances": sizes, "rows": rows}, indent=1) + "\n")
    if options.plot is not None:
        lines = {title: [cell.milliseconds for cell in cells] for title, cells in results.items()}
        options.plot.write_text(chart(sizes, lines))
    return 0


def run(url: str, sizes: Sequence[int]) -> Results:
    """Fill the index to each size and measure all rows there."""
    results: Results = {row.title: [] for row in ROWS}
    studies = 0
    for size in sizes:
        _fill(url, range(studies + 1, size // PER_STUDY + 1))
        studies = size // PER_STUDY
        with closing(Database(url)) as database:
            for row in ROWS:
                seconds, matches = measure(row, database, studies)
                results[row.title].append(Cell(1000 * statistics.median(seconds), statistics.median(matches)))
    return results


def _fill(url: str, studies: range) -> None:
    # What is only made up need not be durable.
    with closing(Database(url, fsync=False)) as database:
        started = time.monotonic()
        database.migrate()
        fill(database, studies)
        fill_worklist(database, studies)
        seconds, megabytes = time.monotonic() - started, database.size_bytes() / 1e6
    # What the system still has to write would slow down the commits that are measured.
    os.sync()
    print(
        f"{len(studies) * PER_STUDY:,} instances in {seconds:.0f} s; {megabytes:,.0f} MB", file=sys.stderr, flush=True
    )


def markdown(sizes: Sequence[int], results: Results) -> str:
    """The table: rows by sizes."""
    lines = ["| ms (matches) | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---|" + "---:|" * len(sizes)]
    for title, cells in results.items():
        texts = [f"{cell.milliseconds:.2f} ({cell.matches:,.0f})" for cell in cells]
        lines.append(f"| {title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _size(text: str) -> int:
    size, whole = int(text), PER_STUDY * STUDIES_PER_PATIENT
    if size < 10 * PER_STUDY or size % whole:
        raise argparse.ArgumentTypeError(f"a multiple of {whole}, and {10 * PER_STUDY} at least")
    return size


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=_size, nargs="+", default=SIZES, metavar="N", help="the sizes")
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL database (default: SQLite)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw cost against size as SVG")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep SQLite's file below DIR while it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
