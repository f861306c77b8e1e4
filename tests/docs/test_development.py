"""What docs/development.md says of `make test-fast`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

FOLDERS = ("tests/unit", "tests/properties")


def decorated(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The functions of the tests with their decorators."""
    for path in (path for folder in FOLDERS for path in (root / folder).rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.name}::{node.name}", [ast.unparse(one) for one in node.decorator_list]


def test_it_leaves_out_what_is_slow_or_needs_something_else(root: Path, pytestconfig: pytest.Config) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    found = re.search(r"^test-fast:.*\n\t.*pytest (.*)", makefile, re.MULTILINE)
    assert found is not None
    options, _, marks = found[1].partition("-m ")
    assert options.split() == ["-n", "logical", "--maxschedchunk=50", "--hypothesis-profile=fast", *FOLDERS]
    left_out = re.findall(r"not (\w+)", marks)
    assert left_out == ["interop", "slow", "soak", "postgres"]
    known = [line.partition(":")[0] for line in pytestconfig.getini("markers")]
    assert set(left_out) <= set(known)


def test_it_tries_fewer_examples() -> None:
    assert settings.get_profile("fast").max_examples < settings.get_profile("dev").max_examples
    assert settings.get_profile("fast").stateful_step_count < settings.get_profile("dev").stateful_step_count


def test_rare_tests_and_many_examples_are_for_make_soak(root: Path) -> None:
    assert settings.get_profile("soak").max_examples > 10 * settings.get_profile("dev").max_examples
    makefile = (root / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    soak = " ".join(makefile.partition("\nsoak:")[2].partition("\n\n")[0].split())
    # What the first command leaves out the second runs.
    assert 'tests/unit/archive -k "power_loss or refused_and_lost" -m "soak or not soak"' in soak
    assert '--hypothesis-profile=soak -m "soak or hypothesis" -k "not power_loss and not refused_and_lost"' in soak


def test_who_sets_a_number_of_examples_is_slow(root: Path) -> None:
    """Such a test takes its time, and with a number that does not follow the profile in `make test-fast` too."""
    own = [(name, lines) for name, lines in decorated(root) if any("max_examples" in line for line in lines)]
    assert own
    assert [name for name, lines in own if "pytest.mark.slow" not in lines] == []
