"""The disk or the database is away: what is refused, and how, and that all goes on by itself afterwards."""

import errno
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import proxy
import pytest
import schema
import servers
from datasets import make_ct, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from servers import CT, EXPLICIT, STUDY_FIND, STUDY_GET, RawPeer, associated, eventually, message, running, store
from sqlalchemy import text
from strategies import encoded, identifier
from worklists import MODALITY_WORKLIST

from pacs_server.app.server import PacsServer
from pacs_server.config import Config
from pacs_server.errors import IndexUnavailable, StorageUnavailable
from pacs_server.index import postgresql
from pacs_server.index.database import Database
from pacs_server.net.message import Command, CommandField

# What a store asks of the disk before it is answered.
CALLS = ("write", "pwrite", "fdatasync", "link", "mkdir")
OUT_OF_RESOURCES, RESOURCE_LIMITATION = 0xA700, 0x0213
MPPS, COMMITMENT = str(ModalityPerformedProcedureStep), str(StorageCommitmentPushModel)


def settings(directory: Path, url: str | None = None, **changed: Any) -> Config:
    base = servers.config(directory, **changed)
    return base if url is None else base.model_copy(update={"database": base.database.model_copy(update={"url": url})})


def not_ready(pacs: PacsServer) -> str:
    return str(pacs.status()["not_ready"] or "")


def instances(pacs: PacsServer) -> int:
    return int(pacs.status()["counts"]["instances"])


def waiting(pacs: PacsServer) -> int:
    """How many instances wait for a checkpoint."""
    metrics = pacs.metrics.render().decode()
    return int(float(metrics.partition("\npacs_checkpoint_waiting ")[2].partition("\n")[0]))


def dicom_files(pacs: PacsServer) -> list[Path]:
    """The files under their final names."""
    return [file for file in servers.stored_files(pacs) if file.suffix == ".dcm"]


# ------------------------------------------------------------------------------------ the disk


def _below(root: Path, where: int | str | bytes | os.PathLike[str]) -> bool:
    path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else os.fsdecode(where)
    return Path(path).is_relative_to(root)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, call: str, code: int, root: Path) -> Iterator[None]:
    """Let a system call fail below `root`, and nowhere else."""
    real: Callable[..., Any] = getattr(os, call)

    def fail(where: Any, *args: Any, **options: Any) -> Any:
        if _below(root, where):
            raise OSError(code, os.strerror(code))
        return real(where, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        yield


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("fsync", "call"),
    [*(("slots", call) for call in CALLS), *(("each", call) for call in CALLS if call != "pwrite"), ("each", "fsync")],
)
def test_a_disk_that_fails_at_any_call(serve, monkeypatch, fsync, call, code):
    pacs = serve(storage={"fsync": fsync})
    kept, refused = make_ct(), make_ct()
    assert store(pacs, kept) == [0]
    assert eventually(lambda: pacs.status()["counts"]["instances"] == 1 and not waiting(pacs))
    before = dicom_files(pacs)
    with failing(monkeypatch, call, code, pacs.config.storage.directory):
        with associated(pacs, (CT, EXPLICIT)) as association:
            answer = association.send_c_store(refused)
            again = association.send_c_store(refused)
        assert (answer.Status, again.Status) == (OUT_OF_RESOURCES, OUT_OF_RESOURCES)
        assert answer.ErrorComment
        assert answer.ErrorComment[:30] in not_ready(pacs)
        assert ("quota" in answer.ErrorComment) == (code == errno.EDQUOT)
    assert dicom_files(pacs) == before
    # The disk is well again.
    assert store(pacs, refused) == [0]
    assert not_ready(pacs) == ""
    assert (instances(pacs), len(dicom_files(pacs))) == (2, 2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "unlink"])
def test_a_disk_that_fails_at_a_checkpoint(serve, monkeypatch, call, code):
    """What was acknowledged stays in its slots; nothing more is stored until a checkpoint succeeds.

    On ext4 that has turned read-only, the sync of a directory may report success: then slots cannot be removed.
    """
    pacs = serve(storage={"fsync": "slots"})
    sent = [make_ct() for _ in range(3)]
    assert store(pacs, sent[0]) == [0]
    assert eventually(lambda: not waiting(pacs))
    incoming = pacs.config.storage.directory / "incoming"
    with failing(monkeypatch, call, code, pacs.config.storage.directory):
        assert store(pacs, sent[1]) == [0]
        assert eventually(lambda: not_ready(pacs).startswith("no checkpoint succeeds: "))
        assert store(pacs, sent[2]) == [OUT_OF_RESOURCES]
        assert waiting(pacs) == 1
        assert [path for path in incoming.glob("*.part") if path.stat().st_nlink == 2]
        assert b'pacs_checkpoints_total{outcome="failed"} 0.0' not in pacs.metrics.render()
    # The disk is well again, and a checkpoint is tried once a second.
    assert eventually(lambda: not waiting(pacs))
    assert store(pacs, sent[2]) == [0]
    assert not_ready(pacs) == ""
    assert (instances(pacs), len(dicom_files(pacs))) == (3, 3)
    # Empty slots that could not be removed while the disk failed.
    for path in incoming.glob("*.part"):
        if not path.stat().st_size:
            path.unlink()


def test_a_disk_that_fails_to_write_at_a_checkpoint(tmp_path, monkeypatch):
    """The kernel may say the next time that all is written; so recovery looks at the slots at the next start."""
    given = settings(tmp_path, storage={"fsync": "slots"})
    sent = [make_ct() for _ in range(3)]
    schema.prepare(given.database.path)
    with PacsServer(given) as pacs:
        assert store(pacs, sent[0]) == [0]
        assert eventually(lambda: not waiting(pacs))
        with failing(monkeypatch, "fsync", errno.EIO, given.storage.directory):
            assert store(pacs, sent[1]) == [0]
            reason = "the disk has failed to sync: restart the server"
            assert eventually(lambda: pacs.status()["storage"]["fsync_reason"] == reason)
            assert pacs.status()["storage"]["fsync"] == "each"
        time.sleep(1)  # after a failure the next attempt is refused for so long
        assert store(pacs, sent[2]) == [0]
    [left] = [path for path in (given.storage.directory / "incoming").glob("*.part") if path.stat().st_size]
    assert left.stat().st_nlink == 2
    with running(given) as pacs:
        assert (instances(pacs), len(dicom_files(pacs))) == (3, 3)
        assert not left.exists()
        assert pacs.status()["storage"]["fsync"] == "slots"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_file_that_cannot_be_made(serve, monkeypatch, code):
    pacs = serve()
    assert store(pacs, make_ct()) == [0]
    with failing(monkeypatch, "open", code, pacs.config.storage.directory):
        # Said before anything is sent, and forgotten at once if nothing was.
        assert not_ready(pacs)
    assert not_ready(pacs) == ""
    with failing(monkeypatch, "open", code, pacs.config.storage.directory):
        assert store(pacs, make_ct()) == [OUT_OF_RESOURCES]
    assert not_ready(pacs)
    assert store(pacs, make_ct()) == [0]
    assert not_ready(pacs) == ""


def test_a_file_system_without_nameless_files_is_none_that_fails(serve, monkeypatch):
    pacs = serve()
    with failing(monkeypatch, "open", errno.EOPNOTSUPP, pacs.config.storage.directory):
        assert not_ready(pacs) == ""


def test_a_storage_that_is_read_only_is_said_so_before_anything_is_sent(serve, monkeypatch):
    pacs = serve()
    real = os.statvfs(pacs.config.storage.directory)
    changed = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")}

    def state(**changes: int) -> None:
        values = type("State", (), changed | changes)
        monkeypatch.setattr("pacs_server.storage.filesystem.spool.os.statvfs", lambda _: values)

    state(f_flag=os.ST_RDONLY)
    assert not_ready(pacs).startswith("the storage is mounted read-only")
    # Too few for the folders of another study.
    state(f_files=1000, f_favail=5)
    assert "inodes" in not_ready(pacs)
    state(f_files=1000, f_favail=6)
    assert not_ready(pacs) == ""
    state(f_bavail=0)
    assert not_ready(pacs).startswith("0 bytes free, storage.min_free_space is 0")
    state(f_files=0, f_favail=0)
    assert not_ready(pacs) == ""


def test_an_archive_whose_file_system_is_gone(serve):
    pacs = serve()
    directory = pacs.config.storage.directory
    directory.rename(directory.with_name("elsewhere"))
    assert store(pacs, make_ct()) == [OUT_OF_RESOURCES]
    assert "No such file" in not_ready(pacs)
    directory.with_name("elsewhere").rename(directory)
    assert store(pacs, make_ct()) == [0]
    assert not_ready(pacs) == ""


# ------------------------------------------------------------------------------------ SQLite


def test_a_writer_that_keeps_the_database(tmp_path):
    file = tmp_path / "pacs.db"
    with running(settings(tmp_path, f"sqlite:///{file}?timeout=0.2")) as pacs:
        kept, refused = make_ct(), make_ct()
        assert store(pacs, kept) == [0]
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert store(pacs, refused) == [OUT_OF_RESOURCES]
            assert "locked" in not_ready(pacs)
            with associated(pacs, STUDY_FIND) as association:
                *found, _ = association.send_c_find(identifier("STUDY", StudyInstanceUID=""), STUDY_FIND)
            assert len(found) == 1
            other.execute("ROLLBACK")
        assert store(pacs, refused) == [0]
        assert not_ready(pacs) == ""
        assert (instances(pacs), len(dicom_files(pacs))) == (2, 2)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_file_that_is_taken_away(tmp_path, replaced):
    file, aside = tmp_path / "pacs.db", tmp_path / "aside.db"
    with running(settings(tmp_path)) as pacs:
        assert store(pacs, make_ct()) == [0]
        file.rename(aside)
        if replaced:
            with closing(Database(f"sqlite:///{file}")) as other:
                other.migrate()
        # What is committed to a file without a name is lost with the process.
        assert store(pacs, make_ct()) == [OUT_OF_RESOURCES]
        with associated(pacs, STUDY_FIND) as association:
            *_, (status, _) = association.send_c_find(identifier("STUDY", StudyInstanceUID=""), STUDY_FIND)
        assert status.Status == OUT_OF_RESOURCES
        # Nobody in the network learns where the file lies.
        assert status.ErrorComment.startswith("the database failed: its file was removed or replaced")
        assert "removed or replaced" in not_ready(pacs)
        assert file.exists() == replaced
        assert len(dicom_files(pacs)) == 1
        if replaced:
            return
        aside.rename(file)
        assert store(pacs, make_ct()) == [0]
        assert not_ready(pacs) == ""
    with running(settings(tmp_path)) as pacs:
        assert instances(pacs) == 2


def test_a_database_that_is_damaged_takes_nothing(tmp_path):
    file = tmp_path / "pacs.db"
    with running(settings(tmp_path)) as pacs:
        assert store(pacs, make_ct()) == [0]
        many_studies(pacs.archive.database, 2000, "x" * 60)
    with file.open("r+b") as damaged:
        # Behind the tables' first pages: what is there is only seen by a query that goes through all of it.
        damaged.seek(os.path.getsize(file) * 2 // 3)
        damaged.write(b"\xff" * (os.path.getsize(file) // 4))
    with running(settings(tmp_path)) as pacs:
        assert not_ready(pacs) == ""
        with associated(pacs, STUDY_FIND) as association:
            keys = identifier("STUDY", StudyInstanceUID="", StudyDescription="")
            *_, (status, _) = association.send_c_find(keys, STUDY_FIND)
        assert status.Status == OUT_OF_RESOURCES
        assert "the database is damaged" in not_ready(pacs)
        # Not even where it is whole.
        with pytest.raises(IndexUnavailable, match="the database is damaged"), pacs.archive.database.begin():
            pass
        assert store(pacs, make_ct()) == [OUT_OF_RESOURCES]
        assert len(dicom_files(pacs)) == 1


def test_a_file_that_is_no_database_ends_the_start(tmp_path):
    (tmp_path / "pacs.db").write_bytes(b"no database at all, whatever it was" * 500)
    with pytest.raises(IndexUnavailable, match="not a database"):
        PacsServer(settings(tmp_path)).start()


@pytest.mark.no_tables
@pytest.mark.parametrize("naming", ["hierarchical", "date_hierarchical", "flat"])
def test_an_archive_without_its_index_is_not_begun_anew(tmp_path, database_url, naming):
    config = settings(tmp_path, storage={"naming": naming})
    with running(config) as pacs:
        assert store(pacs, make_ct()) == [0]
    empty = config.model_copy(update={"database": config.database.model_copy(update={"url": None})})
    for file in tmp_path.glob("pacs.db*"):
        file.unlink()
    if database_url.startswith("postgresql"):
        empty = settings(tmp_path, database_url)
    with pytest.raises(IndexUnavailable, match="rebuild-index"):
        PacsServer(empty).start()
    # Still, at the second try.
    with pytest.raises(IndexUnavailable, match="rebuild-index"):
        PacsServer(empty).start()


def test_files_of_the_server_itself_are_no_instances(tmp_path):
    for name in ("incoming", "quarantine", "trash", "changes"):
        (tmp_path / "archive" / name).mkdir(parents=True)
        (tmp_path / "archive" / name / "1.dcm").touch()
    with PacsServer(settings(tmp_path)) as pacs:
        assert instances(pacs) == 0


def test_an_index_without_its_archive_is_not_served(tmp_path):
    with running(settings(tmp_path)) as pacs:
        assert store(pacs, make_ct()) == [0]
    archive = tmp_path / "archive"
    archive.rename(tmp_path / "not mounted")
    with pytest.raises(StorageUnavailable, match="is its file system mounted"):
        PacsServer(settings(tmp_path)).start()
    archive.rename(tmp_path / "mount point")
    (tmp_path / "not mounted").rename(archive)
    with running(settings(tmp_path)) as pacs:
        assert instances(pacs) == 1


def test_an_archive_whose_only_names_a_power_loss_took(tmp_path):
    """Its first instances are in their slots, and their rows happen to be there."""
    given = settings(tmp_path, storage={"fsync": "slots"})
    with running(given) as pacs:
        ds = make_ct()
        assert store(pacs, ds) == [0]
    [stored] = (tmp_path / "archive").rglob("*.dcm")
    (tmp_path / "archive" / "incoming" / "elsewhere-5-r00000000.lock").touch()
    stored.rename(tmp_path / "archive" / "incoming" / "elsewhere-5-r00000000-0.part")
    with running(given) as pacs:
        assert instances(pacs) == 1
    assert [path.stem for path in (tmp_path / "archive").rglob("*.dcm")] == [ds.SOPInstanceUID]


# ------------------------------------------------------------------------------------ many at once


# In an answer of so many kilobytes no socket buffer holds all; long texts take less time than many rows.
MANY, LONG = 1500, "x" * 4000


def many_studies(database: Database, count: int = MANY, description: str = LONG) -> None:
    """Rows of studies, enough for an answer that no socket buffer holds."""
    with database.begin() as connection:
        connection.execute(text("INSERT INTO patient (id, patient_id) VALUES (1000000, 'MANY')"))
        rows = [{"id": 1000000 + n, "uid": f"1.2.3.{n}", "text": description} for n in range(count)]
        columns = "id, patient_fk, study_instance_uid, study_description"
        connection.execute(text(f"INSERT INTO study ({columns}) VALUES (:id, 1000000, :uid, :text)"), rows)


def slow_query(pacs: PacsServer) -> RawPeer:
    """A peer that has asked for all studies and takes the first answer only."""
    peer = RawPeer.__new__(RawPeer)
    peer.socket = socket.socket()
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.socket.settimeout(servers.PATIENT_SECONDS)
    peer.socket.connect(pacs.address)
    peer.associate(servers.proposal((STUDY_FIND, [servers.IMPLICIT])))
    request = Command(
        command_field=CommandField.C_FIND, message_id=1, affected_sop_class_uid=STUDY_FIND, priority=0,
        command_data_set_type=1,
    )  # fmt: skip
    keys = identifier("STUDY", StudyInstanceUID="", StudyDescription="", PatientID="MANY")
    peer.send(message(1, request, encoded(keys)))
    assert peer.read_message().command.status == 0xFF00
    return peer


def test_fifty_streamed_queries_leave_a_way_for_the_others(tmp_path, database_url):
    with running(settings(tmp_path, database_url, max_associations=60, network_timeout=60.0)) as pacs:
        many_studies(pacs.archive.database)
        with ExitStack() as stack:
            for _ in range(50):
                stack.callback(slow_query(pacs).socket.close)
            pool: Any = pacs.archive.database.engine.pool
            assert eventually(lambda: pool.checkedout() >= 50)
            began = time.monotonic()
            assert store(pacs, make_ct(), make_ct()) == [0, 0]
            assert time.monotonic() - began < 10
            assert not_ready(pacs) == ""
        # One is kept to write with.
        assert eventually(lambda: pool.checkedout() <= 1)


# ------------------------------------------------------------------------------------ PostgreSQL


@pytest.fixture
def behind_proxy(tmp_path: Path, postgres_server: Any) -> Iterator[tuple[PacsServer, proxy.Proxy]]:
    import postgres

    with (
        postgres.fresh_database(postgres_server) as url,
        proxy.in_front_of(url, connect_timeout="2") as (between, through),
        running(settings(tmp_path, through)) as pacs,
    ):
        yield pacs, between


def commitment_request(ds: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = uid(), Items([reference])
    return request


def day(pacs: PacsServer, ds: Dataset) -> dict[str, int]:
    """The status of every kind of operation, all on one association."""
    step = Dataset()
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    worklist = Dataset()
    worklist.PatientName = ""
    study = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
    contexts = [(CT, EXPLICIT), STUDY_FIND, STUDY_GET, MODALITY_WORKLIST, MPPS, COMMITMENT]
    with associated(pacs, *contexts, calling="MODALITY") as link:
        action = link.send_n_action(commitment_request(ds), 1, COMMITMENT, str(StorageCommitmentPushModelInstance))
        return {
            "store": link.send_c_store(ds).Status,
            "find": [status.Status for status, _ in link.send_c_find(study, STUDY_FIND)][-1],
            "get": [status.Status for status, _ in link.send_c_get(study, STUDY_GET)][-1],
            "worklist": [status.Status for status, _ in link.send_c_find(worklist, MODALITY_WORKLIST)][-1],
            "mpps": link.send_n_set(step, MPPS, "1.2.3")[0].Status,
            "commitment": action[0].Status,
        }


def background(pacs: PacsServer) -> set[str]:
    names = {"worker", "watch", "peers-seen", "expiry"}
    return {thread.name for thread in threading.enumerate() if thread.name in names}


AWAY = {
    **dict.fromkeys(["store", "find", "get", "worklist"], OUT_OF_RESOURCES),
    **dict.fromkeys(["mpps", "commitment"], RESOURCE_LIMITATION),
}


@pytest.mark.postgres
def test_every_operation_while_the_database_is_away(behind_proxy):
    pacs, between = behind_proxy
    ds = make_ct()
    before = day(pacs, ds)
    # Nobody took the role to receive images (A702), and there is no such step (0112).
    well = {**dict.fromkeys(["store", "find", "worklist", "commitment"], 0), "get": 0xA702, "mpps": 0x0112}
    assert before == well
    threads = background(pacs)
    between.cut()
    assert day(pacs, make_ct()) == AWAY
    assert "database failed" in not_ready(pacs)
    between.restore()
    # The first of each kind succeeds.
    assert day(pacs, ds) == well
    assert not_ready(pacs) == ""
    assert background(pacs) == threads == {"worker", "watch", "peers-seen", "expiry"}
    assert (instances(pacs), len(dicom_files(pacs))) == (1, 1)


@pytest.mark.postgres
def test_connections_that_broke_while_nobody_looked_cost_nothing(behind_proxy):
    pacs, between = behind_proxy
    assert store(pacs, make_ct()) == [0]
    between.break_links()
    assert store(pacs, make_ct()) == [0]


@pytest.mark.postgres
def test_a_database_that_comes_and_goes_loses_and_doubles_nothing(behind_proxy):
    pacs, between = behind_proxy
    sent = [[make_ct() for _ in range(25)] for _ in range(4)]
    acknowledged: set[str] = set()
    ended: list[int] = []

    def send(batch: list[Dataset]) -> None:
        for ds in batch:
            # As a modality does: until it is taken.
            while store(pacs, ds) != [0]:
                time.sleep(0.01)
            acknowledged.add(str(ds.SOPInstanceUID))
        ended.append(1)

    threads = [threading.Thread(target=send, args=(batch,)) for batch in sent]
    for thread in threads:
        thread.start()
    for count in (10, 30, 50, 70):
        assert eventually(lambda count=count: len(acknowledged) >= count)  # type: ignore[misc]
        between.cut()
        assert eventually(lambda: not_ready(pacs))
        between.restore()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 4
    with pacs.archive.database.connect() as connection:
        known = list(connection.scalars(text("SELECT sop_instance_uid FROM instance")))
        paths = set(connection.scalars(text("SELECT path FROM instance")))
        counted = connection.scalar(text("SELECT sum(number_of_patient_related_instances) FROM patient"))
    assert sorted(known) == sorted(acknowledged)
    assert counted == len(known) == len(paths) == 100
    # A commit that was cut off may have left a file that nobody knows; the next start takes it up.
    root, spool = pacs.config.storage.directory, pacs.archive.files.spool
    files = {file.relative_to(root).as_posix() for file in dicom_files(pacs)}
    assert paths <= files
    assert all(spool.is_in_flight(path) for path in files - paths)
    for entry in (root / "incoming").glob("*.part"):
        entry.unlink()


@pytest.mark.postgres
def test_a_query_that_loses_the_database_half_way(behind_proxy):
    pacs, between = behind_proxy
    many_studies(pacs.archive.database)
    with closing(slow_query(pacs).socket) as sock:
        peer = RawPeer.__new__(RawPeer)
        peer.socket = sock
        between.break_links()
        statuses = []
        while not statuses or statuses[-1] == 0xFF00:
            statuses.append(peer.read_message().command.status)
        assert statuses[-1] == OUT_OF_RESOURCES
        assert 0 < len(statuses) < MANY
        # The association is none the worse for it.
        keys = identifier("STUDY", StudyInstanceUID="1.2.3.7")
        request = Command(
            command_field=CommandField.C_FIND, message_id=2, affected_sop_class_uid=STUDY_FIND, priority=0,
            command_data_set_type=1,
        )  # fmt: skip
        peer.send(message(1, request, encoded(keys)))
        assert [peer.read_message().command.status for _ in range(2)] == [0xFF00, 0]


@pytest.mark.postgres
def test_a_database_that_hangs_holds_nobody_for_ever(behind_proxy, monkeypatch):
    monkeypatch.setattr(postgresql._Connection, "answer_seconds", 1.0)
    pacs, between = behind_proxy
    assert store(pacs, make_ct()) == [0]
    between.swallow()
    began = time.monotonic()
    assert store(pacs, make_ct()) == [OUT_OF_RESOURCES]
    assert not_ready(pacs)
    assert time.monotonic() - began < 40
    between.restore()
    assert eventually(lambda: store(pacs, make_ct()) == [0])
    assert not_ready(pacs) == ""


@pytest.mark.postgres
def test_readiness_answers_while_the_database_hangs(behind_proxy):
    pacs, between = behind_proxy
    between.swallow()
    began = time.monotonic()
    assert not_ready(pacs)
    assert b"pacs_ready 0.0" in pacs.metrics.render()
    assert time.monotonic() - began < 20
    between.restore()
    assert eventually(lambda: not_ready(pacs) == "")


@pytest.mark.postgres
def test_monitoring_answers_while_somebody_holds_the_tables(behind_proxy, monkeypatch):
    monkeypatch.setattr("pacs_server.app.health._TIMEOUT", 0.5)
    pacs, _ = behind_proxy
    with pacs.archive.database.begin() as connection:
        connection.execute(text("LOCK TABLE patient, instance IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        page = pacs.metrics.render()
        assert pacs.status()["counts"] is None
        # Whoever waits for a lock waits for ten seconds, and there is more than one to wait for.
        assert time.monotonic() - began < 10
        assert b"pacs_ready" in page
        assert b"pacs_instances" not in page
    assert eventually(lambda: b"pacs_instances 0.0" in pacs.metrics.render())


@pytest.mark.postgres
def test_a_migration_may_take_its_time(behind_proxy, monkeypatch):
    monkeypatch.setattr(postgresql._Connection, "answer_seconds", 0.3)
    database = behind_proxy[0].archive.database
    with database.begin() as connection, postgresql.patient(connection):
        connection.execute(text("SELECT pg_sleep(1)"))
    with pytest.raises(IndexUnavailable, match="timeout"), database.begin() as connection:
        connection.execute(text("SELECT pg_sleep(5)"))


@pytest.mark.postgres
def test_a_start_without_the_database_says_why(tmp_path):
    url = f"postgresql://pacs@127.0.0.1:{servers.free_port()}/pacs"
    with pytest.raises(IndexUnavailable, match="database failed"):
        PacsServer(settings(tmp_path, url)).start()
