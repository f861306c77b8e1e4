"""Verification and storage by DCMTK: echoscu, storescu, dcmsend."""

import hashlib
import re
from pathlib import Path

import dcmtk
import pytest
from datasets import data_set_bytes, make_ct, pydicom_test_files, uid, write_part10
from processes import PacsProcess, wait_for
from pydicom import dcmread
from pydicom.dataset import Dataset

pytestmark = pytest.mark.interop

# What storescu has to be told to propose for a file, by its transfer syntax.
PROPOSE = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


def stored_as(pacs: PacsProcess) -> dict[str, str]:
    """Transfer syntax of each file in the archive, by SOP Instance UID."""
    return {path.stem: data_set_bytes(path)[0] for path in pacs.files()}


def digests(pacs: PacsProcess) -> dict[Path, bytes]:
    """SHA-256 of each file in the archive."""
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in pacs.files()}


def one_file_per_transfer_syntax() -> dict[str, Path]:
    """A small pydicom test file in each transfer syntax that it has and storescu can propose."""
    chosen: dict[str, Path] = {}
    for path in sorted(pydicom_test_files(), key=lambda path: path.stat().st_size):
        # Not every file names a storage class that DCMTK proposes; the images do.
        if path.name.startswith(("CT", "MR", "SC", "J", "693", "RG", "image", "OBXXXX", "examples")):
            chosen.setdefault(data_set_bytes(path)[0], path)
    return chosen


def test_echo(sqlite_pacs: PacsProcess) -> None:
    done = dcmtk.run("echoscu", "--repeat", 5, "-aec", "PACS_SERVER", "127.0.0.1", sqlite_pacs.port)
    assert done.returncode == 0, done.stderr


def test_echo_with_every_transfer_syntax_and_many_contexts(sqlite_pacs: PacsProcess) -> None:
    done = dcmtk.run("echoscu", "-pts", 38, "-ppc", 128, "127.0.0.1", sqlite_pacs.port)
    assert done.returncode == 0, done.stderr


def test_echo_to_another_title_is_refused_when_titles_are_checked(tmp_path: Path) -> None:
    with PacsProcess(tmp_path / "pacs", settings={"server": {"check_called_ae_title": True}}) as pacs:
        refused = dcmtk.run("echoscu", "-aec", "SOMEBODY", "127.0.0.1", pacs.port)
        served = dcmtk.run("echoscu", "-aec", "PACS_SERVER", "127.0.0.1", pacs.port)
    assert refused.returncode != 0
    assert "Called AE Title Not Recognized" in refused.stderr
    assert served.returncode == 0


def test_store_one_folder_with_nagle_on(pacs: PacsProcess, tmp_path: Path) -> None:
    before = pacs.instances()
    for number in range(20):
        write_part10(make_ct(InstanceNumber=number), tmp_path / "send" / f"{number}.dcm")

    done = dcmtk.run("storescu", "+sd", "127.0.0.1", pacs.port, tmp_path / "send")

    assert done.returncode == 0, done.stderr
    assert pacs.instances() == len(pacs.files()) == before + 20
    wait_for(lambda: not pacs.incoming(), "nothing half received, and a checkpoint")


def test_the_same_again_is_success_and_changes_nothing(pacs: PacsProcess, tmp_path: Path) -> None:
    before = pacs.instances()
    file = write_part10(make_ct(), tmp_path / "a.dcm")
    for _ in range(3):
        assert dcmtk.run("storescu", "127.0.0.1", pacs.port, file).returncode == 0
    assert pacs.instances() == len(pacs.files()) == before + 1


def test_other_bytes_under_a_known_uid_are_refused(pacs: PacsProcess, tmp_path: Path) -> None:
    ds = make_ct()
    first = write_part10(ds, tmp_path / "a.dcm")
    ds.PatientName = "Somebody^Else"
    second = write_part10(ds, tmp_path / "b.dcm")

    assert dcmtk.run("storescu", "127.0.0.1", pacs.port, first).returncode == 0
    before = digests(pacs)
    done = dcmtk.run("storescu", "-v", "127.0.0.1", pacs.port, second)

    assert "0x111" in done.stderr
    assert digests(pacs) == before
    assert pacs.instances() == len(before)


def fresh_copy(path: Path, target: Path) -> Dataset:
    """Write a test file again under a UID of its own, since several share one."""
    ds = dcmread(path)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid()
    write_part10(ds, target)
    return ds


@pytest.mark.filterwarnings("ignore")  # some of pydicom's files are odd on purpose
@pytest.mark.parametrize("syntax", sorted(PROPOSE))
def test_proposals_by_transfer_syntax(sqlite_pacs: PacsProcess, syntax: str, tmp_path: Path) -> None:
    ds = fresh_copy(one_file_per_transfer_syntax()[syntax], tmp_path / "a.dcm")
    done = dcmtk.run("storescu", "-R", PROPOSE[syntax], "127.0.0.1", sqlite_pacs.port, tmp_path / "a.dcm")

    assert done.returncode == 0, done.stderr
    assert stored_as(sqlite_pacs)[ds.SOPInstanceUID] == syntax


@pytest.mark.filterwarnings("ignore")
def test_dcmsend_of_mixed_transfer_syntaxes(pacs: PacsProcess, tmp_path: Path) -> None:
    expected: dict[str, str] = {}
    for number, (syntax, path) in enumerate(sorted(one_file_per_transfer_syntax().items())):
        ds = fresh_copy(path, tmp_path / "send" / f"{number}.dcm")
        expected[ds.SOPInstanceUID] = syntax

    # Never decompress: each goes in the transfer syntax it has.
    done = dcmtk.run("dcmsend", "-dn", "+sd", "127.0.0.1", pacs.port, tmp_path / "send")

    assert done.returncode == 0, done.stderr
    found = stored_as(pacs)
    assert expected.keys() <= found.keys()
    # Among the uncompressed ones dcmsend leaves the choice to the server.
    compressed = {uid: syntax for uid, syntax in expected.items() if syntax > "1.2.840.10008.1.2.3"}
    assert compressed.items() <= found.items()


def test_a_large_object_in_small_pdus(sqlite_pacs: PacsProcess, tmp_path: Path) -> None:
    ds = make_ct(rows=2048, columns=2048)
    file = write_part10(ds, tmp_path / "a.dcm")
    done = dcmtk.run("storescu", "--max-send-pdu", 4096, "127.0.0.1", sqlite_pacs.port, file)

    assert done.returncode == 0, done.stderr
    (stored,) = [path for path in sqlite_pacs.files() if path.stem == ds.SOPInstanceUID]
    assert Dataset(dcmread(stored)) == Dataset(dcmread(file))


def test_unusable_uids_are_refused_and_leave_nothing(sqlite_pacs: PacsProcess, tmp_path: Path) -> None:
    before = sqlite_pacs.files()
    ds = make_ct()
    ds["StudyInstanceUID"]._value = "1.2.../../evil"
    file = write_part10(ds, tmp_path / "a.dcm")

    done = dcmtk.run("storescu", "-v", "127.0.0.1", sqlite_pacs.port, file)

    assert "Error: CannotUnderstand" in done.stderr
    assert sqlite_pacs.files() == before
    assert sqlite_pacs.instances() == len(before)
    wait_for(lambda: not sqlite_pacs.incoming(), "nothing half received, and a checkpoint")


# How DCMTK writes an object in another transfer syntax, and what storescu proposes for it. dcmcjpeg is not here,
# because it adds Derivation Description, which makes another object.
OTHERWISE = {
    "implicit": (("dcmconv", "+ti"), "-xi"),
    "big endian": (("dcmconv", "+tb"), "-xb"),
    "deflated": (("dcmconv", "+td"), "-xd"),
    "defined lengths": (("dcmconv", "+te", "+e", "+g", "+p", "512", "256"), "-xe"),
    "JPEG-LS": (("dcmcjpls",), "-xt"),
    "RLE": (("dcmcrle",), "-xr"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_the_same_object_written_otherwise_is_success_and_changes_nothing(
    sqlite_pacs: PacsProcess, tmp_path: Path, name: str
) -> None:
    (tool, *options), propose = OTHERWISE[name]
    ds = make_ct(ReferencedImageSequence=[Dataset()])
    first = write_part10(ds, tmp_path / "first.dcm")
    assert stored_by_storescu(sqlite_pacs, first, "-xe") == "Success"
    before = digests(sqlite_pacs)

    again = tmp_path / "again.dcm"
    done = dcmtk.run(tool, *options, first, again)
    assert done.returncode == 0, done.stderr
    assert stored_by_storescu(sqlite_pacs, again, propose) == "Success"
    assert digests(sqlite_pacs) == before

    ds.PatientName = "Another^Name"
    other = tmp_path / "other.dcm"
    done = dcmtk.run(tool, *options, write_part10(ds, tmp_path / "second.dcm"), other)
    assert done.returncode == 0, done.stderr
    assert "0x111" in stored_by_storescu(sqlite_pacs, other, propose)
    assert digests(sqlite_pacs) == before


def stored_by_storescu(pacs: PacsProcess, file: Path, propose: str) -> str:
    """What storescu says of the response."""
    done = dcmtk.run("storescu", "-v", propose, "127.0.0.1", pacs.port, file)
    (said,) = re.findall(r"Received Store Response \((.*)\)", done.stdout + done.stderr)
    return str(said)
