"""The lists that commands print: byte for byte the same for scripts, and tables on a terminal."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from datasets import make_ct
from pydicom.dataset import Dataset
from terminals import Terminal

from pacs_server.app.assembly import open_archive
from pacs_server.cli import main as cli
from pacs_server.config.load import load
from pacs_server.dicom.commitment import CommitmentRequest, Reference
from pacs_server.index.commitment import KIND, CommitmentIndex, Schedule, follow
from pacs_server.index.peers import PeerIndex, PeerSeen
from pacs_server.index.task_values import Lease, TaskState
from pacs_server.index.tasks import Settlement, TaskIndex

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"

# What varies from run to run is put in capitals.
LISTS = {
    ("commitment", "list"): [
        "id\tstatus\tage\tae_title\tinstances\tfailed\tattempts\ttransaction_uid\tlast_error",
        "1\tPENDING\t1.5d\tCT\\x1b1\t2\t0\t3\t1.1\tcannot connect",
    ],
    ("trash", "list", "--patient"): [
        "ID\tLEVEL\tUID\tDELETED AT\tBY\tINSTANCES\tBYTES\tSTATUS\tREMOVED AFTER\tREASON\tPATIENT ID",
        "FOLDER\tstudy\t1.2.9\tTIME\tUSER\t1\tBYTES\tKEPT\tDATE\twrong\\x1b [red]patient\tP9",
    ],
    ("peers", "seen"): [
        "calling_ae\tcalled_ae\taddress\tlast_seen\tfirst_seen\tcount\toutcome\ttls\timplementation",
        "CT1\tPACS\t10.0.0.7\t2026-03-01 12:05:00\t2026-03-01 12:00:00\t3\taccepted\tyes\tSCANNER_2",
        "-\tPACS\t10.0.0.8\t2026-03-01 12:04:00\t2026-03-01 12:00:00\t3\tcalling_ae_title\tno\t-",
    ],
    ("worklist", "list"): [
        "ID      STATUS        DATE      TIME    MODALITY  STATION           ACCESSION         PATIENT ID        "
        "PATIENT NAME              DESCRIPTION",
        "1       SCHEDULED     20260105  0930    CT        CT1               A1                P1                "
        "Doe^Jo                    Skull, with a text that is longer than any column is wide",
        "2       SCHEDULED     20260106  0930    CT        CT1               A2                P2                "
        "Doe^Jo                    Chest",
    ],
    ("worklist", "unmatched"): ["1.2.8  20260301  CT  ACC8  1 instances"],
    ("mpps", "list"): ["1.2.3  IN PROGRESS  20250301 1015  CT1  CT  received 0 of 0  P1\\x1b[2J"],
    ("backup", "backups", "--list"): ["SNAPSHOT  1 instances  BYTES bytes  schema SCHEMA"],
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def archive(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive with something for every list."""
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    for number, modified in ((8, {"AccessionNumber": "ACC8"}), (9, {"PatientID": "P9"})):
        uids = {"StudyInstanceUID": f"1.2.{number}", "StudyDate": "20260301"}
        make_ct(**uids, **modified).save_as(tmp_path / "image.dcm", enforce_file_format=True)
        assert run("import", "image.dcm")[0] == 0
    assert run("delete", "study", "1.2.9", "--reason", "wrong\x1b [red]patient", "--yes")[0] == 0
    item = ("--patient-name", "Doe^Jo", "--modality", "CT", "--station", "CT1", "--time", "09:30")
    long = "Skull, with a text that is longer than any column is wide"
    assert run("worklist", "add", *item, "--accession", "A1", "--patient-id", "P1", "--date", "2026-01-05",
               "--description", long)[0] == 0  # fmt: skip
    assert (
        run(
            "worklist",
            "add",
            *item,
            "--accession",
            "A2",
            "--patient-id",
            "P2",
            "--description",
            "Chest",
            "--date",
            "2026-01-06",
        )[0]
        == 0
    )
    assert run("backup", "backups")[0] == 0
    with open_archive(load(None, environ=os.environ, overrides={})) as archive:
        peer = PeerSeen("CT1", "PACS", "10.0.0.7", NOON, NOON + timedelta(minutes=5), 3, "accepted", True, "SCANNER_2")
        other = {"calling_ae": "", "address": "10.0.0.8", "outcome": "calling_ae_title", "tls": False}
        later = {"last_seen_at": NOON + timedelta(minutes=4), "implementation_version_name": ""}
        PeerIndex(archive.database).add([peer, replace(peer, **other, **later)])
        commitments, asked = CommitmentIndex(archive.database), datetime.now(UTC) - timedelta(hours=36)
        schedule = Schedule(asked, asked + timedelta(days=3), Lease("1.1", "node", asked + timedelta(hours=1000)))
        request = CommitmentRequest("1.1", (Reference("1.2", "1.3"), Reference("1.2", "1.4")))
        _, task = commitments.add(request, "CT\x1b1", "127.0.0.1", schedule)
        tasks = TaskIndex(archive.database, {KIND: follow})
        assert tasks.settle(task, Settlement(TaskState.READY, 3, "cannot connect"), datetime.now(UTC))
        archive.mpps.create("1.2.3", step().to_json_dict(), "CT1")


def step() -> Dataset:
    """A step in progress."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID, scheduled.ScheduledProcedureStepID = "9.1", "S9"
    ds = Dataset()
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PerformedProcedureStepStatus, ds.PerformedProcedureStepID = "IN PROGRESS", "P"
    ds.PerformedStationAETitle, ds.Modality, ds.PatientID = "CT1", "CT", "P1\x1b[2J"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20250301", "1015"
    ds.PatientName, ds.PerformedSeriesSequence = "Doe^Jo", []
    return ds


def steady(text: str) -> str:
    """`text` without what varies from run to run."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d{6}\.\d+Z", "SNAPSHOT", text)
    text = re.sub(r"schema \S+", "schema SCHEMA", re.sub(r"\d+ bytes", "BYTES bytes", text))
    found = re.fullmatch(rf"(?s)(.*\n)\S+\tstudy\t1.2.9\t{TIME}\t\S+\t1\t\d+\tKEPT\t\d{{4}}-\d\d-\d\d\t(.*)", text)
    return text if found is None else f"{found[1]}FOLDER\tstudy\t1.2.9\tTIME\tUSER\t1\tBYTES\tKEPT\tDATE\t{found[2]}"


@pytest.mark.usefixtures("archive")
def test_scripts_get_the_same_lines_as_ever(run: Run) -> None:
    for command, lines in LISTS.items():
        code, printed, error = run(*command)
        assert (code, error) == (0, "")
        assert steady(printed) == "".join(f"{line}\n" for line in lines), command


@pytest.mark.usefixtures("archive")
def test_people_get_a_table_with_the_same_cells(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    for command, lines in LISTS.items():
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "argv", ["pacs-server", *command])
            with pytest.raises(SystemExit) as caught:
                cli.main()
        assert caught.value.code == 0
        titles, *rows = re.sub(r"\x1b\[[01]m", "", terminal.getvalue()).splitlines()
        titled = lines[0].startswith(("id", "ID", "calling_ae"))
        assert titles.isupper() or titled
        assert len(rows) == len(lines) - titled, command
        # The words of a line without the nouns that the titles say on a terminal.
        words = [word for word in lines[-1].split() if not word.isupper() and word not in NOUNS]
        assert set(words) <= set(rows[-1].split()), command


NOUNS = {"instances", "bytes", "schema", "received"}


@pytest.mark.usefixtures("archive")
def test_patients_are_lines_for_scripts_too(run: Run) -> None:
    printed = run("patients", "P1")[1]
    assert re.fullmatch(r"@1-\w+  P1  Test\^Patient  19700101  1 studies\n", printed), printed
