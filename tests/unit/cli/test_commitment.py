"""`pacs-server commitment`: what waits is shown with its reason, and can be tried again."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from pacs_server.dicom.commitment import CommitmentRequest, Reference
from pacs_server.index.commitment import KIND, CommitmentIndex, Schedule, Transaction, follow
from pacs_server.index.database import Database
from pacs_server.index.task_values import Lease, Task, TaskState
from pacs_server.index.tasks import Settlement, TaskIndex, Wanted

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "commitment")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/pacs.db")
    database.migrate()
    return database


@pytest.fixture
def index(database: Database) -> CommitmentIndex:
    return CommitmentIndex(database)


@pytest.fixture
def tasks(database: Database) -> TaskIndex:
    return TaskIndex(database, {KIND: follow})


def add(index: CommitmentIndex, uid: str, *, age: timedelta = timedelta()) -> tuple[Transaction, Task]:
    asked = datetime.now(UTC) - age
    schedule = Schedule(asked, asked + timedelta(days=3), Lease(uid, "node", asked + timedelta(hours=1000)))
    request = CommitmentRequest(uid, (Reference("1.2", "1.3"), Reference("1.2", "1.4")))
    return index.add(request, "CT\x1b1", "127.0.0.1", schedule)


def test_an_empty_list(run: Run) -> None:
    code, printed, _ = run("list")
    assert code == 0
    assert printed.splitlines() == [
        "ID\tSTATUS\tAGE\tAE TITLE\tINSTANCES\tFAILED\tATTEMPTS\tTRANSACTION UID\tLAST ERROR"
    ]


@pytest.mark.slow
def test_what_waits_and_why(run: Run, index: CommitmentIndex, tasks: TaskIndex) -> None:
    (old, old_task), (new, _) = add(index, "1.1", age=timedelta(hours=36)), add(index, "1.2")
    rows = index.unverified(old, 10)
    index.verified({rows[0][0]: 0, rows[1][0]: 0x0112})
    assert tasks.settle(old_task, Settlement(TaskState.READY, 3, "cannot connect"), datetime.now(UTC))
    assert index.reported(new, datetime.now(UTC))
    _, printed, _ = run("list")
    # What a peer sent does not reach the terminal as it is.
    assert printed.splitlines()[1:] == [f"{old.id}\tPENDING\t1.5d\tCT\\x1b1\t2\t1\t3\t1.1\tcannot connect"]
    _, printed, _ = run("list", "--all", "--limit", 1)
    status, age = printed.splitlines()[1].split("\t")[1:3]
    assert status == "REPORTED"
    assert re.fullmatch(r"\d+s", age)


@pytest.mark.slow
def test_retry(run: Run, index: CommitmentIndex, tasks: TaskIndex) -> None:
    transaction, task = add(index, "1.1")
    assert tasks.settle(task, Settlement(TaskState.DEAD, 1, "no"), datetime.now(UTC))
    assert run("retry", transaction.id)[:2] == (0, f"transaction {transaction.id} is due\n")
    now = datetime.now(UTC)
    lease = Lease("owner", "node", now + timedelta(minutes=1))
    assert [claimed.id for claimed in tasks.claim(Wanted({KIND: 10}), lease, now)] == [task.id]
    assert index.reported(transaction, now)
    code, _, error = run("retry", transaction.id)
    assert code == 1
    assert error == f"pacs-server: there is no transaction {transaction.id} that is not reported yet\n"
