"""PostgreSQL crashes at any step of a checkpoint, really: no slot is retired whose row is lost."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import postgres
import pytest
from datasets import make_ct, uid
from nodes import Node
from postgres import PostgresProcess

from pacs_server.archive.archive import StoreOutcome
from pacs_server.errors import IndexUnavailable, StorageUnavailable

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

STEPS = [("spool", "sync_names"), ("index", "make_durable"), ("index", "known"), ("spool", "retire")]


@pytest.fixture(scope="module")
def crashing() -> Iterator[PostgresProcess]:
    with postgres.own_server() as server:
        if server is None:
            pytest.skip("no PostgreSQL that a test may crash: install the Debian package postgresql")
        yield server


def node_of(directory: Path, url: str) -> Node:
    """A node that leaves names and rows to its checkpoints."""
    made = Node(directory, url, slots=True)
    made.database._fsync = True
    return made


def crash(server: PostgresProcess) -> None:
    server.shut_down()
    server.start()


def rows_without(node: Node, server: PostgresProcess) -> set[str]:
    """The rows of the database, asked without the node."""
    other = Node(node.root, server.url.render_as_string(), migrated=True)
    try:
        return set(other.rows())
    finally:
        other.die()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("part", "step"), STEPS)
def test_the_database_crashes_in_a_checkpoint(
    crashing: PostgresProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    step: str,
    after: bool,
) -> None:
    node = node_of(tmp_path, crashing.url.render_as_string())
    study, series = uid(), uid()
    stored = [make_ct(study, series) for _ in range(8)]
    crashing.hold_writes()
    for ds in stored:
        node.store(ds)
    expected = {str(ds.SOPInstanceUID) for ds in stored}
    owner = getattr(node, part)
    real: Callable[..., Any] = getattr(owner, step)
    crashed: list[set[str]] = []

    def crashes(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options) if after else None
        if not crashed:
            crash(crashing)
            crashed.append(rows_without(node, crashing) & expected)
        return result if after else real(*arguments, **options)

    monkeypatch.setattr(owner, step, crashes)
    with suppress(IndexUnavailable, StorageUnavailable):
        node.archive.checkpoints.take()
    # Rows were really lost, if nothing had made them durable.
    lost = expected - crashed[0]
    assert bool(lost) == ((step, after) in [("sync_names", False), ("sync_names", True), ("make_durable", False)])
    # If slots were retired, the rows are there without them.
    kept = [path for path in (tmp_path / "incoming").iterdir() if path.stat().st_size]
    assert kept or rows_without(node, crashing) >= expected
    assert node.rows().keys() >= expected
    node.archive.checkpoints.take()
    assert rows_without(node, crashing) >= expected
    node.die()
    # And nothing is left for recovery.
    after_all = node_of(tmp_path, crashing.url.render_as_string())
    assert after_all.recover() == {}
    after_all.die()


def test_what_is_stored_again_after_an_answer_was_lost_is_durable(crashing: PostgresProcess, tmp_path: Path) -> None:
    node = node_of(tmp_path, crashing.url.render_as_string())
    ds = make_ct()
    crashing.hold_writes()
    # The row is committed, but its sender is refused, and no checkpoint knows of it.
    node.index.lose_the_answer = True
    with pytest.raises(IndexUnavailable):
        node.store(ds)
    node.index.lose_the_answer = False
    assert node.store(ds) is StoreOutcome.ALREADY_STORED
    crash(crashing)
    assert str(ds.SOPInstanceUID) in node.rows()
    node.die()
