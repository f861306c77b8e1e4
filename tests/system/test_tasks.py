"""Tasks and processes: several claim at the same time, and one is killed in the middle of its work."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from outboxes import OutboxNode

from pacs_server.index.task_values import Task
from pacs_server.outbox.handler import Work
from pacs_server.outbox.worker import Worker

TASKS, TARGETS = 300, 7
spawning = multiprocessing.get_context("spawn")


@pytest.fixture
def node(database_url: str) -> Iterator[OutboxNode]:
    node = OutboxNode(database_url)
    yield node
    node.database.close()


def claim_all(url: str, begin: str, finished: "Queue[tuple[int, list[int]]]") -> None:
    """Claim and finish until nothing is left, beginning when the file `begin` is there."""
    node = OutboxNode(url)
    while not Path(begin).exists():
        time.sleep(0.01)
    done: list[int] = []
    while tasks := node.claim() or again(node):
        done += [task.id for task in tasks if node.service.done(task)]
    finished.put((os.getpid(), done))
    node.database.close()


def again(node: OutboxNode) -> list[Task]:
    """Once more after a while: nothing is found as well when others hold what is due."""
    time.sleep(0.2)
    return node.claim()


def test_processes_that_claim_at_the_same_time_share_the_work(
    node: OutboxNode, database_url: str, tmp_path: Path
) -> None:
    keys = {node.add(f"T{number % TARGETS}") for number in range(TASKS)}
    finished: Queue[tuple[int, list[int]]] = spawning.Queue()
    begin = tmp_path / "begin"
    processes = [spawning.Process(target=claim_all, args=(database_url, str(begin), finished)) for _ in range(2)]
    for process in processes:
        process.start()
    begin.touch()
    shares = dict(finished.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert max(Counter(key for done in shares.values() for key in done).values()) == 1
    assert {key for done in shares.values() for key in done} == keys
    assert node.service.counts()[0] == {}


class Slow:
    """A handler that says that it has begun, and does not come to its end."""

    together = 10

    def at_once(self, target: str) -> int:
        return 4

    def __init__(self, begun: Path) -> None:
        self._begun = begun

    def run(self, work: Work) -> None:
        self._begun.write_text(" ".join(str(task.id) for task in work.tasks))
        time.sleep(600)

    def stop(self) -> None:
        pass


class Quick:
    together = 10

    def at_once(self, target: str) -> int:
        return 4

    def run(self, work: Work) -> None:
        for task in work.tasks:
            work.done(task)

    def stop(self) -> None:
        pass


def work_slowly(url: str, begun: str) -> None:
    node = OutboxNode(url, lease_seconds=2.0)
    Worker(node.service, {"send": Slow(Path(begun))}, stop_within=lambda: 0.0).start()
    time.sleep(600)


def test_a_task_outlives_a_process_that_is_killed_in_the_middle(
    node: OutboxNode, database_url: str, tmp_path: Path
) -> None:
    keys = [node.add(), node.add()]
    begun = tmp_path / "begun"
    process = spawning.Process(target=work_slowly, args=(database_url, str(begun)))
    process.start()
    try:
        ends = time.monotonic() + 60
        while not (begun.exists() and begun.read_text()):
            assert time.monotonic() < ends
            time.sleep(0.01)
    finally:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(60)
    assert node.states() == ["running", "running"]
    owner = node.task(keys[0]).node
    worker = Worker(node.service, {"send": Quick()}, stop_within=lambda: 10.0)
    worker.start()
    try:
        ends = time.monotonic() + 60
        while node.states() != ["done", "done"]:
            assert time.monotonic() < ends
            time.sleep(0.01)
    finally:
        worker.stop()
    assert owner.endswith(f":{process.pid}")
    assert node.counted == [("send", "lost")] * 2 + [("send", "done")] * 2
    # The attempt that was killed does not count: it was not the task's fault.
    assert [node.task(key).attempts for key in keys] == [1, 1]
