"""Deleting beside a running server: what peers see of it, what they send again, and two processes at once."""

import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import servers
from commandline import call_command
from datasets import make_ct, uid
from processes import COMMAND, PacsProcess, clean_environment, wait_for
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage
from servers import STUDY_FIND, STUDY_GET


@pytest.fixture
def pacs(tmp_path: Path, database_url: str) -> Iterator[PacsProcess]:
    with PacsProcess(tmp_path / "site", database_url=database_url) as process:
        yield process


def command(pacs: PacsProcess, *arguments: object) -> subprocess.CompletedProcess[str]:
    return call_command(*arguments, "--config", pacs.config_file, cwd=pacs.directory)


def delete(pacs: PacsProcess, level: str, target: str) -> None:
    done = command(pacs, "delete", level, target, "--reason", "why", "--yes")
    assert done.returncode == 0, done.stderr


def trash(pacs: PacsProcess) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(command(pacs, "trash", "list", "--json").stdout)
    return found


def store(pacs: PacsProcess, *instances: Dataset) -> list[int]:
    ae = AE("MODALITY")
    ae.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = ae.associate(pacs.host, pacs.port)
    assert association.is_established
    with servers.held_back(association):
        statuses = [association.send_c_store(ds).Status for ds in instances]
    association.release()
    return statuses


def found(pacs: PacsProcess, study: str) -> int:
    """How many series of a study a C-FIND finds; each has one instance."""
    ae = AE("SCU")
    ae.add_requested_context(STUDY_FIND)
    association = ae.associate(pacs.host, pacs.port)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID, keys.SeriesInstanceUID = "SERIES", study, ""
    with servers.held_back(association):
        responses = list(association.send_c_find(keys, STUDY_FIND))
    association.release()
    assert responses[-1][0].Status == 0
    return len(responses) - 1


def test_deleted_restored_and_stored_anew_while_the_server_runs(pacs: PacsProcess) -> None:
    study = uid()
    instances = [make_ct(study) for _ in range(3)]
    assert store(pacs, *instances) == [0, 0, 0]
    assert (pacs.instances(), found(pacs, study), len(pacs.files())) == (3, 3, 3)

    delete(pacs, "study", study)
    assert (pacs.instances(), found(pacs, study)) == (0, 0)
    (kept,) = trash(pacs)
    assert kept["instances"] == 3
    assert store(pacs, instances[0]) == [0]
    assert (pacs.instances(), found(pacs, study)) == (1, 1)

    restored = command(pacs, "trash", "restore", kept["id"])
    assert restored.returncode == 1
    assert restored.stdout == "restored 2 instances\n", restored.stderr
    assert (pacs.instances(), found(pacs, study)) == (3, 3)
    assert command(pacs, "trash", "empty", "--yes").returncode == 0
    assert trash(pacs) == []
    assert found(pacs, study) == 3
    shown = command(pacs, "audit", "search", "--study", study)
    assert shown.stdout.count("Study Deleted") == 2, shown.stdout


def test_many_instances_take_seconds(tmp_path: Path) -> None:
    study, series = uid(), uid()
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(300):
        ds = make_ct(study, series, rows=2, columns=2)
        ds.save_as(folder / str(number), enforce_file_format=True)
    with PacsProcess(tmp_path / "site", settings={"storage": {"fsync": False}}) as pacs:
        assert command(pacs, "import", folder).returncode == 0
        started = time.monotonic()
        delete(pacs, "study", study)
        assert time.monotonic() - started < 20
        assert pacs.instances() == 0
        (kept,) = trash(pacs)
        started = time.monotonic()
        assert command(pacs, "trash", "restore", kept["id"]).stdout == "restored 300 instances\n"
        assert time.monotonic() - started < 20
        assert pacs.instances() == 300


def test_sent_and_deleted_again_and_again_at_the_same_time(pacs: PacsProcess) -> None:
    """Whatever comes first: in the end each instance that was acknowledged last is there or in the trash, whole."""
    study = uid()
    instances = [make_ct(study, rows=2, columns=2) for _ in range(4)]
    assert store(pacs, *instances) == [0] * 4
    stopping = threading.Event()
    statuses: list[int] = []

    def send() -> None:
        while not stopping.is_set():
            statuses.extend(store(pacs, *instances))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(2):
            assert command(pacs, "delete", "study", study, "--reason", "race", "--yes").returncode in (0, 1)
    finally:
        stopping.set()
        sender.join(60)
    # The last word is the sender's.
    assert store(pacs, *instances) == [0] * 4
    assert pacs.instances() == 4
    assert set(statuses) <= {0, 0xA700, 0x0110, 0x0111, 0x0112, 0xC000}
    assert statuses.count(0) > 0
    assert_retrievable(pacs, study, 4)


def assert_retrievable(pacs: PacsProcess, study: str, instances: int) -> None:
    got: list[bytes] = []

    def take(event: evt.Event) -> int:
        got.append(event.request.DataSet.getvalue())
        return 0

    ae = AE("SCU")
    ae.add_requested_context(STUDY_GET)
    ae.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    roles = [build_role(CTImageStorage, scp_role=True)]
    association = ae.associate(pacs.host, pacs.port, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, take)])
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study
    with servers.held_back(association):
        responses = list(association.send_c_get(keys, STUDY_GET))
    association.release()
    assert responses[-1][0].Status == 0
    assert len(got) == instances


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_the_command_is_killed(pacs: PacsProcess, seconds: float) -> None:
    """What it left is finished, or was never begun, when the next one has run."""
    study = uid()
    instances = [make_ct(study, rows=2, columns=2) for _ in range(20)]
    assert store(pacs, *instances) == [0] * 20
    process = subprocess.Popen(
        [*COMMAND, "delete", "study", study, "--reason", "why", "--yes", "--config", str(pacs.config_file)],
        env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait(60)
    kept = trash(pacs)
    if kept:
        assert pacs.instances() == 0
        assert command(pacs, "trash", "restore", kept[0]["id"]).returncode == 0
    assert pacs.instances() == 20
    assert_retrievable(pacs, study, 20)
    assert trash(pacs) == []


def test_the_server_removes_what_is_past_its_time(tmp_path: Path) -> None:
    pacs = PacsProcess(tmp_path / "site", settings={"storage": {"trash_days": 1}})
    with pacs:
        ds = make_ct()
        assert store(pacs, ds) == [0]
        delete(pacs, "study", ds.StudyInstanceUID)
        (kept,) = trash(pacs)
    folder = pacs.archive / "trash" / str(kept["id"])
    assert (folder / "deletion.json").exists()
    _age(pacs, days=2)
    with pacs:
        wait_for(lambda: not folder.exists(), "the removal")
        wait_for(lambda: trash(pacs) == [], "an empty list")


def _age(pacs: PacsProcess, days: int) -> None:
    with closing(sqlite3.connect(pacs.directory / "pacs.db")) as database:
        database.execute("UPDATE deletion SET deleted_at = datetime(deleted_at, ?)", (f"-{days} days",))
        database.commit()
