"""Functions that take bytes from outside, against mutations of what they take: the same ones at every run."""

import pytest
from hostile.functions import BY_NAME, FUNCTIONS, SEEDS, Function

MUTATIONS = 300


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_mutations_raise_nothing_else(function: Function) -> None:
    for data in function.valid():
        function.holds(data)
    for number in range(MUTATIONS):
        function.fuzz(number)


def test_what_was_found_once_stays_mended() -> None:
    for seed in sorted(SEEDS.glob("*.bin")):
        BY_NAME[seed.name.split(".")[0].replace("_", " ")].holds(seed.read_bytes())
