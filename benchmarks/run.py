"""Measures this server and the DICOM servers that are installed side by side, and prints one table.

Every round of a row goes over all peers, each time in another order; a cell is the median of the
rounds. What a measurement does is bounded in count and in time.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers import PEERS, Peer, Running, before, start
from benchmarks.receiver import Receiver
from benchmarks.report import Cell, Results, machine, markdown
from benchmarks.rows import ASSOCIATIONS, QUICK, ROWS, Bench, Counts, Row, settle
from benchmarks.wire import ClientError
from benchmarks.workers import Workers

# Seen with strace; without it the table would compare what cannot be compared.
_DURABILITY = (
    "Before success is answered, pacs-server and Orthanc sync the file, "
    "dcmqrscp and storescp nothing; storescp keeps no index."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured, how often, and how much at a time."""

    rows: Sequence[Row]
    peers: Sequence[Peer]
    rounds: int
    counts: Counts


def main() -> int:
    """Run the benchmarks of the command line; returns the exit code."""
    options = _options()
    plan = Plan(
        [row for row in ROWS if row.key in options.rows],
        [peer for peer in PEERS if peer.key in options.peers] + ([before(options.before)] if options.before else []),
        options.rounds or (2 if options.quick else 5),
        QUICK if options.quick else Counts(),
    )
    with tempfile.TemporaryDirectory(prefix="pacs-bench-", dir=options.directory) as name:
        about = machine(Path(name))
        spread(Path(name))
        peers, left_out, results = measure(plan, Path(name))
    versions = [f"{peer.label}: {peer.version}" for peer in peers]
    print(f"{about}.\n\n{'; '.join(versions + left_out)}.\n")
    print(f"Medians of {plan.rounds} rounds; in brackets how many times as good as Orthanc. {_DURABILITY}\n")
    print(markdown(plan.rows, peers, results))
    if options.json is not None:
        cells = {row: {peer: asdict(cell) for peer, cell in found.items()} for row, found in results.items()}
        report = {"machine": about, "peers": versions, "left_out": left_out, "rows": cells}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(plan: Plan, directory: Path) -> tuple[list[Peer], list[str], Results]:
    """Start the peers below `directory` and fill all cells; returns who took part, and who did not and why."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        workers = stack.enter_context(Workers(ASSOCIATIONS))
        running, left_out = start(stack, plan.peers, directory, receiver.address)
        bench = Bench(plan.counts, receiver.address, workers)
        results = {row.key: {each.peer.key: Cell() for each in running} for row in plan.rows}
        for row in plan.rows:
            for each in _interleaved(running, min(plan.rounds, row.most_rounds)):
                _progress(f"{row.title}: {each.peer.label}")
                _measure_cell(row, each, bench, results[row.key][each.peer.key])
    _progress("")
    return [each.peer for each in running], left_out, results


def spread(directory: Path) -> None:
    """Have ext4 put each directory made in `directory` into a part of the disk of its own.

    Otherwise they would lie where the files of the last run were deleted, and ext4 takes thirty
    times as long to create a file there, for minutes. Other file systems refuse, and that is fine.
    """
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["chattr", "+T", str(directory)], capture_output=True, timeout=10, check=False)


def _interleaved(running: Sequence[Running], rounds: int) -> Iterator[Running]:
    # Not in turn: whoever always came after the heaviest writer would pay for it. The same orders in every run.
    for number in range(rounds):
        yield from random.Random(number).sample(running, len(running))


def _measure_cell(row: Row, each: Running, bench: Bench, cell: Cell) -> None:
    """Add one round to a cell; the first failure is the last round."""
    if cell.failure is not None:
        return
    if row.service not in each.peer.services:
        cell.failure = f"does not offer {row.service.value}"
        return
    settle()
    try:
        cell.rounds.append(row.measure(bench, each.address))
    except (ClientError, OSError) as error:
        cell.failure = f"{error or type(error).__name__}; its log ends with: {each.last_words()}"


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows, peers = [row.key for row in ROWS], [peer.key for peer in PEERS]
    parser.add_argument("--quick", action="store_true", help="small counts and two rounds")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=", ".join(peers))
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="measure the server of another checkout too, where `make install` was run",
    )
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="N", help="rounds, 1 to 100")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's number to FILE as well")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="keep the servers' files below DIR while it runs")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
