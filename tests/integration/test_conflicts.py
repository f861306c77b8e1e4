"""Patients who cannot be one person, from the modality to the operator's desk, while the server runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
from commandline import call_command
from datasets import make_ct, uid
from processes import PacsProcess
from pydicom import dcmread
from pydicom.dataset import Dataset
from rawpeer import Instance, association, store

STUDY = uid(1)


@pytest.fixture
def pacs(database_url: str, tmp_path: Path) -> Iterator[PacsProcess]:
    with PacsProcess(tmp_path / "pacs", database_url=database_url) as process:
        yield process


def send(pacs: PacsProcess, *instances: Dataset) -> None:
    with association(pacs.port, {(str(ds.SOPClassUID), ds.file_meta.TransferSyntaxUID) for ds in instances}) as link:
        assert {store(link, Instance.of(ds)).status for ds in instances} == {0}


def command(pacs: PacsProcess, *arguments: str) -> str:
    done = call_command("--config", pacs.config_file, *arguments, cwd=pacs.directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(pacs: PacsProcess, directory: Path, tool: str, model: str, *keys: str) -> list[Dataset]:
    """What findscu or getscu got."""
    directory.mkdir()
    options = [option for key in keys for option in ("-k", key)]
    how = ["-X", "-od", directory] if tool == "findscu" else ["-od", directory]
    done = dcmtk.run(tool, model, *how, *options, "127.0.0.1", pacs.port)
    assert done.returncode == 0, done.stderr
    return [dcmread(path, force=True) for path in sorted(directory.iterdir())]


@pytest.mark.interop
def test_a_study_of_two_patients_is_stored_shown_resolved_and_taken_back(pacs: PacsProcess, tmp_path: Path) -> None:
    right = make_ct(STUDY, uid(2), PatientID="P1", PatientName="Doe^Jane")
    wrong = make_ct(STUDY, uid(3), PatientID="P2", PatientName="Roe^Richard", PatientSex="M")
    send(pacs, right, wrong)
    asked = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}", "PatientID", "OriginalAttributesSequence")

    both = answers(pacs, tmp_path / "1", "findscu", "-S", *asked)
    assert sorted(answer.PatientID for answer in both) == ["P1", "P2"]
    got = answers(pacs, tmp_path / "2", "getscu", "-S", *asked[:2])
    assert {ds.SOPInstanceUID for ds in got} == {right.SOPInstanceUID, wrong.SOPInstanceUID}
    got = answers(pacs, tmp_path / "3", "getscu", "-P", *asked[:2], "PatientID=P2")
    assert [ds.SOPInstanceUID for ds in got] == [wrong.SOPInstanceUID]
    series = ("QueryRetrieveLevel=SERIES", asked[1], "PatientID=P1", "SeriesInstanceUID")
    assert [a.SeriesInstanceUID for a in answers(pacs, tmp_path / "4", "findscu", "-P", *series)] == [uid(2)]
    assert pacs.metric("pacs_identity_conflicts") == 1

    (group,) = json.loads(command(pacs, "conflicts", "--json"))["studies"]
    (mistaken,) = [each["study"] for each in group if each["person"]["patient_id"] == "P2"]
    move = ("reassign", mistaken, "--to", "P1", "--reason", "wrong patient chosen")
    assert "would reassign" in command(pacs, *move, "--dry-run")
    assert pacs.metric("pacs_identity_conflicts") == 1
    command(pacs, *move)
    assert len(command(pacs, "conflicts").splitlines()) == 1
    assert pacs.metric("pacs_identity_conflicts") == 0

    send(pacs, make_ct(STUDY, uid(3), PatientID="P2", PatientName="Roe^Richard", PatientSex="M"))
    (one,) = answers(pacs, tmp_path / "5", "findscu", "-S", *asked, "NumberOfStudyRelatedInstances")
    assert (one.PatientID, one.NumberOfStudyRelatedInstances) == ("P1", 3)
    (original,) = one.OriginalAttributesSequence
    (before,) = original.ModifiedAttributesSequence
    assert (before.PatientID, before.PatientName, before.PatientSex) == ("P2", "Roe^Richard", "M")
    assert original.ModifyingSystem == pacs.ae_title
    # Files stay as they were sent.
    got = answers(pacs, tmp_path / "6", "getscu", "-S", *asked[:2])
    assert sorted(ds.PatientID for ds in got) == ["P1", "P2", "P2"]

    (key,) = [line.split()[0] for line in command(pacs, "patients", "--study", STUDY).splitlines() if "moved" in line]
    command(pacs, "reassign", STUDY, "--to", key, "--reason", "it was right")
    (one,) = answers(pacs, tmp_path / "7", "findscu", "-S", *asked)
    # Part of it was P1's before, so that this is another change and not the first one undone.
    assert (one.PatientID, len(one.OriginalAttributesSequence)) == ("P2", 2)
    found = command(pacs, "audit", "search", "--patient", "P2")
    assert "Patient Record" in found


def test_merging_two_records_of_one_person(pacs: PacsProcess) -> None:
    send(pacs, make_ct(PatientID="P1", PatientName="Doe^Jane"), make_ct(PatientID="P1", PatientName="Doe^Jnae"))
    assert command(pacs, "conflicts").count("patient\t-\t-\t-\t@") == 2
    refused = call_command(
        "--config", pacs.config_file, "merge", "P1", "--into", "P1", "--reason", "x", cwd=pacs.directory
    )
    assert refused.returncode == 1
    assert "there are several patients of ID P1: name one of @" in refused.stderr
    first, second = (each["patient"] for each in json.loads(command(pacs, "patients", "P1", "--json")))
    assert "merged" in command(pacs, "merge", second, "--into", first, "--reason", "typed wrong")
    send(pacs, make_ct(PatientID="P1", PatientName="Doe^Jnae"))
    one, gone = json.loads(command(pacs, "patients", "P1", "--json"))
    assert (one["instances"], gone["moved_away"], gone["patient_name"]) == (3, True, "Doe^Jnae")
    assert len(command(pacs, "conflicts").splitlines()) == 1


def test_a_change_that_a_crash_left_on_paper_is_made_at_the_next_start(pacs: PacsProcess, tmp_path: Path) -> None:
    send(pacs, make_ct(PatientID="P1"), make_ct(PatientID="P2"))
    command(pacs, "merge", "P1", "--into", "P2", "--reason", "typed wrong")
    journal = pacs.archive / "changes/changes.jsonl"
    line = json.loads(journal.read_text())
    back = {**line, "number": 2, "source": line["target"], "target": line["source"], "whole": False}
    pacs.stop()
    with journal.open("a") as file:
        file.write(json.dumps(back) + "\n")
    pacs.start()
    assert pacs.metric("pacs_patients") == 2
