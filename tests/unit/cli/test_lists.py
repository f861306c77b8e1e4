"""The lists that commands print: all of one look, tab-separated with a header for scripts, tables on a terminal."""

import os
import pwd
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
        "ID\tSTATUS\tAGE\tAE TITLE\tINSTANCES\tFAILED\tATTEMPTS\tTRANSACTION UID\tLAST ERROR",
        "1\tPENDING\t1.5d\tCT\\x1b1\t2\t0\t3\t1.1\tcannot connect",
    ],
    ("trash", "list", "--patient"): [
        "ID\tLEVEL\tUID\tDELETED AT\tBY\tINSTANCES\tBYTES\tSTATUS\tREMOVED AFTER\tREASON\tPATIENT ID",
        "FOLDER\tstudy\t1.2.9\tTIME\tUSER\t1\tBYTES\tKEPT\tDATE\twrong\\x1b [red]patient\tP9",
    ],
    ("peers", "seen"): [
        "CALLING AE\tCALLED AE\tADDRESS\tLAST SEEN\tFIRST SEEN\tCOUNT\tOUTCOME\tTLS\tIMPLEMENTATION",
        "CT1\tPACS\t10.0.0.7\t2026-03-01 12:05:00\t2026-03-01 12:00:00\t3\taccepted\tyes\tSCANNER_2",
        "-\tPACS\t10.0.0.8\t2026-03-01 12:04:00\t2026-03-01 12:00:00\t3\tcalling_ae_title\tno\t-",
    ],
    ("tasks", "list"): [
        "ID\tKIND\tTARGET\tPRIORITY\tSTATE\tAGE\tDUE\tATTEMPTS\tNOTE",
        "1\tcommitment\tCT\\x1b1\thigh\tready\tAGE\t-\t3\tcannot connect",
    ],
    ("worklist", "list"): [
        "ID\tSTATUS\tDATE\tTIME\tMODALITY\tSTATION\tACCESSION\tPATIENT ID\tPATIENT NAME\tDESCRIPTION",
        "1\tSCHEDULED\t20260105\t0930\tCT\tCT1\tA1\tP1\tDoe^Jo\tSkull, with a text that is longer than most",
        "2\tSCHEDULED\t20260106\t0930\tCT\tCT1\t-\tP2\tDoe^Jo\tChest",
    ],
    ("worklist", "unmatched"): [
        "STUDY UID\tDATE\tMODALITIES\tACCESSION\tINSTANCES",
        "1.2.8\t20260301\tCT\tACC8\t1",
    ],
    ("mpps", "list"): [
        "UID\tSTATUS\tSTART\tSTATION\tMODALITY\tRECEIVED\tREFERENCED\tPATIENT ID",
        "1.2.3\tIN PROGRESS\t20250301 1015\tCT1\tCT\t0\t0\tP1\\x1b[2J",
    ],
    ("backup", "backups", "--list"): [
        "SNAPSHOT\tINSTANCES\tBYTES\tSCHEMA\tMISSING OR DAMAGED",
        "TIME\t2\tBYTES\tREVISION\t0",
    ],
    ("patients", "P1"): [
        "PATIENT\tPATIENT ID\tNAME\tBIRTH DATE\tSTUDIES\tSTATUS",
        "@KEY\tP1\tTest^Patient\t19700101\t1\t-",
        "@KEY\tP1\tRoe^Richard\t19700101\t1\t-",
    ],
    ("conflicts",): [
        "CONFLICT\tSTUDY UID\tSTUDY\tINSTANCES\tPATIENT\tPATIENT ID\tNAME\tBIRTH DATE\tSTUDIES",
        "patient\t-\t-\t-\t@KEY\tP1\tTest^Patient\t19700101\t1",
        "patient\t-\t-\t-\t@KEY\tP1\tRoe^Richard\t19700101\t1",
    ],
    ("user", "list"): ["USER\tROLE\tLIMITS", "anna\tcontributor\t-"],
    ("audit", "search", "--patient", "P9"): [
        "TIME\tEVENT\tOUTCOME\tWHO\tABOUT\tQUERY\tDETAIL",
        "TIME\tBegin Transferring DICOM Instances\tsuccess\tUSER, SERVER\tP9 study 1.2.9\t-\t-",
        "TIME\tImport\tsuccess\tUSER, SERVER\tP9 study 1.2.9\t-\t1 stored",
    ],
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def archive(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive with something for every list."""
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    images = ((7, {"PatientName": "Roe^Richard"}), (8, {"AccessionNumber": "ACC8"}), (9, {"PatientID": "P9"}))
    for number, modified in images:
        uids = {"StudyInstanceUID": f"1.2.{number}", "StudyDate": "20260301"}
        make_ct(**uids, **modified).save_as(tmp_path / "image.dcm", enforce_file_format=True)
        assert run("import", "image.dcm")[0] == 0
    assert run("delete", "study", "1.2.9", "--reason", "wrong\x1b [red]patient", "--yes")[0] == 0
    item = ("--patient-name", "Doe^Jo", "--modality", "CT", "--station", "CT1", "--time", "09:30")
    long = "Skull, with a text that is longer than most"
    assert run("worklist", "add", *item, "--accession", "A1", "--patient-id", "P1", "--date", "2026-01-05",
               "--description", long)[0] == 0  # fmt: skip
    assert run("worklist", "add", *item, "--patient-id", "P2", "--description", "Chest", "--date", "2026-01-06")[0] == 0
    assert run("user", "add", "anna", "--password-stdin", typed=b"correct horse")[0] == 0
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
    """`text` with capitals in place of what varies from run to run."""
    user = pwd.getpwuid(os.getuid()).pw_name
    for pattern, name in (
        (r"(?m)^\S+(?=\tstudy\t1.2.9\t)", "FOLDER"),
        (rf"{TIME}(?=\t\S+\t1\t)", "TIME"),
        (rf"(?<=\tTIME\t){user}\t1\t\d+\tKEPT\t\d{{4}}-\d\d-\d\d", "USER\t1\tBYTES\tKEPT\tDATE"),
        (r"(?m)^\d{4}-\d\d-\d\dT\S+\t2\t\d+\t\w+", "TIME\t2\tBYTES\tREVISION"),
        (r"@\d+-\w+", "@KEY"),
        (r"(?<=\tready\t)[\d.]+[smhd]", "AGE"),
        (rf"(?m)^{TIME}(?=\t(?:Begin|Import))", "TIME"),
        (rf"\t{user}, \w+", "\tUSER, SERVER"),
    ):
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.slow
@pytest.mark.usefixtures("archive")
def test_scripts_get_a_header_and_lines_with_tabs(run: Run) -> None:
    for command, lines in LISTS.items():
        code, printed, error = run(*command)
        assert (code, error) == (0, "")
        found = steady(printed).splitlines()
        assert (found[0], set(lines) - set(found)) == (lines[0], set()), command
        assert {line.count("\t") for line in found} == {lines[0].count("\t")}
        assert lines[0].isupper()


@pytest.mark.slow
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
        assert titles.split() == lines[0].split()
        shown = " ".join(rows).split()
        for line in lines[1:]:
            # The words of a line but for those that vary.
            assert {word for word in line.split() if not word.lstrip("@").isupper()} <= set(shown), command


@pytest.mark.slow
def test_an_empty_list_is_a_header(run: Run, tmp_path: Path) -> None:
    (tmp_path / "users").touch()
    for command in (("conflicts",), ("tasks", "list"), ("user", "list")):
        code, printed, _ = run(*command)
        assert (code, printed.count("\n"), printed.isupper()) == (0, 1, True)
