"""The hostile scenarios of the tests, for a set time: what they leave behind, and what a well-behaved peer keeps.

Prints a row for each scenario. The exit code is 1 when the server was not as before after one of
them, when its memory grew, or when the neighbour kept less than half of the rate that it had alone.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostile.functions import FUNCTIONS
from hostile.scenarios import SCENARIOS, Scenario
from hostile.watch import GROWTH, MEBIBYTE, PEAK, Outcome, Watch, watched

# Of the time: measuring the neighbour alone, and functions of bytes without a server.
_ALONE, _FUNCTIONS = 0.15, 0.05
_SHORTEST = 0.5
_KEPT = 0.5
_HEAD = (
    f"{'scenario':30} {'acts':>8} {'threads':>9} {'sockets':>9} {'files':>9} {'MiB':>11} {'peak':>6} "
    f"{'alone/s':>8} {'beside/s':>8} {'kept':>5} {'slowest':>8}"
)


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
    parser.add_argument("--seed", default=str(random.randrange(10**9)), help="begin with these random choices")
    parser.add_argument("--only", default="", help="only scenarios whose name has this in it")
    options = parser.parse_args()
    print(f"seed {options.seed}\n{_HEAD}", flush=True)
    chosen = [scenario for scenario in SCENARIOS if options.only in scenario.name]
    with (
        tempfile.TemporaryDirectory(prefix="pacs-soak-") as name,
        watched(Path(name) / "server", options.seed) as watch,
    ):
        problems = _soak(watch, chosen, options.seconds * (1 - _FUNCTIONS))
    problems += _fuzz(options.seconds * _FUNCTIONS, random.Random(options.seed).randrange(10**9))
    print("\n".join(f"BROKEN {problem}" for problem in problems) or "every bound was kept")
    return 1 if problems else 0


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


if __name__ == "__main__":
    sys.exit(main())
