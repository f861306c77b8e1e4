"""`pacs-server verify` beside a running server, killed and resumed, and the scrub of a real server."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandline import call_command
from datasets import make_ct, make_study
from processes import COMMAND, PacsProcess, clean_environment, wait_for
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.sop_class import CTImageStorage
from servers import associated


@pytest.fixture
def pacs(tmp_path: Path, database_url: str) -> Iterator[PacsProcess]:
    with PacsProcess(tmp_path / "server", database_url=database_url, settings={"storage": {"fsync": False}}) as pacs:
        yield pacs


def store(pacs: PacsProcess, instances: list[Dataset]) -> None:
    address = SimpleNamespace(address=("127.0.0.1", pacs.port))
    with associated(address, (CTImageStorage, [ExplicitVRLittleEndian])) as link:  # type: ignore[arg-type]
        assert [link.send_c_store(ds).Status for ds in instances] == [0] * len(instances)


def verify(pacs: PacsProcess, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return call_command("verify", "--config", pacs.config_file, *arguments, cwd=pacs.directory)


def report(pacs: PacsProcess, *arguments: object) -> dict[str, object]:
    done = verify(pacs, "--json", "-", *arguments)
    assert done.returncode in (0, 1), done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    assert told["clean"] is (done.returncode == 0)
    return told


def instances(pacs: PacsProcess) -> list[Path]:
    return sorted(pacs.archive.glob("*/*/*.dcm"))


def test_what_comes_in_meanwhile_is_no_finding(pacs: PacsProcess) -> None:
    stop = threading.Event()

    def keep_storing() -> None:
        while not stop.is_set():
            store(pacs, make_study(1, 10))

    with ThreadPoolExecutor(3) as pool:
        senders = [pool.submit(keep_storing) for _ in range(3)]
        try:
            reports = [report(pacs) for _ in range(3)]
        finally:
            stop.set()
        for sender in senders:
            sender.result(60)
    assert [told["findings"] for told in reports] == [[], [], []]
    final = report(pacs)
    assert final["instances"] == final["files"] == len(instances(pacs)) > 0


def test_findings_text_json_and_repair(pacs: PacsProcess, tmp_path: Path) -> None:
    store(pacs, make_study(1, 4, PatientID="SECRET", PatientName="Secret^Name"))
    missing, moved, changed, _ = instances(pacs)
    missing.unlink()
    moved.rename(pacs.archive / "moved.dcm")
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    (pacs.archive / "odd.txt").write_text("odd")

    done = verify(pacs, "--json", tmp_path / "report.json")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert sorted(line.partition(":")[0] for line in lines[:4]) == ["changed", "misplaced", "missing", "orphan"]
    assert lines[4] == "found: changed 1, misplaced 1, missing 1, orphan 1; repaired 0"
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["counts"] == {"changed": 1, "misplaced": 1, "missing": 1, "orphan": 1}
    assert {found["kind"]: found["path"] for found in written["findings"]}["misplaced"] == "moved.dcm"
    assert "SECRET" not in done.stdout.upper()

    repaired = report(pacs, "--repair")
    assert (repaired["clean"], repaired["repaired"]) == (False, 2)
    assert report(pacs)["counts"] == {"changed": 1, "missing": 1}
    trail = call_command("audit", "search", "--patient", "SECRET", "--config", pacs.config_file, cwd=pacs.directory)
    assert "verify --repair: misplaced" in trail.stdout


def test_an_orphan_that_is_taken_in_is_found_by_its_sender(pacs: PacsProcess) -> None:
    """A file that was put there is stored, and the same object from its sender is nothing new."""
    ds = make_ct()
    store(pacs, [make_ct()])
    folder = pacs.archive / str(ds.StudyInstanceUID) / str(ds.SeriesInstanceUID)
    folder.mkdir(parents=True)
    ds.save_as(folder / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
    assert report(pacs, "--repair")["repaired"] == 1
    store(pacs, [ds])
    assert report(pacs)["clean"] is True
    assert len(instances(pacs)) == 2


def test_killed_and_resumed(pacs: PacsProcess) -> None:
    store(pacs, make_study(1, 40, rows=256, columns=256))
    instances(pacs)[5].unlink()
    # 40 times 131 kB at 1 MB a second take five seconds.
    arguments = [*COMMAND, "verify", "--config", str(pacs.config_file), "--rate", "1MB"]
    with subprocess.Popen(arguments, cwd=pacs.directory, env=clean_environment(), stdout=subprocess.DEVNULL) as slow:
        try:
            wait_for(lambda: '"phase": "rows", "path"' in kept(pacs), "the run to save its position")
            wait_for(lambda: int(re.findall(r'"key": (\d+)', kept(pacs))[0]) > 5, "a position among the rows")
        finally:
            os.kill(slow.pid, signal.SIGKILL)
            slow.wait()
    resumed = report(pacs, "--resume")
    assert resumed["instances"] == 40
    assert resumed["counts"] == {"missing": 1}
    assert verify(pacs, "--resume").returncode == 2


def kept(pacs: PacsProcess) -> str:
    """The position of the run."""
    from pacs_server.index.database import Database
    from pacs_server.index.state import StateIndex

    database = Database(str(pacs.database_url), fsync=False)
    try:
        return StateIndex(database).get("verify") or ""
    finally:
        database.close()


@pytest.mark.parametrize(
    "arguments", [("--rate", "much"), ("--rate", "0"), ("--since", "soon"), ("--resume", "--study", "1.2")]
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "pacs.yaml").write_text("storage: {min_free_space: 0}\n")
    done = call_command("verify", "--config", tmp_path / "pacs.yaml", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "archive").exists()


def test_the_scrub_of_a_server(tmp_path: Path) -> None:
    """Findings are in metrics, status and log, and a reload starts it."""
    settings = {"storage": {"scrub_rate": None}}
    with PacsProcess(tmp_path, settings=settings) as pacs:
        store(pacs, make_study(1, 3))
        stored = instances(pacs)[0]
        stored.write_bytes(stored.read_bytes()[:-2] + b"\x01\x01")
        assert pacs.metric("pacs_scrub_checked_total") == 0
        pacs.configure({"storage": {"scrub_rate": "100MB"}})
        pacs.send_signal(signal.SIGHUP)
        wait_for(lambda: pacs.metric("pacs_scrub_checked_total") == 3, "the scrub to read all")
        wait_for(lambda: pacs.status()["scrub"]["last_pass"], "the pass to end")
        assert pacs.status()["scrub"]["findings"] == 1
        assert pacs.metric('pacs_scrub_findings{kind="changed"}') == 1
        assert f"stored instance is not in order sop_instance_uid={stored.stem} path=" in pacs.log()
    with PacsProcess(tmp_path, settings=settings) as pacs:
        wait_for(lambda: pacs.status()["scrub"]["findings"] == 1, "the finding to be there again")
