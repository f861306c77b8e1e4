"""Exports into a directory of the server: what is refused, what a task writes, and that it leaves nothing half."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from rooms import Rooms

from pacs_server.audit.events import EventID
from pacs_server.config.disk import check_filesystem
from pacs_server.config.model import Config
from pacs_server.dicom.caller import Role
from pacs_server.errors import ConfigError, Conflict
from pacs_server.index.instances import StoredInstance
from pacs_server.index.tasks import Wanted
from pacs_server.outbox.export import ExportHandler
from pacs_server.outbox.handler import Work
from pacs_server.services.export_targets import StagedTarget


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.fixture
def rooms(tmp_path: Path, out: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    web = rooms.config.web.model_copy(update={"export_directory": out})
    storage = rooms.config.storage.model_copy(update={"min_free_space": 0})
    rooms.config = rooms.config.model_copy(update={"web": web, "storage": storage})
    rooms.act_as(Role.OPERATOR)
    yield rooms
    rooms.close()


def ask(rooms: Rooms, folder: str, status: int = 202, **body: Any) -> dict[str, Any]:
    studies = [row["StudyInstanceUID"] for row in rooms.get("/studies")["items"]]
    answer: dict[str, Any] = rooms.send("POST", "/exports", {"studies": studies, "folder": folder, **body}, status)
    return answer


def run(rooms: Rooms, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run the task that waits, and tell what became of it."""
    archive = rooms.archive
    claimed = archive.tasks.claim(Wanted({"export": 1}))
    work = Work(claimed, archive.tasks, stopping)
    ExportHandler(rooms.services.exports, archive.directory_exports).run(work)
    task: dict[str, Any] = rooms.get(f"/tasks/{claimed[0].id}")
    return task


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_studies_are_written_into_a_new_folder(rooms: Rooms, out: Path) -> None:
    stored = [*rooms.study(2, 1, PatientID="1"), *rooms.study(1, 2, PatientID="2")]
    rooms.act_as(Role.OPERATOR)
    number = ask(rooms, "for-Dr.Weber_1")["task"]
    assert "for-Dr" not in rooms.get(f"/tasks/{number}")["target"]
    assert names(out) == []
    task = run(rooms)
    assert (task["state"], task["progress"]) == ("done", {"folder": "for-Dr.Weber_1", "exported": 4, "of": 4})
    assert names(out) == ["for-Dr.Weber_1"]
    records = pydicom.dcmread(out / "for-Dr.Weber_1" / "DICOMDIR").DirectoryRecordSequence
    paths = [out.joinpath("for-Dr.Weber_1", *each.ReferencedFileID) for each in records if "ReferencedFileID" in each]
    files = [pydicom.dcmread(path) for path in paths]
    assert {each.SOPInstanceUID for each in files} == {ds.SOPInstanceUID for ds in stored}
    assert {each.PatientID for each in files} == {"1", "2"}
    assert (out / "for-Dr.Weber_1").stat().st_mode & 0o777 == 0o750
    assert (out / "for-Dr.Weber_1" / "DICOMDIR").stat().st_mode & 0o777 == 0o640
    exported = [each.event for each in rooms.audited() if each.event.event_id is EventID.EXPORT]
    assert [one.user_id for one in exported[0].participants][1:] == [str(out / "for-Dr.Weber_1"), "ann"]


def test_no_name_leads_out_of_the_directory(rooms: Rooms) -> None:
    rooms.study()
    rooms.act_as(Role.OPERATOR)
    for folder in (
        "../up",
        "a/b",
        "/etc",
        ".hidden",
        "..",
        ".",
        "",
        "x" * 65,
        "a\n",
        "a b",
        "ends.",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ):
        ask(rooms, folder, 400)
    assert rooms.get("/tasks")["items"] == []


def test_what_is_refused_at_once(rooms: Rooms, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms.study()
    rooms.act_as(Role.OPERATOR)
    (out / "there").mkdir()
    (out / "link").symlink_to("/nonexistent")
    ask(rooms, "there", 409)
    ask(rooms, "link", 409)
    ask(rooms, "a", 404, studies=["1.2.3"])
    ask(rooms, "a")
    ask(rooms, "a", 409)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
        ask(rooms, "b", 507)
    out.rename(out.with_name("away"))
    ask(rooms, "b", 503)
    rooms.config = rooms.config.model_copy(
        update={"web": rooms.config.web.model_copy(update={"export_directory": None})}
    )
    ask(rooms, "b", 404)
    assert "Export" not in rooms.page("/studies")


def test_nothing_is_overwritten_or_left_behind(rooms: Rooms, out: Path) -> None:
    rooms.study(1, 3)
    rooms.act_as(Role.OPERATOR)
    ask(rooms, "a")
    # What a crash has left is removed, and what is stopped leaves nothing.
    number = rooms.get("/tasks")["items"][0]["id"]
    (out / f".a.{number}").mkdir()
    (out / f".a.{number}" / "half").write_text("x")
    calls = iter([False, True, True, True])
    assert run(rooms, lambda: next(calls))["state"] == "running"
    assert names(out) == []
    rooms.archive.tasks.take_back(["export"])
    (out / "a").mkdir()
    task = run(rooms)
    assert (task["state"], names(out)) == ("dead", ["a"])
    assert "is there already" in task["last_error"]
    (out / "a").rmdir()
    # Where the hidden name is a link, nothing goes through it.
    (out / "elsewhere").mkdir()
    (out / f".a.{number}").symlink_to(out / "elsewhere")
    rooms.send("POST", f"/tasks/{number}/retry")
    assert run(rooms)["state"] == "ready"
    assert list((out / "elsewhere").iterdir()) == []


def test_another_order_for_the_same_folder_is_refused_and_not_lost(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms.study(PatientID="1")
    rooms.act_as(Role.OPERATOR)
    exports = rooms.archive.directory_exports
    look, numbers = exports.instances, []

    def look_slowly(studies: Sequence[str]) -> Sequence[StoredInstance]:
        # While one order is looked at, another one is made.
        monkeypatch.setattr(exports, "instances", look)
        numbers.append(ask(rooms, "a")["task"])
        return look(studies)

    monkeypatch.setattr(exports, "instances", look_slowly)
    assert "another task exports" in ask(rooms, "a", 409)["detail"]
    assert [task["id"] for task in rooms.get("/tasks")["items"]] == numbers


def test_a_folder_has_its_name_when_all_in_it_is_durable(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    rename, sync = os.rename, os.fsync

    def noted_sync(descriptor: int) -> None:
        steps.append(str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(out)))
        sync(descriptor)

    def noted_rename(source: Any, target: Any) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    with StagedTarget(out / "a", "1") as target, target.file("DICOM/IM1", 1) as file:
        file.write(b"x")
    assert (out / "a" / "DICOM" / "IM1").read_bytes() == b"x"
    assert (sorted(steps[:3]), steps[3:]) == ([".a.1", ".a.1/DICOM", ".a.1/DICOM/IM1"], ["rename", "."])


def test_a_folder_that_was_made_meanwhile_stays_as_it_is(out: Path) -> None:
    def write() -> None:
        with StagedTarget(out / "a", "1") as target:
            with target.file("DICOM/IM1", 1) as file:
                file.write(b"x")
            (out / "a").mkdir()

    with pytest.raises(Conflict, match="is there already"):
        write()
    assert (names(out), names(out / "a")) == (["a"], [])


def test_what_cannot_be_read_is_told(rooms: Rooms, out: Path) -> None:
    rooms.study(1, 2)
    rooms.act_as(Role.OPERATOR)
    ask(rooms, "a")
    next((rooms.directory / "archive").rglob("*.dcm")).write_bytes(b"lost")
    task = run(rooms)
    assert (task["state"], task["progress"]["exported"]) == ("dead", 1)
    assert "Some images are not in the export" in rooms.page("/tasks")
    assert names(out) == ["a"]


@pytest.mark.parametrize("place", ["archive/out", ".", "audit"])
def test_the_directory_lies_apart_from_the_archive(tmp_path: Path, place: str) -> None:
    settings = {
        "storage": {"directory": tmp_path / "archive"},
        "database": {"path": tmp_path / "pacs.db"},
        "audit": {"directory": tmp_path / "audit"},
        "user_identity": {"users_path": tmp_path / "users"},
        "web": {"export_directory": tmp_path / place},
    }
    with pytest.raises(ConfigError, match=r"web\.export_directory: .* may not lie in each other"):
        check_filesystem(Config.model_validate(settings, strict=False))
