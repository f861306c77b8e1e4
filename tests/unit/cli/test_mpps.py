"""The commands of performed procedure steps, and what `worklist show` and `worklist unmatched` say of them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pydicom.data
import pytest

from pacs_server.app.assembly import open_archive
from pacs_server.cli.mpps import loop_lines
from pacs_server.config.load import load
from pacs_server.dicom.worklist import ItemStatus, WorklistItem

JSON = dict[str, Any]
Run = Callable[..., tuple[int, list[str], str]]


def text(value: str, vr: str = "SH") -> JSON:
    return {"vr": vr, "Value": [value]} if value else {"vr": vr}


def step(*made: str) -> JSON:
    references = [{"00081150": text("1.2", "UI"), "00081155": text(uid, "UI")} for uid in made]
    series = {"00181030": text("Head", "LO"), "0020000E": text("1.9", "UI")}
    series["00081140"] = {"vr": "SQ", "Value": references} if made else {"vr": "SQ"}
    scheduled = {"0020000D": text("9.1", "UI"), "00400009": text("S1")}
    return {
        "00400270": {"vr": "SQ", "Value": [scheduled]}, "00400252": text("IN PROGRESS", "CS"), "00400253": text("P"),
        "00400241": text("CT1", "AE"), "00400244": text("20250301", "DA"), "00400245": text("1015", "TM"),
        "00080060": text("CT", "CS"), "00400250": text("20250301", "DA"), "00400251": text("11", "TM"),
        "00100020": text("P1\x1b[2J", "LO"), "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]},
        "00400340": {"vr": "SQ", "Value": [series]},
    }  # fmt: skip


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration whose archive has two steps; the first is over and about an item, with two instances to come."""
    file = tmp_path / "pacs_server.yaml"
    file.write_text("storage: {fsync: false, min_free_space: 0}\n")
    with open_archive(load(file, environ={}, overrides={})) as parts:
        sequence = {"00400009": text("S1"), "00400001": text("CT1", "AE"), "00400002": text("20250301", "DA")}
        data_set = {"00400100": {"vr": "SQ", "Value": [sequence]}}
        parts.worklist.put([WorklistItem("A1", "R1", "S1", "9.1", ItemStatus.SCHEDULED, "test", data_set)])
        parts.mpps.create("1.2.3", step("5.1", "5.2"), "CT1")
        parts.mpps.set("1.2.3", {"00400252": text("COMPLETED", "CS")})
        parts.mpps.create("1.2.4", step(*(f"6.{n}" for n in range(25))), "CT1")
    return file


@pytest.fixture
def run(run: Any, config_file: Path) -> Run:
    return partial(run.lines, "--config", config_file)


@pytest.mark.slow
def test_list(run: Run) -> None:
    first = "1.2.3\tCOMPLETED\t20250301 1015\tCT1\tCT\t0\t2\tP1\\x1b[2J"
    second = "1.2.4\tIN PROGRESS\t20250301 1015\tCT1\tCT\t0\t25\tP1\\x1b[2J"
    titles = "UID\tSTATUS\tSTART\tSTATION\tMODALITY\tRECEIVED\tREFERENCED\tPATIENT ID"
    assert run("mpps", "list") == (0, [titles, second, first], "")
    assert run("mpps", "list", "--limit", 1) == (0, [titles, second], "")
    assert run("mpps", "list", "--status", "completed") == (0, [titles, first], "")


@pytest.mark.slow
def test_show(run: Run) -> None:
    code, lines, _ = run("mpps", "show", "1.2.3")
    assert code == 0
    assert {"status: COMPLETED", "started: 20250301 1015", "received: 0 of 2 instances"} <= set(lines)
    assert [line for line in lines if line.startswith("patient")] == ["patient: P1\\x1b[2J Müller^Jörg"]
    # The second step is about the same item, and in progress.
    assert lines[-3:] == ["worklist item: 1 IN PROGRESS", "not received: 5.1", "not received: 5.2"]
    _, lines, _ = run("mpps", "show", "1.2.4")
    assert lines[-2:] == ["not received: 6.19", "not received: 5 more"]


@pytest.mark.slow
def test_show_as_json(run: Run) -> None:
    code, lines, _ = run("mpps", "show", "1.2.3", "--json")
    assert code == 0
    assert json.loads("\n".join(lines)) == step("5.1", "5.2") | {"00400252": text("COMPLETED", "CS")}


@pytest.mark.slow
def test_a_step_that_is_not_there(run: Run) -> None:
    assert run("mpps", "show", "1.2.9") == (1, [], "pacs-server: there is no procedure step of this UID\n")


@pytest.mark.slow
def test_the_loop_of_an_item(config_file: Path) -> None:
    with open_archive(load(config_file, environ={}, overrides={})) as parts:
        assert list(loop_lines(parts.mpps.loop_of(1, "9.1"))) == [
            "performed: 1.2.3  COMPLETED  20250301 1015  CT1  CT  received 0 of 2",
            "performed: 1.2.4  IN PROGRESS  20250301 1015  CT1  CT  received 0 of 25",
            "received: 0 instances in its study",
        ]
        assert next(loop_lines(parts.mpps.loop_of(2, "9.2"))) == "performed: no step refers to it"


@pytest.mark.slow
def test_worklist_show_tells_what_was_performed_and_received(run: Run) -> None:
    code, lines, _ = run("worklist", "show", "A1")
    assert code == 0
    assert "item 1: IN PROGRESS" in lines
    assert [line for line in lines if line.startswith(("performed", "received"))] == [
        "performed: 1.2.3  COMPLETED  20250301 1015  CT1  CT  received 0 of 2",
        "performed: 1.2.4  IN PROGRESS  20250301 1015  CT1  CT  received 0 of 25",
        "received: 0 instances in its study",
    ]


@pytest.mark.slow
def test_worklist_unmatched(run: Run) -> None:
    titles = "STUDY UID\tDATE\tMODALITIES\tACCESSION\tINSTANCES"
    assert run("worklist", "unmatched") == (0, [titles], "")
    image = str(pydicom.data.get_testdata_file("CT_small.dcm"))
    assert run("import", image)[0] == 0
    study = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
    assert run("worklist", "unmatched") == (0, [titles, f"{study}\t20040119\tCT\t-\t1"], "")
