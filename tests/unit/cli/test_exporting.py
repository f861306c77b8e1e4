"""`pacs-server export`: what it says, its exit codes, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import make_ct, make_study, write_part10
from dicomdirs import listed

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    for number, ds in enumerate(make_study(1, 3, StudyInstanceUID="1.2.1")):
        write_part10(ds, tmp_path / "media" / str(number))
    assert run("import", "media")[0] == 0
    return run


@pytest.mark.slow
def test_a_directory_and_a_zip_file(run: Run, tmp_path: Path) -> None:
    code, printed, error = run("export", "A1", "cd")
    assert (code, error) == (0, "")
    size = sum(path.stat().st_size for path in (tmp_path / "cd" / "DICOM").rglob("IM*"))
    assert printed == f"exported 3 instances ({size} bytes) to cd\n"
    assert len(listed(tmp_path / "cd")) == 3
    assert run("export", "1.2.1", "study.zip", "--zip")[:2] == (
        *(0, f"exported 3 instances ({size} bytes) to study.zip\n"),
    )
    for arguments in (("cd",), ("study.zip",), ("study.zip", "--zip"), ("cd", "--zip")):
        code, printed, error = run("export", "1.2.1", *arguments)
        assert (code, printed) == (2, "")
        assert error.startswith(f"pacs-server: {arguments[0]} is there already")


@pytest.mark.slow
def test_what_is_not_in_the_dicomdir_or_not_exported_is_said(run: Run, tmp_path: Path) -> None:
    odd = make_ct("1.2.1", SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR", SeriesNumber=2)
    odd.file_meta.MediaStorageSOPClassUID = odd.SOPClassUID
    write_part10(odd, tmp_path / "odd.dcm")
    assert run("import", "odd.dcm")[0] == 0
    code, printed, error = run("export", "1.2.1", "cd")
    assert (code, printed.startswith("exported 4 instances (")) == (0, True)
    assert error.startswith(f"exported, but not in the DICOMDIR: {odd.SOPInstanceUID}: The instance's (0070,0082) ")
    next(path for path in (tmp_path / "archive").rglob(f"{odd.SOPInstanceUID}*")).unlink()
    code, printed, error = run("export", "1.2.1", "other")
    assert (code, printed.endswith("to other, 1 could not be read\n")) == (1, True)
    assert error.startswith(f"not exported {odd.SOPInstanceUID}: ")


@pytest.mark.slow
def test_what_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, error = run("export", "1.2.1", "file/below")
    assert (code, error.startswith("pacs-server: file/below cannot be written: ")) == (1, True)
    assert run("export", "1.2.1", "nowhere/a.zip", "--zip")[0] == 1
    code, _, error = run("export", "1.2.1", "archive/cd")
    assert (code, error) == (2, "pacs-server: archive/cd lies in the archive itself\n")


@pytest.mark.slow
def test_a_study_of_several_patients_is_not_exported(run: Run, tmp_path: Path) -> None:
    other = make_ct("1.2.1", PatientID="P2", PatientName="Roe^Richard")
    write_part10(other, tmp_path / "other.dcm")
    assert run("import", "other.dcm")[0] == 0
    code, _, error = run("export", "1.2.1", "cd")
    assert (code, error) == (
        *(1, "pacs-server: the study is known with several patients; `pacs-server conflicts` lists them\n"),
    )
    assert not (tmp_path / "cd").exists()
    assert run("show", "1.2.1")[1].count("patient: ") == 2
