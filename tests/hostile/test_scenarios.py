"""Hostile peers against a real server, one kind at a time, with a well-behaved peer beside them.

The same list as `make soak`, which runs it for longer and holds the neighbour's rate as well.
"""

from collections.abc import Iterator

import pytest
from hostile.scenarios import SCENARIOS, Scenario
from hostile.watch import GROWTH, PEAK, Watch, watched

# No operation of the neighbour takes longer, in seconds; a machine that does much else is slow too.
SLOWEST = 15.0


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    with watched(tmp_path_factory.mktemp("hostile") / "server", "tests", pause=0.01) as watch:
        yield watch


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario.rounds],
    ids=lambda scenario: scenario.name.replace(" ", "-"),
)
def test_only_hostile_peers_notice(watch: Watch, scenario: Scenario) -> None:
    outcome = watch.run(scenario, scenario.rounds)
    assert outcome.acts
    assert outcome.neighbour.operations
    assert outcome.neighbour.slowest < SLOWEST, outcome
    assert outcome.after.memory < outcome.before.memory + GROWTH, outcome
    assert outcome.peak < outcome.before.memory + PEAK, outcome
