"""The commands of the worklist: what they print, their exit codes, and that nothing is half done."""

import json
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import pytest
from worklists import item_dataset

Run = Callable[..., tuple[int, str, str]]

ITEM = (
    *("--patient-name", "Doe^Jo", "--patient-id", "P1", "--birth-date", "1970-01-01", "--sex", "F"),
    *("--accession", "A1", "--modality", "CT", "--station", "CT1", "--date", "2026-01-05", "--time", "09:30"),
    *("--description", "Skull"),
)


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "worklist")


def without(*options: str) -> list[str]:
    pairs = zip(ITEM[::2], ITEM[1::2], strict=True)
    return [part for pair in pairs if pair[0] not in options for part in pair]


@pytest.mark.slow
def test_an_item_from_beginning_to_end(run: Run) -> None:
    assert run("add", *ITEM) == (0, "1\n", "")
    assert run("add", *ITEM) == (0, "1\n", "")  # the same again is the same item
    assert run("update", 1, "--time", "11:00", "--station", "CT2")[:2] == (0, "updated 1\n")
    lines = run("list")[1].splitlines()
    assert (
        lines[0].split() == "ID STATUS DATE TIME MODALITY STATION ACCESSION PATIENT ID PATIENT NAME DESCRIPTION".split()
    )
    assert [line.split() for line in lines[1:]] == [
        ["1", "SCHEDULED", "20260105", "1100", "CT", "CT2", "A1", "P1", "Doe^Jo", "Skull"]
    ]
    assert run("cancel", "A1")[:2] == (0, "cancelled 1\n")
    assert run("show", 1)[1].startswith("item 1: CANCELLED\nfrom command line, added ")
    assert run("remove", 1)[:2] == (0, "removed 1\n")
    assert len(run("list")[1].splitlines()) == 1


@pytest.mark.slow
def test_dates_and_times_as_people_write_them(run: Run) -> None:
    day = date.today()
    for written in (f"{day.day}.{day.month}.{day.year}", "today", day.isoformat()):
        assert run("add", *without("--date", "--time"), "--date", written, "--time", "9:30")[0] == 0
    assert [line.split()[2:4] for line in run("list")[1].splitlines()[1:]] == [[f"{day:%Y%m%d}", "0930"]]


@pytest.mark.slow
def test_a_csv_file_from_excel(run: Run) -> None:
    titles = "PatientName;PatientID;Modality;ScheduledStationAETitle;AccessionNumber;"
    titles += "ScheduledProcedureStepStartDate;ScheduledProcedureStepStartTime;ScheduledProcedureStepDescription\r\n"
    row = "Müller^Ägnes;P1;CT;CT1;A1;29.11.2026;9:30;Schädel nativ €\r\n"
    Path("a.csv").write_bytes((titles + row).encode("windows-1252"))
    code, _, err = run("import", "a.csv")
    assert code == 1
    assert err.startswith("rejected a.csv: is not UTF-8 text (byte ")
    assert "save it as 'CSV UTF-8'; or use `worklist import --encoding windows-1252`" in err
    assert run("import", "a.csv", "--encoding", "windows-1252")[:2] == (0, "a.csv: 1 added, 0 updated\n")
    shown = run("show", "A1")[1]
    assert "PatientName (0010,0010): Müller^Ägnes" in shown
    assert "StartDate (0040,0002): 20261129" in shown
    assert "StartTime (0040,0003): 0930" in shown
    assert "Schädel nativ €" in shown
    assert run("import", "a.csv", "--encoding", "klingon")[0] == 2


@pytest.mark.slow
def test_show(run: Run) -> None:
    run("add", *ITEM, "--procedure-code", "C1^99L^Skull")
    lines = run("show", "A1")[1].splitlines()
    assert "PatientName (0010,0010): Doe^Jo" in lines
    at = lines.index("RequestedProcedureCodeSequence (0032,1064):")
    assert lines[at + 1] == "  CodeValue (0008,0100): C1"
    assert "  ScheduledStationAETitle (0040,0001): CT1" in lines


@pytest.mark.slow
def test_what_show_prints_can_be_imported(run: Run, tmp_path: Path) -> None:
    run("add", *ITEM)
    printed = run("show", 1, "--json")[1]
    (tmp_path / "a.json").write_text(printed)
    assert run("import", "a.json")[:2] == (0, "a.json: 0 added, 1 updated\n")
    assert json.loads(run("show", 1, "--json")[1]) == json.loads(printed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ["1", "2", "3"]),
        (("--station", "CT1"), ["1"]),
        (("--date", "2026-01-06"), ["2"]),
        (("--date", "today"), ["3"]),
        (("--date", "6.1.2026"), ["2"]),
        (("--date", "yesterday"), []),
        (("--accession", "A2"), ["2"]),
        (("--status", "cancelled"), ["2"]),
        (("--limit", "2"), ["1", "2"]),
    ],
)
def test_list(run: Run, options: tuple[str, ...], found: list[str]) -> None:
    run("add", *ITEM)
    rest = without("--accession", "--station", "--date")
    run("add", *rest, "--accession", "A2", "--station", "CT2", "--date", "2026-01-06")
    run("add", *rest, "--accession", "A3", "--station", "CT3", "--date", date.today().isoformat())
    run("cancel", 2)
    lines = run("list", *options)[1].splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == found


@pytest.mark.slow
def test_terminals_are_safe(run: Run) -> None:
    ds = item_dataset(PatientName="Doe\x1b[31m")
    Path("a.json").write_text(ds.to_json())
    run("import", "a.json")
    for command in (("list",), ("show", 1)):
        assert "\x1b" not in run(*command)[1]


@pytest.mark.parametrize(
    ("left_out", "given", "message"),
    [
        ("--patient-id", (), "--patient-id: PatientID (0010,0020) is missing"),
        ("--station", (), "--station: ScheduledStationAETitle (0040,0001) is missing"),
        (
            *("--date", ("--date", "5.1.")),
            "--date: ScheduledProcedureStepStartDate has to be a date such as 2026-01-31, 31.01.2026 or 20260131, "
            "or today, yesterday, tomorrow\n",
        ),
        ("--birth-date", ("--birth-date", "1970-02-30"), "--birth-date: PatientBirthDate has to be a date such as "),
        (
            *("--time", ("--time", "930")),
            "--time: ScheduledProcedureStepStartTime has to be a time such as 9:30, 09:30:15 or 0930\n",
        ),
        ("--modality", ("--modality", "ct"), "--modality: Modality has to be a modality such as CT or MR\n"),
        ("--sex", ("--sex", "male"), "--sex: PatientSex has to be M, F or O\n"),
        (
            "--sex",
            ("--protocol-code", "T1"),
            "--protocol-code: ScheduledProtocolCodeSequence has to be a code such as ",
        ),
        ("--study-uid", ("--study-uid", "x"), "--study-uid: StudyInstanceUID"),
        ("--accession", ("--accession", "x" * 17), "--accession: AccessionNumber"),
    ],
)
def test_wrong_fields(run: Run, left_out: str, given: tuple[str, ...], message: str) -> None:
    code, out, err = run("add", *without(left_out), *given)
    assert (code, out) == (2, "")
    assert err.startswith(f"pacs-server: {message}")
    assert len(run("list")[1].splitlines()) == 1


@pytest.mark.slow
def test_updates(run: Run) -> None:
    run("add", *ITEM, "--referring", "Semmelweis^Ignaz")
    assert run("update", 1)[0] == 2
    assert run("update", 1, "--station", "")[0] == 2
    assert run("update", 1, "--accession", "A2")[0] == 2  # identifiers stay
    before = run("show", 1, "--json")[1]
    assert run("update", 1, "--referring", "")[0] == 0
    after = run("show", 1, "--json")[1]
    assert "Semmelweis" in before
    assert "Semmelweis" not in after
    assert json.loads(before)["0020000D"] == json.loads(after)["0020000D"]


@pytest.mark.parametrize("command", ["show", "update", "cancel", "remove"])
def test_items_that_are_not_there(run: Run, command: str) -> None:
    more = ("--sex", "M") if command == "update" else ()
    assert run(command, "7", *more) == (1, "", "pacs-server: there is no worklist item 7\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--status", "DONE"), "--status: is none of SCHEDULED"),
        (("--date", "11/29/2026"), "--date: has to be a date such as 2026-01-31, 31.01.2026 or 20260131, or today"),
    ],
)
def test_wrong_filters(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run("list", *arguments)
    assert code == 2
    assert err.startswith(f"pacs-server: {message}")


@pytest.mark.slow
def test_a_file_that_the_worklist_does_not_take(run: Run) -> None:
    """Without accession numbers the ids are all that tells two patients' orders apart."""
    for name, patient in (("a.json", "P1"), ("b.json", "P2")):
        Path(name).write_text(item_dataset(AccessionNumber=None, PatientID=patient).to_json())
    code, _, err = run("import", "a.json", "b.json")
    assert code == 1
    assert err.startswith("rejected b.json: another patient")


@pytest.mark.slow
def test_imports(run: Run) -> None:
    Path("good.json").write_text(item_dataset().to_json())
    Path("bad.json").write_text(f"[{item_dataset(AccessionNumber='A2').to_json()}, {{}}]")
    code, out, err = run("import", "bad.json", "none.wl", "good.json")
    assert (code, out) == (1, "good.json: 1 added, 0 updated\n")
    assert err.splitlines() == [
        "rejected bad.json: item 2: ScheduledProcedureStepSequence (0040,0100) is missing",
        "rejected none.wl: No such file or directory",
    ]
    assert len(run("list")[1].splitlines()) == 2
