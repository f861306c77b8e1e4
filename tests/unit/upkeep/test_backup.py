"""Backup and restore on small archives in this process: what is copied, what is found, what is refused."""

import errno
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import postgres
import pytest
import schema
from alembic import command
from audits import an_event
from datasets import make_study, write_part10
from servers import config
from sqlalchemy import insert, inspect, select

from pacs_server.app.assembly import open_archive
from pacs_server.audit.events import EventID
from pacs_server.audit.trail import open_trail
from pacs_server.audit.verify import verify as verify_trail
from pacs_server.cli import main as cli
from pacs_server.config import AuditConfig, Config, DatabaseConfig
from pacs_server.dicom.caller import Door
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.errors import StorageFull, StorageUnavailable
from pacs_server.index import copying
from pacs_server.index.archive_models import deletion
from pacs_server.index.copying import is_empty, take_snapshot
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.models import instance
from pacs_server.index.revisions import alembic_config
from pacs_server.index.state import StateIndex
from pacs_server.index.workflow_models import metadata, peer_seen
from pacs_server.storage import durable_files
from pacs_server.storage.durable_files import DurableFiles
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.filesystem.restoration import FileSystemRestoration
from pacs_server.upkeep import rate_limit
from pacs_server.upkeep.backup import BackupSource, CopyReport, back_up
from pacs_server.upkeep.backup_check import verify
from pacs_server.upkeep.backup_directory import BackupDirectory, digest_of
from pacs_server.upkeep.backup_pruning import prune
from pacs_server.upkeep.last_backup import last_backup
from pacs_server.upkeep.rate_limit import RateLimit
from pacs_server.upkeep.restore import RestoreTarget, restore


@dataclass
class Place:
    """An archive with its database below a directory."""

    directory: Path
    url: str = ""
    said: list[tuple[int, int]] = field(default_factory=list)

    @property
    def config(self) -> Config:
        return config(self.directory).model_copy(update={"database": DatabaseConfig(url=self.database_url)})

    @property
    def database_url(self) -> str:
        return self.url or f"sqlite:///{self.directory / 'pacs.db'}"

    @property
    def archive(self) -> Path:
        return self.directory / "archive"

    @property
    def audit(self) -> Path:
        return self.directory / "audit"

    def fill(self, count: int, **attributes: Any) -> None:
        schema.prepare_at(self.database_url)
        with open_archive(self.config) as archive:
            for number, ds in enumerate(make_study(2, count // 2, **attributes)):
                file = write_part10(ds, self.directory / "in" / f"{number}.dcm")
                archive.store.store_file(file, Origin(calling_ae="CT1", called_ae="PACS", peer="here", via=Door.DIMSE))

    def back_up(self, directory: BackupDirectory) -> CopyReport:
        with closing(Database(self.database_url)) as database:
            source = BackupSource(database, archive_directory(self.archive), self.audit)
            return back_up(source, directory, RateLimit(None), lambda done, total: self.said.append((done, total)))

    def restore(self, directory: BackupDirectory, name: str | None = None) -> CopyReport:
        self.directory.mkdir(parents=True, exist_ok=True)
        with closing(Database(self.database_url)) as database:
            target = RestoreTarget(database, archive_directory(self.archive), self.directory / "audit-before")
            return restore(directory, directory.snapshot(name), target, RateLimit(None), lambda done, total: None)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, times in UTC."""
        with closing(Database(self.database_url)) as database, database.connect() as connection:
            return {
                table.name: [
                    tuple(_in_utc(value) for value in row)
                    for row in connection.execute(select(table).order_by(*table.primary_key))
                ]
                for table in metadata.sorted_tables
            }

    def files(self, *, of: str = "") -> dict[str, bytes]:
        """The content of every file of the archive but half received ones."""
        root = self.archive / of
        found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        return {name: content for name, content in found.items() if not name.startswith("incoming/")}

    def paths(self) -> list[str]:
        with closing(Database(self.database_url)) as database, database.connect() as connection:
            return list(connection.scalars(select(instance.c.path).order_by(instance.c.id)))


def _in_utc(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@pytest.fixture
def source(tmp_path: Path, database_url: str) -> Place:
    place = Place(tmp_path / "source", database_url)
    place.fill(6)
    return place


@pytest.fixture
def small(tmp_path: Path) -> Place:
    """On SQLite only, where the database makes no difference."""
    place = Place(tmp_path / "small")
    place.fill(4)
    return place


@pytest.fixture
def backups(tmp_path: Path) -> BackupDirectory:
    return BackupDirectory(tmp_path / "backup")


@pytest.fixture
def other_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[str]:
    """An empty database of the kind that `database_url` is not."""
    if not database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'other.db'}"
        return
    with postgres.fresh_database(request.getfixturevalue("postgres_server")) as url:
        yield url


def kept(backups: BackupDirectory, kind: str = "objects") -> dict[Path, int]:
    """Every file of a kind in the backup, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in (backups.root / kind).rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------ there and back


@pytest.mark.slow
def test_a_restored_archive_is_the_same(source: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    report = source.back_up(backups)
    assert (report.problem_count, report.written, report.there) == (0, 6, 0)
    assert source.said[-1] == (6, 6)
    copy = Place(tmp_path / "copy")
    restored = copy.restore(backups)
    assert (restored.problem_count, restored.snapshot) == (0, report.snapshot)
    assert copy.rows() == source.rows()
    assert copy.files() == source.files()
    assert not (copy.archive / "restore").exists()


@pytest.mark.postgres
def test_from_one_database_to_the_other(
    source: Place, other_url: str, backups: BackupDirectory, tmp_path: Path
) -> None:
    with closing(Database(source.database_url)) as database, database.begin() as connection:
        seen = datetime(2026, 3, 1, 23, 30, 0, 123456, tzinfo=UTC)
        row = {"calling_ae": "CT1", "called_ae": "PACS", "address": "10.0.0.7", "count": 1, "outcome": "accepted"}
        connection.execute(insert(peer_seen), [row | {"first_seen_at": seen, "last_seen_at": seen, "tls": True}])
    source.back_up(backups)
    copy = Place(tmp_path / "copy", other_url)
    assert copy.restore(backups).problem_count == 0
    assert copy.rows() == source.rows()
    # New rows are numbered after the old ones.
    copy.fill(2, PatientID="P2")
    assert len(copy.paths()) == 8


def test_every_table_is_copied(database_url: str) -> None:
    with closing(Database(database_url)) as database:
        database.migrate()
        tables = set(inspect(database.engine).get_table_names()) - {"alembic_version"}
    assert tables == {table.name for table in copying._TABLES}


@pytest.mark.slow
def test_a_snapshot_with_an_older_schema_is_migrated(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    small.back_up(backups)
    index, manifest = make_older(backups, tmp_path)
    copy = Place(tmp_path / "copy")
    assert copy.restore(backups).problem_count == 0
    assert (copy.rows()["instance"], copy.files()) == (small.rows()["instance"], small.files())
    with closing(Database(copy.database_url)) as database:
        database.check_schema()
    assert digest_of(index) == json.loads(manifest.read_text())["index_digest"]  # the backup itself stays as it is


def make_older(backups: BackupDirectory, tmp_path: Path) -> tuple[Path, Path]:
    """Make the snapshot one that the program of revision 0002 would have made."""
    name = backups.snapshot(None).name
    index, manifest = backups.index / f"{name}.db", backups.index / f"{name}.json"
    with closing(Database(f"sqlite:///{tmp_path / 'older.db'}", wal_mode=False)) as older:
        with older.begin() as connection:
            settings = alembic_config()
            settings.attributes["connection"] = connection
            command.upgrade(settings, "0002")
        columns = {t: [c["name"] for c in inspect(older.engine).get_columns(t)] for t in ("patient", "study", "series")}
        columns["instance"] = [column["name"] for column in inspect(older.engine).get_columns("instance")]
    with closing(sqlite3.connect(tmp_path / "older.db")) as connection:
        connection.execute("ATTACH ? AS newer", (str(index),))
        for table, names in columns.items():
            listed = ", ".join(f'"{column}"' for column in names)
            connection.execute(f"INSERT INTO main.{table} ({listed}) SELECT {listed} FROM newer.{table}")
        connection.commit()
    shutil.copyfile(tmp_path / "older.db", index)
    changed = json.loads(manifest.read_text()) | {"revision": "0002", "index_digest": digest_of(index)}
    manifest.write_text(json.dumps(changed))
    return index, manifest


# ------------------------------------------------------------------------------ incremental


@pytest.mark.slow
def test_only_what_is_new_is_copied(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    first = small.back_up(backups)
    before = kept(backups)
    assert small.back_up(backups).written == 0
    small.fill(2, PatientID="P2")
    report = small.back_up(backups)
    assert (first.written, report.written, report.there) == (4, 2, 4)
    assert before.items() < kept(backups).items()
    # Each snapshot is what the archive was then.
    copy = Place(tmp_path / "copy")
    copy.restore(backups, first.snapshot)
    assert len(copy.paths()) == 4


@pytest.mark.slow
def test_the_same_data_set_received_again_is_another_file(small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    with closing(Database(small.database_url)) as database, database.begin() as connection:
        connection.execute(instance.update().where(instance.c.id == 1).values(received_at=datetime.now(UTC)))
    assert small.back_up(backups).written == 1


@pytest.mark.slow
def test_a_file_of_the_backup_that_was_cut_is_copied_again(small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    victim = next(iter(kept(backups)))
    victim.write_bytes(b"")
    assert small.back_up(backups).written == 1
    assert list(verify(backups, backups.snapshot(None), lambda done, total: None)) == []


@pytest.mark.slow
def test_other_files_of_the_archive(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    content = {"trash/d1/deletion.json": b"{}", "trash/d1/a/1.dcm": b"DICM", "changes/changes.jsonl": b"{}\n"}
    for name, data in content.items():
        path = small.archive / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    values = dict.fromkeys("level uid study_instance_uid reason deleted_by".split(), "1.2") | {"instances": 1}
    row = values | {"folder": "d1", "status": "KEPT", "deleted_at": datetime.now(UTC), "bytes": 4}
    with closing(Database(small.database_url)) as database, database.begin() as connection:
        connection.execute(insert(deletion), [row])
    # Not yet deleted for the index, which has the instance still.
    (small.archive / "trash" / "d2").mkdir()
    (small.archive / "trash" / "d2" / "2.dcm").write_bytes(b"DICM")
    small.back_up(backups)
    first = kept(backups, "files")
    small.back_up(backups)
    assert kept(backups, "files") == first
    copy = Place(tmp_path / "copy")
    assert copy.restore(backups).problem_count == 0
    assert {name: data for name, data in copy.files().items() if name not in small.paths()} == content


@pytest.mark.slow
def test_the_audit_trail_is_put_beside_the_new_one(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    with open_trail(AuditConfig(directory=small.audit)) as trail:
        trail.write(an_event("P1", "1.1"))
    small.back_up(backups)
    secret = (small.audit / "key").read_bytes()
    assert secret not in [path.read_bytes() for path in kept(backups, "files")]
    copy = Place(tmp_path / "copy")
    copy.restore(backups)
    old = AuditConfig(directory=copy.directory / "audit-before")
    assert not (old.directory / "key").exists()
    (old.directory / "key").write_bytes(secret)
    (old.directory / "key").chmod(0o600)
    assert verify_trail(old).last == verify_trail(AuditConfig(directory=small.audit)).last


@pytest.mark.slow
def test_the_audit_trail_may_be_on_another_file_system(
    small: Place, backups: BackupDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_trail(AuditConfig(directory=small.audit)) as trail:
        trail.write(an_event("P1", "1.1"))
    small.back_up(backups)
    copy, rename = Place(tmp_path / "copy"), os.rename

    def between_file_systems(old: Path, new: Path) -> None:
        if Path(old).is_relative_to(copy.archive) != Path(new).is_relative_to(copy.archive):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new)

    monkeypatch.setattr(os, "rename", between_file_systems)
    assert copy.restore(backups).problem_count == 0
    assert (copy.directory / "audit-before" / "head").exists()
    assert sorted(path.name for path in copy.directory.iterdir()) == ["archive", "audit-before", "pacs.db"]


# ------------------------------------------------------------------------------ what is found


@pytest.mark.slow
def test_a_file_that_changed_or_is_gone_is_reported_and_the_rest_backed_up(
    small: Place, backups: BackupDirectory
) -> None:
    changed, gone, *_ = small.paths()
    content = bytearray((small.archive / changed).read_bytes())
    content[-1] ^= 1
    (small.archive / changed).write_bytes(content)
    (small.archive / gone).unlink()
    report = small.back_up(backups)
    assert report.problems == [f"{changed} is damaged", f"{gone} is missing"]
    assert report.written == len(kept(backups)) == 2
    assert backups.snapshot(None).problems == 2


@pytest.mark.slow
def test_a_file_of_the_audit_trail_that_cannot_be_opened_is_reported_and_the_rest_backed_up(
    small: Place, backups: BackupDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_trail(AuditConfig(directory=small.audit)) as trail:
        trail.write(an_event("P1", "1.1"))
    [day] = [path.name for path in small.audit.glob("audit-*.jsonl")]
    opened = os.open

    def refuse(path: str | Path, *args: Any, **options: Any) -> int:
        if Path(path).name == day:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        report = small.back_up(backups)
    assert report.problems == [f"{day} cannot be read: Permission denied"]
    assert report.written == 4
    assert {one.path for one in backups.other_files(backups.snapshot(None))} >= {"head"}
    assert small.back_up(backups).problems == []


@pytest.mark.slow
def test_a_restored_archive_is_backed_up_although_a_file_is_missing(
    small: Place, backups: BackupDirectory, tmp_path: Path
) -> None:
    """No server has worked on it yet."""
    small.back_up(backups)
    copy = Place(tmp_path / "copy")
    copy.restore(backups)
    gone = copy.paths()[0]
    (copy.archive / gone).unlink()
    report = copy.back_up(BackupDirectory(tmp_path / "another backup"))
    assert (report.problems, report.written) == ([f"{gone} is missing"], 3)


@pytest.mark.slow
def test_a_directory_of_the_trash_that_cannot_be_listed_is_reported(
    small: Place, backups: BackupDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_archive(small.config) as archive:
        uid = Path(small.paths()[0]).parts[0]
        folder = archive.deletions.delete(Level.STUDY, uid, "a test").folder
    scandir = os.scandir

    def fail(path: str | Path) -> Any:
        if Path(path).name == uid:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    assert small.back_up(backups).problems == [f"trash/{folder}/{uid}/ cannot be listed: Input/output error"]


@pytest.mark.slow
def test_what_comes_in_while_the_index_is_copied_is_not_in_it(
    source: Place, backups: BackupDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first row PostgreSQL gives; SQLite copies its pages in one go."""
    before, row, later = source.rows(), copying._row, []

    def copied(*args: Any) -> dict[str, Any]:
        if not later:
            later.append("once")
            source.fill(2, PatientID="LATER")
        return row(*args)

    monkeypatch.setattr(copying, "_row", copied)
    assert source.back_up(backups).problem_count == 0
    copy = Place(tmp_path / "copy")
    copy.restore(backups)
    assert later
    assert len(source.paths()) == 8
    assert copy.rows() == before


@pytest.mark.slow
def test_what_is_deleted_during_the_backup_is_not_in_it(
    small: Place, backups: BackupDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Path] = []

    def take(database: Database, file: Path) -> str:
        revision = take_snapshot(database, file)
        if not taken:
            path = small.paths()[0]
            InstanceIndex(database).remove(Path(path).stem)
            (small.archive / path).unlink()
        taken.append(file)
        return revision

    monkeypatch.setattr("pacs_server.upkeep.backup.take_snapshot", take)
    assert small.back_up(backups).problem_count == 0
    assert len(taken) == 2
    assert backups.snapshot(None).instances == backups.snapshot(None).rows["instance"] == 3


@pytest.mark.slow
def test_verify_finds_what_rots_in_the_backup(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    small.back_up(backups)
    rotten, gone, *_ = sorted(kept(backups))
    rotten.write_bytes(bytes(rotten.stat().st_size))
    gone.unlink()
    problems = list(verify(backups, backups.snapshot(None), lambda done, total: None))
    assert sorted(problem.partition(": ")[2] for problem in problems) == [
        "damaged in the backup", "missing from the backup"
    ]  # fmt: skip
    # A restore says so too, brings the rest back, and keeps the rows.
    copy = Place(tmp_path / "copy")
    report = copy.restore(backups)
    assert sorted(problem.partition(" is ")[2] for problem in report.problems) == [
        "damaged in the backup", "missing from the backup"
    ]  # fmt: skip
    assert copy.rows() == small.rows()
    assert len(copy.files()) == 2


@pytest.mark.slow
def test_verify_copies_again_what_has_rotted(run: Callable[..., Any], small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    sound = {path: path.read_bytes() for path in kept(backups)}
    rotten, lost, *_ = sorted(kept(backups))
    original = next(path for path in small.archive.rglob("*.dcm") if path.read_bytes() == sound[lost])
    original.unlink()
    for path in (rotten, lost):
        path.write_bytes(bytes(path.stat().st_size))
    code, _, err = run("backup", backups.root, "--verify")
    assert code == 1
    assert sorted(line.partition(": ")[2] for line in err.splitlines()) == [
        "damaged in the backup", "damaged in the backup; copied again"
    ]  # fmt: skip
    assert rotten.read_bytes() == sound[rotten]
    # What the archive has no more is left as it is.
    assert lost.read_bytes() != sound[lost]
    original.write_bytes(sound[lost])
    assert run("backup", backups.root, "--verify")[0] == 1
    assert run("backup", backups.root, "--verify")[0] == 0
    assert lost.read_bytes() == sound[lost]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["db", "files"])
def test_a_damaged_index_is_not_restored(small: Place, backups: BackupDirectory, tmp_path: Path, suffix: str) -> None:
    report = small.back_up(backups)
    with (backups.index / f"{report.snapshot}.{suffix}").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    copy = Place(tmp_path / "copy")
    with pytest.raises(StorageUnavailable, match="damaged"):
        copy.restore(backups)
    with closing(Database(copy.database_url)) as database:
        assert is_empty(database)


@pytest.mark.slow
def test_a_path_that_leads_elsewhere_is_refused(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    with closing(Database(small.database_url)) as database, database.begin() as connection:
        path = small.paths()[0]
        (tmp_path / "outside.dcm").write_bytes((small.archive / path).read_bytes())
        connection.execute(instance.update().where(instance.c.id == 1).values(path="../../outside.dcm"))
    small.back_up(backups)
    with pytest.raises(StorageUnavailable, match="outside"):
        Place(tmp_path / "a" / "b" / "copy").restore(backups)


# ------------------------------------------------------------------------------ stopped in between


@pytest.mark.slow
def test_a_full_disk_leaves_older_snapshots_whole_and_the_next_run_goes_on(
    small: Place, backups: BackupDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.back_up(backups)
    older = backups.snapshots()
    small.fill(6, PatientID="P2")
    room = iter([True] * 3)

    def write(descriptor: int, data: memoryview) -> int:
        if not next(room, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    real = os.write
    monkeypatch.setattr(durable_files.os, "write", write)
    monkeypatch.setattr(durable_files, "_BATCH_FILES", 1)
    with pytest.raises(StorageFull):
        small.back_up(backups)
    monkeypatch.undo()
    assert backups.snapshots() == older
    assert list(verify(backups, older[0], lambda done, total: None)) == []
    report = small.back_up(backups)
    assert (report.written, report.there) == (3, 7)
    assert list(backups.partial.iterdir()) == []


@pytest.mark.slow
def test_the_manifest_comes_last(small: Place, backups: BackupDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it speaks of has its name by then, and is durable."""
    steps: list[str] = []
    rename, sync = os.rename, durable_files.sync_file_system
    monkeypatch.setattr(os, "rename", lambda old, new: (steps.append(Path(new).suffix), rename(old, new)))
    monkeypatch.setattr(durable_files, "sync_file_system", lambda folder: (steps.append("sync"), sync(folder)))
    small.back_up(backups)
    assert steps.count(".json") == 1
    before, after = steps[: steps.index(".json")], steps[steps.index(".json") + 1 :]
    assert {".db", ".files"} <= set(before)
    assert before[-1] == "sync"
    assert after == ["sync"]


@pytest.mark.slow
def test_what_a_killed_backup_left_is_swept_away(small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    leftovers = (backups.index / "2026-01-01T000000.000000Z.db", backups.partial / "1.part")
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    small.back_up(backups)
    assert not any(leftover.exists() for leftover in leftovers)
    assert len(list(backups.index.iterdir())) == 2 * 3


@pytest.mark.slow
def test_a_restore_goes_on_where_it_stopped(
    small: Place, backups: BackupDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.back_up(backups)
    copy = Place(tmp_path / "copy")
    monkeypatch.setattr("pacs_server.upkeep.restore.restore_snapshot", _stop)
    with pytest.raises(KeyboardInterrupt):
        copy.restore(backups)
    monkeypatch.undo()
    with pytest.raises(StorageUnavailable, match="unfinished"), open_archive(copy.config):
        pass
    # Half a file, as a power loss may leave it, and one of zeros.
    paths = sorted(path for path in copy.archive.rglob("*.dcm"))
    paths[0].write_bytes(paths[0].read_bytes()[:-10])
    paths[1].write_bytes(bytes(paths[1].stat().st_size))
    report = copy.restore(backups)
    assert (report.written, report.problem_count) == (2, 0)
    assert copy.files() == small.files()
    assert copy.rows() == small.rows()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_restore_that_stopped_after_its_commit_only_ends(
    small: Place, backups: BackupDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.back_up(backups)
    copy = Place(tmp_path / "copy")
    monkeypatch.setattr(FileSystemRestoration, "finish", _stop)
    with pytest.raises(KeyboardInterrupt):
        copy.restore(backups)
    monkeypatch.undo()
    assert copy.restore(backups).written == 0
    assert copy.rows() == small.rows()


@pytest.mark.slow
def test_another_snapshot_does_not_go_on_with_it(
    small: Place, backups: BackupDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small.back_up(backups).snapshot
    small.back_up(backups)
    copy = Place(tmp_path / "copy")
    monkeypatch.setattr("pacs_server.upkeep.restore.restore_snapshot", _stop)
    with pytest.raises(KeyboardInterrupt):
        copy.restore(backups)
    with pytest.raises(StorageUnavailable, match="another snapshot"):
        copy.restore(backups, first)


@pytest.mark.slow
def test_it_does_not_end_in_another_database(
    source: Place, small: Place, backups: BackupDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stopped, and the configuration names another one now, which holds another archive's index."""
    small.back_up(backups)
    copy = Place(tmp_path / "copy")
    monkeypatch.setattr("pacs_server.upkeep.restore.restore_snapshot", _stop)
    with pytest.raises(KeyboardInterrupt):
        copy.restore(backups)
    monkeypatch.undo()
    before = source.rows()
    copy.url = source.database_url
    with pytest.raises(StorageUnavailable, match="not the one that this restore began with"):
        copy.restore(backups)
    assert source.rows() == before
    copy.url = ""
    copy.restore(backups)
    assert copy.rows() == small.rows()


# ------------------------------------------------------------------------------ refused


@pytest.mark.slow
def test_a_restore_needs_an_empty_place(source: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    source.back_up(backups)
    before = source.files(), source.rows()
    with pytest.raises(StorageUnavailable, match="not empty"):
        source.restore(backups)
    with pytest.raises(StorageUnavailable, match="database is not empty"):
        Place(tmp_path / "elsewhere", source.database_url).restore(backups)
    assert (source.files(), source.rows()) == before
    full = Place(tmp_path / "full")
    full.archive.mkdir(parents=True)
    (full.archive / "somebody's").write_text("file")
    with pytest.raises(StorageUnavailable, match="an empty archive"):
        full.restore(backups)
    assert full.files() == {"somebody's": b"file"}


@pytest.mark.slow
def test_a_restore_needs_the_archive_alone(small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    small.back_up(backups)
    copy = Place(tmp_path / "copy")
    copy.directory.mkdir()
    with open_archive(copy.config), pytest.raises(StorageUnavailable, match="in use"):
        copy.restore(backups)
    lock = archive_directory(copy.archive).lock
    with lock.exclusive(), pytest.raises(StorageUnavailable, match="running"), lock.shared():
        pass
    with lock.shared(), lock.shared():
        pass


@pytest.mark.slow
def test_one_backup_at_a_time(small: Place, backups: BackupDirectory) -> None:
    with backups.locked(), pytest.raises(StorageUnavailable, match="another backup"):
        small.back_up(BackupDirectory(backups.root))


@pytest.mark.slow
def test_a_row_count_of_every_table(small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    snapshot = backups.snapshot(None)
    assert snapshot.rows == {name: len(rows) for name, rows in small.rows().items()} | {"alembic_version": 1}
    assert (snapshot.instances, snapshot.instance_bytes) == (4, sum(map(len, small.files().values())))


# ------------------------------------------------------------------------------ prune, pace, files


@pytest.mark.slow
def test_prune_keeps_what_the_newest_need(small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    only_old = small.paths()[0]
    with closing(Database(small.database_url)) as database:
        InstanceIndex(database).remove(Path(only_old).stem)
    for number in range(2):
        small.fill(2, PatientID=f"P{number}")
        small.back_up(backups)
    newest = backups.snapshots()[1:]
    pruned = prune(backups, 2)
    assert (pruned.snapshots, pruned.files) == (1, 1)
    assert backups.snapshots() == newest
    for snapshot in newest:
        assert list(verify(backups, snapshot, lambda done, total: None)) == []
    assert prune(backups, 2).files == 0


def test_where_no_backup_is_none_is_made(tmp_path: Path) -> None:
    for ask in (BackupDirectory.snapshots, lambda backups: backups.snapshot(None), lambda backups: prune(backups, 1)):
        with pytest.raises(StorageUnavailable, match=f"^there is no backup in {tmp_path}/typo$"):
            ask(BackupDirectory(tmp_path / "typo"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_prune_removes_nothing_while_a_snapshot_is_damaged(small: Place, backups: BackupDirectory) -> None:
    small.back_up(backups)
    small.back_up(backups)
    newest = backups.snapshots()[1]
    (backups.index / f"{newest.name}.db").write_bytes(b"")
    before = kept(backups)
    with pytest.raises(StorageUnavailable, match="damaged"):
        prune(backups, 1)
    assert kept(backups) == before
    assert len(backups.snapshots()) == 2


def test_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(rate_limit.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(rate_limit.time, "sleep", slept.append)
    assert list(RateLimit(1000).over([bytes(500)] * 4)) == [bytes(500)] * 4
    assert sum(slept) == pytest.approx(2.0)
    RateLimit(None).spend(10**12)
    assert len(slept) == 4


def test_files_are_synced_before_they_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    rename, sync = os.rename, durable_files.sync_file_system
    monkeypatch.setattr(durable_files.os, "rename", lambda *args: (calls.append("rename"), rename(*args)))
    monkeypatch.setattr(durable_files, "sync_file_system", lambda *args: (calls.append("sync"), sync(*args)))
    (tmp_path / "partial").mkdir()
    with DurableFiles(tmp_path / "partial") as writer:
        writer.write(tmp_path / "1", [b"a", b"b"])
        writer.write(tmp_path / "2", [b"c"])
        assert calls == []
    assert calls == ["sync", "rename", "rename", "sync"]
    assert (tmp_path / "1").read_bytes() == b"ab"
    with pytest.raises(OSError, match="gone"), DurableFiles(tmp_path / "partial") as writer:
        writer.write(tmp_path / "3", broken())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "2", "partial"]


def broken() -> Iterator[bytes]:
    yield b"a"
    raise OSError("gone")


# ------------------------------------------------------------------------------ the commands


@pytest.fixture
def run(small: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: object, place: Place = small) -> tuple[int, str, str]:
        settings = {
            "storage": {"directory": str(place.archive), "min_free_space": 0},
            "database": {"url": place.database_url},
            "audit": {"directory": str(place.audit)},
        }
        place.directory.mkdir(exist_ok=True)
        (place.directory / "c.yaml").write_text(json.dumps(settings))
        line = ["pacs-server", "--config", str(place.directory / "c.yaml"), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out, printed.err

    return run


@pytest.mark.slow
def test_the_commands(run: Callable[..., Any], small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    code, out, err = run("backup", backups.root, "--verify", "--rate", "1GB")
    assert (code, err) == (0, "")
    name = backups.snapshot(None).name
    assert out.startswith(f"backed up and verified {name}: 4 files written (")
    with closing(Database(small.database_url)) as database:
        noted = last_backup(StateIndex(database))
    assert noted is not None
    assert (noted.snapshot, noted.directory, noted.instances) == (name, str(backups.root), 4)
    assert (noted.problems, noted.verified, noted.fields()["is_old"]) == (0, True, False)
    with closing(Database(small.database_url)) as database:
        # What a later version may write.
        StateIndex(database).put({"backup.last": '{"ended": 1, "colour": "blue"}'})
        assert last_backup(StateIndex(database)) is None
    code, out, _ = run("backup", backups.root, "--json")
    assert (code, json.loads(out)["there"]) == (0, 4)
    code, out, _ = run("backup", backups.root, "--list")
    assert (code, len(out.splitlines()), out.split()[0]) == (0, 3, "SNAPSHOT")
    assert out.splitlines()[2].split("\t")[0] != name or out.splitlines()[1].split("\t")[0] == name
    code, out, _ = run("backup", backups.root, "--prune", "1")
    assert (code, out.split(" and ")[0]) == (0, "removed 1 snapshot")
    copy = Place(tmp_path / "copy")
    code, out, _ = run("restore", backups.root, "--json", place=copy)
    assert (code, json.loads(out)["problem_count"]) == (0, 0)
    # A backup holds the note of the one before it.
    kept, lost = copy.rows(), small.rows()
    assert kept.pop("archive_state") != lost.pop("archive_state")
    assert kept == lost


@pytest.mark.slow
def test_both_are_in_the_audit_trail(
    run: Callable[..., Any], small: Place, backups: BackupDirectory, tmp_path: Path
) -> None:
    copy = Place(tmp_path / "copy")
    run("backup", backups.root)
    run("restore", backups.root, place=copy)
    for place, event_id in ((small, EventID.EXPORT), (copy, EventID.IMPORT)):
        with open_trail(AuditConfig(directory=place.audit)) as trail:
            events = [record.event for record, _ in trail.records_after(None)]
        assert [event.detail.split()[0] for event in events if event.event_id is event_id] == [
            "backup" if place is small else "restore"
        ]


@pytest.mark.slow
def test_exit_codes(run: Callable[..., Any], small: Place, backups: BackupDirectory, tmp_path: Path) -> None:
    (small.archive / small.paths()[0]).unlink()
    code, out, err = run("backup", backups.root)
    assert (code, "1 missing or damaged" in out, "is missing" in err) == (1, True, True)
    assert run("backup", small.archive / "backup")[0] == 2
    assert run("backup", tmp_path / "a?b")[0] == 2
    assert run("backup", backups.root, "--rate", "quick")[0] == 2
    assert run("backup", backups.root, "--list", "--prune", 1)[0] == 2
    assert run("backup", tmp_path / "nothing", "--list")[0] == 1
    assert run("restore", backups.root, "--snapshot", "1999")[0] == 1
    assert run("restore", backups.root)[0] == 1
