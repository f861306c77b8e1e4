"""Everything that the server has to bear, for a set time; the exit code is 1 when a promise was broken.

- hostile: the hostile scenarios of the tests, a row for each. After each the server has to be as
  before, and a well-behaved peer keeps half of the rate that it had alone.
- day: peers of every service and an operator at the same time, with faults: no room, a database that
  is away or locked, a kill. Threads, descriptors and memory stay flat; what was acknowledged is there
  at the end.
- crashes: a server under load that is killed again and again, 50 times at least.

The last two are done on each kind of database.
"""

import argparse
import contextlib
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import postgres
import proxy
import tlspeer
from certificates import Authority
from crashes import crash_rounds
from datasets import make_ct
from hostile.before_association import bare_connects
from hostile.functions import FUNCTIONS
from hostile.scenarios import SCENARIOS, Scenario
from hostile.watch import GROWTH, MEBIBYTE, PEAK, Outcome, Watch, watched
from operating import Operator
from processes import PacsProcess
from rawpeer import Instance, association, store
from receivers import TIMEOUT, receiving
from servers import CT, EXPLICIT, collecting
from sqlalchemy import URL
from workload import Broken, Sample, Workload, oddly

from pacs_server.index.database import LOCK_WAIT_SECONDS

# What part of the time goes to what.
_SHARES = {"hostile": 0.3, "day": 0.4, "crashes": 0.3}
_DATABASES = ("sqlite", "postgresql")
_CRASHES = 50
_CRASH_SECONDS, _ROUND_SECONDS, _FAULT_SECONDS = 3.0, 20.0, 2.0
# Pools of connections to the database may grow a little, and each has a few descriptors.
_POOLED = 12
# What caches and the allocator may still take after the first round, in bytes.
_DAY_GROWTH = 24 * MEBIBYTE
_FULL = 0xA700
# Of what went wrong, in characters: it may quote a whole log.
_TOLD = 3000
# Of the time: measuring the neighbour alone, and functions of bytes without a server.
_ALONE, _FUNCTIONS = 0.15, 0.05
_SHORTEST = 0.5
_KEPT = 0.5
# Connections that come to nothing, and what the allocator may make of them.
_CONNECTS, _CONNECTS_GROWTH = 100_000, 8 * MEBIBYTE
_HEAD = (
    f"{'scenario':30} {'acts':>8} {'threads':>9} {'sockets':>9} {'files':>9} {'MiB':>11} {'peak':>6} "
    f"{'alone/s':>8} {'beside/s':>8} {'kept':>5} {'slowest':>8}"
)


def _plan(options: argparse.Namespace) -> list[tuple[str, str, float]]:
    """Parts of a soak with their database and their seconds."""
    parts = options.parts.split(",")
    databases = _DATABASES if options.database == "both" else (options.database,)
    shares = sum(_SHARES[part] for part in parts)
    planned = []
    for part in parts:
        seconds = options.seconds * _SHARES[part] / shares
        on = ("sqlite",) if part == "hostile" else databases
        planned += [(part, database, seconds / len(on)) for database in on]
    return planned


@dataclass(frozen=True)
class Row:
    """A scenario's outcome, and the rate that the neighbour had alone around it."""

    scenario: Scenario
    outcome: Outcome
    alone: float

    @property
    def kept(self) -> float:
        """The part of its rate that the neighbour kept."""
        return self.outcome.neighbour.rate / self.alone

    def problems(self) -> list[str]:
        """The bounds that were broken."""
        found, before, after = [], self.outcome.before, self.outcome.after
        if self.kept < _KEPT:
            found.append(f"the neighbour kept {self.kept:.0%} of its rate")
        if after.memory > before.memory + GROWTH:
            found.append(f"memory grew by {(after.memory - before.memory) // MEBIBYTE} MiB")
        if self.outcome.peak > before.memory + PEAK:
            found.append(f"memory peaked {(self.outcome.peak - before.memory) // MEBIBYTE} MiB higher")
        return [f"{self.scenario.name}: {problem}" for problem in found]

    def __str__(self) -> str:
        o, report = self.outcome, self.outcome.neighbour
        pairs = [_pair(o, name) for name in ("threads", "sockets", "files")]
        memory = f"{o.before.memory // MEBIBYTE}>{o.after.memory // MEBIBYTE}"
        return (
            f"{self.scenario.name:30} {o.acts:8} {pairs[0]:>9} {pairs[1]:>9} {pairs[2]:>9} {memory:>11} "
            f"{o.peak // MEBIBYTE:6} {self.alone:8.0f} {report.rate:8.0f} {self.kept:5.0%} {report.slowest:7.2f}s"
        )


def _pair(outcome: Outcome, name: str) -> str:
    return f"{getattr(outcome.before, name)}>{getattr(outcome.after, name)}"


def main() -> int:
    """Soak for as long as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long, about (default %(default)g)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="begin with these random choices")
    parser.add_argument("--parts", default=",".join(_SHARES), help="which parts (default %(default)s)")
    parser.add_argument("--crashes", type=int, default=_CRASHES, help="kills at least (default %(default)s)")
    parser.add_argument(
        "--database", choices=("both", *_DATABASES), default="both", help="for day and crashes (default %(default)s)"
    )
    parser.add_argument("--only", default="", help="of the hostile scenarios only those whose name has this in it")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    problems = []
    with tempfile.TemporaryDirectory(prefix="pacs-soak-") as name, postgres.server() as server:
        for part, database, seconds in _plan(options):
            print(f"\n{part} {database} for {seconds:.0f} s", flush=True)
            at = server if database == "postgresql" else None
            try:
                if database == "postgresql" and server is None:
                    raise Broken(postgres.HOW_TO_GET_ONE)
                problems += _PARTS[part](Path(name) / f"{part}-{database}", at, seconds, options)
            except (AssertionError, Broken, OSError) as error:
                problems.append(f"{part} {database}: {str(error)[-_TOLD:] or type(error).__name__}")
    print("\n".join(f"BROKEN {problem}" for problem in problems) or "every bound was kept")
    return 1 if problems else 0


# ------------------------------------------------------------------------------------ day and crashes


@contextmanager
def _database(server: URL | None) -> Iterator[tuple[proxy.Proxy | None, str | None]]:
    """A fresh database behind a proxy, and its URL; nothing for SQLite."""
    if server is None:
        yield None, None
        return
    with postgres.fresh_database(server) as url, proxy.in_front_of(url, connect_timeout="2") as through:
        yield through


def _day(directory: Path, server: URL | None, seconds: float, options: argparse.Namespace) -> list[str]:
    """Rounds of work, one fault in each; the last one is a kill."""
    authority = Authority(directory / "certificates")
    certificate = {"cert_path": str(authority.server.certificate), "key_path": str(authority.server.key)}
    settings = {"worklist": {"hl7_port": 0}, "tls": {"enabled": True, "port": 0, **certificate}}
    with (
        collecting() as collector,
        receiving(oddly(random.Random(options.seed)), response_timeout=TIMEOUT) as (_, odd),
        _database(server) as (between, url),
    ):
        remotes = (collector.remote, odd.model_copy(update={"ae_title": "ODD", "name": "ODD"}))
        settings |= {"remote_aes": [remote.model_dump(mode="json", exclude_defaults=True) for remote in remotes]}
        with PacsProcess(directory / "pacs", url, settings) as pacs:
            work = Workload(pacs, collector, tlspeer.client(authority), options.seed)
            operator = Operator(work)
            work.acts.append(("operator", operator.act))
            fault = _database_locked(pacs) if between is None else _database_away(between)
            problems = _rounds(work, [_no_room(pacs, settings), fault, _killed(pacs)], seconds)
            operator.check()
    return problems


def _rounds(work: Workload, faults: Sequence[Callable[[], None]], seconds: float) -> list[str]:
    count = max(len(faults) + 2, int(seconds / _ROUND_SECONDS))
    samples = []
    for number in range(count):
        # After a kill it is another process, so that comes last.
        fault = faults[-1] if number == count - 1 else [None, *faults[:-1]][number % len(faults)]
        work.work(seconds / count, fault)
        if number < count - 1:
            samples.append(work.sample())
            print(f"day {number + 1}/{count}: {samples[-1]}, {len(work.acknowledged)} stored", flush=True)
    work.check()
    print(f"day: {dict(work.done)}, {work.disturbed_failures} failed in faults, {len(work.acknowledged)} all there")
    # The first round fills caches and pools.
    return [*work.problems[:20], *_growth(samples[1:])]


def _growth(samples: Sequence[Sample]) -> list[str]:
    first, last = samples[0], samples[-1]
    found = [
        f"day: {name} from {getattr(first, name)} to {getattr(last, name)}"
        for name, allowed in (("threads", 0), ("sockets", _POOLED), ("files", _POOLED), ("memory", _DAY_GROWTH))
        if getattr(last, name) > getattr(first, name) + allowed
    ]
    return found


def _no_room(pacs: PacsProcess, settings: dict[str, Any]) -> Callable[[], None]:
    def fault() -> None:
        pacs.reload(settings | {"storage": {"min_free_space": 10**14}})
        with association(pacs.port, [(CT, EXPLICIT)]) as link:
            status = store(link, Instance.of(make_ct())).status
        if status != _FULL:
            raise Broken(f"0x{status or 0:04X} without room")
        time.sleep(_FAULT_SECONDS)
        pacs.reload(settings)

    return fault


def _database_away(between: proxy.Proxy) -> Callable[[], None]:
    def fault() -> None:
        between.cut()
        time.sleep(_FAULT_SECONDS)
        between.restore()

    return fault


def _database_locked(pacs: PacsProcess) -> Callable[[], None]:
    """For longer than writers wait for each other."""

    def fault() -> None:
        with contextlib.closing(sqlite3.connect(pacs.directory / "pacs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(LOCK_WAIT_SECONDS + _FAULT_SECONDS)
            other.execute("ROLLBACK")

    return fault


def _killed(pacs: PacsProcess) -> Callable[[], None]:
    def fault() -> None:
        pacs.kill()
        pacs.start()

    return fault


def _crashes(directory: Path, server: URL | None, seconds: float, options: argparse.Namespace) -> list[str]:
    rounds = max(options.crashes, int(seconds / _CRASH_SECONDS))
    with _database(server) as (_, url):
        print(crash_rounds(directory, url, rounds, options.seed), flush=True)
    return []


# ------------------------------------------------------------------------------------ hostile


def _hostile(directory: Path, server: URL | None, seconds: float, options: argparse.Namespace) -> list[str]:
    """The hostile scenarios, always on SQLite, and what functions make of mutated bytes."""
    print(_HEAD, flush=True)
    chosen = [scenario for scenario in SCENARIOS if options.only in scenario.name]
    with watched(directory / "server", str(options.seed)) as watch:
        # Hostile peers have processors of their own; here all share the machine's, and what is measured is what the
        # server takes from the neighbour, not what a driver takes from both. So the drivers get what the server and
        # the neighbour, which run by now, leave them: all that they can send then still goes to the server. Threads
        # that begin later are as nice as the one that begins them.
        os.nice(19)
        problems = _soak(watch, chosen, seconds * (1 - _FUNCTIONS)) + _connects(watch)
    return problems + _fuzz(seconds * _FUNCTIONS, random.Random(str(options.seed)).randrange(10**9))


def _soak(watch: Watch, scenarios: Sequence[Scenario], seconds: float) -> list[str]:
    """Run every scenario for its share of the time and print a row for each; returns the bounds that were broken."""
    problems = []
    first = watch.footprint()
    shares = sum(scenario.share for scenario in scenarios)
    quiet = max(_SHORTEST, seconds * _ALONE / (len(scenarios) + 1))
    before = watch.undisturbed(quiet).rate
    for scenario in scenarios:
        try:
            outcome = watch.run(scenario, 1, max(_SHORTEST, seconds * (1 - _ALONE) * scenario.share / shares))
        except (AssertionError, OSError) as error:
            problems.append(f"{scenario.name}: {error or type(error).__name__}")
            print(f"{scenario.name:30} broken", flush=True)
            continue
        after = watch.undisturbed(quiet).rate
        # The machine may have other things to do at times: the lower of both is what the neighbour can hope for.
        row = Row(scenario, outcome, min(before, after))
        print(row, flush=True)
        problems += row.problems()
        before = after
    last = watch.footprint()
    print(f"at first {first}\nat last  {last}")
    if last.memory > first.memory + PEAK:
        problems.append(f"memory grew by {(last.memory - first.memory) // MEBIBYTE} MiB in all")
    return problems


def _connects(watch: Watch) -> list[str]:
    """A hundred thousand connections that say nothing, and what they leave behind."""
    scenario = Scenario(bare_connects)
    alone = watch.undisturbed(_SHORTEST).rate
    began, outcome = time.monotonic(), watch.run(scenario, _CONNECTS // 500)
    seconds = time.monotonic() - began
    row = Row(scenario, outcome, min(alone, watch.undisturbed(_SHORTEST).rate))
    print(f"{row}\n{outcome.acts} connections in {seconds:.0f} s: before {outcome.before}, after {outcome.after}")
    problems = row.problems()
    if outcome.after.memory > outcome.before.memory + _CONNECTS_GROWTH:
        problems.append(f"{outcome.acts} connections left {outcome.after.memory - outcome.before.memory} bytes behind")
    return problems


def _fuzz(seconds: float, number: int) -> list[str]:
    """Mutations from `number` on of what functions take; returns what came out that must not."""
    problems = []
    first, end = number, time.monotonic() + seconds
    while time.monotonic() < end:
        for function in FUNCTIONS:
            try:
                function.fuzz(number)
            except Exception as error:  # noqa: BLE001 - whatever comes out is what we are here to see
                problems.append(f"{function.name}, mutation {number}: {type(error).__name__}: {error}")
        number += 1
    print(f"{number - first} mutations for each of {len(FUNCTIONS)} functions")
    return problems


_PARTS = {"hostile": _hostile, "day": _day, "crashes": _crashes}

if __name__ == "__main__":
    sys.exit(main())
