"""DCMTK reads the DICOMDIR of an export, and finds every file that it names."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dcmtk
import pytest
from commandline import call_command
from datasets import make_study, pydicom_test_files, write_part10
from dicomdirs import listed

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def run(*arguments: object) -> str:
        done = call_command(*arguments, cwd=tmp_path, PACS_SERVER__STORAGE__MIN_FREE_SPACE="0")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_directory_that_dcmmkdir_goes_on_with(command: Command, tmp_path: Path) -> None:
    """Whoever appends to a DICOMDIR has read all of it and followed its offsets."""
    for number, ds in enumerate(make_study(2, 3, PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192")):
        write_part10(ds, tmp_path / "media" / str(number))
    command("import", "media")
    command("export", "A1", "cd")
    dumped = dcmtk.run("dcmdump", "-q", tmp_path / "cd" / "DICOMDIR")
    assert dumped.returncode == 0
    assert dumped.stdout.count("CS [IMAGE]") == 6
    (other,) = make_study(1, 1, PatientID="P2", PatientName="Roe^Richard")
    write_part10(other, tmp_path / "cd" / "OTHER" / "IM1")
    directory = str(tmp_path / "cd")
    done = dcmtk.run("dcmmkdir", "--append", "+D", f"{directory}/DICOMDIR", "+id", directory, "OTHER/IM1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"^[EFW]: ", done.stdout + done.stderr, re.MULTILINE), done.stderr
    assert len(listed(tmp_path / "cd")) == 7


@pytest.mark.slow
def test_every_study_that_pydicom_has(command: Command, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    for number, path in enumerate(pydicom_test_files()):
        shutil.copyfile(path, tmp_path / "media" / str(number))
    call_command("import", "media", cwd=tmp_path, PACS_SERVER__STORAGE__MIN_FREE_SPACE="0")
    studies = [line.split("\t") for line in command("find", "studies").splitlines()]
    column = studies[0].index("STUDY UID")
    for number, study in enumerate(studies[1:]):
        out = tmp_path / f"out{number}"
        done = call_command("export", study[column], out, cwd=tmp_path, PACS_SERVER__STORAGE__MIN_FREE_SPACE="0")
        if "several patients" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        files = len([path for path in (out / "DICOM").rglob("*") if path.is_file()])
        unlisted = done.stderr.count("exported, but not in the DICOMDIR: ")
        assert len(listed(out)) == files - unlisted
        dumped = dcmtk.run("dcmdump", "-q", out / "DICOMDIR")
        assert (dumped.returncode, dumped.stderr) == (0, "")
