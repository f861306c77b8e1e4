"""Items from the command line, a file, the watched folder and HL7: a modality finds them all."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import orders
import pytest
from commandline import call_command
from hl7.client import MLLPClient
from processes import PacsProcess, wait_for
from pydicom import dcmread
from worklists import item_dataset

CSV = """\
PatientName;PatientID;AccessionNumber;Modality;ScheduledStationAETitle;\
ScheduledProcedureStepStartDate;ScheduledProcedureStepStartTime;ScheduledProcedureStepDescription
Doe^Jo;P3;A3;CT;CT1;2026-01-05;09:30;Thorax
"""
ADD = (
    *("--patient-name", "Doe^Jo", "--patient-id", "P2", "--accession", "A2", "--modality", "CT", "--station", "CT1"),
    *("--date", "2026-01-05", "--time", "09:30", "--description", "Thorax"),
)


@pytest.fixture
def pacs(tmp_path: Path, database_url: str) -> Iterator[PacsProcess]:
    settings = {"worklist": {"folder": str(tmp_path / "orders"), "folder_interval": 0.1, "hl7_port": 0}}
    with PacsProcess(tmp_path / "server", database_url=database_url, settings=settings) as pacs:
        yield pacs


def hl7_address(pacs: PacsProcess) -> tuple[str, int]:
    found = re.search(r"listening .*\bhl7=(\S+):(\d+)", pacs.log())
    assert found
    return found[1], int(found[2])


def command(pacs: PacsProcess, *arguments: object) -> str:
    done = call_command("worklist", *arguments, "--config", pacs.config_file, cwd=pacs.directory)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def found(pacs: PacsProcess, directory: Path) -> dict[str, str]:
    """Accession numbers and patient names in the worklist of CT1, by findscu."""
    directory.mkdir()
    step = "ScheduledProcedureStepSequence[0]"
    keys = ("AccessionNumber", "PatientName", f"{step}.Modality=CT", f"{step}.ScheduledStationAETitle=CT1")
    flags = [part for key in keys for part in ("-k", key)]
    done = dcmtk.run("findscu", "-W", "-X", "-od", directory, *flags, "127.0.0.1", pacs.port)
    assert done.returncode == 0, done.stderr
    answers = [dcmread(file) for file in directory.iterdir()]
    return {str(ds.AccessionNumber): str(ds.PatientName) for ds in answers}


@pytest.mark.interop
def test_a_modality_finds_them_all(pacs: PacsProcess, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    with MLLPClient(*hl7_address(pacs)) as client:
        answer = client.send_message(orders.order())
    assert orders.answer(answer) == ("AA", "M1", "")
    assert command(pacs, "add", *ADD) == "2\n"
    (tmp_path / "a.csv").write_text(CSV)
    assert command(pacs, "import", tmp_path / "a.csv").endswith(": 1 added, 0 updated\n")
    item_dataset(AccessionNumber="A4").save_as(folder / "half", implicit_vr=True, little_endian=True)
    (folder / "half").rename(folder / "a.wl")
    (folder / "bad.json").write_text("{}")
    wait_for((folder / "done" / "a.wl").exists, "the file to be taken")
    wait_for((folder / "rejected" / "bad.json.reason.txt").exists, "the file to be rejected")

    expected = {"A1": "Müller^Anna^^Dr^Jr", "A2": "Doe^Jo", "A3": "Doe^Jo", "A4": "Müller^Anna"}
    assert found(pacs, tmp_path / "all") == expected
    assert pacs.metric("pacs_worklist_inputs_total") == 3

    with MLLPClient(*hl7_address(pacs)) as client:
        client.send_message(orders.order(control="CA", control_id="M2"))
    command(pacs, "remove", "A3")
    assert sorted(found(pacs, tmp_path / "left")) == ["A2", "A4"]


def test_a_restart_goes_on_with_the_folder(pacs: PacsProcess, tmp_path: Path) -> None:
    pacs.kill()
    (tmp_path / "orders" / "a.json").write_text(item_dataset().to_json())
    pacs.start()
    wait_for((tmp_path / "orders" / "done" / "a.json").exists, "the file to be taken")
    assert len(command(pacs, "list").splitlines()) == 2


def test_a_stop_ends_connections(pacs: PacsProcess) -> None:
    with socket.create_connection(hl7_address(pacs), 10) as peer:
        assert pacs.stop() == 0
        assert peer.recv(1) == b""
