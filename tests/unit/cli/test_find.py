"""`pacs-server find` and `show`: what is stored, narrowed as by C-FIND, for people, programs and spreadsheets."""

import csv
import io
import json
import os
import pwd
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from datasets import make_ct, write_part10

from pacs_server.audit.events import EventID
from pacs_server.audit.record import read_record

Run = Callable[..., tuple[int, str, str]]

TODAY = f"{date.today():%Y%m%d}"
STUDIES = {
    "1.2.1": {"PatientName": "Müller^Anna", "PatientID": "P1", "StudyDate": "20240229", "AccessionNumber": "A1"},
    "1.2.2": {"PatientName": "Doe^Jane", "PatientID": "P2", "StudyDate": "20240301", "AccessionNumber": "A2"},
    "1.2.3": {"PatientName": "Doe^Jane", "PatientID": "P2", "StudyDate": TODAY, "AccessionNumber": "A2"},
    "1.2.4": {"PatientName": "=HYPERLINK(1)", "PatientID": "P\x9b4", "StudyDate": "", "AccessionNumber": ""},
}


@pytest.fixture
def run(run: Run, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line over an archive with four studies, the first of them with two series and three instances."""
    monkeypatch.setenv("PACS_SERVER__DATABASE__URL", database_url)
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    for _ in instances(tmp_path / "media"):
        pass
    assert run("import", "media")[0] == 0
    return run


def instances(directory: Path) -> Iterator[Path]:
    for study, attributes in STUDIES.items():
        ds = make_ct(study, f"{study}.1", f"{study}.1.1", StudyDescription=f"Chest {study}", **attributes)
        yield write_part10(ds, directory / study)
    for number in (1, 2):
        first = {"StudyDescription": "Chest 1.2.1", "SeriesNumber": 2, "InstanceNumber": number, **STUDIES["1.2.1"]}
        ds = make_ct("1.2.1", "1.2.1.2", f"1.2.1.2.{number}", Modality="SR", SeriesDescription="Report", **first)
        yield write_part10(ds, directory / f"report{number}")


def table(printed: str) -> list[dict[str, str]]:
    titles, *rows = [line.split("\t") for line in printed.splitlines()]
    return [dict(zip(titles, row, strict=True)) for row in rows]


NARROWED: list[tuple[tuple[object, ...], list[str]]] = [
    ((), ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]),
    (("--limit", 2), ["1.2.1", "1.2.2"]),
    (("--patient-id", "P2"), ["1.2.2", "1.2.3"]),
    (("--patient-name", "muller*"), ["1.2.1"]),
    (("--patient-name", "doe^jane"), ["1.2.2", "1.2.3"]),
    (("--date", "29.2.2024"), ["1.2.1"]),
    (("--date", "today"), ["1.2.3"]),
    (("--from", "2024-03-01"), ["1.2.2", "1.2.3"]),
    (("--to", "20240301"), ["1.2.1", "1.2.2"]),
    (("--from", "1.3.2024", "--to", "yesterday"), ["1.2.2"]),
    (("--modality", "SR"), ["1.2.1"]),
    (("--modality", "sr"), ["1.2.1"]),
    (("--modality", "CT", "--description", "*1.2.1"), ["1.2.1"]),
    # An empty accession number is not the one that was asked for.
    (("--accession", "A2"), ["1.2.2", "1.2.3"]),
    (("--study", "1.2.4"), ["1.2.4"]),
    (("--study", "1.2.4\\1.2.1"), ["1.2.1", "1.2.4"]),
    (("--patient-id", "nobody"), []),
]


@pytest.mark.slow
def test_studies(run: Run) -> None:
    for options, found in NARROWED:
        code, printed, error = run("find", "studies", *options)
        assert (code, error) == (0, "")
        assert [row["STUDY UID"] for row in table(printed)] == found, options


@pytest.mark.slow
def test_the_columns_of_each_list(run: Run) -> None:
    (study,) = table(run("find", "studies", "--study", "1.2.1")[1])
    assert study == {
        "PATIENT ID": "P1", "PATIENT NAME": "Müller^Anna", "DATE": "20240229", "MODALITIES": "CT, SR",
        "ACCESSION": "A1", "SERIES": "2", "INSTANCES": "3", "STUDY UID": "1.2.1", "DESCRIPTION": "Chest 1.2.1",
    }  # fmt: skip
    series = table(run("find", "series", "--patient-id", "P1")[1])
    assert [(row["MODALITY"], row["NUMBER"], row["INSTANCES"], row["SERIES UID"]) for row in series] == [
        ("CT", "1", "1", "1.2.1.1"),
        ("SR", "2", "2", "1.2.1.2"),
    ]
    (report,) = table(run("find", "series", "--description", "Rep*", "--modality", "SR")[1])
    assert report["SERIES UID"] == "1.2.1.2"
    found = table(run("find", "instances", "--accession", "A1", "--series", "1.2.1.2")[1])
    assert [(row["SERIES"], row["NUMBER"], row["SOP INSTANCE UID"]) for row in found] == [
        ("2", "1", "1.2.1.2.1"),
        ("2", "2", "1.2.1.2.2"),
    ]


@pytest.mark.slow
def test_what_peers_sent_steers_neither_terminals_nor_spreadsheets(run: Run) -> None:
    (study,) = table(run("find", "studies", "--study", "1.2.4")[1])
    assert (study["PATIENT ID"], study["DATE"], study["ACCESSION"]) == ("P\\x9b4", "-", "-")
    code, printed, _ = run("find", "studies", "--csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert (code, len(rows)) == (0, 4)
    assert (rows[0]["PatientName"], rows[0]["ModalitiesInStudy"], rows[0]["PatientBirthDate"]) == (
        *("Müller^Anna", "CT\\SR", "19700101"),
    )
    assert (rows[3]["PatientName"], rows[3]["PatientID"]) == ("'=HYPERLINK(1)", "P\\x9b4")
    printed = run("find", "studies", "--json")[1]
    assert "\x9b" not in printed
    assert "\x9b" not in run("show", "1.2.4", "--json")[1]
    assert json.loads(printed)[3]["PatientID"] == "P\x9b4"


@pytest.mark.slow
def test_json(run: Run) -> None:
    first, *_, last = json.loads(run("find", "studies", "--json")[1])
    assert first["NumberOfStudyRelatedInstances"] == 3
    assert (first["ModalitiesInStudy"], first["PatientName"], first["StudyTime"]) == (
        ["CT", "SR"],
        "Müller^Anna",
        "101530",
    )
    assert last["AccessionNumber"] == ""
    assert json.loads(run("find", "instances", "--json", "--study", "9.9")[1]) == []


REFUSED = [
    (("studies", "--date", "yes"), "--date: has to be a date such as 2026-01-31, 31.01.2026 or 20260131, or today"),
    (("studies", "--date", "today", "--to", "today"), "--date is one day; a range has --from and --to"),
    (("studies", "--from", "today", "--to", "yesterday"), "--to: is before --from"),
    (("studies", "--series", "1.2"), "--series: narrows series and instances only"),
    (("studies", "--json", "--csv"), "--json and --csv are two formats"),
]


@pytest.mark.slow
def test_what_is_refused(run: Run) -> None:
    for options, sentence in REFUSED:
        code, printed, error = run("find", *options)
        assert (code, printed) == (2, "")
        assert error.startswith(f"pacs-server: {sentence}")


@pytest.mark.slow
def test_show(run: Run) -> None:
    code, printed, error = run("show", "A1")
    assert (code, error) == (0, "")
    described, series = printed.split("\n\n")
    size = sum(path.stat().st_size for path in Path("archive").rglob("*") if "1.2.1" in str(path) and path.is_file())
    assert described.splitlines() == [
        "study: 1.2.1",
        "patient: Müller^Anna, P1, 19700101, O",
        "date: 20240229 101530",
        "accession number: A1",
        "description: Chest 1.2.1",
        "modalities: CT, SR",
        "referring physician: Refer^Ring",
        f"size: 2 series, 3 instances, {size} bytes",
    ]
    assert [(row["NUMBER"], row["INSTANCES"]) for row in table(series)] == [("1", "1"), ("2", "2")]
    assert run("show", "1.2.1")[1] == printed
    assert "size: 1 series, 1 instance, " in run("show", "1.2.2")[1]
    shown = json.loads(run("show", "A1", "--json")[1])
    assert (shown["bytes"], len(shown["series"]), shown["studies"][0]["StudyInstanceUID"]) == (size, 2, "1.2.1")


@pytest.mark.slow
def test_a_study_that_is_not_there(run: Run) -> None:
    for name in ("9.9", "A9", "*", "A?", ""):
        for command in (("show", name), ("export", name, "out")):
            code, printed, error = run(*command)
            assert (code, printed) == (1, "")
            assert error.startswith(f"pacs-server: there is no study of the UID or accession number {name}; ")
    assert not Path("out").exists()


@pytest.mark.slow
def test_an_accession_number_of_two_studies(run: Run) -> None:
    code, _, error = run("show", "A2")
    assert code == 1
    assert error == "pacs-server: there are 2 studies of that accession number, name one by its UID: 1.2.2, 1.2.3\n"


@pytest.mark.slow
def test_a_query_is_in_the_audit_trail(run: Run) -> None:
    assert run("find", "studies", "--patient-name", "doe*", "--from", "1.3.2024")[0] == 0
    assert run("find", "series", "--patient-id", "nobody")[0] == 0
    lines = run("audit", "export", "--format", "json")[1].splitlines()
    events = [read_record(line.encode()).event for line in lines]
    first, second = [event for event in events if event.event_id is EventID.QUERY]
    assert first.query == {"PatientName": "doe*", "StudyDate": "20240301-"}
    assert (first.detail, second.detail) == ("2 matches", "0 matches")
    assert first.participants[0].user_id == pwd.getpwuid(os.getuid()).pw_name
