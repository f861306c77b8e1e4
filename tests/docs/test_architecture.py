"""Architecture and development pages name what is there, and nothing else."""

import re
import runpy
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import schema
from feeds import Place
from sqlalchemy import select

from pacs_server.index.feed import Consumer
from pacs_server.index.task_models import task
from pacs_server.index.task_values import NewTask
from pacs_server.index.tasks import add_task

Rows = Callable[..., list[list[str]]]


def test_every_file_has_its_line(root: Path, document: Callable[[str], str], rows: Rows) -> None:
    package = root / "pacs_server"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    documented = [row[0].strip("`") for row in rows("docs/architecture.md", "Files")]
    assert sorted(documented) == sorted(files)
    page = document("docs/architecture.md")
    assert page == runpy.run_path(str(root / ".ci/file-table"))["written_anew"](page), "say: make file-table"


def test_the_folders_are_the_layers_in_their_order(root: Path, code_blocks: Callable[[str, str], list[str]]) -> None:
    [listing] = code_blocks("docs/architecture.md", "text")
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [name for name in contracts[0]["layers"] if name != "__main__"]
    assert re.findall(r"^(\w+)(?:/|\.py) +\w", listing, re.MULTILINE) == layers


def test_the_example_of_the_feed_runs(code_blocks: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    [example] = code_blocks("docs/architecture.md", "python")
    url = f"sqlite:///{tmp_path}/pacs.db"
    schema.prepare_at(url)
    place = Place(tmp_path, url)
    names: dict[str, object] = {"now": datetime.now(UTC), "feed": place.feed, "Consumer": Consumer}
    names |= {"add_task": add_task, "task_for": lambda change: NewTask("forward", "routing", str(change))}
    # A new consumer begins with what happens from then on.
    place.take(Consumer("routing"))
    place.store("1.2", "1.3", "1.4")
    exec(compile(example, "docs/architecture.md", "exec"), names)
    with place.database.begin() as connection:
        assert list(connection.scalars(select(task.c.kind))) == ["forward"]
    place.close()


def test_journeys_pass_what_is_there(root: Path, code_blocks: Callable[[str, str], list[str]]) -> None:
    """The boxes of the drawings are classes in the files that they name, and their methods exist."""
    drawings = code_blocks("docs/architecture.md", "mermaid")
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((root / "pacs_server").rglob("*.py")))
    bodies = {found[1]: found[2] for found in re.finditer(r"^class (\w+)(.*?)(?=^\S|\Z)", source, re.M | re.S)}
    assert len(drawings) == 4
    for drawing in drawings:
        steps = re.findall(r"^    \w+--?>>\w+: .*", drawing, re.MULTILINE)
        assert 5 <= len(steps) <= 10
        for file, name in re.findall(r"as (\S+\.py)<br/>(\w+)", drawing):
            assert re.search(rf"^class {name}\b", (root / "pacs_server" / file).read_text(encoding="utf-8"), re.M), name
        for name, method in re.findall(r"\b([A-Z]\w+)\.([a-z_]+)\b", "\n".join(steps)):
            assert re.search(rf"def {method}\(", bodies[name]), f"{name}.{method}"


_OPERATING = ("commands", "deployment", "logs", "metrics", "operations", "runbook")
_NAMING = ("architecture", "development", "extending", *_OPERATING)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in _NAMING)])
def test_named_files_exist(root: Path, document: Callable[[str], str], page: str) -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[\w-]+\.(?:py|md|toml|yaml|example))`", document(page))
    # Names that an operator chooses.
    named = [name for name in named if name != "pacs_server.yaml"]
    missing = [
        name for name in named if not any((root / start / name).exists() for start in ("", "pacs_server", "docs"))
    ]
    assert missing == []


def test_targets_of_make(root: Path, rows: Rows) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    documented = [row[0].strip("`").removeprefix("make ") for row in rows("docs/development.md", "Targets of make")]
    assert documented == targets


def test_folders_of_tests(root: Path, rows: Rows) -> None:
    folders = {path.parent for path in (root / "tests").rglob("test_*.py")}
    documented = {row[0].strip("`") for row in rows("docs/development.md", "Tests")}
    assert {"/".join(folder.relative_to(root).parts[:2]) for folder in folders} <= documented


def test_unit_tests_mirror_the_package(root: Path) -> None:
    rooms = {path.name for path in (root / "pacs_server").iterdir() if path.is_dir()}
    folders = {path.parent.name for path in (root / "tests/unit").rglob("test_*.py")}
    # What is tested that is not in the package: the benchmarks, the files for Docker and systemd, and the tests.
    assert folders - {"benchmarks", "deployment", "harness"} <= rooms
