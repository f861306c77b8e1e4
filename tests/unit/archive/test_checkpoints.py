"""When checkpoints are taken, what they do when something fails, and that nothing is retired too early."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacs_server.archive import checkpoints as module
from pacs_server.archive.checkpoints import Checkpoints
from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import IndexUnavailable, StorageFull, StorageUnavailable
from pacs_server.index.instances import Arrival, StoredInstance

Check = Callable[[Callable[[list[str]], bool]], None]


class File:
    """A file in a slot."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.listed = True

    def is_listed(self) -> bool:
        return self.listed


class Disk:
    """A spool with slots that notes what is asked of it, and the rows of an index; `faults` are raised by name."""

    slots = True
    is_embedded = False
    relaxes = True

    def __init__(self) -> None:
        self.rows: set[str] = set()
        self.steps: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.retired: list[str] = []
        self.shared = False
        self.check: Check = lambda finds_all: None
        self.happened = threading.Condition()

    def _step(self, name: str) -> None:
        with self.happened:
            self.steps.append(name)
            self.happened.notify_all()
        if name in self.faults:
            raise self.faults[name]

    # As a spool.

    def sync_names(self, keys: Iterable[str]) -> None:
        self._step("sync_names")

    def retire(self, entries: Iterable[Any]) -> None:
        self._step("retire")
        for file in entries:
            file.listed = False
            self.retired.append(file.uid)

    def others(self) -> Iterator[Any]:
        return iter(())

    def is_shared(self) -> bool:
        self._step("is_shared")
        return self.shared

    # As an index.

    def when_connected(self, check: Check) -> None:
        self.check = check

    def make_durable(self) -> None:
        self._step("make_durable")

    def known(self, uids: list[str]) -> dict[str, str]:
        self._step("known")
        return {uid: f"{uid}.dcm" for uid in uids if uid in self.rows}

    def restore(self, arrivals: Callable[[], list[Arrival]]) -> int:
        self._step("restore")
        lost = {each.instance.uids.sop for each in arrivals()} - self.rows
        self.rows |= lost
        return len(lost)

    def connect(self) -> None:
        """What a new connection to the database begins with."""
        self.check(lambda uids: set(uids) <= self.rows)


CHECKPOINT = ["sync_names", "make_durable", "known", "retire", "is_shared"]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def checkpoints(disk: Disk) -> Iterator[Checkpoints]:
    made = Checkpoints(disk, disk)  # type: ignore[arg-type]
    yield made
    disk.faults = {}
    made.stop()


def keep(checkpoints: Checkpoints, disk: Disk, *numbers: int) -> list[File]:
    """Instances of these numbers have been stored: committed and kept by their slots."""
    return [_keep(checkpoints, disk, f"1.2.{number}") for number in numbers]


def _keep(checkpoints: Checkpoints, disk: Disk, uid: str, connections: int | None = None) -> File:
    file = File(uid)
    uids = InstanceUIDs("1.2", "1.3", uid)
    stored = StoredInstance(uids, "1.4", "1.5", f"{uid}.dcm", 0, 1, "", 1)
    arrival = Arrival(stored, Header(uids, "1.4", "1.5", {}), Origin("CT1", "PACS", "", Door.DIMSE), None)  # type: ignore[arg-type]
    if connections is None:
        disk.rows.add(uid)
        connections = checkpoints.connections
    checkpoints.keep(file, arrival, connections)  # type: ignore[arg-type]
    return file


def happens(disk: Disk, condition: Callable[[], bool], seconds: float = 20) -> bool:
    with disk.happened:
        return disk.happened.wait_for(condition, seconds)


@contextmanager
def running(checkpoints: Checkpoints) -> Iterator[None]:
    checkpoints.start()
    try:
        yield
    finally:
        checkpoints.stop()


# ---------------------------------------------------------------- when


def test_the_steps_of_a_checkpoint_and_that_none_is_taken_for_nothing(checkpoints: Checkpoints, disk: Disk) -> None:
    checkpoints.take()
    assert disk.steps == []
    keep(checkpoints, disk, 1, 2)
    checkpoints.take()
    assert (disk.steps, disk.retired) == (CHECKPOINT, ["1.2.1", "1.2.2"])
    checkpoints.take()
    assert disk.steps == CHECKPOINT


def test_one_is_taken_a_quarter_of_a_second_after_the_first_instance(checkpoints: Checkpoints, disk: Disk) -> None:
    with running(checkpoints):
        began = time.monotonic()
        keep(checkpoints, disk, 1)
        assert happens(disk, lambda: "retire" in disk.steps)
        assert time.monotonic() - began > 0.24
        assert disk.retired == ["1.2.1"]


def test_256_instances_do_not_wait(checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AFTER_SECONDS", 3600.0)
    with running(checkpoints):
        keep(checkpoints, disk, *range(255))
        time.sleep(0.1)
        assert disk.retired == []
        keep(checkpoints, disk, 255)
        assert happens(disk, lambda: "retire" in disk.steps)
        assert len(disk.retired) == 256


def test_the_last_one_is_taken_at_the_end(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AFTER_SECONDS", 3600.0)
    with running(checkpoints):
        keep(checkpoints, disk, 1)
        assert disk.retired == []
    assert disk.retired == ["1.2.1"]


def test_whoever_stores_takes_it_if_nobody_else_does(checkpoints: Checkpoints, disk: Disk) -> None:
    keep(checkpoints, disk, *range(1023))
    assert disk.retired == []
    keep(checkpoints, disk, 1023)
    assert len(disk.retired) == 1024


@pytest.mark.slow
def test_nobody_is_woken_while_nothing_is_stored(checkpoints: Checkpoints, disk: Disk) -> None:
    def switches() -> int:
        thread = checkpoints._thread
        assert thread is not None
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])

    with running(checkpoints):
        for number in range(2):
            time.sleep(0.1)
            before = switches()
            time.sleep(0.7)
            assert switches() == before
            keep(checkpoints, disk, number)
            assert happens(disk, lambda n=number: len(disk.retired) > n)  # type: ignore[misc]


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("error", [IndexUnavailable, StorageUnavailable, StorageFull])
@pytest.mark.parametrize("step", CHECKPOINT[:-1])
def test_if_a_step_fails_nothing_is_retired_and_nothing_stored(
    checkpoints: Checkpoints,
    disk: Disk,
    step: str,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keep(checkpoints, disk, 1)
    disk.faults[step] = error("the disk is gone")
    with pytest.raises(error):
        checkpoints.take()
    assert disk.retired == []
    # It is not tried again by everybody who stores.
    steps = len(disk.steps)
    with pytest.raises(error, match="the disk is gone"):
        checkpoints.ensure_possible()
    assert len(disk.steps) == steps
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    with pytest.raises(error, match="the disk is gone"):
        checkpoints.ensure_possible()
    assert len(disk.steps) > steps
    disk.faults = {}
    checkpoints.ensure_possible()
    assert disk.retired == ["1.2.1"]
    logged = [record.message for record in caplog.records]
    assert logged == ["checkpoint failed, nothing is stored until one succeeds", "checkpoint succeeded again"]
    checkpoints.ensure_possible()


@pytest.mark.slow
def test_the_thread_tries_again_by_itself(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.05)
    disk.faults["make_durable"] = IndexUnavailable("down")
    with running(checkpoints):
        keep(checkpoints, disk, 1)
        assert happens(disk, lambda: disk.steps.count("make_durable") == 3)
        disk.faults = {}
        assert happens(disk, lambda: "retire" in disk.steps)


def test_senders_that_wait_for_one_who_tries_again_do_not_try_one_after_the_other(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(checkpoints, disk, 1)
    disk.faults["make_durable"] = IndexUnavailable("no answer")
    with pytest.raises(IndexUnavailable):
        checkpoints.take()
    assert checkpoints._failed is not None
    checkpoints._failed = checkpoints._failed[0], time.monotonic() - 10
    hanging, tried = threading.Event(), disk.steps.count("make_durable")
    real = disk.make_durable

    def hang() -> None:
        hanging.wait(20)
        real()

    monkeypatch.setattr(disk, "make_durable", hang)
    refused = []

    def send() -> None:
        try:
            checkpoints.ensure_possible()
        except IndexUnavailable as error:
            refused.append(str(error))

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    hanging.set()
    for thread in threads:
        thread.join(20)
    assert (refused, disk.steps.count("make_durable") - tried) == (["no answer"] * 5, 1)


# ---------------------------------------------------------------- rows that are lost


def test_lost_rows_are_written_again_before_a_new_connection_is_used(
    checkpoints: Checkpoints, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    keep(checkpoints, disk, 1, 2, 3)
    disk.connect()
    assert disk.steps == []
    disk.rows = {"1.2.2"}
    disk.connect()
    assert disk.rows == {"1.2.1", "1.2.2", "1.2.3"}
    assert [(record.message, record.__dict__["instances"]) for record in caplog.records] == [
        ("rows that the database had lost were written again", 2)
    ]


def test_a_connection_that_cannot_be_completed_is_not_used(checkpoints: Checkpoints, disk: Disk) -> None:
    keep(checkpoints, disk, 1)
    disk.rows = set()
    disk.faults["restore"] = IndexUnavailable("down")
    with pytest.raises(IndexUnavailable):
        disk.connect()
    disk.faults = {}
    disk.connect()
    assert disk.rows == {"1.2.1"}


def test_a_row_that_was_lost_before_it_was_kept_is_written_again(checkpoints: Checkpoints, disk: Disk) -> None:
    connections = checkpoints.connections
    # Committed, lost, and the connection that was made since could not know of it.
    disk.connect()
    _keep(checkpoints, disk, "1.2.1", connections)
    assert disk.rows == {"1.2.1"}
    # And without a new connection nothing is asked.
    steps = len(disk.steps)
    keep(checkpoints, disk, 2)
    assert len(disk.steps) == steps


def test_a_row_that_is_lost_and_cannot_be_written_again_is_no_success(checkpoints: Checkpoints, disk: Disk) -> None:
    connections = checkpoints.connections
    disk.connect()
    disk.faults["restore"] = IndexUnavailable("down")
    with pytest.raises(IndexUnavailable):
        _keep(checkpoints, disk, "1.2.1", connections)


def test_a_checkpoint_writes_lost_rows_again(checkpoints: Checkpoints, disk: Disk) -> None:
    keep(checkpoints, disk, 1, 2)
    disk.rows = {"1.2.2"}
    checkpoints.take()
    assert disk.rows == {"1.2.1", "1.2.2"}
    assert disk.steps == ["sync_names", "make_durable", "known", "restore", "known", "retire", "is_shared"]


def test_no_slot_is_retired_whose_row_stays_lost(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(checkpoints, disk, 1, 2)
    disk.rows = {"1.2.2"}
    monkeypatch.setattr(disk, "restore", lambda arrivals: 0)
    with pytest.raises(IndexUnavailable, match="lost rows"):
        checkpoints.take()
    assert disk.retired == []


def test_what_was_deleted_is_not_written_again(checkpoints: Checkpoints, disk: Disk) -> None:
    first, _ = keep(checkpoints, disk, 1, 2)
    # Whoever deletes it retires its slot first; then the row goes.
    first.listed = False
    disk.rows = set()
    disk.connect()
    assert disk.rows == {"1.2.2"}
    checkpoints.take()
    assert disk.rows == {"1.2.2"}


def test_a_slot_that_is_retired_while_the_writer_waits_is_not_written_again(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = keep(checkpoints, disk, 1)
    disk.rows = set()
    real = disk.restore

    def restore(arrivals: Callable[[], list[Arrival]]) -> int:
        file.listed = False
        return real(arrivals)

    monkeypatch.setattr(disk, "restore", restore)
    disk.connect()
    assert disk.rows == set()


def test_what_was_deleted_and_stored_again_has_the_row_of_what_is_stored(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _keep(checkpoints, disk, "1.2.1")
    first.listed = False
    _keep(checkpoints, disk, "1.2.1")
    written: list[Arrival] = []
    monkeypatch.setattr(disk, "restore", lambda arrivals: len(written.extend(arrivals()) or written))
    disk.rows = set()
    disk.connect()
    assert len(written) == 1


def test_after_a_commit_of_which_nobody_knows_the_next_store_begins_with_a_checkpoint(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    checkpoints.doubt()
    disk.faults["make_durable"] = IndexUnavailable("down")
    for _ in range(2):
        with pytest.raises(IndexUnavailable):
            checkpoints.ensure_possible()
    disk.faults = {}
    checkpoints.ensure_possible()
    steps = disk.steps.count("make_durable")
    checkpoints.ensure_possible()
    assert disk.steps.count("make_durable") == steps == 3


# ---------------------------------------------------------------- other processes


def test_while_another_process_stores_everything_is_synced_and_afterwards_no_more(
    checkpoints: Checkpoints, disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert checkpoints.relaxed()
    disk.shared = True
    assert checkpoints.relaxed()
    keep(checkpoints, disk, 1)
    checkpoints.take()
    assert not checkpoints.relaxed()
    disk.shared = False
    # Not every store looks.
    looked = disk.steps.count("is_shared")
    assert not checkpoints.relaxed()
    assert disk.steps.count("is_shared") == looked
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    assert checkpoints.relaxed()
    assert [record.message for record in caplog.records] == [
        "another process stores in this archive, so every name and row is synced by itself",
        "no other process stores in this archive any more",
    ]


def test_others_on_an_embedded_database_change_nothing(checkpoints: Checkpoints, disk: Disk) -> None:
    disk.is_embedded = True
    disk.shared = True
    assert checkpoints.relaxed()
    assert disk.steps == []


def test_a_database_without_a_log_is_told_of_once(
    checkpoints: Checkpoints, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk.relaxes = False
    assert not checkpoints.relaxed()
    assert not checkpoints.relaxed()
    assert [record.message for record in caplog.records] == [
        "without the database's write-ahead log every name and row is synced by itself"
    ]


def test_without_slots_nothing_is_asked(disk: Disk) -> None:
    disk.slots = False
    checkpoints = Checkpoints(disk, disk)  # type: ignore[arg-type]
    assert not checkpoints.relaxed()
    checkpoints.ensure_possible()
    assert disk.steps == []
