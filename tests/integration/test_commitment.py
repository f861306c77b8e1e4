"""Storage commitment between the server and pynetdicom: requests, reports, refusals."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import servers
from alembic import command
from datasets import make_ct, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from servers import (
    IMPLICIT,
    PATIENT_SECONDS,
    RawPeer,
    Reply,
    associated,
    eventually,
    free_port,
    message,
    running,
    store,
    stored_files,
)
from sqlalchemy import MetaData, insert
from strategies import encoded, identifier

from pacs_server.app.server import PacsServer
from pacs_server.config import CommitmentConfig, RemoteAEConfig
from pacs_server.errors import IndexUnavailable
from pacs_server.index.commitment import CommitmentIndex, CommitmentStatus, Schedule, Transaction
from pacs_server.index.database import Database
from pacs_server.index.revisions import alembic_config
from pacs_server.index.task_overview import TaskFilter, TaskOverview
from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Timeouts
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.scp import storage_commitment
from pacs_server.scu import connect as scu
from pacs_server.scu.connect import connect

CLASS, INSTANCE = str(StorageCommitmentPushModel), str(StorageCommitmentPushModelInstance)
CT = servers.CT


@dataclass
class Reports:
    """What a commitment SCU was told."""

    reports: list[tuple[int, Dataset]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    status: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)

    def handle(self, event: evt.Event) -> tuple[int, None]:
        if self.status == 0:
            self.reports.append((event.request.EventTypeID, event.event_information))
            self.titles.append(event.assoc.requestor.ae_title)
            self.arrived.set()
        return self.status, None

    def wait(self) -> tuple[int, Dataset]:
        assert self.arrived.wait(PATIENT_SECONDS)
        return self.reports[-1]


@contextmanager
def listening(title: str = "MODALITY", port: int = 0, *, role: bool = True) -> Iterator[tuple[Reports, RemoteAEConfig]]:
    """A commitment SCU that is told over an association of the server's own."""
    reports = Reports()
    ae = AE(ae_title=title)
    roles = {"scu_role": False, "scp_role": True} if role else {}
    ae.add_supported_context(StorageCommitmentPushModel, **roles)
    handlers = [(evt.EVT_N_EVENT_REPORT, reports.handle)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield reports, remote(title, server.server_address[1])
    finally:
        server.shutdown()


def remote(title: str, port: int) -> RemoteAEConfig:
    return RemoteAEConfig(ae_title=title, host="127.0.0.1", port=port, connect_timeout=2.0, response_timeout=5.0)


def information(transaction: str, *references: tuple[str, str]) -> Dataset:
    """The action information of a request."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = Sequence()
    for sop_class, sop_instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        ds.ReferencedSOPSequence.append(item)
    return ds


def reference(ds: Dataset) -> tuple[str, str]:
    return str(ds.SOPClassUID), str(ds.SOPInstanceUID)


def ask(pacs, ds: Dataset, calling: str = "MODALITY") -> int:
    """Ask for commitment and release at once; the status of the answer."""
    with associated(pacs, StorageCommitmentPushModel, calling=calling) as association:
        status, _ = association.send_n_action(ds, 1, CLASS, INSTANCE)
        return int(status.Status)


def settings(tmp_path, *remotes: RemoteAEConfig, same_association: bool = False, url: str | None = None, **commitment):
    """A configuration that retries quickly."""
    base = servers.config(tmp_path, remote_aes=remotes)
    quick = {"retry_first": 0.1, "retry_max": 0.2, "same_association": same_association} | commitment
    update = {"commitment": CommitmentConfig(**quick)}
    if url is not None:
        update["database"] = base.database.model_copy(update={"url": url})
    return base.model_copy(update=update)


def action(**changes) -> Command:
    """The command of a request, with `changes`."""
    command = Command(
        command_field=CommandField.N_ACTION,
        message_id=1,
        requested_sop_class_uid=CLASS,
        requested_sop_instance_uid=INSTANCE,
        action_type_id=1,
    )
    for name, value in changes.items():
        setattr(command, name, value)
    return command


def transactions(pacs) -> list[Transaction]:
    summaries = pacs.archive.commitment.summaries(everything=True, limit=100)
    return [summary.transaction for summary in summaries]


def statuses(pacs) -> list[CommitmentStatus]:
    return [transaction.status for transaction in transactions(pacs)]


def committed(ds: Dataset) -> list[tuple[str, str]]:
    items = ds.get("ReferencedSOPSequence", [])
    return [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in items]


def failures(ds: Dataset) -> dict[tuple[str, str], int]:
    items = ds.get("FailedSOPSequence", [])
    return {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID): item.FailureReason for item in items}


# ------------------------------------------------------------------------------------ reports


def test_a_report_on_the_same_association(tmp_path):
    reports, transaction = Reports(), uid()
    one, other = make_ct(), make_ct()
    with running(settings(tmp_path, same_association=True)) as pacs:
        assert store(pacs, one, other) == [0, 0]
        handlers = [(evt.EVT_N_EVENT_REPORT, reports.handle)]
        contexts = [StorageCommitmentPushModel]
        with associated(pacs, *contexts, calling="MODALITY", held=False, evt_handlers=handlers) as association:
            ds = information(transaction, reference(one), reference(other))
            status, _ = association.send_n_action(ds, 1, CLASS, INSTANCE)
            assert status.Status == 0
            event, report = reports.wait()
            assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])
        assert event == 1
        assert report.TransactionUID == transaction
        assert report.RetrieveAETitle == "PACS_SERVER"
        assert committed(report) == [reference(one), reference(other)]
        assert "FailedSOPSequence" not in report


def test_a_report_on_an_association_of_its_own(tmp_path, database_url):
    with listening() as (reports, peer), running(settings(tmp_path, peer, url=database_url)) as pacs:
        ds = make_ct()
        assert store(pacs, ds) == [0]
        transaction = uid()
        assert ask(pacs, information(transaction, reference(ds))) == 0
        event, report = reports.wait()
        assert (event, report.TransactionUID, committed(report)) == (1, transaction, [reference(ds)])
        assert reports.titles == ["PACS_SERVER"]
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])


@pytest.mark.parametrize("same_association", [True, False])
def test_a_peer_that_releases_at_once_is_called(tmp_path, same_association):
    with (
        listening() as (reports, peer),
        running(settings(tmp_path, peer, same_association=same_association)) as pacs,
    ):
        ds = make_ct()
        assert store(pacs, ds) == [0]
        with RawPeer.associated(pacs.address, (CLASS, [IMPLICIT]), calling="MODALITY") as raw:
            raw.send(message(1, action(), encoded(information(uid(), reference(ds)))))
            assert raw.read_message().command.status == 0
        assert reports.wait()[0] == 1
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])
        assert len(reports.reports) == 1


def test_the_report_lists_exactly_what_failed_and_why(tmp_path, database_url):
    with listening() as (reports, peer), running(settings(tmp_path, peer, url=database_url)) as pacs:
        good, corrupt, lost, other = (make_ct() for _ in range(4))
        assert store(pacs, good, corrupt, lost, other) == [0] * 4
        for path in stored_files(pacs):
            if path.stem == corrupt.SOPInstanceUID:
                path.write_bytes(path.read_bytes()[:-1] + b"\xff")
            if path.stem == lost.SOPInstanceUID:
                path.unlink()
        unknown, conflict = (CT, str(uid())), ("1.2.840.10008.5.1.4.1.1.4", str(other.SOPInstanceUID))
        asked = [reference(good), reference(corrupt), reference(lost), unknown, conflict, reference(other)]
        assert ask(pacs, information(uid(), *asked)) == 0
        event, report = reports.wait()
        assert event == 2
        assert committed(report) == [reference(good), reference(other)]
        assert failures(report) == {
            reference(corrupt): 0x0110,
            reference(lost): 0x0110,
            unknown: 0x0112,
            conflict: 0x0119,
        }
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])


def test_a_lost_report_comes_after_a_restart(tmp_path, database_url):
    ds, port = make_ct(), free_port()
    configured = settings(tmp_path, remote("MODALITY", port), url=database_url)
    with running(configured) as pacs:
        assert store(pacs, ds) == [0]
        assert ask(pacs, information("1.2.3", reference(ds))) == 0
        assert eventually(lambda: "cannot connect" in transactions(pacs)[0].last_error)
        assert b"pacs_commitment_pending 1.0" in pacs.metrics.render()
    with listening(port=port) as (reports, _), running(configured) as pacs:
        assert reports.wait()[1].TransactionUID == "1.2.3"
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])
        # The transaction is counted after its status is stored.
        counted = b'pacs_commitment_transactions_total{outcome="reported"} 1.0'
        assert eventually(lambda: counted in pacs.metrics.render())
        assert b"pacs_commitment_pending 0.0" in pacs.metrics.render()
    with listening(port=port) as (reports, _), running(configured):
        assert not reports.arrived.wait(0.5)


@pytest.mark.no_tables
@pytest.mark.parametrize("revision", ["0008", "0009"])
def test_reports_of_an_index_without_tasks_go_on_after_the_upgrade(tmp_path, database_url, revision):
    now = datetime.now(UTC)
    rows = {
        "1.1": ("PENDING", 0, now, None),
        # It failed before and is due soon; it was in the hands of a process that is no more.
        "1.2": ("PENDING", 3, now + timedelta(seconds=1), None),
        "1.3": ("PENDING", 1, now, now + timedelta(seconds=1)),
        "1.4": ("GIVEN UP", 9, now, None),
        "1.5": ("REPORTED", 1, now, None),
    }
    with closing(Database(database_url)) as database, database.begin() as connection:
        migration = alembic_config()
        migration.attributes["connection"] = connection
        command.upgrade(migration, revision)
        tables = MetaData()
        tables.reflect(connection)
        for number, (transaction, (status, attempts, next_try, claimed)) in enumerate(rows.items(), 1):
            values = {"id": number, "transaction_uid": transaction, "status": status, "calling_ae": "MODALITY"}
            moments = {"requested_at": now, "next_try_at": next_try, "give_up_at": now + timedelta(days=1)}
            held = {"attempts": attempts, "claimed_until": claimed}
            connection.execute(insert(tables.tables["commitment"]).values(values | moments | held))
            asked = {"commitment_fk": number, "sop_class_uid": CT, "sop_instance_uid": f"1.9.{number}"}
            connection.execute(insert(tables.tables["commitment_instance"]).values(asked))
    with listening() as (reports, peer), running(settings(tmp_path, peer, url=database_url)) as pacs:
        expected = ["REPORTED", "REPORTED", "REPORTED", "GIVEN UP", "REPORTED"]
        assert eventually(lambda: statuses(pacs) == expected)
        assert [transaction.attempts for transaction in transactions(pacs)] == [1, 4, 2, 9, 1]
    told = {report.TransactionUID: failures(report) for _, report in reports.reports}
    assert told == {f"1.{number}": {(CT, f"1.9.{number}"): 0x0112} for number in (1, 2, 3)}
    assert len(reports.reports) == 3


def test_a_peer_that_is_added_by_a_reload(tmp_path):
    with listening("NEW") as (reports, peer):
        after = settings(tmp_path, peer)
        with running(settings(tmp_path), reload=lambda: after) as pacs:
            ds = make_ct()
            assert store(pacs, ds) == [0]
            assert ask(pacs, information(uid(), reference(ds)), calling="NEW") == 0
            assert eventually(lambda: transactions(pacs)[0].last_error == "NEW is not in remote_aes")
            assert pacs.reload()
            assert reports.wait()[0] == 1


def test_a_peer_that_refuses_the_report_hears_it_again(tmp_path):
    with listening() as (reports, peer), running(settings(tmp_path, peer)) as pacs:
        reports.status = 0x0110
        assert ask(pacs, information(uid(), (CT, str(uid())))) == 0
        assert eventually(lambda: transactions(pacs)[0].last_error == "the peer answered 0x0110")
        reports.status = 0
        assert reports.wait()[0] == 2


def test_a_peer_that_answers_no_role_is_reported_to_all_the_same(tmp_path):
    with listening(role=False) as (reports, peer), running(settings(tmp_path, peer)) as pacs:
        assert ask(pacs, information(uid(), (CT, str(uid())))) == 0
        assert reports.wait()[0] == 2
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])


def test_a_peer_without_the_service(tmp_path):
    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(servers.VERIFICATION)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        with running(settings(tmp_path, remote("MODALITY", server.server_address[1]))) as pacs:
            assert ask(pacs, information(uid(), (CT, str(uid())))) == 0
            expected = "the peer does not take the Storage Commitment Push Model"
            assert eventually(lambda: transactions(pacs)[0].last_error == expected)
    finally:
        server.shutdown()


def test_the_role_is_negotiated():
    """PS3.7 D.3.3.4: we are the SCP where the peer agrees, and the SCU where nothing is said."""
    terms = Terms(16384, 5.0, Timeouts(5.0, 5.0), "1.2.3", "TEST")
    context = ProposedContext(1, CLASS, (IMPLICIT,))
    for accepts, proposed, expected in (
        (True, {CLASS: (False, True)}, (False, True)),
        (True, {CLASS: (True, True)}, (False, True)),
        (False, {CLASS: (False, True)}, (True, False)),
        (False, None, (True, False)),
    ):
        with listening(role=accepts) as (_, peer):
            link = connect(
                scu.RemoteAE("MODALITY", "127.0.0.1", peer.port, 2.0, 5.0), "PACS", [context], terms, proposed
            )
            (accepted,) = link.contexts.values()
            assert (accepted.as_scu, accepted.as_scp) == expected
            link.release()
            link.transport.close()


def test_a_report_that_the_peer_cannot_bear_holds_up_no_other(tmp_path):
    told: list[str] = []

    def handle(event: evt.Event) -> tuple[int, None]:
        if event.event_information.TransactionUID == "1.2.1":
            event.assoc.abort()
        else:
            told.append(event.event_information.TransactionUID)
        return 0, None

    port = free_port()
    configured = settings(tmp_path, remote("MODALITY", port))
    with running(configured) as pacs:
        for number in range(1, 4):
            assert ask(pacs, information(f"1.2.{number}", (CT, "1.2.3"))) == 0
        assert eventually(lambda: all(transaction.attempts for transaction in transactions(pacs)))
    now = datetime.now(UTC)
    with closing(Database(configured.database.sqlalchemy_url)) as database:
        index = CommitmentIndex(database)
        for transaction in (summary.transaction for summary in index.summaries(everything=True, limit=3)):
            assert index.retry(transaction.id, Schedule(now, now + timedelta(days=1)))
    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, handle)])
    try:
        with running(configured) as pacs:
            reported = [CommitmentStatus.PENDING, CommitmentStatus.REPORTED, CommitmentStatus.REPORTED]
            assert eventually(lambda: statuses(pacs) == reported)
            assert told == ["1.2.2", "1.2.3"]
    finally:
        server.shutdown()


def test_a_stop_in_the_middle_of_a_report(tmp_path):
    """The attempt does not count, and nobody waits for the peer."""
    asked, answer = threading.Event(), threading.Event()

    def hang(event: evt.Event) -> tuple[int, None]:
        asked.set()
        answer.wait(PATIENT_SECONDS)
        return 0, None

    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, hang)])
    peer = remote("MODALITY", server.server_address[1])
    configured = settings(tmp_path, peer.model_copy(update={"response_timeout": 600.0}))
    try:
        with running(configured) as pacs:
            assert ask(pacs, information(uid(), (CT, str(uid())))) == 0
            assert asked.wait(PATIENT_SECONDS)
            began = time.monotonic()
        # The worker waits for its handlers for 20 s.
        assert time.monotonic() - began < 15
        with closing(Database(configured.database.sqlalchemy_url)) as database:
            (summary,) = CommitmentIndex(database).summaries(everything=True, limit=1)
            (task,) = TaskOverview(database).tasks(TaskFilter(), 2)
        assert (summary.transaction.status, summary.transaction.attempts) == ("PENDING", 0)
        assert (task.state, task.attempts, task.claimed_until) == ("ready", 0, None)
    finally:
        answer.set()
        server.shutdown()


def test_a_slow_peer_is_called_eight_times_at_once(tmp_path):
    called, answer = threading.Semaphore(0), threading.Event()

    def hang(event: evt.Event) -> tuple[int, None]:
        called.release()
        answer.wait(10 * PATIENT_SECONDS)
        return 0, None

    ae = AE(ae_title="MODALITY")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, hang)])
    peer = remote("MODALITY", server.server_address[1])
    configured = settings(tmp_path, peer.model_copy(update={"response_timeout": 600.0}))
    try:
        with running(configured) as pacs:
            for number in range(8):
                assert ask(pacs, information(f"1.2.{number}", (CT, "1.2.3"))) == 0
                assert called.acquire(timeout=PATIENT_SECONDS)
            assert ask(pacs, information("1.2.8", (CT, "1.2.3"))) == 0
            assert not called.acquire(timeout=0.5)
            answer.set()
            assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED] * 9)
    finally:
        answer.set()
        server.shutdown()


def test_two_servers_on_one_database_report_once(tmp_path, database_url):
    with listening() as (reports, peer):
        one, other = (settings(tmp_path, peer, url=database_url) for _ in range(2))
        with PacsServer(one) as pacs, PacsServer(other) as second:
            for number in range(20):
                server = (pacs, second)[number % 2]
                assert ask(server, information(f"1.2.{number}", (CT, "1.2.3"))) == 0
            assert eventually(lambda: set(statuses(pacs)) == {CommitmentStatus.REPORTED})
        told = [report.TransactionUID for _, report in reports.reports]
        assert sorted(told) == sorted(f"1.2.{number}" for number in range(20))


# ------------------------------------------------------------------------------------ the same association


@contextmanager
def asking(pacs, *references: tuple[str, str], syntax: str = IMPLICIT) -> Iterator[tuple[RawPeer, Reply]]:
    """A raw peer that has asked, been answered, and got the report on the same association."""
    contexts = ((CLASS, [syntax]), (servers.VERIFICATION, [IMPLICIT]))
    with RawPeer.associated(pacs.address, *contexts, calling="MODALITY") as peer:
        peer.send(message(1, action(), encoded(information(uid(), *references), syntax)))
        answer = peer.read_message().command
        assert (answer.status, answer.command_field) == (0, CommandField.N_ACTION | 0x8000)
        assert (answer.affected_sop_class_uid, answer.affected_sop_instance_uid) == (CLASS, INSTANCE)
        yield peer, peer.read_message()


def report_answer(report: Reply, status: int = 0) -> bytes:
    command = Command(
        command_field=CommandField.N_EVENT_REPORT | 0x8000,
        message_id_being_responded_to=report.command.message_id,
        affected_sop_class_uid=CLASS,
        affected_sop_instance_uid=INSTANCE,
        event_type_id=report.command.event_type_id,
        status=status,
    )
    return message(1, command)


@pytest.mark.parametrize("syntax", [IMPLICIT, servers.EXPLICIT, servers.DEFLATED, servers.BIG_ENDIAN])
def test_the_answer_may_come_among_other_messages(tmp_path, syntax):
    with (
        running(settings(tmp_path, same_association=True)) as pacs,
        asking(pacs, (CT, "1.2.3"), syntax=syntax) as (peer, report),
    ):
        command = report.command
        assert command.command_field == CommandField.N_EVENT_REPORT
        assert (command.affected_sop_class_uid, command.affected_sop_instance_uid) == (CLASS, INSTANCE)
        assert command.event_type_id == 2
        peer.send(message(3, servers.echo_request(5)))
        assert peer.read_message().command.message_id_being_responded_to == 5
        assert statuses(pacs) == [CommitmentStatus.PENDING]
        peer.send(report_answer(report))
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])
        peer.release()


def test_the_answer_may_come_in_the_middle_of_a_get(tmp_path):
    ds = make_ct()
    get = Command(command_field=CommandField.C_GET, message_id=9, affected_sop_class_uid=servers.STUDY_GET)
    contexts = ((CLASS, [IMPLICIT]), (servers.STUDY_GET, [IMPLICIT]), (CT, [servers.EXPLICIT]))
    with (
        running(settings(tmp_path, same_association=True)) as pacs,
        RawPeer.associated(pacs.address, *contexts, roles={CT: (True, True)}) as peer,
    ):
        assert store(pacs, ds) == [0]
        peer.send(message(1, action(), encoded(information(uid(), reference(ds)), IMPLICIT)))
        assert peer.read_message().command.status == 0
        report = peer.read_message()
        peer.send(message(3, get, encoded(identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID), IMPLICIT)))
        instance = peer.read_message().command
        stored = Command(0x8001, message_id_being_responded_to=instance.message_id, status=0)
        peer.send(report_answer(report) + message(5, stored))
        final = peer.read_message().command
        assert (final.status, final.number_of_completed) == (0, 1)
        assert statuses(pacs) == [CommitmentStatus.REPORTED]
        peer.release()


@pytest.mark.parametrize("how", ["refuses", "releases", "breaks off", "is silent"])
def test_when_the_same_association_will_not_do_another_one_is_opened(tmp_path, how, monkeypatch):
    monkeypatch.setattr(storage_commitment, "_ANSWER_SECONDS", 0.3)
    with (
        listening() as (reports, peer),
        running(settings(tmp_path, peer, same_association=True)) as pacs,
        asking(pacs, (CT, "1.2.3")) as (raw, report),
    ):
        if how == "refuses":
            raw.send(report_answer(report, 0x0211))
        elif how == "releases":
            raw.release()
        elif how == "breaks off":
            raw.socket.close()
        assert reports.wait()[0] == 2
        assert eventually(lambda: statuses(pacs) == [CommitmentStatus.REPORTED])
        assert len(reports.reports) == 1


def test_a_shutdown_does_not_wait_for_the_answer(tmp_path):
    configured = settings(tmp_path, same_association=True)
    with running(configured) as pacs, asking(pacs, (CT, "1.2.3")):
        pass
    with PacsServer(configured) as pacs:
        assert eventually(lambda: transactions(pacs)[0].last_error)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"requested_sop_instance_uid": "1.2.840.10008.1.20.1.2"}, 0x0112),
        ({"requested_sop_instance_uid": "well-known"}, 0x0117),
        ({"requested_sop_instance_uid": None}, 0x0117),
        ({"requested_sop_class_uid": "1.2.840.10008.1.1"}, 0x0118),
        ({"action_type_id": 2}, 0x0123),
        ({"action_type_id": None}, 0x0123),
        ({"command_field": CommandField.N_GET}, 0x0211),
        # A report that says nothing of an event, and one of a transaction that nobody was asked for.
        ({"command_field": CommandField.N_EVENT_REPORT}, 0x0115),
        ({"command_field": CommandField.N_EVENT_REPORT, "event_type_id": 1}, 0x0115),
    ],
)
def test_commands_that_are_refused(serve, changes, status):
    pacs = serve()
    with RawPeer.associated(pacs.address, (CLASS, [IMPLICIT])) as peer:
        peer.send(message(1, action(**changes), encoded(information("1.2", (CT, "1.2")))))
        assert peer.read_message().command.status == status
        peer.release()
    assert transactions(pacs) == []


@pytest.mark.parametrize(
    "ds",
    [None, Dataset(), information("1.2.3"), information("", (CT, "1.2")), information("1.2.3", ("", "1.2"))],
)
def test_action_information_that_is_refused(serve, ds):
    pacs = serve()
    with RawPeer.associated(pacs.address, (CLASS, [IMPLICIT])) as peer:
        peer.send(message(1, action(), None if ds is None else encoded(ds)))
        answer = peer.read_message().command
        assert answer.status == 0x0115
        assert answer.error_comment
        peer.release()
    assert transactions(pacs) == []


def test_a_request_that_is_too_large(serve, monkeypatch):
    monkeypatch.setattr(storage_commitment, "MAX_REQUEST_BYTES", 1000)
    pacs = serve()
    with RawPeer.associated(pacs.address, (CLASS, [IMPLICIT])) as peer:
        peer.send(message(1, action(), bytes(100_000)))
        assert peer.read_message().command.status == 0x0213
        peer.release()


def test_a_transaction_uid_that_was_used_for_something_else(tmp_path):
    with running(settings(tmp_path)) as pacs:
        assert ask(pacs, information("1.2.3", (CT, "1.1"))) == 0
        assert ask(pacs, information("1.2.3", (CT, "1.1"))) == 0
        assert ask(pacs, information("1.2.3", (CT, "1.2"))) == 0x0115
        assert len(transactions(pacs)) == 1


def test_it_is_kept_before_it_is_answered(serve, monkeypatch):
    pacs = serve()

    def add(*_):
        raise IndexUnavailable("the index does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(CommitmentIndex, "add", add)
        assert ask(pacs, information("1.2.3", (CT, "1.1"))) == 0x0213
    assert transactions(pacs) == []
