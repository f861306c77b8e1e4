"""dciodvfy of dicom3tools, which knows the modules of every IOD, finds no error in synthetic studies."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from datasets import write_part10

from pacs_server.synthetic.people import SCRIPTS
from pacs_server.testing import synthetic

# Later than the dicom3tools of distributions.
_UNKNOWN = {"GBK"}


@pytest.fixture(scope="module")
def dciodvfy() -> str:
    if (path := shutil.which("dciodvfy")) is None:
        reason = "dciodvfy is not installed; on Debian and Ubuntu: apt-get install dicom3tools"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def errors(tool: str, path: Path) -> list[str]:
    done = subprocess.run([tool, path], capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    # The name of the IOD is on a line of its own: it was recognised.
    return [line for line in said if "Error" in line] or ([] if said else ["nothing was said"])


@pytest.mark.parametrize(
    "spec",
    [
        "size=48",
        "ct=1,sr=1,seg=1,rt=1,enhanced_ct=1,us=1,size=17,images=1,frames=1",
        "ct=1,us=1,slide=1,images=1,size=64,transfer_syntax=JPEG2000Lossless",
        "us=1,slide=1,size=64,transfer_syntax=JPEGBaseline8Bit",
        f"ct={len(SCRIPTS)},images=1,size=16,charset=all",
    ],
)
def test_no_instance_has_an_error(dciodvfy: str, tmp_path: Path, spec: str) -> None:
    found = {}
    for number, ds in enumerate(synthetic.from_spec(spec)):
        if str(ds.get("SpecificCharacterSet")) not in _UNKNOWN:
            path = write_part10(ds, tmp_path / f"{number}.dcm")
            found[f"{ds.SOPClassUID.name} {ds.get('SpecificCharacterSet', '')}"] = errors(dciodvfy, path)
    assert {name: said for name, said in found.items() if said} == {}
    assert found


def test_the_objects_of_a_study_fit_together(dciodvfy: str, tmp_path: Path) -> None:
    instances = synthetic.from_spec("ct,mr,sr,seg,rt,us,size=48")
    paths = [write_part10(ds, tmp_path / f"{number}.dcm") for number, ds in enumerate(instances)]
    # Of the same package; it knows the Accession Number twice, and warns of that.
    command = [str(Path(dciodvfy).with_name("dcentvfy")), *paths]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert [line for line in done.stderr.decode().splitlines() if "<AccessionNumber>" not in line] == []
    instances[1].PatientSex = "M" if instances[1].PatientSex == "F" else "F"
    write_part10(instances[1], paths[1])
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert b"PatientSex" in done.stderr


def test_an_error_is_seen(dciodvfy: str, tmp_path: Path) -> None:
    (ds,) = synthetic.ct(1, size=16)
    del ds.PixelSpacing
    assert "PixelSpacing" in str(errors(dciodvfy, write_part10(ds, tmp_path / "broken.dcm")))
