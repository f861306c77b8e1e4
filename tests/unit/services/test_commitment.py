"""The life of a commitment transaction: kept, verified, claimed, put off, given up, reported; on both databases."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from datasets import make_ct
from memory_archive import memory_archive
from pydicom.dataset import Dataset
from servers import EXPLICIT, IMPLICIT, free_port
from sqlalchemy import Connection, delete, select, update
from strategies import encoded
from trails import silent

from pacs_server.archive.archive import Archive
from pacs_server.config import CommitmentConfig
from pacs_server.dicom.caller import Door
from pacs_server.dicom.commitment import CommitmentEvent, CommitmentRequest, FailureReason, Reference
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.errors import InvalidArgumentValue, ResourceLimitation
from pacs_server.index import commitment as index_of_commitment
from pacs_server.index.commitment import KIND, CommitmentIndex, CommitmentStatus, Transaction, follow
from pacs_server.index.database import Database
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.task_models import task as task_table
from pacs_server.index.task_overview import TaskFilter, TaskOverview
from pacs_server.index.task_values import NewTask, Task, TaskState
from pacs_server.index.tasks import TaskIndex, Wanted, add_task
from pacs_server.index.workflow_models import commitment as commitment_table
from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Timeouts
from pacs_server.net.transport import DeadlineExpired
from pacs_server.outbox import commitment as outbox
from pacs_server.outbox.commitment import CommitmentHandler
from pacs_server.outbox.handler import Work
from pacs_server.scu import link
from pacs_server.scu.link import Requestor
from pacs_server.scu.remote import RemoteAE
from pacs_server.services import commitment
from pacs_server.services.commitment import ReportTask, StorageCommitmentService, retry_policy
from pacs_server.services.deletion import DeletionService
from pacs_server.services.store import StoreRequest, StoreService
from pacs_server.services.tasks import LEASE_SECONDS, TaskService
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.memory import MemoryStorage

SETTINGS = CommitmentConfig(retry_first=10, retry_max=60, give_up_after=300)
CT = "1.2.840.10008.5.1.4.1.1.2"
WANTED = Wanted({KIND: CommitmentHandler.together})


class Clock:
    """The time, which passes when told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 29, 0, 59, 30, 123456, UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Node:
    """One of the processes that share a database."""

    def __init__(self, url: str, files: ArchiveFiles, clock: Clock) -> None:
        self.database = Database(url)
        self.database.migrate()
        assert isinstance(files.storage, MemoryStorage)
        self.storage = files.storage
        self.clock = clock
        self.counted: list[str] = []
        archive = Archive(
            files.storage, files.spool, InstanceIndex(self.database), naming="flat", duplicate_policy="reject"
        )
        self.deletions = DeletionService(DeletionIndex(self.database), files, archive.checkpoints, silent())
        self.store_service = StoreService(archive)
        self.index = CommitmentIndex(self.database)
        self.tasks = TaskService(
            TaskIndex(self.database, {KIND: follow}),
            TaskOverview(self.database),
            {KIND: lambda: retry_policy(SETTINGS)},
            clock=clock,
        )
        self.service = StorageCommitmentService(
            archive, self.index, self.tasks, lambda: SETTINGS, counted=self.counted.append
        )

    def store(self, ds: Dataset) -> Reference:
        data = encoded(ds, EXPLICIT)
        origin = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)
        self.store_service.store(StoreRequest(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT, origin), [data])
        return Reference(str(ds.SOPClassUID), str(ds.SOPInstanceUID))

    def request(self, *references: Reference, uid: str = "1.2.3", ae: str = "CT1", claim: bool = False) -> ReportTask:
        asked = references or (Reference(CT, "1.2.3.4"),)
        return self.service.request(CommitmentRequest(uid, tuple(asked)), ae, "127.0.0.1", claim=claim)[0]

    def claim_due(self) -> list[ReportTask]:
        return self.service.reports(self.tasks.claim(WANTED))

    def seconds_to_next(self) -> float | None:
        return self.tasks.seconds_to_next(WANTED)

    def only(self) -> Transaction:
        (summary,) = self.service.summaries(everything=True, limit=10)
        return summary.transaction

    def task(self) -> Task:
        (task,) = self.tasks.tasks(TaskFilter(states=tuple(TaskState)), 10)
        return task

    def deliver(self, claimed: list[ReportTask], remotes: Callable[[str], RemoteAE | None]) -> None:
        terms = Terms(16384, 5.0, Timeouts(5.0, 5.0), "1.2.3", "TEST")
        handler = CommitmentHandler(self.service, Requestor(remotes, lambda: "PACS", lambda: terms))
        handler.run(Work([report.task for report in claimed], self.tasks, never))


@pytest.fixture
def node_of(database_url: str) -> Iterator[Callable[[], Node]]:
    files, clock = memory_archive(), Clock()
    nodes: list[Node] = []

    def start() -> Node:
        nodes.append(Node(database_url, files, clock))
        return nodes[-1]

    yield start
    for node in nodes:
        node.database.close()


@pytest.fixture
def node(node_of: Callable[[], Node]) -> Node:
    return node_of()


def never() -> bool:
    return False


# ------------------------------------------------------------------------------------ verification


def test_each_instance_gets_what_is_true_of_it(node: Node) -> None:
    good, corrupt, lost, cut = (node.store(make_ct()) for _ in range(4))
    paths = {r: next(p for p in node.storage.files if r.sop_instance_uid in p) for r in (good, corrupt, lost, cut)}
    node.storage.files[paths[corrupt]] = node.storage.files[paths[corrupt]][:-1] + b"\xff"
    node.storage.files[paths[cut]] = node.storage.files[paths[cut]][:-1]
    del node.storage.files[paths[lost]]
    unknown, conflict = Reference(CT, "1.2.3.4"), Reference("1.2.840.10008.5.1.4.1.1.4", good.sop_instance_uid)
    asked = (unknown, good, corrupt, conflict, lost, cut)
    claimed = node.request(*asked, claim=True)
    assert node.service.verify(claimed, never)
    results = list(node.index.results(claimed.transaction))
    assert [reference for reference, _ in results] == list(asked)
    assert [reason for _, reason in results] == [0x0112, 0, 0x0110, 0x0119, 0x0110, 0x0110]
    (summary,) = node.service.summaries(everything=False, limit=1)
    assert (summary.instances, summary.failed) == (6, 5)


@pytest.mark.slow
def test_a_verification_goes_on_where_it_was_interrupted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    references = [node.store(make_ct(rows=1, columns=1)) for _ in range(6)]
    checked: list[str] = []
    check = StorageCommitmentService._check
    monkeypatch.setattr(
        StorageCommitmentService,
        "_check",
        lambda self, reference, stop: checked.append(reference.sop_instance_uid) or check(self, reference, never),
    )
    monkeypatch.setattr(commitment, "_BATCH_INSTANCES", 2)
    claimed = node.request(*references, claim=True)
    assert not node.service.verify(claimed, lambda: len(checked) >= 3)
    assert len(checked) == 3
    (again,) = node.claim_due()
    assert node.service.verify(again, never)
    assert checked == [reference.sop_instance_uid for reference in references]


@pytest.mark.slow
def test_an_interruption_does_not_wait_for_the_end_of_a_file(node: Node) -> None:
    claimed = node.request(node.store(make_ct(rows=2000, columns=2000)), claim=True)
    asked: list[bool] = []

    def soon() -> bool:
        asked.append(len(asked) > 2)
        return asked[-1]

    assert not node.service.verify(claimed, soon)
    assert len(node.index.unverified(claimed.transaction, 2)) == 1
    # Nobody is promised what was not verified.
    assert [reason for _, reason in node.index.results(claimed.transaction)] == [FailureReason.PROCESSING_FAILURE]
    assert node.task().claimed_until is None


def test_who_has_lost_the_claim_stops(node: Node) -> None:
    claimed = node.request(claim=True)
    assert node.claim_due() == []
    node.clock.advance(LEASE_SECONDS + 1)
    node.tasks.expire(WANTED.kinds)
    (taken_over,) = node.claim_due()
    assert not node.service.verify(claimed, never)
    node.service.release(claimed)
    node.service.failed(claimed, "nobody hears this")
    assert node.only() == taken_over.transaction
    assert node.task() == taken_over.task
    assert node.service.verify(taken_over, never)


# ------------------------------------------------------------------------------------ requests


def test_the_same_request_again_is_the_same_transaction(node: Node) -> None:
    one, other = Reference(CT, "1.1"), Reference(CT, "1.2")
    first = node.request(one, other)
    again = node.request(other, one)
    assert (again.transaction.id, again.task.id) == (first.transaction.id, first.task.id)
    node.request(one, other, ae="CT2")
    with pytest.raises(InvalidArgumentValue, match="other instances"):
        node.request(one)
    node.service.delivered(first)
    with pytest.raises(InvalidArgumentValue, match="reported before"):
        node.request(one, other)


def test_asking_again_makes_it_due_again(node: Node) -> None:
    node.request()
    (claimed,) = node.claim_due()
    node.clock.advance(SETTINGS.give_up_after + 1)
    node.service.failed(claimed, "no")
    assert node.only().status == CommitmentStatus.GIVEN_UP
    again = node.request(claim=True)
    assert again.transaction.status == CommitmentStatus.PENDING
    assert again.task.state == TaskState.RUNNING
    assert again.task.deadline is not None
    assert again.task.deadline > node.clock.now


def test_asking_again_forgets_the_processes_that_ended(node: Node) -> None:
    node.request(claim=True)
    node.clock.advance(LEASE_SECONDS)
    node.tasks.expire(WANTED.kinds)
    assert node.task().lost_leases == 1
    assert node.request(claim=True).task.lost_leases == 0


def test_what_somebody_holds_is_not_taken_by_asking_again(node: Node) -> None:
    held = node.request(claim=True)
    node.clock.advance(1)
    again, claimed = node.service.request(
        CommitmentRequest("1.2.3", (Reference(CT, "1.2.3.4"),)), "CT1", "127.0.0.1", claim=True
    )
    assert not claimed
    assert (again.task.owner, again.task.claimed_until) == (held.task.owner, held.task.claimed_until)


@pytest.mark.slow
def test_many_at_once_with_one_uid(node_of: Callable[[], Node]) -> None:
    nodes = [node_of(), node_of()]
    keys: list[int] = []

    def ask(node: Node) -> None:
        keys.append(node.request().task.id)

    threads = [threading.Thread(target=ask, args=(nodes[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_database_that_is_down_is_no_promise(node: Node, tmp_path) -> None:
    index = CommitmentIndex(Database(f"sqlite:///{tmp_path}/none/x.db"))
    broken = StorageCommitmentService(node.service._archive, index, node.tasks, lambda: SETTINGS)
    with pytest.raises(ResourceLimitation):
        broken.request(CommitmentRequest("1.2", (Reference(CT, "1.1"),)), "CT1", "127.0.0.1", claim=False)


# ------------------------------------------------------------------------------------ when and by whom


@pytest.mark.slow
def test_it_waits_twice_as_long_each_time_and_is_given_up(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    remote = RemoteAE("CT1", "127.0.0.1", free_port(), 1.0, 1.0)
    node.request()
    waits = []
    while claimed := node.claim_due():
        node.deliver(claimed, lambda title: remote if title == "CT1" else None)
        assert node.claim_due() == []
        seconds = node.seconds_to_next()
        if seconds is None:
            break
        waits.append(seconds)
        node.clock.advance(seconds)
    # To the end of five minutes, and the last attempt at their end.
    assert waits == [10, 20, 40, 60, 60, 60, 50]
    last = node.only()
    assert (last.status, last.attempts) == (CommitmentStatus.GIVEN_UP, 8)
    assert "cannot connect" in last.last_error
    assert node.counted == ["requested", "given_up"]
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == ["commitment report given up"]
    assert node.service.gauges() == {
        "pacs_commitment_pending": 0,
        "pacs_commitment_given_up": 1,
        "pacs_commitment_oldest_undelivered_seconds": 0,
    }


def test_what_was_given_up_can_be_tried_again(node: Node) -> None:
    node.request()
    (claimed,) = node.claim_due()
    node.clock.advance(SETTINGS.give_up_after)
    node.service.failed(claimed, "no")
    assert node.claim_due() == []
    key = claimed.transaction.id
    assert node.service.retry(key)
    assert not node.service.retry(key + 1)
    (again,) = node.claim_due()
    node.service.failed(again, "still no")
    assert node.only().status == CommitmentStatus.PENDING
    node.service.delivered(again)
    assert not node.service.retry(key)


def test_a_peer_that_is_not_configured_is_waited_for(node: Node) -> None:
    node.request(ae="NEW")
    node.deliver(node.claim_due(), lambda title: None)
    waiting = node.only()
    assert waiting.status == CommitmentStatus.PENDING
    assert waiting.last_error == "NEW is not in remote_aes"
    assert node.seconds_to_next() == 10


def test_one_peer_at_a_time_and_the_longest_wait_first(node: Node) -> None:
    node.request(uid="1.1", ae="A")
    node.clock.advance(1)
    node.request(uid="1.2", ae="B")
    node.clock.advance(1)
    node.request(uid="1.3", ae="A")
    claims = [[claimed.transaction.transaction_uid for claimed in node.claim_due()] for _ in range(3)]
    assert claims == [["1.1", "1.3"], ["1.2"], []]
    assert node.seconds_to_next() == LEASE_SECONDS


class Peer:
    """The remote AE CT1, which is told of transactions over associations without a network."""

    remote = RemoteAE("CT1", "127.0.0.1", 104, 1.0, 100.0)

    def __init__(self, monkeypatch: pytest.MonkeyPatch, take: Callable[[], int]) -> None:
        """`take` gives the status of the answer."""
        self.events: list[CommitmentEvent] = []
        self.ends: list[str] = []
        self._take = take
        monkeypatch.setattr(link, "connect", lambda *_, **__: self)
        monkeypatch.setattr(outbox, "send_event_report", self._report)
        self.transport = SimpleNamespace(close=lambda: self.ends.append("closed"))
        self.contexts = {1: SimpleNamespace(context_id=1, transfer_syntax=IMPLICIT)}

    def _report(self, _association: object, _context: int, event: CommitmentEvent, _data: bytes) -> int:
        self.events.append(event)
        return self._take()

    def release(self) -> None:
        raise DeadlineExpired("no answer")

    def abort(self) -> None:
        self.ends.append("aborted")


@pytest.mark.slow
def test_a_report_is_not_sent_again_before_the_peer_has_had_its_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be sent again after a crash, when the lease has run out."""
    lasts: list[timedelta] = []

    def take() -> int:
        # The worker renews leases meanwhile.
        node.tasks.renew([node.task()])
        lasts.append((node.task().claimed_until or node.clock.now) - node.clock.now)
        return 0

    peer = Peer(monkeypatch, take)
    node.request()
    node.deliver(node.claim_due(), lambda _: peer.remote)
    assert lasts == [timedelta(seconds=peer.remote.response_timeout + LEASE_SECONDS)]
    assert node.only().status == CommitmentStatus.REPORTED
    # It did not answer the release.
    assert peer.ends == ["aborted", "closed"]


@pytest.mark.slow
def test_what_is_deleted_while_others_are_reported_is_not_committed_to(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = node.store(make_ct()), node.store(make_ct())

    def take() -> int:
        if len(peer.events) == 1:
            node.deletions.delete(Level.IMAGE, second.sop_instance_uid, "wrong patient")
        return 0

    peer = Peer(monkeypatch, take)
    asked = [node.request(first, uid="1.1"), node.request(second, uid="1.2")]
    node.deliver(node.claim_due(), lambda _: peer.remote)
    assert peer.events == [CommitmentEvent.SUCCESSFUL, CommitmentEvent.FAILURES_EXIST]
    results = [list(node.index.results(report.transaction)) for report in asked]
    assert results == [[(first, 0)], [(second, FailureReason.NO_SUCH_OBJECT_INSTANCE)]]


# ------------------------------------------------------------------------------------ the task behind it


@pytest.mark.slow
def test_a_transaction_shows_what_has_become_of_its_task(node: Node) -> None:
    node.request()
    (claimed,) = node.claim_due()
    node.service.failed(claimed, "no answer")
    assert (node.only().attempts, node.only().last_error) == (1, "no answer")
    assert node.tasks.cancel(claimed.task.id)
    assert node.only().status == CommitmentStatus.CANCELLED
    assert node.service.gauges()["pacs_commitment_pending"] == node.service.gauges()["pacs_commitment_given_up"] == 0
    assert node.service.summaries(everything=False, limit=1) == []
    assert node.tasks.retry(node.task())
    assert node.only().status == CommitmentStatus.PENDING
    (again,) = node.claim_due()
    node.clock.advance(SETTINGS.give_up_after)
    node.service.failed(again, "no answer")
    assert (node.only().status, node.task().state) == (CommitmentStatus.GIVEN_UP, TaskState.DEAD)
    # The modality asks once more: the same task is due again.
    node.request()
    assert (node.only().status, node.task().state) == (CommitmentStatus.PENDING, TaskState.READY)
    (last,) = node.claim_due()
    node.service.delivered(last)
    assert (node.only().status, node.task().state) == (CommitmentStatus.REPORTED, TaskState.DONE)
    assert (node.only().attempts, node.only().last_error, node.only().reported_at) == (3, "", node.clock.now)


@pytest.mark.slow
def test_a_late_answer_counts_whoever_holds_the_task_by_then(node: Node) -> None:
    late = node.request(claim=True)
    node.clock.advance(LEASE_SECONDS)
    node.tasks.expire(WANTED.kinds)
    (claimed,) = node.claim_due()
    node.service.delivered(late)
    node.service.delivered(late)
    assert (node.only().status, node.only().attempts) == (CommitmentStatus.REPORTED, 1)
    # Nothing is sent twice: whoever holds the task finds out before it sends.
    assert not node.service.hold(claimed)
    assert (node.task().state, node.only().status) == (TaskState.DONE, CommitmentStatus.REPORTED)
    assert node.counted == ["requested", "reported"]


@pytest.mark.slow
def test_a_report_that_was_taken_is_not_made_again_with_its_task(node: Node) -> None:
    claimed = node.request(claim=True)
    again = NewTask(KIND, "a test", "CT1", claimed.task.payload, dedupe_key=claimed.task.dedupe_key)
    with node.database.begin() as connection:
        assert add_task(connection, again, node.clock.now) == claimed.task.id
    node.service.delivered(claimed)
    assert (node.only().status, node.task().state) == (CommitmentStatus.REPORTED, TaskState.READY)
    assert node.claim_due() == []
    assert (node.only().status, node.task().state) == (CommitmentStatus.REPORTED, TaskState.DONE)
    assert node.counted == ["requested", "reported"]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["request", "retry"])
def test_asking_again_while_a_report_fails_is_no_deadlock(node_of: Callable[[], Node], by: str) -> None:
    """Both change the transaction and its task."""
    node, other = node_of(), node_of()
    node.request()
    (claimed,) = node.claim_due()
    begun, asked = threading.Event(), []

    def ask() -> None:
        begun.wait(60)
        if by == "request":
            other.request()
        else:
            other.service.retry(claimed.transaction.id)
        asked.append(True)

    def follow_late(connection: Connection, task: Task, retried: bool) -> None:
        # The task is locked now. The other one gets as far as it can.
        begun.set()
        time.sleep(0.5)
        follow(connection, task, retried)

    node.tasks._index._followers = {KIND: follow_late}
    thread = threading.Thread(target=ask)
    thread.start()
    node.service.failed(claimed, "no")
    thread.join()
    assert asked == [True]
    assert (node.task().attempts, node.task().due) == (1, node.clock.now)


@pytest.mark.slow
def test_a_task_whose_transaction_was_reported_is_done(node: Node) -> None:
    late = node.request(claim=True)
    node.clock.advance(LEASE_SECONDS)
    node.tasks.expire(WANTED.kinds)
    node.service.delivered(late)
    assert node.claim_due() == []
    assert node.task().state == TaskState.DONE


def test_request_and_task_are_committed_together(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(index_of_commitment, "add_task", fail)
        with pytest.raises(ZeroDivisionError):
            node.request()
    assert node.service.summaries(everything=True, limit=1) == []


@pytest.mark.slow
def test_transactions_without_a_task_get_one(node: Node) -> None:
    """What a node of the version before has left, whose schedule was in the table of transactions."""
    now = node.clock.now
    for uid in ("1.1", "1.2", "1.3", "1.4", "1.5", "1.6"):
        node.request(uid=uid)
    node.service.delivered(node.claim_due()[4])
    changes: dict[str, dict[str, object]] = {
        "1.1": {"next_try_at": now},
        "1.2": {"next_try_at": now + timedelta(seconds=40), "attempts": 3, "last_error": "cannot connect"},
        # In the hands of a node that is alive, and of one that is not.
        "1.3": {"next_try_at": now, "claimed_until": now + timedelta(seconds=30)},
        "1.4": {"next_try_at": now, "claimed_until": now - timedelta(seconds=30)},
        "1.6": {"next_try_at": now, "status": "GIVEN UP"},
    }
    with node.database.begin() as connection:
        connection.execute(delete(task_table))
        for uid, values in changes.items():
            connection.execute(update(commitment_table).where(commitment_table.c.transaction_uid == uid).values(values))
    node.service.take_over()
    node.service.take_over()
    taken = {task.payload["commitment"]: task for task in node.tasks.tasks(TaskFilter(), 10)}
    first = min(taken)
    assert sorted(taken) == [first, first + 1, first + 2, first + 3]
    assert [(task.due - now).total_seconds() for task in taken.values()] == [0, 40, 30, 0]
    assert [task.attempts for task in taken.values()] == [0, 3, 0, 0]
    assert {task.deadline for task in taken.values()} == {now + timedelta(seconds=SETTINGS.give_up_after)}
    assert [report.transaction.transaction_uid for report in node.claim_due()] == ["1.1", "1.4"]
    node.clock.advance(30)
    assert [report.transaction.transaction_uid for report in node.claim_due()] == ["1.3"]
    # What was given up can be retried all the same.
    key = node.service.summaries(everything=True, limit=1)[0].transaction.id
    assert node.service.retry(key)
    assert [report.transaction.transaction_uid for report in node.claim_due()] == ["1.6"]


def test_a_node_of_the_version_before_leaves_new_transactions_alone(node: Node) -> None:
    """It would look for what is due in the table of transactions."""
    node.request()
    (claimed,) = node.claim_due()
    node.service.failed(claimed, "no")
    with node.database.connect() as connection:
        row = connection.execute(select(commitment_table)).one()
    assert row.next_try_at == row.give_up_at


@pytest.mark.slow
def test_two_nodes_never_claim_the_same(node_of: Callable[[], Node]) -> None:
    nodes = [node_of(), node_of()]
    for number in range(60):
        nodes[0].request(uid=f"1.{number}", ae=f"AE{number % 6}")
    claimed: list[int] = []

    def work(node: Node) -> None:
        while reports := node.claim_due():
            claimed.extend(report.transaction.id for report in reports)

    threads = [threading.Thread(target=work, args=(nodes[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 60


def test_the_oldest_is_measured(node: Node) -> None:
    assert node.seconds_to_next() is None
    first = node.request(uid="1.1")
    node.clock.advance(100)
    node.request(uid="1.2")
    assert node.service.gauges()["pacs_commitment_oldest_undelivered_seconds"] == 100
    assert node.service.gauges()["pacs_commitment_pending"] == 2
    node.service.delivered(first)
    node.service.delivered(first)
    assert node.service.gauges()["pacs_commitment_oldest_undelivered_seconds"] == 0
    assert node.counted == ["requested", "requested", "reported"]


@pytest.mark.slow
def test_very_many_instances(node: Node) -> None:
    references = tuple(Reference(CT, f"1.2.{number}") for number in range(20_000))
    claimed = node.request(*references, claim=True)
    assert [reference for reference, _ in node.index.results(claimed.transaction)] == list(references)
