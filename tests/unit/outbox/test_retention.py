"""Tasks that were over long ago are removed now and then while a server runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import schema
from outboxes import Clock, OutboxNode

from pacs_server.errors import IndexUnavailable
from pacs_server.outbox import retention as module
from pacs_server.outbox.retention import task_retention
from pacs_server.services import tasks as services

PATIENCE = 20.0
MONTH_SECONDS = 31 * 86_400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[OutboxNode]:
    """A node with five tasks that were done a month ago, of which two are removed at a time."""
    monkeypatch.setattr(module, "_HOUR_SECONDS", 0.01)
    monkeypatch.setattr(services, "_REMOVED_AT_ONCE", 2)
    schema.prepare(tmp_path / "pacs.db")
    node = OutboxNode(f"sqlite:///{tmp_path}/pacs.db", clock)
    with closing(node.database):
        for _ in range(5):
            node.add()
        for task in node.claim():
            node.service.done(task)
        clock.advance(MONTH_SECONDS)
        yield node


@contextmanager
def running(node: OutboxNode) -> Iterator[None]:
    part = task_retention(node.service)
    part.start()
    try:
        yield
    finally:
        part.stop()


def spied(node: OutboxNode, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """`act` is called with the number of the statement before tasks are removed."""
    remove, numbers = node.index.remove_finished, iter(range(1_000_000))

    def spy(*args: object) -> int:
        act(next(numbers))
        return remove(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(node.index, "remove_finished", spy)


@pytest.mark.slow
def test_tasks_are_removed_even_if_the_index_fails_at_first(node: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def fail_once(number: int) -> None:
        if number == 0:
            raise IndexUnavailable("for now")
        if node.states() == []:
            ended.set()

    spied(node, monkeypatch, fail_once)
    with running(node):
        assert ended.wait(PATIENCE)


def test_a_stop_waits_for_what_is_at_hand_and_no_longer(node: OutboxNode, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        began.set()
        assert go_on.wait(PATIENCE)

    spied(node, monkeypatch, hold)
    part = task_retention(node.service)
    part.start()
    assert began.wait(PATIENCE)
    stop = threading.Thread(target=part.stop)
    stop.start()
    assert part.stopping.wait(PATIENCE)
    go_on.set()
    stop.join(PATIENCE)
    assert not stop.is_alive()
    assert len(node.states()) == 3
