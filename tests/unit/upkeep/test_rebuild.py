"""The index made anew from the files is the index that was: column by column, on both databases."""

import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import examples
import indexes
import postgres
import pytest
import rows
import schema
from archives import stored_at
from datasets import make_ct, pydicom_test_files, write_part10
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, literal, select, update

from pacs_server.archive.archive import Archive, StoreOutcome
from pacs_server.audit.events import NoAudit, Participant
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.caller import Door
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.subject import Subject
from pacs_server.errors import DuplicateInstance, InstanceNotFound, PatientError, StorageUnavailable
from pacs_server.index import archive_models, models, workflow_models
from pacs_server.index.database import Database
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.marks import MarkIndex, MarkKind
from pacs_server.index.rebuilding import FATES, TAKEN_OVER, Fate, take_over
from pacs_server.services.deletion import DeletionService
from pacs_server.services.marks import MarkService
from pacs_server.services.patients import PatientService
from pacs_server.services.store import StoreService
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.filesystem.trash import FileSystemTrash
from pacs_server.upkeep.rebuild import RebuildReport, rebuild
from pacs_server.upkeep.rebuild_target import new_file, put_in_place

MakeDatabase = Callable[[], Database]


@pytest.fixture
def make_database(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[MakeDatabase]:
    """Makes empty databases of the kind that the test is run on."""
    with ExitStack() as stack:

        def make() -> Database:
            if database_url.startswith("sqlite"):
                number = len(list(tmp_path.glob("index-*.db")))
                url = f"sqlite:///{tmp_path}/index-{number}.db"
                schema.prepare_at(url)
            else:
                server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
                url = stack.enter_context(postgres.fresh_database(server, template))
            database = stack.enter_context(closing(Database(url, fsync=False)))
            database.migrate()
            return database

        yield make


class Site:
    """An archive in a directory, with its index, and what operators do to it."""

    def __init__(
        self, root: Path, database: Database, *, policy: str = "replace", naming: str = "hierarchical"
    ) -> None:
        self.database = database
        self.root = root
        self.files = archive_directory(root, fsync=False)
        self.storage = self.files.storage
        self.files.spool.prepare()
        index = InstanceIndex(database)
        self.archive = Archive(self.storage, self.files.spool, index, naming=naming, duplicate_policy=policy)
        self.store = StoreService(self.archive)
        audit = Recorder(NoAudit(), lambda: "PACS")
        self.deletions = DeletionService(DeletionIndex(database), self.files, self.archive.checkpoints, audit)
        self.patients = PatientService(database, self.files.decisions, audit, lambda: "PACS")

    def store_file(self, path: Path, calling_ae: str = "CT1", peer: str = "10.0.0.7") -> StoreOutcome | None:
        return self.store.store_file(path, Origin(calling_ae, "PACS", peer, Door.DIMSE, "WS1"))

    def rebuilt(self, into: Database, jobs: int = 2) -> RebuildReport:
        return rebuild(self.files, into, lambda what, done, total: None, jobs=jobs)

    def delete(self, level: Level, uid: str) -> None:
        with suppress(InstanceNotFound):
            self.deletions.delete(level, uid, "a test")

    def restore(self, number: int) -> None:
        deleted = self.deletions.contents()
        if deleted:
            self.deletions.restore(deleted[number % len(deleted)].folder)

    def merge(self, one: int, other: int) -> None:
        people = [person for text in ("P1", "P2") for person in self.patients.people(text) if not person.merged]
        if people:
            with suppress(PatientError):
                self.patients.merge(people[one % len(people)], people[other % len(people)], "a test")

    def reassign(self, study: int, person: int) -> None:
        people = [person for text in ("P1", "P2") for person in self.patients.people(text) if not person.merged]
        if people:
            with suppress(PatientError):
                self.patients.reassign(self.patients.study(f"1.2.{study}"), people[person % len(people)], "a test")

    def paths(self) -> list[Path]:
        return [self.root / path for path in self.storage.list()]


@contextmanager
def site(database: Database, **settings: str) -> Iterator[Site]:
    with TemporaryDirectory() as directory:
        opened = Site(Path(directory, "archive"), database, **settings)
        try:
            yield opened
        finally:
            opened.files.spool.close()


# What an arrival may say; little of it, so that arrivals contradict one another.
NAMES = ("Müller^Jürgen", "Müller^Jürgen", "", "Other^Person")
ARRIVALS = st.fixed_dictionaries(
    {
        "study": st.integers(1, 2),
        "series": st.integers(1, 4),
        "sop": st.integers(1, 8),
        "PatientID": st.sampled_from(["P1", "P1", "P1", "P1 ", "P2", ""]),
        "IssuerOfPatientID": st.sampled_from(["", "", "", "A"]),
        "PatientName": st.sampled_from(NAMES),
        "PatientBirthDate": st.sampled_from(["19700101", "19700101", "", "19700102"]),
        "StudyDescription": st.sampled_from(["", "Thorax", "Größe"]),
        "StudyDate": st.sampled_from(["", "20240229", "20240301"]),
        "Modality": st.sampled_from(["CT", "MR", ""]),
        "SeriesDescription": st.sampled_from(["", "axial", "sagittal"]),
        "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192"]),
        "InstanceNumber": st.integers(1, 3),
    }
)


def arrive(at: Site, arrival: dict[str, Any], folder: Path, sender: int = 0) -> StoreOutcome | None:
    values = {**arrival}
    study, series, sop = (values.pop(name) for name in ("study", "series", "sop"))
    ds = make_ct(f"1.2.{study}", f"1.2.9.{series}", f"1.2.8.{sop}", rows=2, columns=2, **values)
    return at.store_file(write_part10(ds, folder / "arriving.dcm"), f"CT{sender}", f"10.0.0.{sender}")


def live_through(at: Site, happened: list[Any], folder: Path) -> None:
    """Arrivals, deletions, and what operators do by the name of their method."""
    for number, event in enumerate(happened):
        if isinstance(event, dict):
            arrive(at, event, folder, number % 3)
        elif isinstance(event[0], Level):
            at.delete(*event)
        else:
            getattr(at, event[0])(*event[1:])


DELETIONS = st.one_of(
    st.tuples(st.just(Level.STUDY), st.integers(1, 3).map("1.2.{}".format)),
    st.tuples(st.just(Level.SERIES), st.integers(1, 4).map("1.2.9.{}".format)),
    st.tuples(st.just(Level.IMAGE), st.integers(1, 8).map("1.2.8.{}".format)),
)
DECISIONS = st.tuples(st.sampled_from(["merge", "reassign"]), st.integers(1, 3), st.integers(0, 3))


@pytest.mark.slow
@settings(
    max_examples=examples.of(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    happened=st.lists(st.one_of(ARRIVALS, ARRIVALS, ARRIVALS, DELETIONS, DECISIONS), min_size=1, max_size=14),
    policy=st.sampled_from(["replace", "ignore"]),
)
def test_whatever_happened_the_index_is_the_same_again(
    make_database: MakeDatabase, two: list[Database], happened: list[Any], policy: str
) -> None:
    if not two:
        two.extend((make_database(), make_database()))
    first, second = two
    for database in two:
        indexes.clear(database)
    with site(first, policy=policy) as archive, TemporaryDirectory() as folder:
        live_through(archive, happened, Path(folder))
        rebuilt = archive.rebuilt(second)
        assert rebuilt.problems == []
        assert indexes.contents(second) == indexes.contents(first)


@pytest.mark.slow
@settings(
    max_examples=examples.of(25), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    happened=st.lists(
        st.one_of(ARRIVALS, ARRIVALS, DELETIONS, st.tuples(st.just("restore"), st.integers(0, 3))),
        min_size=3,
        max_size=14,
    ),
    policy=st.sampled_from(["replace", "ignore"]),
)
def test_what_was_restored_is_there_again_and_what_was_not_is_not(
    make_database: MakeDatabase, two: list[Database], happened: list[Any], policy: str
) -> None:
    """A restored deletion is as if it had never been, so that what is above the instances may differ."""
    if not two:
        two.extend((make_database(), make_database()))
    first, second = two
    for database in two:
        indexes.clear(database)
    with site(first, policy=policy) as archive, TemporaryDirectory() as folder:
        live_through(archive, happened, Path(folder))
        assert archive.rebuilt(second).problems == []
        then, now = (told_of_instances(database) for database in (first, second))
        assert now == then
        assert list(IntegrityIndex(second).counter_faults()) == []


def eight(series: int, number: int = 1) -> dict[str, Any]:
    return {"study": 2, "series": series, "sop": 8, "InstanceNumber": number}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happened", "left"),
    [
        pytest.param(
            [eight(1), (Level.SERIES, "1.2.9.1"), eight(3), eight(1, 2), (Level.SERIES, "1.2.9.1"), ("restore", 0)],
            ["1/1.2.8.8.dcm"],
            id="of an earlier version than the one that was deleted last",
        ),
        pytest.param(
            [eight(1), (Level.SERIES, "1.2.9.1"), eight(3, 2), (Level.SERIES, "1.2.9.3"), ("restore", 0), eight(3, 2)],
            ["1/1.2.8.8.dcm", "3/1.2.8.8.v2.dcm"],
            id="replaced since",
        ),
        pytest.param(
            [
                *(eight(3, 1), eight(3, 2), (Level.STUDY, "1.2.2")),
                *(eight(3, 3), eight(1, 4), eight(3, 5), (Level.STUDY, "1.2.2"), ("restore", 0)),
            ],
            ["3/1.2.8.8.dcm", "3/1.2.8.8.v2.dcm"],
            id="in two versions",
        ),
        pytest.param(
            [
                *(eight(1), (Level.STUDY, "1.2.2"), eight(3, 2), (Level.SERIES, "1.2.9.3"), ("restore", 0)),
                *((Level.SERIES, "1.2.9.1"), ("restore", 0)),
            ],
            ["3/1.2.8.8.dcm"],
            id="of another series than the one that was deleted last",
        ),
    ],
)
def test_an_instance_was_restored_after_another_one_of_its_uid_was_deleted(
    make_database: MakeDatabase, tmp_path: Path, happened: list[Any], left: list[str]
) -> None:
    first, second = make_database(), make_database()
    with site(first) as archive:
        live_through(archive, happened, tmp_path)
        assert [str(path.relative_to(archive.root / "1.2.2")) for path in archive.paths()] == [
            f"1.2.9.{path}" for path in left
        ]
        assert archive.rebuilt(second).problems == []
        assert told_of_instances(second) == told_of_instances(first)
        assert list(indexes.contents(second)["instances"]) == ["1.2.8.8"]
        # The new index knows every version, so that none is left behind when the instance is purged.
        afterwards = Site(archive.root, second)
        afterwards.delete(Level.STUDY, "1.2.2")
        afterwards.deletions.empty(timedelta(0))
        assert afterwards.paths() == []


@pytest.mark.slow
def test_an_earlier_version_that_an_old_row_did_not_tell_of_does_not_come_back(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Before schema 0008 a row did not tell where earlier versions are, and a deletion left those of other series."""
    first, second = make_database(), make_database()
    with site(first) as archive:
        for series in (1, 2):
            arrive(archive, {"study": 1, "series": series, "sop": 1}, tmp_path)
        with first.begin() as connection:
            connection.execute(update(models.instance).values(earlier_paths=""))
        archive.delete(Level.STUDY, "1.2.1")
        assert len(archive.paths()) == 1
        assert archive.rebuilt(second).problems == []
        assert indexes.contents(second) == indexes.contents(first)
        assert indexes.contents(second)["instances"] == {}


@pytest.mark.slow
def test_a_clock_that_was_set_back_before_a_deletion(make_database: MakeDatabase, tmp_path: Path) -> None:
    """A row without its file would be left in the new index."""
    first, second = make_database(), make_database()
    with site(first) as archive:
        for number in (1, 2):
            arrive(archive, eight(1, number), tmp_path)
        audit, past = Recorder(NoAudit(), lambda: "PACS"), datetime.now(UTC) - timedelta(minutes=5)
        archive.deletions = DeletionService(
            DeletionIndex(first), archive.files, archive.archive.checkpoints, audit, clock=lambda: past
        )
        archive.delete(Level.STUDY, "1.2.2")
        assert archive.rebuilt(second).problems == []
        assert indexes.contents(second) == indexes.contents(first)
        assert indexes.contents(second)["instances"] == {}


def told_of_instances(database: Database) -> tuple[Any, Any]:
    """What an index says of each instance itself, and its deletions."""
    contents = indexes.contents(database)
    told = {
        uid: {name: value for name, value in row.items() if name.startswith("instance.") or name.endswith("_uid")}
        for uid, row in contents["instances"].items()
    }
    return told, contents["deletions"]


@pytest.fixture
def two() -> list[Database]:
    """The databases that the examples of a property share."""
    return []


@pytest.mark.slow
def test_a_study_of_which_part_was_restored(make_database: MakeDatabase, tmp_path: Path) -> None:
    """What came back beside an instance that had been sent again is in the new index as well."""
    first, second = make_database(), make_database()
    with site(first) as archive:
        for number in (1, 2, 3):
            arrive(archive, {"study": 1, "series": number, "sop": number}, tmp_path)
        archive.delete(Level.STUDY, "1.2.1")
        arrive(archive, {"study": 1, "series": 1, "sop": 1, "InstanceNumber": 2}, tmp_path)
        archive.restore(0)
        assert archive.rebuilt(second).problems == []
        assert indexes.contents(second) == indexes.contents(first)
        assert sorted(indexes.contents(second)["instances"]) == ["1.2.8.1", "1.2.8.2", "1.2.8.3"]


@pytest.mark.slow
def test_an_older_deletion_is_restored_and_a_newer_one_is_not(make_database: MakeDatabase, tmp_path: Path) -> None:
    """Both took the same instance: the one in the archive is indexed, the other one stays in the trash."""
    first, second = make_database(), make_database()
    with site(first) as archive:
        for number in (1, 2):
            arrive(archive, {"study": 1, "series": 1, "sop": 1, "InstanceNumber": number}, tmp_path)
            archive.delete(Level.STUDY, "1.2.1")
        archive.restore(0)
        assert archive.rebuilt(second).problems == []
        assert indexes.contents(second) == indexes.contents(first)
        assert indexes.contents(second)["instances"]["1.2.8.1"]["instance.instance_number"] == "1"


@pytest.mark.slow
def test_a_deletion_that_was_interrupted_is_brought_to_its_end(
    make_database: MakeDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = FileSystemTrash.take_away

    def broken(trash: FileSystemTrash, folder: str, paths: list[str]) -> None:
        take(trash, folder, paths[:1])
        raise StorageUnavailable("the disk fails")

    with site(make_database()) as archive:
        for number in (1, 2):
            arrive(archive, {"study": 1, "series": 1, "sop": number}, tmp_path)
        monkeypatch.setattr(FileSystemTrash, "take_away", broken)
        with pytest.raises(StorageUnavailable):
            archive.deletions.delete(Level.STUDY, "1.2.1", "a test")
        monkeypatch.setattr(FileSystemTrash, "take_away", take)
        assert len(archive.paths()) == 1
        second = make_database()
        assert archive.rebuilt(second).problems == []
        assert indexes.contents(second)["instances"] == {}
        Site(archive.root, second).deletions.resume()
        assert archive.paths() == []


@pytest.mark.slow
def test_an_earlier_version_in_another_series_does_not_come_back(make_database: MakeDatabase, tmp_path: Path) -> None:
    first, second = make_database(), make_database()
    with site(first) as archive:
        # What lay in its place before was deleted as well.
        arrive(archive, {"study": 1, "series": 1, "sop": 1}, tmp_path)
        archive.delete(Level.STUDY, "1.2.1")
        for series in (1, 2):
            arrive(archive, {"study": 1, "series": series, "sop": 1}, tmp_path)
        archive.delete(Level.STUDY, "1.2.1")
        assert archive.rebuilt(second).problems == []
        assert indexes.contents(second) == indexes.contents(first)
        assert indexes.contents(second)["instances"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("deleted", [(Level.STUDY, "1.2.1"), (Level.SERIES, "1.2.9.2"), (Level.IMAGE, "1.2.8.1")])
@pytest.mark.parametrize("back", [False, True])
def test_what_comes_back_from_the_trash_goes_where_its_patient_went_meanwhile(
    make_database: MakeDatabase, tmp_path: Path, deleted: tuple[Level, str], back: bool
) -> None:
    first, second = make_database(), make_database()
    with site(first) as archive:
        for number, (study, name) in enumerate([(1, "Other"), (1, "Other"), (2, "Other"), (3, "Doe")], 1):
            who = {"PatientID": "P1", "PatientName": name}
            arrive(archive, {"study": study, "series": number, "sop": number, **who}, tmp_path)
        archive.delete(*deleted)
        people = {person.attributes["patient_name"]: person for person in archive.patients.people("P1")}
        archive.patients.merge(people["Other"], people["Doe"], "a test")
        if back:
            [merged] = [person for person in archive.patients.people_of("1.2.2") if person.merged]
            archive.patients.reassign(archive.patients.study("1.2.2"), merged, "a test")
        archive.restore(0)
        assert archive.rebuilt(second).problems == []
        now = indexes.contents(first)
        assert indexes.contents(second) == now
        names = {uid: row["patient.patient_name"] for uid, row in now["instances"].items()}
        others = {uid for uid, name in names.items() if name == "Other"}
        assert others == ({"1.2.8.3"} if back else set())
        assert len(names) == 4
        assert list(IntegrityIndex(first).counter_faults()) == []


@pytest.mark.slow
def test_every_file_of_pydicom(make_database: MakeDatabase) -> None:
    first, second = make_database(), make_database()
    files = list(pydicom_test_files())
    random.Random(1).shuffle(files)
    with site(first) as archive:
        for number, path in enumerate(files):
            archive.store_file(path, "IMPORT" if number % 2 else "", str(path))
        assert archive.rebuilt(second, jobs=3).problems == []
        then = indexes.contents(first)
        assert len(then["instances"]) > 50
        assert indexes.contents(second) == then


@pytest.mark.slow
@pytest.mark.parametrize("naming", ["flat", "date_hierarchical"])
def test_every_naming(tmp_path: Path, naming: str) -> None:
    databases = [Database(f"sqlite:///{tmp_path}/{n}.db") for n in range(2)]
    for database in databases:
        database.migrate()
    with site(databases[0], naming=naming) as archive:
        for number in range(3):
            arrive(archive, {"study": 1, "series": 1, "sop": 1, "InstanceNumber": number}, tmp_path)
        archive.rebuilt(databases[1])
        row = next(iter(indexes.contents(databases[1])["instances"].values()))
        assert (row["instance.version"], row["instance.instance_number"]) == (3, "2")
        assert indexes.contents(databases[1]) == indexes.contents(databases[0])
    for database in databases:
        database.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[Site, Database]]:
    """An archive of three instances on SQLite, and an empty index."""
    databases = [Database(f"sqlite:///{tmp_path}/{n}.db") for n in range(2)]
    for database in databases:
        database.migrate()
    with site(databases[0]) as archive:
        for number in range(3):
            arrive(archive, {"study": 1, "series": 1, "sop": number}, tmp_path)
        yield archive, databases[1]
    for database in databases:
        database.close()


@pytest.mark.slow
def test_files_that_cannot_be_read_are_reported_and_left(plain: tuple[Site, Database]) -> None:
    archive, index = plain
    cut, foreign, other = *archive.paths()[:2], archive.root / "README.txt"
    cut.write_bytes(cut.read_bytes()[:500])
    foreign.write_bytes(b"no DICOM")
    other.write_text("left here by somebody")
    rebuilt = archive.rebuilt(index)
    assert (rebuilt.files, rebuilt.instances, rebuilt.problem_count) == (1, 1, 2)
    assert {problem.split(":")[0] for problem in rebuilt.problems} == {
        path.relative_to(archive.root).as_posix() for path in (cut, foreign)
    }
    assert foreign.read_bytes() == b"no DICOM"


@pytest.mark.slow
def test_a_folder_of_the_trash_that_cannot_be_looked_into_ends_the_rebuild(
    plain: tuple[Site, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its files the index would not be the same."""
    archive, index = plain
    archive.delete(Level.IMAGE, "1.2.8.1")
    look = os.stat

    def fail(path: Any, **options: Any) -> os.stat_result:
        if "/trash/" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(StorageUnavailable, match=r"trash/.*: Permission denied"):
        archive.rebuilt(index)


@pytest.mark.slow
def test_an_instance_under_any_name(plain: tuple[Site, Database]) -> None:
    """`verify --repair` takes such files into the index, so they are in the next one too."""
    archive, index = plain
    path = archive.paths()[0]
    path.rename(archive.root / "IMG0001")
    rebuilt = archive.rebuilt(index)
    assert (rebuilt.files, rebuilt.instances, rebuilt.problem_count) == (3, 3, 0)


@pytest.mark.slow
def test_what_is_still_coming_in_is_not_indexed(plain: tuple[Site, Database]) -> None:
    archive, index = plain
    (archive.root / "incoming" / "half.dcm").write_bytes(archive.paths()[0].read_bytes())
    assert archive.rebuilt(index).files == 3


@pytest.mark.slow
def test_a_file_that_says_nothing_of_itself_is_as_old_as_its_last_change(plain: tuple[Site, Database]) -> None:
    archive, index = plain
    path = archive.paths()[0]
    write_part10(make_ct(sop="1.2.8.99"), path)
    stored = stored_at(archive.storage, path.relative_to(archive.root).as_posix())
    assert abs(stored.received_at.timestamp() - path.stat().st_mtime) < 0.001
    assert (stored.origin.calling_ae, stored.origin.peer) == ("", "")
    assert archive.rebuilt(index).instances == 3


@pytest.mark.slow
def test_the_same_file_twice_is_one_instance(plain: tuple[Site, Database]) -> None:
    archive, index = plain
    path = archive.paths()[0]
    path.with_name("copy.dcm").write_bytes(path.read_bytes())
    rebuilt = archive.rebuilt(index)
    assert (rebuilt.files, rebuilt.instances, rebuilt.problem_count) == (4, 3, 0)


@pytest.mark.slow
def test_no_room_for_temporary_files(
    plain: tuple[Site, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, index = plain
    connect = sqlite3.connect

    def small(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr("pacs_server.upkeep.rebuild_events.sqlite3.connect", small)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(StorageUnavailable, match=f"{tmp_path}: database or disk is full; TMPDIR"):
        archive.rebuilt(index)
    assert list(tmp_path.glob("pacs-server-rebuild-*")) == []
    assert indexes.contents(index)["instances"] == {}


@pytest.mark.slow
def test_many_in_one_transaction_and_one_that_is_known(plain: tuple[Site, Database]) -> None:
    archive, database = plain
    archive.rebuilt(database)
    before = indexes.contents(database)
    rebuilt = archive.rebuilt(database)
    assert [problem.split(": ")[1] for problem in rebuilt.problems] == [
        str(DuplicateInstance(f"1.2.8.{n} is stored already")) for n in range(3)
    ]
    assert indexes.contents(database) == before


@pytest.mark.slow
def test_the_workflow_is_taken_over(make_database: MakeDatabase) -> None:
    old, new = make_database(), make_database()
    table = workflow_models.peer_seen
    with old.begin() as connection:
        connection.execute(insert(table).values(**peer("::1")))
    assert take_over(old, new) == []
    with old.connect() as before, new.connect() as after:
        assert after.execute(select(table)).all() == before.execute(select(table)).all() != []


@pytest.mark.slow
def test_an_old_index_that_cannot_be_read_gives_what_it_can(tmp_path: Path) -> None:
    new = Database(f"sqlite:///{tmp_path}/new.db")
    new.migrate()
    old = Database(f"sqlite:///{tmp_path}/old.db")
    old.migrate()
    old.close()
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.execute("DROP TABLE commitment_instance")
    assert take_over(old, new) == ["commitment_instance"]
    (tmp_path / "none.db").write_bytes(b"no database at all, but long enough to look at" * 100)
    none = Database(f"sqlite:///{tmp_path}/none.db")
    assert take_over(none, new) == [table.name for table in TAKEN_OVER]
    for database in (new, old, none):
        database.close()


# Something of everything that files tell: two patients of whom one is merged into the other, and a deletion.
HAPPENED = (
    {"study": 1, "series": 1, "sop": 1, "PatientID": "P1"},
    {"study": 1, "series": 1, "sop": 2, "PatientID": "P1"},
    {"study": 2, "series": 2, "sop": 3, "PatientID": "P2"},
    (Level.IMAGE, "1.2.8.2"),
    ("merge", 1, 0),
)


METADATA = archive_models.instance_metadata


@pytest.mark.slow
def test_every_table_is_rebuilt_or_taken_over_or_lost_as_it_is_said_of_it(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    assert set(FATES) == set(models.metadata.tables.values())
    fates = {fate: {table.name for table in FATES if FATES[table] is fate} for fate in Fate}
    old, new = make_database(), make_database()
    with site(old) as archive:
        live_through(archive, list(HAPPENED), tmp_path)
        marks = MarkService(MarkIndex(old), archive.files.marks, Recorder(NoAudit(), lambda: "PACS"))
        wanted = [(MarkKind.LABEL, "night"), (MarkKind.READING, "read")]
        marks.set(wanted, [Subject("P1", "", "1.2.3", "")], Participant("ann"))
        marks.add_note("look again", [Subject("P1", "", "1.2.3", "")], Participant("ann"))
        assert fates[Fate.REBUILT] <= not_empty(old)
        archive.rebuilt(new)
    # From the files alone, what people decided included.
    assert indexes.contents(new) == indexes.contents(old)
    assert not_empty(new) == fates[Fate.REBUILT] | {"archive_state"}
    with old.begin() as connection:
        connection.execute(delete(archive_models.archive_state))
        rows.fill(connection, [table for table in FATES if table.name not in fates[Fate.REBUILT] | {METADATA.name}])
        kept = [models.instance.c.id, literal(1), literal(1), literal(b"1")]
        connection.execute(insert(METADATA).from_select(["instance_fk", "format", "size", "content"], select(*kept)))
    before = rows.everything(new)
    assert take_over(old, new) == []
    after, theirs = rows.everything(new), rows.everything(old)
    assert not_empty(new) - not_empty_of(before) == fates[Fate.TAKEN_OVER]
    for name in fates[Fate.TAKEN_OVER]:
        assert [row.get("id") for row in after[name]] == [row.get("id") for row in theirs[name]]
    # Of what is lost there is only what the rebuild itself has made.
    assert {name: after[name] for name in fates[Fate.LOST]} == {name: before[name] for name in fates[Fate.LOST]}


def not_empty(database: Database) -> set[str]:
    return not_empty_of(rows.everything(database))


def not_empty_of(found: dict[str, list[dict[str, object]]]) -> set[str]:
    return {name for name in found if found[name]}


@pytest.mark.slow
def test_rows_that_are_added_after_a_rebuild_have_numbers_of_their_own(make_database: MakeDatabase) -> None:
    old, new = make_database(), make_database()
    for _ in range(2):
        with old.begin() as connection:
            connection.execute(insert(workflow_models.peer_seen).values(**peer(str(_))))
    assert take_over(old, new) == []
    with new.begin() as connection:
        connection.execute(insert(workflow_models.peer_seen).values(**peer("3")))
    assert [row["id"] for row in rows.everything(new)["peer_seen"]] == [1, 2, 3]


def peer(address: str) -> dict[str, Any]:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    seen = {"calling_ae": "A", "called_ae": "B", "address": address, "first_seen_at": moment, "last_seen_at": moment}
    return seen | {"count": 3, "outcome": "accepted", "tls": False}


def test_the_new_index_takes_the_place_and_the_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "pacs.db"
    path.write_text("old")
    (tmp_path / "pacs.db-wal").write_text("its log")
    (tmp_path / "pacs.db.rebuild").write_text("left by one that was stopped")
    new = new_file(path)
    assert not new.exists()
    new.write_text("new")
    old = put_in_place(new, path)
    assert old is not None
    assert path.read_text() == "new"
    assert (old.read_text(), old.with_name(f"{old.name}-wal").read_text()) == ("old", "its log")
    assert sorted(tmp_path.iterdir()) == sorted([path, old, old.with_name(f"{old.name}-wal")])


def test_the_new_index_is_durable_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pacs.db"
    path.write_text("old")
    new = new_file(path)
    new.write_text("new")
    done: list[str] = []

    def told(name: str) -> Callable[..., None]:
        act = getattr(os, name)

        def tell(what: Any, *args: Any) -> None:
            done.append(f"{name} {Path(os.readlink(f'/proc/self/fd/{what}') if name == 'fsync' else what).name}")
            act(what, *args)

        return tell

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, told(name))
    put_in_place(new, path)
    folder = f"fsync {tmp_path.name}"
    # The file, the old one's second name, the new one's.
    assert done == ["fsync pacs.db.rebuild", folder, "replace pacs.db.rebuild", folder]


@pytest.mark.parametrize("step", ["link", "rename", "replace"])
def test_a_crash_never_leaves_no_index_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "pacs.db"
    path.write_text("old")
    (tmp_path / "pacs.db-wal").write_text("its log")
    new = new_file(path)
    new.write_text("new")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pacs_server.upkeep.rebuild_target.os.{step}", crash)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(new, path)
    assert path.read_text() == "old"
    assert "its log" in [file.read_text() for file in tmp_path.glob("*-wal")]
