"""The commands of the audit trail, run in this process on a small trail."""

import csv
import json
import os
import pwd
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from audits import an_event, clock

from pacs_server.audit.events import Action, Event, EventID, Outcome, Participant
from pacs_server.audit.trail import AuditTrail, open_trail
from pacs_server.audit.verify import verify
from pacs_server.config import AuditConfig
from pacs_server.dicom.subject import Subject

Run = Callable[..., tuple[int, list[str], str]]
MOVER = Participant("WS1", address="10.0.0.9", requestor=True)


def about(*subjects: Subject, user: Participant = MOVER, **query: str) -> Event:
    return Event(
        EventID.QUERY, Action.READ, (user,), Outcome.MINOR_FAILURE, None, subjects, query=query, detail="moved"
    )


def fill(trail: AuditTrail) -> None:
    with clock("2026-03-01"):
        trail.write(an_event("P1", "1.1", user="dr.who"))
        trail.write(an_event("P10", "1.10"))
        trail.write(about(Subject("", study_instance_uid="1.1")))
        trail.write(about(Subject("P2", study_instance_uid="1.1")))
    with clock("2026-03-02"):
        trail.write(about(PatientID="P9\\P1", PatientName="M*\x1b[2J"))
        trail.write(about(PatientID="P*"))
        trail.write(about(StudyInstanceUID="1.1"))
    with clock("2026-03-03"):
        trail.write(about(Subject("P1", study_instance_uid="1.3"), Subject("P7", study_instance_uid="1.7")))
        trail.write(an_event("=cmd|' /C calc'!A0", detail="\t+1"))


@pytest.fixture
def settings(tmp_path: Path) -> AuditConfig:
    return AuditConfig(directory=tmp_path / "audit")


@pytest.fixture
def run(run: Any, settings: AuditConfig) -> Run:
    with open_trail(settings) as trail:
        fill(trail)
    return partial(run.lines, "audit")


def numbers(run: Run, *arguments: object) -> list[int]:
    code, lines, error = run("search", "--json", *arguments)
    assert (code, error) == (0, "")
    return [json.loads(line)["seq"] for line in lines]


def test_verify(run: Run, settings: AuditConfig) -> None:
    code, lines, _ = run("verify")
    last = verify(settings).last
    assert (code, lines) == (
        0,
        ["ok: 11 records in 3 files, the first is record 1", f"the last is record 11, MAC {last.mac}"],
    )
    assert verify(settings).last == last  # to verify leaves no trace, and no change


def test_verify_names_the_first_record_that_is_broken(run: Run, settings: AuditConfig) -> None:
    file = settings.directory / "audit-2026-03-01.jsonl"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b'"P10"', b'"P11"'))
    problem = "audit-2026-03-01.jsonl line 2: record 2: changed: its MAC is not that of its content"
    assert run("verify") == (1, [], f"pacs-server: the audit trail is broken: {problem}\n")


@pytest.mark.parametrize("command", [["verify"], ["search", "--user", "x"], ["export"]])
def test_without_a_trail(run: Run, settings: AuditConfig, command: list[str]) -> None:
    settings.directory.rename(settings.directory.with_name("moved"))
    code, lines, error = run(*command)
    assert (code, lines) == (2, [])
    assert f"there is no audit trail in {settings.directory} (" in error
    assert "--config FILE or with the variable PACS_SERVER_CONFIG" in error
    assert not settings.directory.exists()


@pytest.mark.slow
def test_who_touched_a_patient(run: Run) -> None:
    # Record 5 and 9 are the anchors; 3 is about the patient's study, 4 about another patient's of the same UID.
    assert numbers(run, "--patient", "P1") == [1, 3, 6, 8, 10]
    code, lines, _ = run("search", "--patient", "P1")
    assert code == 0
    titles, *rows = [line.split("\t") for line in lines]
    assert titles == ["TIME", "EVENT", "OUTCOME", "WHO", "ABOUT", "QUERY", "DETAIL"]
    assert rows[0] == [
        *("2026-03-01 12:00:00", "Query", "success", "dr.who at CT1 from 10.0.0.7", "P1 study 1.1", "-", "-")
    ]
    assert rows[2] == [
        *("2026-03-02 12:00:00", "Query", "minor failure", "WS1 from 10.0.0.9", "-"),
        *("PatientID=P9\\P1, PatientName=M*\\x1b[2J", "moved"),
    ]
    assert rows[4] == [
        *("2026-03-03 12:00:00", "Query", "minor failure", "WS1 from 10.0.0.9", "P1 study 1.3", "-", "moved")
    ]


@pytest.mark.slow
def test_searching_narrows(run: Run) -> None:
    assert numbers(run, "--patient", "P1", "--from", "2026-03-02", "--to", "2026-03-02") == [6, 8]
    assert numbers(run, "--patient", "P1", "--user", "DR.WHO") == [1]
    assert numbers(run, "--patient", "P1", "--study", "1.3") == [10]
    assert numbers(run, "--study", "1.1") == [1, 3, 4, 8]
    assert numbers(run, "--user", "ct1") == [1, 2, 11]


@pytest.mark.slow
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_the_trail_does_not_know_looks_like_no_success(run: Run, form: list[str]) -> None:
    for options, what in (
        (["--patient", "nobody"], "patient nobody"),
        (["--study", "1.9", "--user", "ct\x1b1"], "study 1.9 and user ct\\x1b1"),
        (["--patient", "P1", "--from", "2026-03-04", "--to", "2026-03-05"], "patient P1 from 2026-03-04 to 2026-03-05"),
    ):
        problem = f"pacs-server: nothing is known of {what}: the audit trail has no such record\n"
        assert run("search", *options, *form) == (1, [], problem)


def test_searching_needs_something_to_search_for(run: Run) -> None:
    code, _, error = run("search")
    assert code == 2
    assert "--patient, --study or --user" in error


@pytest.mark.slow
def test_reading_is_an_event(run: Run, settings: AuditConfig) -> None:
    numbers(run, "--patient", "P1")
    run("export", "--format", "csv")
    with open_trail(settings) as trail:
        events = [record.event for record, _ in trail.records_after(None)][-2:]
    assert {(event.event_id, event.action) for event in events} == {(EventID.AUDIT_LOG_USED, Action.READ)}
    assert [event.participants[0].user_id for event in events] == [pwd.getpwuid(os.getuid()).pw_name] * 2
    assert [event.detail for event in events] == [
        "search patient=P1 study=None user=None",
        "export format=csv output=-",
    ]
    verify(settings)


def test_a_forged_record_is_not_shown(run: Run, settings: AuditConfig, caplog: pytest.LogCaptureFixture) -> None:
    file = settings.directory / "audit-2026-03-01.jsonl"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b'"P10"', b'"P1"'))
    assert numbers(run, "--patient", "P1") == [1, 3, 6, 8, 10]
    assert "audit record cannot be used" in {entry.message for entry in caplog.records}


def test_export_as_json(run: Run) -> None:
    code, lines, _ = run("export", "--from", "2026-03-01", "--to", "2026-03-01")
    assert code == 0
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4]
    assert len(json.loads(lines[0])["mac"]) == 64


def test_export_as_csv(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    assert run("export", "--format", "csv", "--to", "2026-03-03", "--output", file) == (0, [], "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["sequence"] for row in rows] == [*map(str, range(1, 11)), "10", "11"]
    assert rows[0]["patient_id"] == "P1"
    assert (rows[-2]["patient_id"], rows[-2]["study_instance_uid"]) == ("P7", "1.7")
    # A spreadsheet takes neither for a formula.
    assert (rows[-1]["patient_id"], rows[-1]["detail"]) == ("'=cmd|' /C calc'!A0", "'\t+1")


def test_export_as_xml(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    assert run("export", "--format", "xml", "--output", file)[0] == 0
    messages = list(ElementTree.fromstring(file.read_bytes()))
    assert {message.tag for message in messages} == {"AuditMessage"}
    assert len(messages) == 13  # with the anchor of the last day, and this export


def test_export_to_a_place_that_is_not_there(run: Run, tmp_path: Path) -> None:
    code, _, error = run("export", "--output", tmp_path / "no" / "out.csv")
    assert code == 1
    assert "cannot be written" in error
