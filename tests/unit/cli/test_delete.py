"""`pacs-server delete` and `pacs-server trash`: what they ask, show and refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import make_ct
from pydicom.dataset import Dataset

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _on_a_small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")


@pytest.fixture
def ct(tmp_path: Path, run: Run) -> Dataset:
    ds = make_ct(PatientID="SECRET-4711", PatientName="Secret^Name")
    ds.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert run("import", "image.dcm")[0] == 0
    return ds


def listed(run: Run, *options: str) -> list[dict[str, object]]:
    code, printed, _ = run("trash", "list", "--json", *options)
    assert code == 0
    found: list[dict[str, object]] = json.loads(printed)
    return found


@pytest.mark.slow
def test_delete_list_restore(run: Run, ct: Dataset) -> None:
    code, printed, _ = run("delete", "study", ct.StudyInstanceUID, "--reason", "wrong\x1b patient", "--yes")
    assert code == 0
    (found,) = listed(run)
    assert printed == f"deleted 1 instance, in the trash as {found['id']} for 30 days\n"
    assert (found["level"], found["uid"], found["instances"]) == ("study", ct.StudyInstanceUID, 1)
    assert (found["reason"], found["status"]) == ("wrong\x1b patient", "KEPT")
    code, table, _ = run("trash", "list")
    header, line = table.splitlines()
    assert header.split("\t")[0] == "ID"
    # What somebody typed does not reach the terminal as it is, and nothing tells whose it is.
    assert line.split("\t")[-1] == "wrong\\x1b patient"
    assert "SECRET" not in table + printed + json.dumps(found)
    assert run("trash", "restore", found["id"])[:2] == (0, "restored 1 instance\n")
    assert listed(run) == []


@pytest.mark.slow
def test_what_a_power_loss_took_the_name_of_goes_into_the_trash(run: Run, ct: Dataset, tmp_path: Path) -> None:
    """The file is left in its slot, and no server has been started since."""
    [stored] = tmp_path.rglob(f"{ct.SOPInstanceUID}.dcm")
    [incoming] = tmp_path.rglob("incoming")
    (incoming / "elsewhere-5-r00000000.lock").touch()
    stored.rename(incoming / "elsewhere-5-r00000000-0.part")
    assert run("delete", "study", ct.StudyInstanceUID, "--reason", "why", "--yes")[0] == 0
    assert list(incoming.iterdir()) == []
    (found,) = listed(run)
    assert run("trash", "restore", found["id"])[:2] == (0, "restored 1 instance\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "keyword"),
    [("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID"), ("instance", "SOPInstanceUID")],
)
def test_each_level(run: Run, ct: Dataset, level: str, keyword: str) -> None:
    assert run("delete", level, ct[keyword].value, "--reason", "why", "--yes")[0] == 0
    assert [one["level"] for one in listed(run)] == [level]


@pytest.mark.slow
def test_whose_it_is_only_if_asked(run: Run, ct: Dataset) -> None:
    run("delete", "study", ct.StudyInstanceUID, "--reason", "why", "--yes")
    assert [one["patient_id"] for one in listed(run, "--patient")] == ["SECRET-4711"]
    _, table, _ = run("trash", "list", "--patient")
    assert [line.split("\t")[-1] for line in table.splitlines()] == ["PATIENT ID", "SECRET-4711"]


@pytest.mark.slow
def test_a_dry_run_changes_nothing(run: Run, ct: Dataset) -> None:
    code, printed, _ = run("delete", "study", ct.StudyInstanceUID, "--reason", "why", "--dry-run")
    assert code == 0
    assert printed.startswith("would delete 1 study, 1 series, 1 instance (")
    assert listed(run) == []


@pytest.mark.slow
def test_it_asks(run: Run, ct: Dataset) -> None:
    command = ("delete", "series", ct.SeriesInstanceUID, "--reason", "why")
    code, printed, _ = run(*command, typed=b"n\n")
    assert (code, listed(run)) == (1, [])
    assert "Delete 1 study, 1 series, 1 instance" in printed
    assert "SECRET" not in printed
    # Nobody there to ask: nothing is done.
    assert (run(*command)[0], listed(run)) == (1, [])
    assert run(*command, typed=b"y\n")[0] == 0
    assert len(listed(run)) == 1
    assert (run("trash", "empty", typed=b"n\n")[0], len(listed(run))) == (1, 1)
    assert (run("trash", "empty")[0], len(listed(run))) == (1, 1)


@pytest.mark.slow
def test_empty(run: Run, ct: Dataset) -> None:
    run("delete", "study", ct.StudyInstanceUID, "--reason", "why", "--yes")
    (found,) = listed(run)
    assert run("trash", "empty", "--older-than", 1, "--yes")[1] == "removed 0 deletions, 0 instances\n"
    assert run("trash", "empty", "--yes")[1] == "removed 1 deletion, 1 instance\n"
    code, _, error = run("trash", "restore", found["id"])
    assert code == 1
    assert "no deletion of this ID" in error


@pytest.mark.slow
def test_what_is_wrong(run: Run, ct: Dataset) -> None:
    code, _, error = run("delete", "study", "1.2.3", "--reason", "why", "--yes")
    assert (code, error) == (1, "pacs-server: no study of this UID is in the archive\n")
    assert run("delete", "study", ct.StudyInstanceUID, "--reason", " ", "--yes")[0] == 2
    assert run("delete", "study", ct.StudyInstanceUID, "--yes")[0] == 2


@pytest.mark.slow
def test_what_was_stored_again_is_named(run: Run, ct: Dataset) -> None:
    run("delete", "study", ct.StudyInstanceUID, "--reason", "why", "--yes")
    assert run("import", "image.dcm")[0] == 0
    (found,) = listed(run)
    code, printed, error = run("trash", "restore", found["id"])
    assert (code, printed) == (1, "restored 0 instances\n")
    assert error.splitlines()[-1] == f"not restored {ct.SOPInstanceUID}: it was stored again since"
