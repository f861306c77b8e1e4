"""Measures the HTTP door beside Orthanc with its DICOMweb plugin, with the same client, and prints one table.

Both hold the same images. Every round of a row goes over all peers, each time in another order; a cell is the median
of the rounds. What a measurement does is bounded in count and in time.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import wait_for_rest
from benchmarks.report import machine
from benchmarks.rows import settle
from benchmarks.run import spread
from benchmarks.web_peers import LABELS, WebPeer, available
from benchmarks.web_rows import WEB_ROWS, Load, WebBench, WebRow, fill
from benchmarks.wire import ClientError

Cells = dict[str, dict[str, list[float] | str]]


def main() -> int:
    """Run the benchmarks of the command line; returns the exit code."""
    options = _options()
    rows = [row for row in WEB_ROWS if row.key in options.rows]
    load = Load(requests=60, limit=1.0) if options.quick else Load()
    with tempfile.TemporaryDirectory(prefix="pacs-bench-", dir=options.directory) as name, ExitStack() as stack:
        about = machine(Path(name))
        spread(Path(name))
        peers = [stack.enter_context(peer) for peer in available(options.peers, options.before, Path(name))]
        for peer in peers:
            fill(peer)
        for peer in peers:
            wait_for_rest(peer.pid)
        cells = measure(rows, peers, WebBench(load), options.rounds or (2 if options.quick else 5))
    print(f"{about}.\n")
    print(table(rows, [peer.key for peer in peers], cells))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": cells}, indent=1) + "\n")
    return 0


def measure(rows: Sequence[WebRow], peers: Sequence[WebPeer], bench: WebBench, rounds: int) -> Cells:
    """The numbers of each row and peer, one a round, or why there are none."""
    cells: Cells = {row.key: {peer.key: [] for peer in peers} for row in rows}
    for row in rows:
        for number in range(rounds):
            for peer in random.Random(number).sample(peers, len(peers)):
                found = cells[row.key][peer.key]
                if isinstance(found, str):
                    continue
                settle()
                try:
                    found.append(row.measure(bench, peer))
                except (ClientError, OSError, AssertionError) as error:
                    cells[row.key][peer.key] = f"{type(error).__name__}: {error}"
    return cells


def table(rows: Sequence[WebRow], peers: Sequence[str], cells: Cells) -> str:
    """The table as Markdown: medians, how many times as good as Orthanc this server is, and what is wanted."""
    lines = ["| | unit | " + " | ".join(LABELS[peer] for peer in peers) + " | times Orthanc | goal |"]
    lines.append("|---|---|" + "---:|" * len(peers) + "---:|---:|")
    reasons = []
    for row in rows:
        medians = {peer: _median(cells[row.key][peer]) for peer in peers}
        reasons += [
            f"- {row.title}, {LABELS[peer]}: {why}" for peer, why in cells[row.key].items() if isinstance(why, str)
        ]
        ours, theirs = medians.get("pacs-server"), medians.get("orthanc")
        times = "" if not ours or not theirs else f"{theirs / ours if row.lower_is_better else ours / theirs:.1f}"
        shown = " | ".join("-" if (value := medians[peer]) is None else f"{value:,.4g}" for peer in peers)
        goal = f"{row.goal:g}" if row.goal else ""
        lines.append(f"| {row.title} | {row.unit} | {shown} | {times} | {goal} |")
    return "\n".join([*lines, *(["", "Not measured:", *reasons] if reasons else [])])


def _median(found: list[float] | str) -> float | None:
    return statistics.median(found) if found and not isinstance(found, str) else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows, peers = [row.key for row in WEB_ROWS], ["pacs-server", "orthanc"]
    parser.add_argument("--quick", action="store_true", help="small counts and two rounds")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=", ".join(peers))
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="measure the server of another checkout too")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="N", help="rounds, 1 to 100")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's number to FILE as well")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep the servers' files below DIR while it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
