"""Workers find what they look for in the indexes of the tasks, however many tasks wait or were kept."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from plans import explained
from sqlalchemy import insert

from pacs_server.index.database import Database
from pacs_server.index.task_models import task
from pacs_server.index.task_overview import TaskOverview
from pacs_server.index.task_values import PATIENCE, Lease, Priority
from pacs_server.index.tasks import TaskIndex, Wanted

NOW = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
LEASE = Lease("o", "n", NOW + timedelta(seconds=60))
KINDS = {"send": 10, "look": 10}
# How many tasks there are in each state.
STATES = {"ready": 3000, "done": 3000, "dead": 100, "running": 20}
Act = Callable[[Database], object]
# What is done, and the indexes that its statements use, one after the other.
OPERATIONS: dict[str, tuple[Act, list[str]]] = {
    "claim": (
        lambda database: TaskIndex(database).claim(Wanted(KINDS), LEASE, NOW),
        ["ix_task_turn", "ix_task_target"],
    ),
    "claim, but not of a busy target": (
        lambda database: TaskIndex(database).claim(Wanted(KINDS, busy={("send", "T1")}), LEASE, NOW),
        ["ix_task_turn", "ix_task_target"],
    ),
    "claim what is urgent": (
        lambda database: TaskIndex(database).claim(Wanted(KINDS, urgent_only=True), LEASE, NOW),
        ["ix_task_urgent", "ix_task_(urgent|target)"],
    ),
    "look when the next one is due": (
        lambda database: TaskIndex(database).next_due(Wanted(KINDS)),
        ["ix_task_due", "ix_task_claimed_until"],
    ),
    "look when the next urgent one is due": (
        lambda database: TaskIndex(database).next_due(Wanted(KINDS, urgent_only=True)),
        ["ix_task_urgent", "ix_task_claimed_until"],
    ),
    "look for lost leases": (
        lambda database: TaskIndex(database).expire(list(KINDS), [], NOW),
        ["ix_task_claimed_until", "ix_task_claimed_until"],
    ),
    "remove what is over": (
        lambda database: TaskIndex(database).remove_finished(NOW - timedelta(seconds=2700), 1000),
        ["ix_task_finished"],
    ),
}
OUT_OF_ORDER = re.compile("TEMP B-TREE|Sort|Seq Scan on task|SCAN task(?! USING)")
# PostgreSQL sorts the few that are urgent, and may read a small table through to delete from it.
FEW = re.compile("ix_task_urgent|^Delete on task")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url, fsync=False)) as database:
        database.migrate()
        with database.begin() as connection:
            connection.execute(insert(task), [_row(state, n) for state in STATES for n in range(STATES[state])])
        if not database.is_sqlite:
            # As autovacuum does it while a server runs.
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
        yield database


def _row(state: str, n: int) -> dict[str, object]:
    priority = Priority.URGENT if n % 600 == 599 else (Priority.HIGH, Priority.MEDIUM, Priority.LOW)[n % 3]
    # Most of them are due.
    due = NOW + timedelta(seconds=200 - n)
    return {
        "kind": "send", "target": f"T{n % 8}", "priority": priority, "due": due, "turn": due + PATIENCE[priority],
        "state": state, "created": due, "finished": due if state == "done" else None,
        "claimed_until": NOW - timedelta(seconds=n) if state == "running" else None, "owner": f"owner of a {state} one",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", OPERATIONS)
def test_what_a_worker_does_reads_indexes_in_their_order(database: Database, what: str) -> None:
    act, expected = OPERATIONS[what]
    with explained(database, ("SELECT", "DELETE")) as plans:
        act(database)
    assert len(plans) == len(expected)
    for plan, index in zip(plans, expected, strict=True):
        assert re.search(index, plan), plan
        if database.is_sqlite or not FEW.search(plan):
            assert not OUT_OF_ORDER.search(plan), plan


@pytest.mark.slow
def test_tasks_are_counted_in_the_indexes_of_their_states(database: Database) -> None:
    with explained(database) as plans:
        counts = TaskOverview(database).counts()
    assert counts == {("send", state): STATES[state] for state in ("ready", "running", "dead")}
    (plan,) = plans
    for index in ("ix_task_(turn|due|target)", "ix_task_claimed_until", "ix_task_dead"):
        assert re.search(index, plan), plan
