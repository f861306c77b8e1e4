"""Retrieval by DCMTK: getscu, and movescu between this server, storescp and dcmqrscp."""

import re
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pydicom
import pytest
from datasets import data_set_bytes, make_study, pydicom_test_files, write_part10
from processes import PacsProcess, run_command, wait_for
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from rawpeer import Instance, association, store

pytestmark = pytest.mark.interop

COUNTED = ("Completed Suboperations", "Failed Suboperations")
COMPRESSED = (
    "MR_small_RLE.dcm",
    "SC_rgb_rle.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
)


@pytest.fixture
def study(tmp_path: Path) -> list[Dataset]:
    """Two series of three instances."""
    return make_study(2, 3)


def send(pacs: PacsProcess, instances: list[Dataset]) -> None:
    with association(pacs.port, {(str(ds.SOPClassUID), ExplicitVRLittleEndian) for ds in instances}) as link:
        assert {store(link, Instance.of(ds)).status for ds in instances} == {0}


def keys(instance: Dataset, level: str) -> list[str]:
    """Options of getscu and movescu that name the study, series or instance."""
    wanted = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}[level]
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[:wanted]
    options = ["-k", f"QueryRetrieveLevel={level}"]
    return options + [option for keyword in uids for option in ("-k", f"{keyword}={instance[keyword].value}")]


def move(port: int, destination: str, instance: Dataset, level: str = "STUDY", called: str = "PACS_SERVER") -> str:
    """movescu; its output, after a move that succeeded."""
    done = dcmtk.run(
        "movescu", "-v", "-S", "-aec", called, "-aem", destination, *keys(instance, level), "127.0.0.1", port
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def uids_in(files: list[Path]) -> list[str]:
    return sorted(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files)


def uids_of(instances: list[Dataset]) -> list[str]:
    return sorted(ds.SOPInstanceUID for ds in instances)


@pytest.mark.parametrize(("level", "count"), [("STUDY", 6), ("SERIES", 3), ("IMAGE", 1)])
def test_get_at_every_level(pacs: PacsProcess, study: list[Dataset], tmp_path: Path, level: str, count: int) -> None:
    send(pacs, study)
    target = tmp_path / "got"
    target.mkdir()

    done = dcmtk.run("getscu", "-S", "+B", "-od", target, *keys(study[0], level), "127.0.0.1", pacs.port)

    assert done.returncode == 0, done.stderr
    assert uids_in(list(target.iterdir())) == uids_of(study[:count])
    sent = {ds.SOPInstanceUID: Instance.of(ds).data for ds in study}
    for path in target.iterdir():
        assert data_set_bytes(path) == (ExplicitVRLittleEndian, sent[dcmread(path).SOPInstanceUID])


def test_get_by_patient(pacs: PacsProcess, tmp_path: Path) -> None:
    instances = make_study(1, 2, PatientID="GET1") + make_study(1, 2, PatientID="GET1")
    send(pacs, instances)
    (tmp_path / "got").mkdir()
    done = dcmtk.run(
        "getscu", "-P", "-od", tmp_path / "got", "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=GET1",
        "127.0.0.1", pacs.port,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert uids_in(list((tmp_path / "got").iterdir())) == uids_of(instances)


@pytest.mark.filterwarnings("ignore")
def test_get_of_a_compressed_object_into_what_getscu_takes(sqlite_pacs: PacsProcess, tmp_path: Path) -> None:
    (original,) = [path for path in pydicom_test_files() if path.name == "MR_small_RLE.dcm"]
    instance = Instance.read(original)
    with association(sqlite_pacs.port, [instance.kind]) as link:
        assert store(link, instance).status == 0
    (tmp_path / "got").mkdir()
    options = ("-S", "+B", "-od", tmp_path / "got", *keys(dcmread(original), "IMAGE"))

    done = dcmtk.run("getscu", *options, "127.0.0.1", sqlite_pacs.port)

    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "got").iterdir()
    assert data_set_bytes(file)[0] == ExplicitVRLittleEndian
    assert (dcmread(file).pixel_array == dcmread(original).pixel_array).all()


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[dcmtk.StoreSCP]:
    """A storescp that accepts every transfer syntax."""
    with dcmtk.StoreSCP(tmp_path / "moved", "+xa", "+B") as scp:
        yield scp


def know(pacs: PacsProcess, *remotes: tuple[str, int], **settings: object) -> None:
    """Give the running server these move destinations."""
    known = [{"ae_title": title, "host": "127.0.0.1", "port": port} | settings for title, port in remotes]
    pacs.reload({"remote_aes": known})


@pytest.mark.parametrize(("level", "count"), [("STUDY", 6), ("SERIES", 3), ("IMAGE", 1)])
def test_move_at_every_level(
    sqlite_pacs: PacsProcess, study: list[Dataset], destination: dcmtk.StoreSCP, level: str, count: int
) -> None:
    know(sqlite_pacs, (destination.ae_title, destination.port))
    send(sqlite_pacs, study)

    move(sqlite_pacs.port, destination.ae_title, study[0], level)

    assert uids_in(destination.files()) == uids_of(study[:count])


# storescp's ways to disappoint, and what a C-MOVE of six instances comes to: status, completed and failed. An
# association that breaks without any success on it costs all of them.
DISAPPOINTING = {
    ("--refuse",): (0xA702, 0, 6),
    ("--abort-after",): (0xA702, 0, 6),
    ("--abort-during",): (0xA702, 0, 6),
    ("--sleep-during", "2"): (0xA702, 0, 6),
    ("--ignore",): (0x0000, 6, 0),
}


@pytest.mark.parametrize("options", DISAPPOINTING, ids=lambda options: options[0].strip("-"))
def test_a_storescp_that_disappoints(
    sqlite_pacs: PacsProcess, tmp_path: Path, study: list[Dataset], options: tuple[str, ...]
) -> None:
    send(sqlite_pacs, study)
    with dcmtk.StoreSCP(tmp_path / "moved", *options) as scp:
        know(sqlite_pacs, (scp.ae_title, scp.port), response_timeout=1 if "--sleep-during" in options else 30)
        asked = ("-d", "-S", "-aem", scp.ae_title, *keys(study[0], "STUDY"), "127.0.0.1", sqlite_pacs.port)
        done = dcmtk.run("movescu", *asked)
    said = done.stdout + done.stderr
    last = {name: re.findall(rf"{name} +: (\w+)", said)[-1] for name in ("DIMSE Status", *COUNTED)}
    assert tuple(int(value, 0) for value in last.values()) == DISAPPOINTING[options], said
    assert wait_for(lambda: sqlite_pacs.status()["associations"]["connections"] == 0, "the end of all associations")


def test_move_to_nobody_known(sqlite_pacs: PacsProcess, study: list[Dataset]) -> None:
    send(sqlite_pacs, study)
    done = dcmtk.run("movescu", "-S", "-aem", "NOBODY", *keys(study[0], "STUDY"), "127.0.0.1", sqlite_pacs.port)
    assert "Refused: MoveDestinationUnknown" in done.stderr


def compressed_files() -> list[Path]:
    files = [path for path in pydicom_test_files() if path.name in COMPRESSED]
    assert len(files) >= 3
    return files


@pytest.mark.filterwarnings("ignore")  # some of pydicom's files are odd on purpose
@pytest.mark.parametrize("option", ["+xi", "+x="])
def test_a_destination_of_uncompressed_only_gets_equal_pixels(
    sqlite_pacs: PacsProcess, tmp_path: Path, option: str
) -> None:
    originals = {}
    for path in compressed_files():
        instance = Instance.read(path)
        with association(sqlite_pacs.port, [instance.kind]) as link:
            # 0x0111: another of these files has the same UID.
            if store(link, instance).status == 0:
                originals[instance.sop_instance_uid] = path
    with dcmtk.StoreSCP(tmp_path / "moved", option, "+B", "-pm") as scp:
        know(sqlite_pacs, (scp.ae_title, scp.port))
        for path in originals.values():
            move(sqlite_pacs.port, scp.ae_title, dcmread(path, stop_before_pixels=True), "IMAGE")
        received = {str(dcmread(path).SOPInstanceUID): path for path in scp.files()}

    assert received.keys() == originals.keys()
    for uid, path in received.items():
        ds = dcmread(path)
        assert not ds.file_meta.TransferSyntaxUID.is_compressed
        wanted = pydicom.pixels.pixel_array(originals[uid], raw=True)
        assert (pydicom.pixels.pixel_array(ds, raw=True) == wanted).all()


EXPLICIT, IMPLICIT, JPEG_LS = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(JPEGLSLossless)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("+x=", [EXPLICIT, IMPLICIT, EXPLICIT]),
        ("+xe", [EXPLICIT, IMPLICIT, EXPLICIT]),
        ("+xi", [IMPLICIT, IMPLICIT, IMPLICIT]),
        ("+xt", [EXPLICIT, IMPLICIT, JPEG_LS]),
        ("+xs", [EXPLICIT, IMPLICIT, EXPLICIT]),
        ("+xa", [EXPLICIT, IMPLICIT, JPEG_LS]),
    ],
)
def test_objects_of_one_series_go_out_as_they_are_stored_if_the_destination_takes_that(
    sqlite_pacs: PacsProcess, tmp_path: Path, option: str, expected: list[str]
) -> None:
    """Whatever storescp likes best: it decides about each presentation context by its own order."""
    study = make_study(1, 3)
    study[1].file_meta.TransferSyntaxUID = IMPLICIT
    files = [write_part10(ds, tmp_path / f"{number}.dcm") for number, ds in enumerate(study)]
    done = dcmtk.run("dcmcjpls", files[2], tmp_path / "compressed.dcm")
    assert done.returncode == 0, done.stderr
    for file in (*files[:2], tmp_path / "compressed.dcm"):
        import_file(sqlite_pacs, file)

    with dcmtk.StoreSCP(tmp_path / "moved", option, "+B") as scp:
        know(sqlite_pacs, (scp.ae_title, scp.port))
        move(sqlite_pacs.port, scp.ae_title, study[0])
        received = {str(dcmread(path).SOPInstanceUID): data_set_bytes(path)[0] for path in scp.files()}
    assert [received[ds.SOPInstanceUID] for ds in study] == expected


def test_an_odd_deflated_object_is_sent_padded(tmp_path: Path) -> None:
    """PS3.8 Annex E.2: DCMTK aborts on an odd fragment; PS3.5 A.5: a deflated data set is padded to even length."""
    (original,) = [path for path in pydicom_test_files() if path.name == "image_dfl.dcm"]
    assert len(data_set_bytes(original)[1]) % 2 == 1
    with dcmtk.StoreSCP(tmp_path / "moved", "+xa", "+B") as scp:
        remote = {"ae_title": scp.ae_title, "host": "127.0.0.1", "port": scp.port}
        with PacsProcess(tmp_path / "pacs", settings={"remote_aes": [remote]}) as pacs:
            import_file(pacs, original)
            move(pacs.port, scp.ae_title, dcmread(original))
        (file,) = scp.files()
    assert data_set_bytes(file)[1] == data_set_bytes(original)[1] + b"\0"
    assert Dataset(dcmread(file)) == Dataset(dcmread(original))


def import_file(pacs: PacsProcess, path: Path) -> None:
    done = run_command("import", "--config", pacs.config_file, path, cwd=pacs.directory)
    assert done.returncode == 0, done.stderr


def test_there_and_back_between_dcmqrscp_and_us(pacs: PacsProcess, tmp_path: Path) -> None:
    """We move to dcmqrscp; a second server of ours is empty, and dcmqrscp moves it all to that one."""
    study = make_study(2, 3)
    send(pacs, study)
    with (
        PacsProcess(tmp_path / "second", settings={"server": {"ae_title": "SECOND"}}) as second,
        dcmtk.DcmQRSCP(tmp_path / "qr", peers=(("SECOND", second.port),)) as qr,
    ):
        know(pacs, (qr.ae_title, qr.port))
        move(pacs.port, qr.ae_title, study[0])
        found = dcmtk.run(
            "findscu", "-S", "-aec", qr.ae_title, "-k", "QueryRetrieveLevel=STUDY", "-k",
            f"StudyInstanceUID={study[0].StudyInstanceUID}", "127.0.0.1", qr.port,
        )  # fmt: skip
        assert study[0].StudyInstanceUID in found.stdout + found.stderr

        move(qr.port, "SECOND", study[0], called=qr.ae_title)

        assert second.instances() == 6
        assert uids_in(second.files()) == uids_of(study)
        originals = {ds.SOPInstanceUID: ds for ds in study}
        for path in second.files():
            ds = dcmread(path)
            assert Dataset(ds) == Dataset(originals[ds.SOPInstanceUID])


def test_move_to_ourselves_changes_nothing(pacs: PacsProcess) -> None:
    study = make_study(1, 2)
    send(pacs, study)
    know(pacs, ("PACS_SERVER", pacs.port))
    before = pacs.files()

    move(pacs.port, "PACS_SERVER", study[0])

    assert pacs.files() == before
    assert pacs.instances() == len(before)


def test_a_study_written_to_disk_by_dcmtk_comes_back_equal(pacs: PacsProcess, tmp_path: Path) -> None:
    study = make_study(1, 3)
    for ds in study:
        write_part10(ds, tmp_path / "send" / f"{ds.SOPInstanceUID}.dcm")
    assert dcmtk.run("storescu", "+sd", "127.0.0.1", pacs.port, tmp_path / "send").returncode == 0
    (tmp_path / "got").mkdir()
    done = dcmtk.run("getscu", "-S", "-od", tmp_path / "got", *keys(study[0], "STUDY"), "127.0.0.1", pacs.port)
    assert done.returncode == 0, done.stderr
    originals = {ds.SOPInstanceUID: ds for ds in study}
    got = [dcmread(path) for path in (tmp_path / "got").iterdir()]
    assert len(got) == 3
    assert all(Dataset(ds) == Dataset(originals[ds.SOPInstanceUID]) for ds in got)
