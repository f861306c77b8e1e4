"""What fills large indexes fills them as the server would; what measures them leaves them as they were."""

from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import indexes
import pytest

from benchmarks.chart import chart
from benchmarks.filling import PER_STUDY, fill, study
from benchmarks.scale import Cell, markdown, run
from benchmarks.scale_rows import ROWS, measure
from pacs_server.index import models
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.integrity import IntegrityIndex


@pytest.mark.slow
def test_filled_index_adds_up(database_url: str) -> None:
    with closing(Database(database_url, fsync=False)) as database:
        database.migrate()
        fill(database, range(1, 5))
        fill(database, range(5, 7))
        assert list(IntegrityIndex(database).counter_faults()) == []
        assert InstanceIndex(database).counts().instances == 6 * PER_STUDY
        stored = InstanceIndex(database).get(study(6).uids(99).sop)
        assert stored is not None
        assert stored.uids == study(6).uids(99)


@pytest.mark.slow
def test_measured_stores_are_taken_out_again(database_url: str) -> None:
    with closing(Database(database_url, fsync=False)) as database:
        database.migrate()
        fill(database, range(1, 3))
        before = indexes.contents(database)
        seconds, matches = measure(ROWS[0], database, 2)
        assert len(seconds) == PER_STUDY - 1
        assert set(matches) == {1}
        assert indexes.contents(database) == before
        # The next numbers follow on.
        fill(database, range(3, 5))


@pytest.mark.slow
def test_names_repeat_and_uids_do_not() -> None:
    made = [study(number) for number in range(1, 2001)]
    assert len({each.uid for each in made}) == len({each.accession_number for each in made}) == 2000
    assert 100 < len({each.patient_name for each in made}) < len({each.patient_id for each in made}) == 1000
    assert {each.modality for each in made} >= {"CT", "MR", "NM"}


@pytest.mark.slow
def test_every_row_is_measured_and_finds_something(tmp_path: Path) -> None:
    results = run(f"sqlite:///{tmp_path / 'pacs.db'}", [2000])
    assert set(results) == {row.title for row in ROWS}
    assert [title for title, (cell,) in results.items() if not cell.matches and "rare" not in title] == []


def test_table_and_chart_have_all_rows() -> None:
    results = {"a <b>": [Cell(0.5, 1), Cell(0.25, 2000)], "c": [Cell(20, 3), Cell(30, 4)]}
    assert markdown([1000, 2000], results).splitlines() == [
        "| ms (matches) | 1,000 | 2,000 |",
        "|---|---:|---:|",
        "| a <b> | 0.50 (1) | 0.25 (2,000) |",
        "| c | 20.00 (3) | 30.00 (4) |",
    ]
    drawn = ElementTree.fromstring(chart([1000, 2000], {"a <b>": [0.5, 0.25], "c": [20, 30]}))
    space = "{http://www.w3.org/2000/svg}"
    assert [line.get("points") for line in drawn.iter(f"{space}polyline")] == [
        "60.0,342.1 252.7,384.3",
        "60.0,117.9 252.7,93.2",
    ]
    assert {"a <b>", "c"} <= {text.text for text in drawn.iter(f"{space}text")}


def test_every_table_of_the_levels_is_filled(database_url: str) -> None:
    with closing(Database(database_url, fsync=False)) as database:
        database.migrate()
        fill(database, range(1, 3), instances=2)
        counts = indexes.contents(database)["counts"]
    assert counts == {models.patient.name: 1, models.study.name: 2, models.series.name: 8, models.instance.name: 4}
