"""What a stored object costs the server: processor time, and how many functions it calls.

    python -m benchmarks.costs [--rounds 10] [--before CHECKOUT] [--database URL [URL]] [--directory DIR]

Processor time is that of the whole process, user and system, for one C-STORE; the least of the rounds counts, because
other work on the machine can only lengthen it. With `--before` another checkout of the sources takes turns with this
one, which a machine with other work makes necessary: what shares a processor slows both down. The files are in memory,
where a sync costs next to nothing: what a disk takes is waiting and no processor time. Function calls are those of all
threads of a server in this process, which nothing else on the machine changes.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import types
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import Address
from benchmarks.jobs import StoreJob
from benchmarks.rows import LARGE, SMALL
from benchmarks.server_process import ServerProcess
from benchmarks.workers import Workers
from pacs_server.app.server import PacsServer
from pacs_server.config.load import load

_LIMIT = 60.0
# The clients are threads of these.
_PROCESSES = 2
_WARMING_UP = 40
_FIRST_COUNTED = 1_000_000  # of the studies and instances that are stored while calls are counted
_LARGE_PART = 4  # of the count, because large objects take longer
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Load:
    """What is stored: images of `side` x `side` pixels, by so many senders."""

    title: str
    side: int
    senders: int

    def jobs(self, address: Address, count: int, first: int) -> list[StoreJob]:
        """A job for each sender; `first` is the number of a study and of an instance that nobody has."""
        each = count // self.senders
        return [
            StoreJob(address, self.side, first + n, range(first + n * each, first + (n + 1) * each), _LIMIT)
            for n in range(self.senders)
        ]


LOADS = (
    Load("10 KB, 1 sender", SMALL, 1),
    Load("10 KB, 8 senders", SMALL, 8),
    Load("512 KB, 1 sender", LARGE, 1),
    Load("512 KB, 8 senders", LARGE, 8),
)


class Server(ServerProcess):
    """The server of a checkout of the sources, with its files in `directory`."""

    def __init__(self, checkout: Path, directory: Path, database: str | None) -> None:
        super().__init__(directory / "log.txt")
        self._checkout = checkout
        self._directory = directory
        self._database = database
        self.environment = os.environ | {"PYTHONPATH": str(checkout)}

    def command(self) -> list[str]:
        """The command line."""
        config = _write_settings(self._directory, self.port, self._database)
        self.cwd = self._directory
        return [sys.executable, "-m", "pacs_server", "--config", str(config)]


def _write_settings(directory: Path, port: int, database: str | None) -> Path:
    """The settings of a server that does nothing but store."""
    settings: dict[str, object] = {
        "server": {"host": "127.0.0.1", "port": port},
        "storage": {"directory": str(directory / "archive"), "min_free_space": 0, "scrub_rate": None},
        "database": {"url": database} if database else {"path": str(directory / "pacs.db")},
        "audit": {"directory": str(directory / "audit")},
        "monitoring": {"enabled": False, "metrics_port": 0},
        "web": {"enabled": False},
    }
    path = directory / "pacs_server.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


class Numbers:
    """Numbers of studies and instances, each given out once; `first` is the first."""

    def __init__(self, first: int = 1) -> None:
        self._next = first

    def take(self, count: int) -> int:
        """The first of so many numbers that nobody has."""
        self._next += count
        return self._next - count


def processor_time(
    servers: Sequence[Address], loads: Sequence[Load], count: int, rounds: int, workers: Workers
) -> list[list[float]]:
    """Microseconds of processor time for one object of each load, by each server: the least of the rounds."""
    numbers = Numbers()
    found = [[float("inf")] * len(loads) for _ in servers]
    for _ in range(rounds):
        for place, each in enumerate(loads):
            number = count if each.side == SMALL else count // _LARGE_PART
            for server, costs in zip(servers, found, strict=True):
                workers.run(each.jobs(server, _WARMING_UP, numbers.take(_WARMING_UP)))
                jobs = each.jobs(server, number, numbers.take(number))
                before = _processor_seconds(server.process)
                done = sum(timing.count for timing in workers.run(jobs))
                costs[place] = min(costs[place], 1e6 * (_processor_seconds(server.process) - before) / done)
    return found


def _processor_seconds(process: int) -> float:
    """User and system time of a process with all its threads, to the nanosecond (clock_getcpuclockid)."""
    return time.clock_gettime((~process << 3) | 2)


class Calls:
    """Counts the calls of Python functions, and those of functions in C, of all threads that begin from now on."""

    def __init__(self) -> None:
        self._counts: dict[int, list[int]] = {}
        threading.setprofile(self._profile)

    def _profile(self, _frame: types.FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            self._counts.setdefault(threading.get_ident(), [0, 0])[0] += 1
        elif event == "c_call":
            self._counts.setdefault(threading.get_ident(), [0, 0])[1] += 1

    def so_far(self) -> tuple[int, int]:
        """Calls in Python and in C."""
        counts = list(self._counts.values())
        return sum(count[0] for count in counts), sum(count[1] for count in counts)


def function_calls(loads: Sequence[Load], count: int, directory: Path, database: str | None) -> list[tuple[float, ...]]:
    """Calls in Python and in C for one object of each load, by a server in this process."""
    # What was stored to measure times is there.
    numbers = Numbers(_FIRST_COUNTED)
    found = []
    config = load(_write_settings(directory, 0, database), environ={}, overrides={})
    calls = Calls()
    try:
        with Workers(1) as workers, PacsServer(config) as server:
            host, port = server.address
            address = Address("PACS_SERVER", port, host)
            for each in loads:
                workers.run(each.jobs(address, _WARMING_UP, numbers.take(_WARMING_UP)))
                before = calls.so_far()
                done = sum(timing.count for timing in workers.run(each.jobs(address, count, numbers.take(count))))
                found.append(tuple((end - begin) / done for begin, end in zip(before, calls.so_far(), strict=True)))
    finally:
        threading.setprofile(None)
    return found


def main() -> int:
    """Measure and print."""
    options = _options()
    lines: dict[str, list[float]] = {}
    checkouts = {"": Path(), **({", before": options.before} if options.before else {})}
    urls = options.database or [None] * len(checkouts)
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(_folder(options.directory))) for _ in checkouts]
        with Workers(_PROCESSES) as workers, ExitStack() as running:
            servers = [
                running.enter_context(Server(checkout.resolve(), folder, url))
                for checkout, folder, url in zip(checkouts.values(), folders, urls, strict=True)
            ]
            addresses = [Address("PACS_SERVER", server.port, process=server.pid) for server in servers]
            found = processor_time(addresses, LOADS, options.count, options.rounds, workers)
        with (folders[0] / "calls.txt").open("w") as log, redirect_stderr(log):
            calls = function_calls(LOADS, options.count, folders[0], urls[0])
    lines |= {f"µs of processor time{name}": costs for name, costs in zip(checkouts, found, strict=True)}
    if len(found) > 1:
        lines["times before"] = [now / before for now, before in zip(*found, strict=True)]
    lines["calls in Python"], lines["calls in C"] = ([each[kind] for each in calls] for kind in (0, 1))
    print("| one C-STORE | " + " | ".join(load.title for load in LOADS) + " |\n|---|" + "---:|" * len(LOADS))
    for title, cells in lines.items():
        print(f"| {title} | " + " | ".join(f"{cell:,.0f}" if cell > 10 else f"{cell:.2f}" for cell in cells) + " |")
    return 0


def _folder(directory: Path | None) -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="pacs-costs-", dir=directory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=240, help="objects of 10 KB in each round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--database", nargs="+", metavar="URL", help="an empty database for each checkout, not SQLite")
    parser.add_argument("--directory", type=Path, default=_MEMORY if _MEMORY.is_dir() else None)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
