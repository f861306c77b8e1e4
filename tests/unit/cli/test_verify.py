"""`pacs-server verify --study`: what is not known looks like no success."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import make_ct, write_part10
from pydicom import dcmread

from pacs_server.app.assembly import open_archive
from pacs_server.config.load import load

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def study(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The UID of a study of one instance, beside another study."""
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    for name in ("other", "this"):
        ds = make_ct()
        write_part10(ds, tmp_path / "images" / f"{name}.dcm")
    assert run("import", "images")[0] == 0
    return str(ds.StudyInstanceUID)


@pytest.mark.slow
@pytest.mark.parametrize("uid", ["1.2.3", "no\x1bUID"])
def test_a_study_of_which_nothing_is_known(run: Run, study: str, uid: str) -> None:
    shown = uid.replace("\x1b", "\\x1b")
    problem = f"pacs-server: nothing is known of study {shown}: no instance in the index, and no file\n"
    assert run("verify", "--study", uid) == (1, "", problem)
    code, printed, error = run("verify", "--study", uid, "--json", "-")
    assert (code, error) == (1, problem)
    assert (json.loads(printed)["study"], json.loads(printed)["files"]) == (uid, 0)
    # The run is over.
    assert run("verify", "--resume")[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_study_comes_back_from_a_backup(run: Run, study: str, tmp_path: Path, damage: str) -> None:
    (file,) = (tmp_path / "archive" / study).rglob("*.dcm")
    good, original = file.read_bytes(), dcmread(file)
    assert run("backup", "backups")[0] == 0
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    code, printed, _ = run("verify", "--study", study)
    assert (code, printed.partition(":")[0]) == (1, damage)
    places = "storage: {directory: there/archive}\ndatabase: {path: there/pacs.db}\naudit: {directory: there/audit}\n"
    (tmp_path / "restored.yaml").write_text(places)
    code, _, error = run("--config", "restored.yaml", "restore", "backups")
    assert code == 0
    assert f"WARNING: there is no file of users at {tmp_path}/users" in error
    (tmp_path / "users").touch()
    code, printed, error = run("import", f"there/archive/{study}")
    assert (code, "duplicate 1" in printed) == (0, True)
    assert "lost or damaged file restored by its sender" in error
    # What was damaged stays beside it.
    (now,) = {*(tmp_path / "archive" / study).rglob("*.dcm")} - {file}
    assert dcmread(now) == original
    assert run("verify", "--study", study)[0] == 0


@pytest.mark.slow
def test_what_is_found_is_kept_for_the_page_of_the_storage(run: Run, study: str, tmp_path: Path) -> None:
    (file,) = (tmp_path / "archive" / study).rglob("*.dcm")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert run("verify")[0] == 1

    def kept() -> list[str]:
        with open_archive(load(None, environ=os.environ, overrides={})) as archive:
            last = archive.faults.last_verification()
            assert last is not None
            assert (last.files, last.findings) == (2, 1)
            return [fault.study for fault in archive.faults.faults()]

    assert kept() == [study]
    file.write_bytes(data)
    assert run("verify", "--study", study)[0] == 0
    assert kept() == []


@pytest.mark.slow
def test_a_study_that_is_known(run: Run, study: str, tmp_path: Path) -> None:
    code, printed, error = run("verify", "--study", study)
    assert (code, printed[:30], error) == (0, "ok: 1 file, 1 instance checked", "")
    # It came in on another day, but it is there.
    code, printed, error = run("verify", "--study", study, "--since", "2999-01-01")
    assert (code, printed[:9], error) == (0, "ok: 0 fil", "")
    # The files are enough to know it, and so is the index.
    (file,) = (tmp_path / "archive" / study).rglob("*.dcm")
    file.rename(tmp_path / "moved.dcm")
    assert run("verify", "--study", study)[1].startswith("missing: ")
    (tmp_path / "archive" / "1.2.3" / "4").mkdir(parents=True)
    (tmp_path / "moved.dcm").rename(tmp_path / "archive" / "1.2.3" / "4" / file.name)
    assert "1.2.3/4/" in run("verify", "--study", "1.2.3")[1]
