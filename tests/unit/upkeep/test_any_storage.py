"""What looks after an archive needs the contracts of storage/ and nothing else: here it works on memory too."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import indexes
import pytest
import schema
from archives import ORIGIN
from datasets import make_ct, write_part10
from memory_archive import MemorySpool, memory_archive
from pydicom.dataset import Dataset
from trails import silent

from pacs_server.archive.archive import Archive, StoreOutcome
from pacs_server.dicom.levels import Level
from pacs_server.errors import StorageUnavailable
from pacs_server.index.database import Database
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.instances import InstanceIndex, StoredInstance
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.index.state import StateIndex
from pacs_server.services.deletion import DeletionService
from pacs_server.services.patients import PatientService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreService
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import Storage
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.upkeep.backup import BackupSource, back_up
from pacs_server.upkeep.backup_check import verify as verify_backup
from pacs_server.upkeep.backup_check import verify_and_renew
from pacs_server.upkeep.backup_directory import BackupDirectory
from pacs_server.upkeep.checking import Finding, FindingKind
from pacs_server.upkeep.rate_limit import RateLimit
from pacs_server.upkeep.rebuild import RebuildReport, rebuild
from pacs_server.upkeep.recovery import recover
from pacs_server.upkeep.repair import RepairService
from pacs_server.upkeep.restore import RestoreTarget, restore
from pacs_server.upkeep.scrub import Scrub
from pacs_server.upkeep.verify import Verification, VerificationProgress, VerificationSources, begin

MakeFiles = Callable[[], ArchiveFiles]


class Site:
    """An archive on any files, and all that works on it."""

    def __init__(self, files: ArchiveFiles, url: str, scratch: Path) -> None:
        self.files, self.scratch = files, scratch
        files.spool.prepare()
        schema.prepare_at(url)
        self.database = Database(url, fsync=False)
        self.database.migrate()
        self.index = InstanceIndex(self.database)
        self.archive = Archive(
            files.storage, files.spool, self.index, naming="hierarchical", duplicate_policy="replace"
        )
        self.deletions = DeletionService(DeletionIndex(self.database), files, self.archive.checkpoints, silent())
        self.patients = PatientService(self.database, files.decisions, silent(), lambda: "PACS")

    def store(self, *instances: Dataset) -> list[StoredInstance]:
        for ds in instances:
            StoreService(self.archive).store_file(write_part10(ds, self.scratch / "one.dcm"), ORIGIN)
        found = [self.index.get(str(ds.SOPInstanceUID)) for ds in instances]
        return [one for one in found if one is not None]

    def data(self, stored: StoredInstance) -> bytes:
        with self.files.storage.open(stored.path) as source:
            return source.read(0, source.size)

    def change(self, stored: StoredInstance) -> None:
        """Turn one bit of a file."""
        data = self.data(stored)
        self.files.storage.remove(stored.path)
        self.files.storage.put(stored.path, [data[:-1], bytes([data[-1] ^ 1])])

    def verify(self, *, repair: bool = False, **scope: str | None) -> list[Finding]:
        state, integrity = StateIndex(self.database), IntegrityIndex(self.database)
        sources = VerificationSources(self.files, integrity, state, self.deletions.settled)
        values = {"since": None, "study": None} | scope
        progress = begin(state, VerificationProgress(run=datetime.now(UTC).isoformat(), digest=True, **values))
        run = Verification(sources, progress, lambda size: None, lambda progress: None)
        mend = RepairService(self.archive, self.files, integrity, QueryIndex(self.database), silent())
        report = run.run(mend.repair if repair else None)
        findings = list(run.findings())
        assert report.clean == all(found.repaired for found in findings)
        return findings

    def rebuilt(self, into: Database) -> RebuildReport:
        return rebuild(self.files, into, lambda what, done, total: None, jobs=2)

    def recover(self) -> dict[str, int]:
        return {outcome.value: count for outcome, count in recover(self.archive, self.files, silent()).items()}

    def close(self) -> None:
        self.files.spool.close()
        self.database.close()


@pytest.fixture(params=["filesystem", "memory"])
def make_files(request: pytest.FixtureRequest, tmp_path: Path) -> MakeFiles:
    """Makes the files of empty archives."""
    made: list[ArchiveFiles] = []

    def make() -> ArchiveFiles:
        in_memory = request.param == "memory"
        made.append(memory_archive() if in_memory else archive_directory(tmp_path / f"{len(made)}", fsync=False))
        return made[-1]

    return make


@pytest.fixture
def site(make_files: MakeFiles, tmp_path: Path) -> Iterator[Site]:
    site = Site(make_files(), f"sqlite:///{tmp_path / 'pacs.db'}", tmp_path)
    yield site
    site.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Database]:
    """An empty index."""
    schema.prepare(tmp_path / "other.db")
    with closing(Database(f"sqlite:///{tmp_path / 'other.db'}", fsync=False)) as database:
        database.migrate()
        yield database


def told(findings: list[Finding]) -> set[tuple[FindingKind, str]]:
    return {(found.kind, found.path) for found in findings}


def everything(storage: Storage) -> dict[str, bytes]:
    found = {}
    for key in storage.list():
        with storage.open(key) as source:
            found[key] = source.read(0, source.size)
    return found


def a_study(count: int, **attributes: str) -> list[Dataset]:
    first = make_ct(rows=2, columns=2, **attributes)
    more = (make_ct(first.StudyInstanceUID, rows=2, columns=2, **attributes) for _ in range(count - 1))
    return [first, *more]


@pytest.mark.slow
def test_store_replace_and_retrieve(site: Site) -> None:
    (ds,) = a_study(1)
    (first,) = site.store(ds)
    ds.StudyDescription = "other bytes"
    (second,) = site.store(ds)
    assert (first.version, second.version) == (1, 2)
    assert sorted(everything(site.files.storage)) == sorted([first.path, second.path])
    retrieve = RetrieveService(site.archive, QueryIndex(site.database))
    with retrieve.open(second) as source:
        assert source.size == second.size - second.data_set_offset
    assert b"other bytes" in retrieve.transcoded(second, second.transfer_syntax_uid)
    assert site.verify() == []


@pytest.mark.slow
def test_verify_and_repair(site: Site) -> None:
    missing, changed, orphan, moved, whole = site.store(*a_study(5))
    assert site.verify() == []
    storage = site.files.storage
    storage.remove(missing.path)
    site.change(changed)
    site.index.remove(orphan.uids.sop)
    storage.put("elsewhere/moved.dcm", [site.data(moved)])
    storage.remove(moved.path)
    storage.put("notes.txt", [b"no DICOM"])
    expected = {
        (FindingKind.MISSING, missing.path),
        (FindingKind.CHANGED, changed.path),
        (FindingKind.ORPHAN, orphan.path),
        (FindingKind.MISPLACED, "elsewhere/moved.dcm"),
        (FindingKind.ORPHAN, "notes.txt"),
    }
    assert told(site.verify()) == expected
    assert told(site.verify(study=whole.uids.study)) == expected - {
        (FindingKind.MISPLACED, "elsewhere/moved.dcm"),
        (FindingKind.ORPHAN, "notes.txt"),
    } | {(FindingKind.MISSING, moved.path)}
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert site.verify(since=tomorrow) == []
    assert told(site.verify(repair=True)) == expected
    assert told(site.verify()) == {(FindingKind.MISSING, missing.path), (FindingKind.CHANGED, changed.path)}
    assert site.files.quarantine.count() == 1
    found = site.index.get(moved.uids.sop)
    assert found is not None
    assert found.path == "elsewhere/moved.dcm"


def test_the_scrub(site: Site) -> None:
    changed, _ = site.store(*a_study(2))
    site.change(changed)
    read: list[int] = []
    scrub = Scrub(site.files.storage, site.database, lambda: 1 << 40, counted=read.append)
    scrub._load()
    scrub._pass()
    assert (len(read), scrub.findings()["changed"]) == (2, 1)


@pytest.mark.slow
def test_delete_restore_and_purge(site: Site) -> None:
    study = a_study(3)
    stored = site.store(*study, *a_study(1))
    before = everything(site.files.storage)
    uid = stored[0].uids.study
    folder = site.deletions.delete(Level.STUDY, uid, "a test").folder
    assert list(everything(site.files.storage)) == [stored[3].path]
    assert site.verify() == []
    assert site.deletions.restore(folder).instances == 3
    assert everything(site.files.storage) == before
    assert everything(site.files.side_files) == {}
    site.deletions.delete(Level.STUDY, uid, "a test")
    (again, *_) = site.store(study[0])
    (deletion,) = site.deletions.contents()
    assert site.deletions.restore(deletion.folder).conflicts == (again.uids.sop,)
    assert len(site.deletions.empty(timedelta(0))) == 1
    assert everything(site.files.side_files) == {}
    assert site.verify() == []


@pytest.mark.slow
def test_a_deletion_that_is_cut_off_is_finished(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = site.store(*a_study(2))

    def broken(*_: object) -> None:
        raise StorageUnavailable("the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(type(site.files.trash), "take_away", broken)
        with pytest.raises(StorageUnavailable):
            site.deletions.delete(Level.STUDY, stored[0].uids.study, "a test")
    assert len(everything(site.files.storage)) == 2
    site.deletions.resume()
    assert everything(site.files.storage) == {}
    assert site.deletions.restore(site.deletions.contents()[0].folder).instances == 2
    assert site.verify() == []


@pytest.mark.slow
def test_the_rebuilt_index_is_the_same(site: Site, other: Database) -> None:
    replaced, *_ = study = a_study(3, PatientID="P1", PatientName="Doe^Jane")
    site.store(*study, *a_study(2, PatientID="P2", PatientName="Roe^Richard"))
    replaced.StudyDescription = "other bytes"
    site.store(replaced)
    site.deletions.delete(Level.IMAGE, str(study[1].SOPInstanceUID), "a test")
    site.patients.merge(site.patients.person("P2"), site.patients.person("P1"), "typed wrong")
    report = site.rebuilt(other)
    assert (report.problems, report.instances) == ([], 4)
    assert indexes.contents(other) == indexes.contents(site.database)


@pytest.mark.slow
def test_a_backup_restored_into_another_archive(site: Site, make_files: MakeFiles, tmp_path: Path) -> None:
    site.store(*a_study(4, PatientID="P1"), *a_study(1, PatientID="P2"))
    deleted, *_ = site.store(*a_study(2))
    folder = site.deletions.delete(Level.STUDY, deleted.uids.study, "a test").folder
    site.patients.merge(site.patients.person("P2"), site.patients.person("P1"), "typed wrong")
    backups, pace = BackupDirectory(tmp_path / "backups"), RateLimit(None)
    report = back_up(BackupSource(site.database, site.files, None), backups, pace, lambda done, total: None)
    assert (report.problems, report.written) == ([], 5)
    snapshot = backups.snapshot(None)
    assert list(verify_backup(backups, snapshot, lambda done, total: None)) == []

    files = make_files()
    with closing(Database(f"sqlite:///{tmp_path / 'copy.db'}")) as database:
        target = RestoreTarget(database, files, tmp_path / "audit")
        restored = restore(backups, snapshot, target, pace, lambda done, total: None)
        assert (restored.problems, restored.written) == ([], 5 + len(everything(site.files.side_files)))
        for storage in ("storage", "side_files"):
            assert everything(getattr(files, storage)) == everything(getattr(site.files, storage))
        with pytest.raises(StorageUnavailable, match="not empty"):
            restore(backups, snapshot, target, pace, lambda done, total: None)
    copy = Site(files, f"sqlite:///{tmp_path / 'copy.db'}", tmp_path)
    assert copy.verify() == []
    assert copy.deletions.restore(folder).instances == 2
    assert copy.patients.catch_up() == 0
    assert copy.verify() == []
    copy.close()


@pytest.mark.slow
def test_a_restore_that_was_stopped_goes_on(site: Site, make_files: MakeFiles, tmp_path: Path) -> None:
    site.store(*a_study(4))
    backups, pace = BackupDirectory(tmp_path / "backups"), RateLimit(None)
    back_up(BackupSource(site.database, site.files, None), backups, pace, lambda done, total: None)
    snapshot, files = backups.snapshot(None), make_files()

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with closing(Database(f"sqlite:///{tmp_path / 'copy.db'}")) as database:
        target = RestoreTarget(database, files, tmp_path / "audit")
        with pytest.raises(KeyboardInterrupt):
            restore(backups, snapshot, target, pace, stop)
        with pytest.raises(StorageUnavailable, match="unfinished"), files.lock.shared():
            pass
        # What was damaged meanwhile is written again.
        with files.storage.bulk() as writer:
            writer.put(next(iter(everything(site.files.storage))), [b"damaged"])
        assert restore(backups, snapshot, target, pace, lambda done, total: None).problems == []
    assert everything(files.storage) == everything(site.files.storage)


@pytest.mark.slow
def test_a_damaged_file_of_a_backup_is_copied_again(site: Site, tmp_path: Path) -> None:
    first, _ = site.store(*a_study(2))
    backups = BackupDirectory(tmp_path / "backups")
    back_up(BackupSource(site.database, site.files, None), backups, RateLimit(None), lambda done, total: None)
    site.files.storage.remove(first.path)
    for kept in (backups.root / "objects").rglob("*-*"):
        kept.write_bytes(bytes(kept.stat().st_size))
    renewed = list(verify_and_renew(site.files, backups, backups.snapshot(None), lambda done, total: None))
    assert sorted(text.partition(": ")[2] for text in renewed) == [
        "damaged in the backup",
        "damaged in the backup; copied again",
    ]


def test_recovery(site: Site, tmp_path: Path) -> None:
    """A process dies in the middle of three transfers: one half received, one not committed, one not settled."""
    stored = site.store(*a_study(2))
    site.archive.receive().write(b"half" * 100)
    uncommitted, unsettled = stored
    for instance in stored:
        data = site.data(instance)
        site.files.storage.remove(instance.path)
        file = site.archive.receive()
        file.write(data)
        site.files.spool.place(file, instance.path)
    site.index.remove(uncommitted.uids.sop)
    after = Site(crashed(site), f"sqlite:///{tmp_path / 'pacs.db'}", tmp_path)
    assert after.recover() == {"indexed": 1, "complete": 1, "quarantined": 1}
    assert after.index.get(uncommitted.uids.sop) == uncommitted
    assert after.index.get(unsettled.uids.sop) == unsettled
    assert (after.recover(), after.verify(), after.files.quarantine.count()) == ({}, [], 1)
    assert StoreService(after.archive).store_file(tmp_path / "one.dcm", ORIGIN) is StoreOutcome.ALREADY_STORED
    after.close()


def crashed(site: Site) -> ArchiveFiles:
    """The files as the next process finds them."""
    site.files.spool.close()
    return site.files if isinstance(site.files.spool, MemorySpool) else archive_directory(Path(site.files.name))
