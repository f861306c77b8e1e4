"""Every instance that pydicom ships: in, and out again by C-GET and C-MOVE with an equal data set."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pydicom
import pytest
from datasets import data_set_bytes, pydicom_files_without_uids, pydicom_test_files
from processes import PacsProcess, wait_for
from rawpeer import Instance, association, retrieve, store, study_keys

from pacs_server.scp.contexts import is_storage

# Some of these files are odd on purpose, and pydicom says so.
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

MOST_CONTEXTS = 127


def identity(path: Path) -> tuple[str, str]:
    """Study and SOP Instance UID."""
    with warnings.catch_warnings(action="ignore"):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
    return str(ds.StudyInstanceUID), str(ds.SOPInstanceUID)


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    """The test files by SOP Instance UID; where several share one, the first."""
    chosen: dict[str, Path] = {}
    for path in pydicom_test_files():
        chosen.setdefault(identity(path)[1], path)
    return chosen


@pytest.fixture(scope="module")
def instances(files: dict[str, Path]) -> dict[str, Instance]:
    """What is sent for each."""
    return {uid: Instance.read(path) for uid, path in files.items()}


@pytest.fixture(scope="module")
def stored(pacs: PacsProcess, instances: dict[str, Instance]) -> PacsProcess:
    """The server with all of them in it."""
    statuses = send(pacs, list(instances.values()))
    assert {uid: status for uid, status in statuses.items() if status != 0} == {}
    return pacs


def send(pacs: PacsProcess, instances: list[Instance]) -> dict[str, int | None]:
    """C-STORE all of them and return their statuses."""
    kinds = {instance.kind for instance in instances}
    assert len(kinds) <= MOST_CONTEXTS
    with association(pacs.port, kinds) as link:
        return {instance.sop_instance_uid: store(link, instance).status for instance in instances}


def studies(files: dict[str, Path]) -> Iterator[str]:
    yield from sorted({identity(path)[0] for path in files.values()})


def test_files_hold_the_bytes_that_were_sent(stored: PacsProcess, instances: dict[str, Instance]) -> None:
    kept = {path.stem: data_set_bytes(path) for path in stored.files()}
    assert kept == {uid: (instance.transfer_syntax_uid, instance.data) for uid, instance in instances.items()}


def test_get_gives_the_bytes_back(stored: PacsProcess, files: dict[str, Path], instances: dict[str, Instance]) -> None:
    received: dict[str, bytes] = {}
    for study in studies(files):
        final, parts = retrieve(stored.port, {instance.kind for instance in instances.values()}, study_keys(study))
        assert (final.status, final.number_of_failed, final.number_of_completed) == (0, 0, len(parts))
        received |= parts

    assert received.keys() == instances.keys()
    assert [uid for uid, data in received.items() if data != on_the_wire(instances[uid].data)] == []


def on_the_wire(data: bytes) -> bytes:
    """A deflated data set may have been stored with an odd length, and is sent padded (PS3.5 A.5)."""
    return data + bytes(len(data) % 2)


def test_move_gives_the_bytes_back(
    stored: PacsProcess, files: dict[str, Path], instances: dict[str, Instance], tmp_path: Path
) -> None:
    # +xa: takes every transfer syntax; +B: writes what comes in, as it comes in; -pm: any SOP class.
    with dcmtk.StoreSCP(tmp_path / "moved", "+xa", "+B", "-pm") as scp:
        remotes = [{"ae_title": "STORESCP", "host": "127.0.0.1", "port": scp.port}]
        stored.reload({"remote_aes": remotes})
        for study in studies(files):
            keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
            done = dcmtk.run("movescu", "-S", "-aem", "STORESCP", *keys, "127.0.0.1", stored.port)
            assert done.returncode == 0, (study, done.stderr)
        moved = {}
        for path in scp.files():
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            moved[str(ds.SOPInstanceUID)] = data_set_bytes(path)

    expected = {uid: (item.transfer_syntax_uid, on_the_wire(item.data)) for uid, item in instances.items()}
    assert moved.keys() == expected.keys()
    assert [uid for uid, kept in moved.items() if kept != expected[uid]] == []


def test_invalid_uids_are_refused_and_leave_nothing(stored: PacsProcess) -> None:
    before = stored.files()
    for path in pydicom_files_without_uids():
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        sop_class = str(ds.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.7")
        syntax = data_set_bytes(path)
        instance = Instance(sop_class, str(ds.get("SOPInstanceUID") or "1.2.3"), *syntax)
        if not is_storage(sop_class, accept_unknown=True):
            # A DICOMDIR or a palette; offered as a secondary capture it lacks the UIDs all the same.
            instance = Instance("1.2.840.10008.5.1.4.1.1.7", "1.2.3", *syntax)
        assert send(stored, [instance])[instance.sop_instance_uid] == 0xC000, path.name

    assert stored.files() == before
    assert stored.instances() == len(before)
    wait_for(lambda: not stored.incoming(), "nothing half received, and a checkpoint")
