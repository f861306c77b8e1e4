"""Deleting: into the trash, back as it was, and for good; nothing is lost wherever it is cut off."""

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from archives import stored_at
from datasets import encoded, make_ct, uid
from pydicom.dataset import Dataset
from sqlalchemy import select
from trails import Kept

from pacs_server.archive.archive import Archive, StoreOutcome
from pacs_server.audit.events import Action, EventID
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.caller import Door
from pacs_server.dicom.commitment import CommitmentRequest, Reference
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.errors import AuditUnavailable, InstanceNotFound, StorageUnavailable
from pacs_server.index import models
from pacs_server.index.commitment import CommitmentIndex, Schedule
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import DeletionStatus, decode, in_utc, unversioned
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.instances import InstanceIndex
from pacs_server.services.deletion import DeletionService, RestoreResult
from pacs_server.services.store import StoreRequest, StoreService
from pacs_server.storage.filesystem import trash as trash_module
from pacs_server.storage.filesystem.archive_directory import archive_directory

ORIGIN = Origin("CT1", "PACS", "10.0.0.7", Door.DIMSE)
EXPLICIT = "1.2.840.10008.1.2.1"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Site:
    """An archive with its trash."""

    root: Path
    database: Database
    trail: Kept
    policy: str = "reject"
    now: datetime = NOW

    def __post_init__(self) -> None:
        self.files = archive_directory(self.root, fsync=False)
        self.storage, self.spool = self.files.storage, self.files.spool
        self.spool.prepare()
        index = InstanceIndex(self.database)
        self.archive = Archive(self.storage, self.spool, index, naming="hierarchical", duplicate_policy=self.policy)
        self.store = StoreService(self.archive)
        self.trash = self.files.trash
        self.index = DeletionIndex(self.database)
        audit = Recorder(self.trail, lambda: "PACS")
        self.deletions = DeletionService(
            self.index, self.files, self.archive.checkpoints, audit, clock=lambda: self.now
        )

    def keep(self, *instances: Dataset) -> list[StoreOutcome]:
        return [self.store.store(request(ds), [encoded(ds)]) for ds in instances]

    def rows(self, *, ids: bool = True) -> dict[str, list[dict[str, Any]]]:
        """All rows of the four tables; without ids tied by UIDs instead."""
        found = {}
        with self.database.connect() as connection:
            for table in models.TABLES.values():
                rows = [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]
                if not ids:
                    rows = [{k: v for k, v in row.items() if k != "id" and not k.endswith("_fk")} for row in rows]
                    rows.sort(key=str)
                found[table.name] = rows
        for row in found["instance"]:
            row["received_at"] = in_utc(row["received_at"])
        return found

    def stored(self) -> dict[str, bytes]:
        """The files of the archive, the trash and the half received ones apart, by path."""
        return {path: (self.root / path).read_bytes() for path in self.storage.list()}

    def delete(self, level: Level, uid: str) -> str:
        return self.deletions.delete(level, uid, "wrong patient").folder


def request(ds: Dataset) -> StoreRequest:
    return StoreRequest(ds.SOPClassUID, ds.SOPInstanceUID, EXPLICIT, ORIGIN)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def site(tmp_path: Path, database: Database) -> Site:
    return Site(tmp_path / "archive", database, Kept())


def a_study(series: int = 2, instances: int = 2, study: str | None = None, **attributes: Any) -> list[Dataset]:
    study = study or uid()
    return [
        make_ct(study, one, rows=2, columns=2, SeriesNumber=number, **attributes)
        for number, one in enumerate([uid() for _ in range(series)])
        for _ in range(instances)
    ]


# ------------------------------------------------------------------------------------ out and back


@pytest.mark.slow
@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside another study"])
def test_out_and_back_is_as_it_was(site: Site, level: Level, others: int) -> None:
    study = a_study()
    site.keep(*study, *(a_study() if others else []))
    before_rows, before_files = site.rows(ids=False), site.stored()
    target = study[0]
    uids = {
        Level.STUDY: target.StudyInstanceUID,
        Level.SERIES: target.SeriesInstanceUID,
        Level.IMAGE: target.SOPInstanceUID,
    }
    gone = {Level.STUDY: 4, Level.SERIES: 2, Level.IMAGE: 1}[level]

    folder = site.delete(level, uids[level])

    assert len(site.rows()["instance"]) == len(before_rows["instance"]) - gone
    assert len(site.stored()) == len(before_files) - gone
    assert site.archive.find(target.SOPInstanceUID) is None
    (listed,) = site.deletions.contents()
    assert (listed.folder, listed.level, listed.uid) == (folder, level, uids[level])
    assert (listed.status, listed.instances, listed.reason) == (DeletionStatus.KEPT, gone, "wrong patient")
    assert listed.deleted_at == NOW
    assert_counters_exact(site)

    assert site.deletions.restore(folder) == RestoreResult(gone, (), ())

    assert site.rows(ids=False) == before_rows
    assert site.stored() == before_files
    assert site.deletions.contents() == []
    assert site.trash.folders() == []


def assert_counters_exact(site: Site) -> None:
    rows = site.rows()
    for row in rows["series"]:
        count = sum(one["series_fk"] == row["id"] for one in rows["instance"])
        assert row["number_of_series_related_instances"] == count > 0
    for row in rows["study"]:
        below = [one for one in rows["series"] if one["study_fk"] == row["id"]]
        assert row["number_of_study_related_series"] == len(below) > 0
        counts = [one["number_of_series_related_instances"] for one in below]
        assert row["number_of_study_related_instances"] == sum(counts)
    for row in rows["patient"]:
        below = [one for one in rows["study"] if one["patient_fk"] == row["id"]]
        assert row["number_of_patient_related_studies"] == len(below) > 0
        for what in ("series", "instances"):
            total = sum(one[f"number_of_study_related_{what}"] for one in below)
            assert row[f"number_of_patient_related_{what}"] == total


@pytest.mark.slow
def test_modalities_follow(site: Site) -> None:
    study = uid()
    ct, mr = make_ct(study), make_ct(study, Modality="MR")
    site.keep(ct, mr)
    folder = site.delete(Level.IMAGE, mr.SOPInstanceUID)
    assert site.rows()["study"][0]["modalities_in_study"] == "CT"
    site.deletions.restore(folder)
    assert site.rows()["study"][0]["modalities_in_study"] == "CT\\MR"


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [("1.1", "1.1", "1.1", "1.1"), ("1.1", "1.1", "1.2", "1.2"), ("1.1", "1.2", "1.3", "1.1")]
)
def test_every_version_goes_and_comes_back(tmp_path: Path, database: Database, where: tuple[str, ...]) -> None:
    """Also those that came under another study or series."""
    site = Site(tmp_path / "archive", database, Kept(), policy="replace")
    first = make_ct(PatientName="One")
    for number, end in enumerate(where):
        first.StudyDescription = str(number)
        first.StudyInstanceUID, first.SeriesInstanceUID = f"1.2.{end}", f"1.3.{end}"
        assert site.keep(first) == [StoreOutcome.REPLACED if number else StoreOutcome.STORED]
    before_rows, before_files = site.rows(ids=False), site.stored()
    assert len(before_files) == len(where)
    folder = site.delete(Level.IMAGE, first.SOPInstanceUID)
    assert site.stored() == {}
    site.deletions.restore(folder)
    assert (site.rows(ids=False), site.stored()) == (before_rows, before_files)


def test_what_is_not_there(site: Site) -> None:
    for level in (Level.STUDY, Level.SERIES, Level.IMAGE):
        with pytest.raises(InstanceNotFound):
            site.deletions.delete(level, "1.2.3", "why")
    with pytest.raises(InstanceNotFound):
        site.deletions.restore("nothing")
    with pytest.raises(InstanceNotFound):
        site.deletions.restore("../incoming")


@pytest.mark.slow
def test_a_lost_file_does_not_keep_its_row(site: Site) -> None:
    kept, lost = a_study(1, 2)
    site.keep(kept, lost)
    found = site.archive.find(lost.SOPInstanceUID)
    assert found is not None
    (site.root / found.path).unlink()
    folder = site.delete(Level.STUDY, kept.StudyInstanceUID)
    assert site.rows()["instance"] == []
    assert site.deletions.restore(folder) == RestoreResult(1, (), (lost.SOPInstanceUID,))
    assert [one.instances for one in site.deletions.contents()] == [1]


# ------------------------------------------------------------------------------------ stored again meanwhile


@pytest.mark.slow
def test_stored_again_and_then_restored(site: Site) -> None:
    study = a_study(1, 3)
    site.keep(*study)
    folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
    other = study[1]
    other.StudyDescription = "sent again with other words"
    assert site.keep(other) == [StoreOutcome.STORED]
    again = site.archive.find(other.SOPInstanceUID)

    restored = site.deletions.restore(folder)

    assert restored == RestoreResult(2, (other.SOPInstanceUID,), ())
    assert site.archive.find(other.SOPInstanceUID) == again
    assert_whole(site, 3)
    assert_counters_exact(site)
    assert [one.instances for one in site.deletions.contents()] == [1]
    # What is left comes back when there is room for it again.
    second = site.delete(Level.IMAGE, other.SOPInstanceUID)
    assert site.deletions.restore(folder) == RestoreResult(1, (), ())
    assert_whole(site, 3)
    assert [one.folder for one in site.deletions.contents()] == [second]


def assert_whole(site: Site, instances: int) -> None:
    """Every row has its file, as it was received, and every file its row."""
    rows = site.rows()["instance"]
    assert len(rows) == instances
    for row in rows:
        stored = site.archive.find(row["sop_instance_uid"])
        assert stored is not None
        assert site.archive.verify(stored) is True
    assert set(site.stored()) == {row["path"] for row in rows}


@pytest.mark.slow
def test_stored_again_while_it_is_being_restored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the commit: what came has the row, and nothing is lost or there twice."""
    one, other = a_study(1, 2)
    site.keep(one, other)
    folder = site.delete(Level.STUDY, one.StudyInstanceUID)
    put_back, came = site.index.put_back, []

    def late(*args: Any) -> bool:
        if not came:
            came.extend(site.keep(one))
        return put_back(*args)

    monkeypatch.setattr(site.index, "put_back", late)
    restored = site.deletions.restore(folder)
    assert came == [StoreOutcome.STORED]
    assert (restored.instances, restored.conflicts, restored.missing) == (1, (one.SOPInstanceUID,), ())
    stored = [site.archive.find(ds.SOPInstanceUID) for ds in (one, other)]
    assert all(each is not None and site.archive.verify(each) for each in stored)
    assert [deletion.instances for deletion in site.deletions.contents()] == [1]


@pytest.mark.slow
def test_stored_again_while_it_is_being_deleted(site: Site) -> None:
    """Between the commit and the moving of files the same instance arrives: it is stored anew, and stays."""
    (ds,) = a_study(1, 1)
    site.keep(ds)
    take_out = site.index.take_out

    def and_again(*args: Any) -> bool:
        done = take_out(*args)
        ds.StudyDescription = "other bytes"
        assert site.keep(ds) == [StoreOutcome.STORED]
        return done

    with mock.patch.object(site.index, "take_out", and_again):
        folder = site.delete(Level.STUDY, ds.StudyInstanceUID)
    assert_whole(site, 1)
    assert site.deletions.restore(folder).conflicts == (ds.SOPInstanceUID,)
    assert_whole(site, 1)


@pytest.mark.slow
def test_a_file_that_took_the_place_is_not_taken_away(site: Site) -> None:
    """Another file comes to lie at the first name just before that is taken: it goes back there."""
    (ds,) = a_study(1, 1)
    site.keep(ds)
    ((path, old),) = site.stored().items()
    rename = os.rename

    def swapped(source: Any, target: Any) -> None:
        (site.root / "other").write_bytes(b"another file")
        os.replace(site.root / "other", site.root / path)
        rename(source, target)

    with mock.patch.object(trash_module.os, "rename", swapped):
        folder = site.delete(Level.STUDY, ds.StudyInstanceUID)
    assert site.stored() == {path: b"another file"}
    assert (site.root / "trash" / folder / path).read_bytes() == old
    assert not list((site.root / "trash").rglob("*.taken"))


@pytest.mark.slow
def test_a_file_that_is_in_the_index_again_keeps_its_name(site: Site) -> None:
    """The deletion was cut off after its commit, and somebody indexed the files anew: they are not taken away."""
    (ds,) = a_study(1, 1)
    site.keep(ds)
    ((path, _),) = site.stored().items()
    with mock.patch.object(site.trash, "take_away", side_effect=Killed), pytest.raises(Killed):
        site.delete(Level.STUDY, ds.StudyInstanceUID)
    assert site.rows()["instance"] == []
    assert site.archive.adopt(stored_at(site.storage, path)) == StoreOutcome.STORED
    restarted(site)
    assert_whole(site, 1)


@pytest.mark.slow
def test_an_earlier_version_that_cannot_be_looked_for_is_not_left_behind(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "archive", database, Kept(), policy="replace")
    first = make_ct(PatientName="One")
    second = make_ct(first.StudyInstanceUID, sop=first.SOPInstanceUID, PatientName="Two")
    site.keep(first, second)
    before = site.rows(), site.stored()
    assert len(before[1]) == 2
    look = os.stat

    def fail(path: Any, **options: Any) -> os.stat_result:
        if str(first.SeriesInstanceUID) in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return look(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(StorageUnavailable, match="Stale file handle"):
            site.delete(Level.SERIES, second.SeriesInstanceUID)
    assert (site.rows(), site.stored()) == before
    site.delete(Level.SERIES, second.SeriesInstanceUID)
    assert site.stored() == {}


@pytest.mark.slow
def test_a_trash_that_cannot_be_looked_into_is_not_said_to_be_empty(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = a_study()
    site.keep(*study)
    folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
    look = os.stat

    def fail(path: Any, **options: Any) -> os.stat_result:
        if str(study[0].StudyInstanceUID) in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return look(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(StorageUnavailable, match="Input/output error"):
            site.deletions.restore(folder)
    assert site.deletions.restore(folder) == RestoreResult(4, (), ())


@pytest.mark.slow
def test_a_file_that_is_just_being_stored_is_no_earlier_version(tmp_path: Path, database: Database) -> None:
    site = Site(tmp_path / "archive", database, Kept(), policy="replace")
    ds = make_ct()
    site.keep(ds)
    ((plain, _),) = site.stored().items()
    ds.StudyDescription = "other bytes"
    site.keep(ds)
    (site.root / plain).unlink()
    coming = site.archive.receive()
    coming.write(b"on its way")
    site.spool.place(coming, plain)
    site.delete(Level.IMAGE, ds.SOPInstanceUID)
    assert site.stored() == {plain: b"on its way"}
    site.spool.take_back(coming, plain)
    coming.discard()


@pytest.mark.slow
def test_a_study_that_changes_while_it_is_looked_at_is_looked_at_again(site: Site) -> None:
    first, second = a_study(1, 2)
    site.keep(first)
    look_up = site.index.look_up
    looks = itertools.count()

    def and_one_more(level: Level, uid: str) -> Any:
        found = look_up(level, uid)
        if next(looks) == 0:
            site.keep(second)
        return found

    with mock.patch.object(site.index, "look_up", and_one_more):
        site.delete(Level.STUDY, first.StudyInstanceUID)
    assert next(looks) == 2
    assert site.rows()["instance"] == []
    assert len(site.trash.folders()) == 1


@pytest.mark.slow
def test_another_person_of_the_same_id_does_not_get_the_study(site: Site) -> None:
    mary, bob = make_ct(PatientName="Mary"), make_ct(PatientName="Bob", PatientBirthDate="19991231")
    site.keep(mary)
    folder = site.delete(Level.STUDY, mary.StudyInstanceUID)
    site.keep(bob)
    site.deletions.restore(folder)
    names = {row["patient_name"]: row["number_of_patient_related_studies"] for row in site.rows()["patient"]}
    assert names == {"Mary": 1, "Bob": 1}


# ------------------------------------------------------------------------------------ cut off anywhere


class Killed(BaseException):
    """The process ends here."""


OPERATIONS = ("link", "rename", "replace", "unlink", "rmdir", "mkdir")


@contextmanager
def killed_at(site: Site, step: int) -> Iterator[Callable[[], int]]:
    """End the process before the `step`th thing that it does to the disk or the database, or just after a commit."""
    count = itertools.count()
    done = [0]

    def counted(act: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def act_or_die(*args: Any, **kwargs: Any) -> Any:
            tick()
            result = act(*args, **kwargs)
            if after:
                tick()
            return result

        return act_or_die

    def tick() -> None:
        done[0] = next(count)
        if done[0] == step:
            raise Killed

    with (
        mock.patch.multiple(os, **{name: counted(getattr(os, name)) for name in OPERATIONS}),
        mock.patch.multiple(
            site.index,
            **{
                name: counted(getattr(site.index, name), after=True)
                for name in ("take_out", "put_back", "set_status", "forget", "adopt")
            },
        ),
    ):
        yield lambda: done[0]


def steps(run: Callable[[int], bool]) -> None:
    """Run with ever later ends until it comes to its end by itself."""
    assert run(0)
    for step in range(1, 400):
        if not run(step):
            assert step > 4
            return
    raise AssertionError("it never ended")


def restarted(site: Site) -> Site:
    site = Site(site.root, site.database, Kept(), now=site.now)
    site.deletions.resume()
    return site


@pytest.mark.slow
def test_a_deletion_killed_at_any_step(site: Site) -> None:
    study = a_study(2, 1)
    site.keep(*study)
    before_rows, before_files = site.rows(ids=False), site.stored()

    def run(step: int) -> bool:
        killed = False
        with killed_at(site, step):
            try:
                site.delete(Level.STUDY, study[0].StudyInstanceUID)
            except Killed:
                killed = True
        after = restarted(site)
        found = after.deletions.contents()
        if found:  # it happened, whole
            assert [one.status for one in found] == [DeletionStatus.KEPT]
            assert after.rows()["instance"] == []
            assert after.stored() == {}
            assert after.deletions.restore(found[0].folder) == RestoreResult(2, (), ())
        # Or it never began; either way all is there.
        assert after.rows(ids=False) == before_rows
        assert after.stored() == before_files
        assert after.trash.folders() == []
        return killed

    steps(run)


@pytest.mark.slow
def test_a_restore_killed_at_any_step(site: Site) -> None:
    study = a_study(2, 1)
    site.keep(*study)
    before_rows, before_files = site.rows(ids=False), site.stored()

    def run(step: int) -> bool:
        folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
        killed = False
        with killed_at(site, step):
            try:
                site.deletions.restore(folder)
            except Killed:
                killed = True
        after = restarted(site)
        if after.deletions.contents():
            assert after.deletions.restore(folder) == RestoreResult(2, (), ())
        assert after.rows(ids=False) == before_rows
        assert after.stored() == before_files
        assert after.trash.folders() == []
        return killed

    steps(run)


@pytest.mark.slow
def test_a_restore_beside_what_was_stored_again_killed_at_any_step(site: Site) -> None:
    study = a_study(1, 2)
    site.keep(*study)
    other = study[0].copy()
    other.StudyDescription = "again"

    def run(step: int) -> bool:
        folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
        site.keep(other)
        killed = False
        with killed_at(site, step):
            try:
                site.deletions.restore(folder)
            except Killed:
                killed = True
        after = restarted(site)
        after.deletions.restore(folder)
        assert_whole(after, 2)
        assert_counters_exact(after)
        # Begin anew with the first bytes.
        after.delete(Level.IMAGE, other.SOPInstanceUID)
        assert after.deletions.restore(folder).instances == 1
        after.deletions.empty(timedelta())
        return killed

    steps(run)


@pytest.mark.slow
def test_a_removal_killed_at_any_step(site: Site) -> None:
    study = a_study(2, 1)

    def run(step: int) -> bool:
        site.keep(*study)
        folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
        killed = False
        with killed_at(site, step):
            try:
                site.deletions.empty(timedelta())
            except Killed:
                killed = True
        after = restarted(site)
        if after.deletions.contents():  # not begun: whole
            assert after.deletions.restore(folder) == RestoreResult(2, (), ())
            assert_whole(after, 2)
            after.delete(Level.STUDY, study[0].StudyInstanceUID)
            after.deletions.empty(timedelta())
        assert after.trash.folders() == []
        assert after.deletions.contents() == []
        return killed

    steps(run)


@pytest.mark.slow
def test_the_trash_outlives_a_lost_index(site: Site, tmp_path: Path) -> None:
    study = a_study(1, 2)
    site.keep(*study)
    before_rows, before_files = site.rows(ids=False), site.stored()
    folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
    new = Database(f"sqlite:///{tmp_path}/new.db", fsync=False)
    new.migrate()
    after = restarted(Site(site.root, new, Kept()))
    (found,) = after.deletions.contents()
    assert (found.folder, found.status, found.instances) == (folder, DeletionStatus.KEPT, 2)
    after.deletions.restore(folder)
    assert (after.rows(ids=False), after.stored()) == (before_rows, before_files)
    new.close()


def test_a_folder_that_cannot_be_understood_stays(site: Site) -> None:
    strange = site.root / "trash" / "strange"
    strange.mkdir(parents=True)
    (strange / "file").write_text("?")
    site.deletions.resume()
    assert (strange / "file").exists()
    assert site.deletions.contents() == []


@pytest.mark.slow
def test_one_at_a_time(site: Site) -> None:
    (ds,) = a_study(1, 1)
    site.keep(ds)
    with site.trash.locked() as mine, site.trash.locked(wait=False) as other:
        assert (mine, other) == (True, False)
        waiting = threading.Thread(target=site.delete, args=(Level.STUDY, ds.StudyInstanceUID))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert len(site.rows()["instance"]) == 1
    waiting.join(30)
    assert site.rows()["instance"] == []


# ------------------------------------------------------------------------------------ for good


@pytest.mark.slow
def test_what_is_past_its_time_goes_for_good(site: Site) -> None:
    old, young = make_ct(), make_ct()
    site.keep(old, young)
    site.delete(Level.STUDY, old.StudyInstanceUID)
    site.now = NOW + timedelta(days=29)
    folder = site.delete(Level.STUDY, young.StudyInstanceUID)
    assert site.deletions.empty(timedelta(days=30)) == []
    site.now = NOW + timedelta(days=30)
    assert [one.uid for one in site.deletions.empty(timedelta(days=30))] == [old.StudyInstanceUID]
    assert [one.folder for one in site.deletions.contents()] == [folder]
    assert site.trash.folders() == [folder]


@pytest.mark.slow
def test_removal_ends_when_it_is_to_stop(site: Site) -> None:
    both = [make_ct(), make_ct()]
    site.keep(*both)
    for ds in both:
        site.delete(Level.STUDY, ds.StudyInstanceUID)
    answers = iter([False, True])
    assert len(site.deletions.empty(timedelta(), stopping=lambda: next(answers))) == 1
    assert len(site.deletions.contents()) == 1


# ------------------------------------------------------------------------------------ audit, commitment


@pytest.mark.slow
def test_all_of_it_is_in_the_audit_trail(site: Site) -> None:
    study = a_study(2, 1)
    site.keep(*study)
    folder = site.delete(Level.STUDY, study[0].StudyInstanceUID)
    site.deletions.restore(folder)
    site.delete(Level.IMAGE, study[0].SOPInstanceUID)
    site.deletions.empty(timedelta())
    told = [(event.event_id, event.action) for event in site.trail.events]
    assert told == [
        (EventID.STUDY_DELETED, Action.DELETE),
        (EventID.INSTANCES_ACCESSED, Action.CREATE),
        (EventID.INSTANCES_ACCESSED, Action.DELETE),
        (EventID.INSTANCES_ACCESSED, Action.DELETE),
    ]
    assert site.trail.durable == 4
    first = site.trail.events[0]
    assert "wrong patient" in first.detail
    (subject,) = first.subjects
    assert (subject.patient_id, subject.study_instance_uid) == ("P1", study[0].StudyInstanceUID)
    assert subject.sop_classes == {study[0].SOPClassUID: 2}
    assert first.participants[0].requestor


@pytest.mark.slow
def test_nothing_is_done_that_cannot_be_recorded(site: Site) -> None:
    (ds,) = a_study(1, 1)
    site.keep(ds)
    before = site.rows(), site.stored()
    site.trail.full = True
    with pytest.raises(AuditUnavailable):
        site.delete(Level.STUDY, ds.StudyInstanceUID)
    assert (site.rows(), site.stored()) == before
    assert (site.trash.folders(), site.deletions.contents()) == ([], [])
    site.trail.full = False
    folder = site.delete(Level.STUDY, ds.StudyInstanceUID)
    site.trail.full = True
    with pytest.raises(AuditUnavailable):
        site.deletions.empty(timedelta())
    with pytest.raises(AuditUnavailable):
        site.deletions.restore(folder)
    site.trail.full = False
    site.deletions.restore(folder)
    assert site.stored() == before[1]


@pytest.mark.slow
def test_commitment_looks_again_at_what_was_deleted_or_restored(site: Site) -> None:
    (ds,) = a_study(1, 1)
    site.keep(ds)
    commitments = CommitmentIndex(site.database)
    now = datetime.now(UTC)
    asked = CommitmentRequest("1.2.3", (Reference(ds.SOPClassUID, ds.SOPInstanceUID),))
    transaction, _ = commitments.add(asked, "CT1", "", Schedule(now, now + timedelta(days=1)))

    def verified(reason: int) -> None:
        commitments.verified({key: reason for key, _ in commitments.unverified(transaction, 10)})

    verified(0)
    folder = site.delete(Level.STUDY, ds.StudyInstanceUID)
    assert len(commitments.unverified(transaction, 10)) == 1
    verified(0x0112)
    site.deletions.restore(folder)
    assert len(commitments.unverified(transaction, 10)) == 1
    # What was reported is history.
    verified(0)
    assert commitments.reported(transaction, now)
    site.delete(Level.STUDY, ds.StudyInstanceUID)
    assert commitments.unverified(transaction, 10) == []


# ------------------------------------------------------------------------------------ its parts


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("1.2/1.3/1.4.dcm", "1.2/1.3/1.4"),
        ("1.2/1.3/1.4.v2.dcm", "1.2/1.3/1.4"),
        ("1.2/1.3/1.4.v12.dcm", "1.2/1.3/1.4"),
        ("1.4.dcm", "1.4"),
    ],
)
def test_the_name_without_its_version(path: str, plain: str) -> None:
    assert unversioned(path) == plain


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1}', "\0"])
def test_a_document_that_is_none(text: str) -> None:
    with pytest.raises(StorageUnavailable):
        decode(text, "folder")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../x", "."])
def test_no_path_leads_outside(tmp_path: Path, path: str) -> None:
    trash = archive_directory(tmp_path / "archive", fsync=False).trash
    with pytest.raises(StorageUnavailable):
        trash.add("folder", [path])
    with pytest.raises(StorageUnavailable):
        trash.bring_back("folder", [path])


@pytest.mark.slow
def test_a_thousand_instances_in_few_statements(site: Site) -> None:
    """The transaction's statements do not grow with the instances."""
    from sqlalchemy import event

    def statements(instances: int) -> int:
        study = a_study(1, instances)
        site.keep(*study)
        count = [0]

        def counted(*_: Any) -> None:
            count[0] += 1

        event.listen(site.database.engine, "before_cursor_execute", counted)
        try:
            site.delete(Level.STUDY, study[0].StudyInstanceUID)
        finally:
            event.remove(site.database.engine, "before_cursor_execute", counted)
        return count[0]

    assert statements(2) == statements(20) < 40
