"""What many associations at once do to a server: more and more senders, retrieval beside storing, hundreds that idle.

    python -m benchmarks.concurrency [--quick] [--peers pacs-server orthanc]

Prints Markdown. The goals: from its peak on the rate of the senders falls by a fifth at most, and
idle associations cost no CPU.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes, resources
from benchmarks.client import VERIFICATION, Address, Association, Timing, repeat
from benchmarks.jobs import GetJob, StoreJob
from benchmarks.peers import PEERS, Peer, Running, start
from benchmarks.receiver import Receiver
from benchmarks.report import machine
from benchmarks.rows import LARGE, SMALL, Bench, Counts, prepare_study, settle
from benchmarks.wire import ClientError
from benchmarks.workers import Workers
from pacs_server.net.message import CommandField

SENDERS = (1, 2, 4, 8, 16, 32, 64)
# The clients are threads of these: enough to keep two cores busy, few enough to start quickly.
_PROCESSES = 8
_STUDY_IMAGES = 100
MOST_FALL = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """How much a measurement does: instances among all senders, seconds, and associations that idle."""

    small: int = 2400
    large: int = 480
    limit: float = 4.0
    idle: int = 500
    idle_seconds: float = 3.0


QUICK = Load(small=640, large=128, limit=2.0, idle=100, idle_seconds=1.5)


def fall(rates: Sequence[float]) -> float:
    """By what part the lowest rate after the peak is below it."""
    peak = max(rates)
    return 1 - min(rates[rates.index(peak) :]) / peak


def main() -> int:
    """Measure the peers of the command line and print what was found."""
    options = _options()
    load = QUICK if options.quick else Load()
    peers = [peer for peer in PEERS if peer.key in options.peers]
    with tempfile.TemporaryDirectory(prefix="pacs-concurrency-") as name:
        print(f"{machine(Path(name))}.\n", flush=True)
        with Workers(_PROCESSES) as workers, Receiver() as receiver, ExitStack() as stack:
            bench = Bench(Counts(study=_STUDY_IMAGES), receiver.address, workers)
            running, left_out = start(stack, peers, Path(name), receiver.address)
            print("; ".join([*(each.peer.version for each in running), *left_out]) + ".\n", flush=True)
            for side, title in ((SMALL, "10 KB"), (LARGE, "512 KB")):
                print(_senders_table(running, bench, side, load, title), flush=True)
            print(_mixed_table(running, bench, load), flush=True)
            print(_idle_table(running, load), flush=True)
    return 0


# ------------------------------------------------------------------------------------ more and more senders


def _senders_table(running: Sequence[Running], bench: Bench, side: int, load: Load, title: str) -> str:
    columns = [f"{each.peer.label}, {what}" for each in running for what in ("instances/s", "p99 ms")]
    lines = [_header(f"senders of {title}", columns)]
    rates: dict[str, list[float]] = {each.peer.label: [] for each in running}
    reasons = []
    for senders in SENDERS:
        cells = []
        for each in running:
            try:
                timing = _store_at_once(each.address, bench, side, senders, load)
            except ClientError as error:
                cells += ["-", "-"]
                reasons.append(f"- {senders} senders, {each.peer.label}: {error}")
            else:
                rates[each.peer.label].append(timing.rate)
                cells += [f"{timing.rate:,.0f}", f"{timing.p99:,.0f}"]
        lines.append(f"| {senders} | " + " | ".join(cells) + " |")
    falls = "; ".join(f"{label} falls by {_verdict(found)} after its peak" for label, found in rates.items() if found)
    return "\n".join([*lines, "", f"{falls}.", "", *reasons, ""])


def _verdict(rates: Sequence[float]) -> str:
    down = fall(rates)
    return f"{down:.0%} ({'reached' if down <= MOST_FALL else 'missed'}: {MOST_FALL:.0%})"


def _store_at_once(address: Address, bench: Bench, side: int, senders: int, load: Load) -> Timing:
    each = max(2, (load.small if side == SMALL else load.large) // senders)
    jobs = [StoreJob(address, side, bench.study(), bench.sops(each), load.limit) for _ in range(senders)]
    settle()
    return Timing.together(bench.workers.run(jobs))


# ------------------------------------------------------------------------------------ retrieval while storing


def _mixed_table(running: Sequence[Running], bench: Bench, load: Load) -> str:
    lines = [_header("instances/s", ["C-STORE alone", "C-STORE during C-GET", "C-GET alone", "C-GET during C-STORE"])]
    for each in running:
        study = prepare_study(bench, each.address)
        get = GetJob(each.address, study, 10_000, load.limit)

        def stores() -> StoreJob:
            return StoreJob(each.address, SMALL, bench.study(), bench.sops(load.small), load.limit)  # noqa: B023

        rates = []
        for jobs in ([stores()], [stores(), get], [get]):
            settle()
            rates.append([timing.rate for timing in bench.workers.run(jobs)])
        (store_alone,), (store_beside, get_beside), (get_alone,) = rates
        numbers = (store_alone, store_beside, get_alone, get_beside)
        lines.append(f"| {each.peer.label} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |")
    return "\n".join([*lines, ""])


# ------------------------------------------------------------------------------------ hundreds that idle


def _idle_table(running: Sequence[Running], load: Load) -> str:
    titles = ["threads", "MiB", "% of a core", "C-ECHO/s beside them", "C-ECHO/s without"]
    lines = [_header(f"{load.idle} idle associations", titles)]
    reasons = []
    for each in running:
        try:
            cells = _idle(each.address, load)
        except (ClientError, OSError) as error:
            cells = ["-"] * len(titles)
            reasons.append(f"- {each.peer.label}: {error}")
        lines.append(f"| {each.peer.label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *reasons, ""])


def _idle(address: Address, load: Load) -> list[str]:
    group = address.process
    processes.wait_for_rest(group)
    alone = _echoes(address, load)
    with resources.idle_associations(address, load.idle):
        share = resources.cpu_share(group, load.idle_seconds)
        sizes = [f"{processes.threads(group)}", f"{processes.resident(group):,.0f}", f"{share:.1f}"]
        return [*sizes, f"{_echoes(address, load):,.0f}", f"{alone:,.0f}"]


def _echoes(address: Address, load: Load) -> float:
    with Association(address, [VERIFICATION]) as association:
        request = association.request(VERIFICATION, CommandField.C_ECHO)
        return repeat([request] * 5000, association.echo, load.limit).rate


def _header(first: str, titles: Sequence[str]) -> str:
    return f"| {first} | " + " | ".join(titles) + " |\n|---|" + "---:|" * len(titles)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    keys: list[str] = [peer.key for peer in PEERS]
    wanted: Sequence[Peer] = [peer for peer in PEERS if peer.key in ("pacs-server", "orthanc")]
    parser.add_argument("--quick", action="store_true", help="small counts and short times")
    parser.add_argument(
        "--peers", nargs="+", choices=keys, default=[peer.key for peer in wanted], metavar="PEER", help=", ".join(keys)
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
