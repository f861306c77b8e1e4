"""`pacs-server tasks`: what waits, runs or was given up is shown with its reason, and can be retried and cancelled."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from outboxes import OutboxNode

from pacs_server.index.task_values import Priority

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "tasks")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[OutboxNode]:
    node = OutboxNode(f"sqlite:///{tmp_path}/pacs.db")
    yield node
    node.database.close()


def give_up(node: OutboxNode, *keys: int) -> None:
    tasks = node.claim()
    assert [task.id for task in tasks] == list(keys)
    for task in tasks:
        node.service.give_up(task, "0xA900\x1b")


def listed(printed: str) -> list[list[str]]:
    return [line.split("\t") for line in printed.splitlines()[1:]]


def test_an_empty_list(run: Run) -> None:
    assert run("list") == (0, "ID\tKIND\tTARGET\tPRIORITY\tSTATE\tAGE\tDUE\tATTEMPTS\tNOTE\n", "")
    assert run("list", "--json") == (0, "[]\n", "")


def test_what_waits_and_why(run: Run, node: OutboxNode) -> None:
    dead = node.add("CT\x1b1", Priority.LOW)
    give_up(node, dead)
    waiting = node.add("", kind="look")
    _, printed, _ = run("list")
    first, second = listed(printed)
    # What a peer sent does not reach the terminal as it is.
    assert first[:5] == [str(dead), "send", "CT\\x1b1", "low", "dead"]
    assert first[6:] == ["-", "1", "0xA900\\x1b"]
    assert second[:5] == [str(waiting), "look", "-", "medium", "ready"]
    assert second[6:] == ["-", "0", "-"]


def test_a_wait_is_shown(run: Run, node: OutboxNode) -> None:
    node.add()
    (task,) = node.claim()
    node.service.postpone(task, "busy", 86400 * 2 + 600)
    (row,) = listed(run("list")[1])
    assert row[6:] == ["in 2.0d", "0", "busy"]


@pytest.mark.slow
def test_a_list_can_be_narrowed(run: Run, node: OutboxNode) -> None:
    one = node.add("A")
    give_up(node, one)
    two, three = node.add("B"), node.add("A", kind="look")
    node.service.cancel(node.add("C"))

    def keys(*arguments: object) -> list[int]:
        code, printed, _ = run("list", *arguments)
        assert code == 0
        return [int(row[0]) for row in listed(printed)]

    assert keys() == [one, two, three]
    assert keys("--all") == [one, two, three, three + 1]
    assert keys("--kind", "send") == [one, two]
    assert keys("--target", "A") == [one, three]
    assert keys("--state", "dead", "--state", "cancelled") == [one, three + 1]
    assert keys("--limit", 1) == [three]
    found = json.loads(run("list", "--json", "--state", "dead")[1])
    assert [(task["id"], task["state"], task["payload"]) for task in found] == [(one, "dead", {})]
    code, _, error = run("list", "--state", "lost")
    assert (code, error) == (
        2, "pacs-server: --state: lost is none of ready, running, done, dead, cancelled\n"
    )  # fmt: skip


@pytest.mark.slow
def test_all_that_is_known_of_one(run: Run, node: OutboxNode) -> None:
    key = node.add("A", payload={"study": "1.2.3"}, dedupe_key="1.2.3 to A")
    code, printed, _ = run("show", key)
    assert code == 0
    lines = dict(line.split(": ", 1) for line in printed.splitlines())
    assert (lines["id"], lines["state"], lines["created_by"]) == (str(key), "ready", "a test")
    assert (lines["payload"], lines["dedupe_key"], lines["last_error"]) == ('{"study": "1.2.3"}', "1.2.3 to A", "-")
    assert json.loads(run("show", key, "--json")[1])["payload"] == {"study": "1.2.3"}
    assert run("show", 99) == (1, "", "pacs-server: there is no task 99\n")


@pytest.mark.slow
def test_retry(run: Run, node: OutboxNode) -> None:
    keys = [node.add() for _ in range(3)]
    give_up(node, *keys)
    assert run("retry", *keys[:2]) == (0, "2 tasks are due\n", "")
    assert [node.task(key).state for key in keys] == ["ready", "ready", "dead"]
    running = node.claim()[0].id
    code, printed, error = run("retry", running, keys[2], 99)
    assert (code, printed) == (1, "1 task is due\n")
    assert error.splitlines() == [f"pacs-server: task {running} is running", "pacs-server: there is no task 99"]
    assert node.task(keys[2]).state == "ready"


@pytest.mark.slow
def test_retry_of_one_whose_work_waits_already(run: Run, node: OutboxNode) -> None:
    dead = node.add(dedupe_key="x")
    give_up(node, dead)
    node.add(dedupe_key="x")
    assert run("retry", dead) == (
        1, "0 tasks are due\n", f"pacs-server: task {dead} stays as it is: another task does the same work\n"
    )  # fmt: skip


@pytest.mark.slow
def test_retry_of_all_that_are_dead(run: Run, node: OutboxNode) -> None:
    for kind, target in (("send", "A"), ("send", "B"), ("look", "A")):
        give_up(node, node.add(target, kind=kind))
    assert run("retry", "--dead", "--kind", "send", "--target", "B")[:2] == (0, "1 task is due\n")
    assert node.states() == ["dead", "ready", "dead"]
    assert run("retry", "--dead")[:2] == (0, "2 tasks are due\n")
    assert run("retry", "--dead")[:2] == (0, "0 tasks are due\n")
    assert run("retry")[0] == run("retry", "--dead", 1)[0] == 2


@pytest.mark.slow
def test_cancel(run: Run, node: OutboxNode) -> None:
    one, two = node.add(), node.add()
    assert run("cancel", one)[:2] == (0, "1 task is cancelled\n")
    code, printed, error = run("cancel", one, two)
    assert (code, printed) == (1, "1 task is cancelled\n")
    assert error == f"pacs-server: there is no task {one} that is ready, running or dead\n"
    assert node.states() == ["cancelled", "cancelled"]
    assert run("cancel")[0] == 2
