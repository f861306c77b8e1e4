"""The watched folder: what is taken when, what is kept aside, and that nothing is lost or taken twice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import schema
import servers
from trails import silent
from worklists import item_dataset

from pacs_server.dicom.json_model import text_of
from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import Database
from pacs_server.index.worklist import WorklistIndex
from pacs_server.intake import worklist_folder
from pacs_server.intake.worklist_folder import WorklistFolder
from pacs_server.services.worklist import WorklistService


def content(accession_number: str = "A1", **order: Any) -> bytes:
    return item_dataset(**{"AccessionNumber": accession_number} | order).to_json().encode()


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[WorklistService]:
    schema.prepare(tmp_path / "pacs.db")
    database = Database(f"sqlite:///{tmp_path / 'pacs.db'}", fsync=False)
    database.migrate()
    yield WorklistService(WorklistIndex(database), silent(), only_own_station=lambda: False)
    database.close()


@pytest.fixture
def accepted() -> list[bool]:
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "worklist"
    for each in (path, path / "done", path / "rejected"):
        each.mkdir()
    return path


@pytest.fixture
def watcher(folder: Path, worklist: WorklistService, accepted: list[bool]) -> WorklistFolder:
    """Not started: the tests look themselves."""
    return WorklistFolder(folder, worklist, interval=3600, taken=accepted.append)


def look_twice(watcher: WorklistFolder) -> None:
    watcher.look()
    watcher.look()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def numbers(worklist: WorklistService) -> list[str]:
    return sorted(row.item.accession_number for row in worklist.list())


def test_a_file_is_taken_when_it_has_come_to_rest(
    folder: Path, watcher: WorklistFolder, worklist: WorklistService, accepted: list[bool]
) -> None:
    (folder / "a.json").write_bytes(content()[:100])
    watcher.look()
    (folder / "a.json").write_bytes(content())  # still being written
    watcher.look()
    assert files(folder) == ["a.json"]
    watcher.look()
    assert files(folder) == ["done/a.json"]
    assert numbers(worklist) == ["A1"]
    assert accepted == [True]
    look_twice(watcher)
    assert accepted == [True]


def test_a_bad_file_is_kept_aside_with_the_reason(
    folder: Path, watcher: WorklistFolder, worklist: WorklistService, accepted: list[bool]
) -> None:
    both = b"[" + content() + b"," + content("A2", PatientID=None) + b"]"
    (folder / "bad.json").write_bytes(both)
    (folder / "good.json").write_bytes(content("A3"))
    look_twice(watcher)
    assert files(folder) == ["done/good.json", "rejected/bad.json", "rejected/bad.json.reason.txt"]
    assert (folder / "rejected" / "bad.json").read_bytes() == both
    reason = (folder / "rejected" / "bad.json.reason.txt").read_text()
    assert reason == "bad.json: item 2: PatientID (0010,0020) is missing\n"
    assert numbers(worklist) == ["A3"]  # of the bad file, nothing
    assert accepted == [False, True]


def test_what_is_let_alone(folder: Path, watcher: WorklistFolder) -> None:
    names = ["lockfile", ".hidden.json", "~$a.csv", "a.json.tmp", "a.txt", "notes"]
    for name in names:
        (folder / name).write_bytes(b"x")
    (folder / "deeper.json").mkdir()
    (folder / "link.json").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.json")
    look_twice(watcher)
    assert files(folder) == sorted([*names, "link.json", "pipe.json"])


def test_a_name_that_is_taken_again(folder: Path, watcher: WorklistFolder, worklist: WorklistService) -> None:
    for date in ("20260101", "20260102", "20260103"):
        ds = item_dataset({"ScheduledProcedureStepStartDate": date})
        (folder / "a.json").write_text(ds.to_json())
        look_twice(watcher)
    assert files(folder) == ["done/a.1.json", "done/a.2.json", "done/a.json"]
    (row,) = worklist.list()
    assert text_of(row.item.step, "00400002") == "20260103"


def test_a_file_that_was_committed_but_not_moved(
    folder: Path, watcher: WorklistFolder, worklist: WorklistService
) -> None:
    """As after a crash between the two."""
    (folder / "a.json").write_bytes(content())
    look_twice(watcher)
    (folder / "done" / "a.json").rename(folder / "a.json")
    look_twice(WorklistFolder(folder, worklist, interval=3600, taken=lambda _: None))
    assert files(folder) == ["done/a.json"]
    assert numbers(worklist) == ["A1"]


def test_a_database_that_is_away(
    folder: Path, watcher: WorklistFolder, worklist: WorklistService, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def away(*_: object, **__: object) -> Iterator[None]:
        raise IndexUnavailable("away")
        yield

    (folder / "a.json").write_bytes(content())
    with monkeypatch.context() as patched:
        patched.setattr(Database, "begin", away)
        look_twice(watcher)
    assert files(folder) == ["a.json"]
    watcher.look()
    assert files(folder) == ["done/a.json"]
    assert numbers(worklist) == ["A1"]


def test_a_file_that_cannot_be_moved_is_taken_once(
    folder: Path, watcher: WorklistFolder, accepted: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (folder / "a.json").write_bytes(content())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stuck)
        for _ in range(4):
            watcher.look()
    assert accepted == [True]
    (folder / "a.json").write_bytes(content("A2"))  # a changed file is another one
    look_twice(watcher)
    assert files(folder) == ["done/a.json"]


def test_a_file_that_may_be_read_later(
    folder: Path, watcher: WorklistFolder, accepted: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")  # root may read everything

    (folder / "a.json").write_bytes(content())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        look_twice(watcher)
    assert accepted == []
    (folder / "a.json").chmod(0o600)
    look_twice(watcher)
    assert files(folder) == ["done/a.json"]


def test_a_file_that_makes_the_program_fail_holds_up_no_other(
    folder: Path, watcher: WorklistFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read(data: bytes, suffix: str, name: str) -> Any:
        if name == "a.json":
            raise ZeroDivisionError
        return items_of(data, suffix, name)

    items_of = worklist_folder.items_of
    for name in ("a.json", "b.json"):
        (folder / name).write_bytes(content())
    with monkeypatch.context() as patched:
        patched.setattr(worklist_folder, "items_of", read)
        look_twice(watcher)
        watcher.look()
    assert files(folder) == ["a.json", "done/b.json"]
    failed = [record for record in caplog.records if record.message == "worklist file failed unexpectedly"]
    assert [record.__dict__["file"] for record in failed] == ["a.json"]
    (folder / "a.json").write_bytes(content("A2"))
    look_twice(watcher)
    assert files(folder) == ["done/a.json", "done/b.json"]


def test_no_patient_data_is_logged(folder: Path, watcher: WorklistFolder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (folder / "a.json").write_bytes(content())
    (folder / "b.json").write_bytes(content("SECRET" * 9))
    look_twice(watcher)
    records = [record for record in caplog.records if record.name == "pacs_server.intake.worklist_folder"]
    assert len(records) == 2
    logged = " ".join(str(record.__dict__) for record in records)
    assert not any(secret in logged for secret in ("Müller", "SECRET", "P1"))


def test_it_watches_until_it_is_stopped(tmp_path: Path, worklist: WorklistService) -> None:
    folder = tmp_path / "new" / "folder"
    watcher = WorklistFolder(folder, worklist, interval=0.01, taken=lambda _: None)
    watcher.start()
    try:
        (folder / "a.json").write_bytes(content())
        assert servers.eventually(lambda: files(folder) == ["done/a.json"])
    finally:
        watcher.stop()
    (folder / "b.json").write_bytes(content("A2"))
    assert files(folder) == ["b.json", "done/a.json"]


def test_a_folder_that_vanishes_and_returns(tmp_path: Path, worklist: WorklistService) -> None:
    """A network folder does that."""
    folder, away = tmp_path / "folder", tmp_path / "away"
    watcher = WorklistFolder(folder, worklist, interval=0.01, taken=lambda _: None)
    watcher.start()
    try:
        folder.rename(away)
        (away / "a.json").write_bytes(content())
        away.rename(folder)
        assert servers.eventually(lambda: files(folder) == ["done/a.json"])
    finally:
        watcher.stop()
