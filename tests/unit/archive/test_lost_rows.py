"""A database server that crashes and loses rows: they are written again, and nobody gets an answer without them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct, uid
from nodes import Node
from sqlalchemy import text

from pacs_server.archive import checkpoints as module
from pacs_server.archive.archive import StoreOutcome
from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex

pytestmark = [pytest.mark.postgres, pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)]

_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def node_of(directory: Path, url: str) -> Node:
    """A node that leaves names and rows to its checkpoints."""
    made = Node(directory, url, migrated=True, slots=True)
    made.database._fsync = True
    return made


@pytest.fixture
def node(tmp_path: Path, database_url: str) -> Iterator[Node]:
    made = node_of(tmp_path, database_url)
    yield made
    made.die()


@pytest.fixture
def second(tmp_path: Path, database_url: str) -> Iterator[Node]:
    made = node_of(tmp_path, database_url)
    yield made
    made.die()


def store(node: Node, number: int = 1) -> list[str]:
    """Store instances of one study, and return their UIDs."""
    study, series = uid(), uid()
    stored = [make_ct(study, series) for _ in range(number)]
    assert [node.store(ds) for ds in stored] == [StoreOutcome.STORED] * number
    return [str(ds.SOPInstanceUID) for ds in stored]


def lose(url: str, *uids: str) -> None:
    """Do what a crash of the server does: rows that were not durable are gone, and all connections are broken."""
    database = Database(url)
    try:
        for each in uids:
            InstanceIndex(database).remove(each)
        with database.begin() as connection:
            connection.execute(text(f"SELECT pg_terminate_backend(pid, 10000) {_OTHERS}"))
    finally:
        database.close()


def rows_of(url: str) -> set[str]:
    """The instances in the database, whoever else has a connection."""
    database = Database(url)
    try:
        with database.connect() as connection:
            return set(connection.scalars(text("SELECT sop_instance_uid FROM instance")))
    finally:
        database.close()


def listed(node: Node) -> int:
    """How many instances slots keep."""
    return sum(1 for path in (node.root / "incoming").iterdir() if path.stat().st_size)


def test_the_next_connection_has_all_rows(node: Node, database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    uids = store(node, 3)
    lose(database_url, *uids[1:])
    assert rows_of(database_url) == {uids[0]}
    assert node.rows().keys() == set(uids)
    assert rows_of(database_url) == set(uids)
    counts = node.archive.counts()
    assert (counts.patients, counts.studies, counts.series, counts.instances) == (1, 1, 1, 3)
    (record,) = [record for record in caplog.records if "written again" in record.message]
    assert record.__dict__["instances"] == 2
    node.archive.checkpoints.take()
    assert listed(node) == 0


def test_nobody_gets_an_answer_while_rows_are_being_written_again(
    node: Node, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = store(node, 3)
    lose(database_url, *uids)
    answers: list[set[str]] = []
    others: list[threading.Thread] = []
    real = node.index.restore

    def restore(arrivals: Callable[[], Any]) -> int:
        others.extend(threading.Thread(target=lambda: answers.append(set(node.rows()))) for _ in range(3))
        for thread in others:
            thread.start()
        time.sleep(0.5)  # long enough for an answer
        return real(arrivals)

    monkeypatch.setattr(node.index, "restore", restore)
    answers.append(set(node.rows()))
    for thread in others:
        thread.join(20)
    assert answers == [set(uids)] * 4


def test_a_connection_on_which_rows_were_written_again_is_used_by_nobody_else(
    node: Node, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = store(node), store(node)
    lose(database_url, *first)
    real = node.index.restore

    def restore(arrivals: Callable[[], Any]) -> int:
        written = real(arrivals)
        # Another crash, which is over before anybody else has asked.
        lose(database_url, *second)
        return written

    monkeypatch.setattr(node.index, "restore", restore)
    with suppress(IndexUnavailable):
        assert node.rows().keys() == {*first, *second}
    monkeypatch.setattr(node.index, "restore", real)
    assert node.rows().keys() == {*first, *second}


def test_a_row_that_is_lost_between_its_commit_and_the_answer(
    node: Node, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = node.index.add

    def add(instance: Any, *arguments: Any, **options: Any) -> None:
        real(instance, *arguments, **options)
        lose(database_url, instance.uids.sop)
        # Somebody asks: the new connection cannot know of the instance yet.
        assert instance.uids.sop not in node.rows()

    monkeypatch.setattr(node.index, "add", add)
    uids = store(node)
    assert rows_of(database_url) == set(uids)


def test_what_another_process_has_deleted_stays_deleted(node: Node, second: Node, database_url: str) -> None:
    uids = store(node, 3)
    second.archive.checkpoints.take_everywhere()
    lose(database_url, uids[0])
    assert node.rows().keys() == set(uids[1:])
    new = store(node)
    lose(database_url, *new)
    assert node.rows().keys() == {*uids[1:], *new}
    node.archive.checkpoints.take()
    assert listed(node) == 0
    assert second.rows().keys() == {*uids[1:], *new}


def test_rows_of_others_that_are_lost_in_a_checkpoint_keep_their_slots(
    node: Node, second: Node, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = store(node, 2)
    real = second.index.make_durable

    def make_durable() -> None:
        lose(database_url, *uids)
        real()

    monkeypatch.setattr(second.index, "make_durable", make_durable)
    with pytest.raises(IndexUnavailable, match="lost rows"):
        second.archive.checkpoints.take_everywhere()
    assert listed(node) == 2
    assert node.rows().keys() == set(uids)


def test_a_second_node_has_both_sync_everything(
    node: Node, second: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = node.archive.checkpoints
    store(node)
    assert first.relaxed()
    # It only asks, and is seen.
    assert not second.archive.checkpoints.relaxed()
    first.take()
    assert not first.relaxed()
    store(node)
    assert listed(node) == 0
    second.spool.close()
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    assert first.relaxed()
    store(node)
    assert listed(node) == 1
    told = [record.message for record in caplog.records if "process stores in this archive" in record.message]
    assert told == [
        "another process stores in this archive, so every name and row is synced by itself",
        "another process stores in this archive, so every name and row is synced by itself",
        "no other process stores in this archive any more",
    ]
