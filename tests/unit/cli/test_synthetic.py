"""`pacs-server synthetic` writes what was asked for, and nothing over anything."""

from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread

from pacs_server.testing import synthetic

Run = Callable[..., tuple[int, str, str]]


def test_it_writes_a_folder_for_each_study(run: Run, tmp_path: Path) -> None:
    wanted = ("--ct", 2, "--sr", 1, "--enhanced-ct", 1, "--images", 2, "--frames", 3, "--size", 32, "--seed", 7)
    assert run("synthetic", "made", *wanted)[:2] == (0, "3 studies with 6 files in made\n")
    files = sorted(path.relative_to(tmp_path / "made").as_posix() for path in (tmp_path / "made").rglob("*.dcm"))
    assert files == [
        "ct-7/ct-1-0001.dcm", "ct-7/ct-1-0002.dcm", "ct-7/sr-10-0001.dcm",
        "ct-8/ct-1-0001.dcm", "ct-8/ct-1-0002.dcm", "enhanced_ct-7/ct-1-0001.dcm",
    ]  # fmt: skip
    same = synthetic.ct(2, seed=8, size=32)
    assert dcmread(tmp_path / "made/ct-8/ct-1-0002.dcm") == same[1]
    assert dcmread(tmp_path / "made/enhanced_ct-7/ct-1-0001.dcm").NumberOfFrames == 3


def test_options_reach_the_pictures(run: Run, tmp_path: Path) -> None:
    more = ("--charset", "ISO_IR 100", "--patient", "Müller^Zoë", "--no-text", "--transfer-syntax", "RLELossless")
    assert run("synthetic", "made", "--ct", 1, "--images", 1, "--size", 32, *more)[0] == 0
    (path,) = (tmp_path / "made").rglob("*.dcm")
    ds = dcmread(path)
    assert (ds.SpecificCharacterSet, str(ds.PatientName), ds.BurnedInAnnotation) == ("ISO_IR 100", "Müller^Zoë", "NO")
    assert ds.file_meta.TransferSyntaxUID.keyword == "RLELossless"


def test_refusals(run: Run) -> None:
    assert run("synthetic", "made", "--cr", 1, "--size", 16)[0] == 0
    assert run("synthetic", "made", "--cr", 1, "--size", 16) == (1, "", "pacs-server: made/cr-1 is there already\n")
    code, _, said = run("synthetic", "made", "--ct", 1, "--charset", "latin1")
    assert (code, said) == (2, "pacs-server: 'latin1' is not a character set of DICOM\n")
    assert run("synthetic", "made/cr-1/cr-1-0001.dcm", "--ct", 1)[0] == 1
