"""Pages of the matches of a query, in every order, on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from plans import explained
from sqlalchemy import insert

from benchmarks.filling import fill
from pacs_server.dicom.attributes import BY_KEYWORD
from pacs_server.dicom.levels import Level
from pacs_server.dicom.page import Page
from pacs_server.dicom.person_name import fold_name
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.web_query import parse_search
from pacs_server.errors import IndexUnavailable
from pacs_server.index.database import Database
from pacs_server.index.models import instance, patient, series, study
from pacs_server.index.queries import QueryIndex, find_statement

NAMES = ["Öz^A", "Abel^B", "Zed^C", "Abel^A", "Mo^D", "Öz^B", "Mo^E"]
DATES = ["20200103", "20200101", "", "2020.01.02", "20200101", "20200105", "2020"]
NUMBERS = ["10", "9", "", "2", "100", "1", "x"]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, fsync=False)
    yield database
    database.close()


@pytest.fixture
def index(database: Database) -> QueryIndex:
    """Seven studies of one series with one instance each."""
    with database.begin() as connection:
        for number, (name, date, of_series) in enumerate(zip(NAMES, DATES, NUMBERS, strict=True), 1):
            key = {"id": number}
            names = {"patient_name": name, "patient_name_match": fold_name(name)}
            connection.execute(insert(patient), key | names | {"patient_id": f"P{number}"})
            uid = {"study_instance_uid": f"1.{number}", "study_date": date, "modalities_in_study": "CT\\MR"}
            connection.execute(
                insert(study), key | uid | {"patient_fk": number, "number_of_study_related_series": number % 3}
            )
            connection.execute(
                insert(series),
                key | {"series_instance_uid": f"2.{number}", "study_fk": number, "series_number": of_series},
            )
            stored = {
                "sop_instance_uid": f"3.{number}", "path": str(number), "data_set_offset": 0, "size": 0, "digest": "",
                "received_at": datetime.now(UTC), "series_fk": number,
            }  # fmt: skip
            connection.execute(insert(instance), key | stored)
    return QueryIndex(database)


def found(index: QueryIndex, query: str, level: Level = Level.STUDY, path: dict[Level, str] | None = None) -> list[int]:
    search = parse_search(level, path or {}, query.encode())
    tag = BY_KEYWORD["StudyInstanceUID"].tag
    at = [key.tag for key in search.query.returns].index(tag)
    return [int(row[at].removeprefix("1.")) for row in index.find(search.query, page=search.page)]


# Python matches the last one, because names are matched fuzzily.
@pytest.mark.parametrize("query", ["", "PatientID=P*", "ModalitiesInStudy=C*", "PatientName=*&fuzzymatching=true"])
def test_the_pages_of_a_query_are_all_matches_each_once(index: QueryIndex, query: str) -> None:
    assert found(index, query) == [7, 6, 5, 4, 3, 2, 1]
    for size in (1, 2, 3, 7, 8):
        pages = [found(index, f"{query}&limit={size}&offset={offset}") for offset in range(0, 9, size)]
        assert [number for page in pages for number in page] == [7, 6, 5, 4, 3, 2, 1]
        assert all(len(page) == size for page, following in pairwise(pages) if following)
    assert found(index, f"{query}&offset=5") == [2, 1]
    assert found(index, f"{query}&limit=0") == []
    assert found(index, f"{query}&offset=1000000000000000") == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("orderby=PatientName", [4, 2, 5, 7, 1, 6, 3]),
        ("orderby=-PatientName", [3, 6, 1, 7, 5, 2, 4]),
        ("orderby=StudyDate&limit=4", [3, 7, 4, 5]),
        ("orderby=-StudyDate&limit=2", [6, 1]),
        ("orderby=NumberOfStudyRelatedSeries,PatientID&limit=3", [3, 6, 1]),
        ("orderby=NumberOfStudyRelatedSeries&limit=2&offset=1", [3, 7]),
    ],
)
def test_orders_of_studies(index: QueryIndex, query: str, expected: list[int]) -> None:
    # Of equal studies the newest comes first.
    assert found(index, query) == expected


def test_numbers_kept_as_text_are_sorted_as_numbers(index: QueryIndex) -> None:
    in_order = found(index, "orderby=SeriesNumber", Level.SERIES)
    assert [NUMBERS[number - 1] for number in in_order if NUMBERS[number - 1].isdecimal()] == [
        "1",
        "2",
        "9",
        "10",
        "100",
    ]


def test_what_lies_in_a_study_comes_in_the_order_of_arrival(database: Database, index: QueryIndex) -> None:
    with database.begin() as connection:
        connection.execute(insert(series), [{"id": n, "series_instance_uid": f"2.{n}", "study_fk": 1} for n in (8, 9)])
    search = parse_search(Level.SERIES, {Level.STUDY: "1.1"}, b"limit=2&offset=1")
    at = [key.tag for key in search.query.returns].index(BY_KEYWORD["SeriesInstanceUID"].tag)
    assert [row[at] for row in index.find(search.query, page=search.page)] == ["2.8", "2.9"]


def test_pages_of_what_a_limited_caller_sees(index: QueryIndex) -> None:
    scope = Scope(patients=(("P2", ""), ("P5", ""), ("P6", "")))
    pages = []
    for offset in range(4):
        search = parse_search(Level.STUDY, {}, f"limit=1&offset={offset}&orderby=NumberOfStudyRelatedSeries".encode())
        at = [key.tag for key in search.query.returns].index(BY_KEYWORD["PatientID"].tag)
        pages.append([row[at] for row in index.find(search.query, scope, search.page)])
    # Each has one series that this caller sees, so that the newest comes first.
    assert pages == [["P6"], ["P5"], ["P2"], []]


STUDIES = 3000


@pytest.fixture
def large(database: Database) -> Database:
    fill(database, range(1, STUDIES + 1), instances=1)
    if not database.is_sqlite:
        with database.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    return database


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "table"), [(Level.STUDY, "study"), (Level.SERIES, "series"), (Level.IMAGE, "instance")]
)
def test_the_first_page_reads_only_what_it_shows(large: Database, level: Level, table: str) -> None:
    search = parse_search(level, {}, b"limit=100")
    with explained(large) as plans:
        assert len(list(QueryIndex(large).find(search.query, page=search.page))) == 100
    [plan] = plans
    # Backwards through the table itself, without sorting.
    assert "ORDER BY" not in plan, plan
    assert "Sort" not in plan, plan
    assert (f"SCAN {table}" if large.is_sqlite else f"Index Scan Backward using pk_{table}") in plan, plan


def test_a_page_is_cut_by_the_database_if_it_decides_what_matches() -> None:
    exact = parse_search(Level.STUDY, {}, b"PatientName=M%C3%BC*&StudyDate=20200101-&limit=5&offset=2")
    clause, residual = find_statement(exact.query, page=exact.page)
    assert (clause.sql.endswith(" ORDER BY study.id DESC LIMIT 5 OFFSET 2"), residual) == (True, [])
    fuzzy = parse_search(Level.STUDY, {}, b"PatientName=M*&fuzzymatching=true&limit=5")
    clause, residual = find_statement(fuzzy.query, page=fuzzy.page)
    assert (clause.sql.endswith(" ORDER BY study.id DESC"), len(residual)) == (True, 1)
    assert find_statement(exact.query, page=Page())[0].sql.endswith(" ORDER BY study.id")


def after(index: QueryIndex, query: str, scope: Scope = EVERYTHING, level: Level = Level.STUDY) -> int | None:
    search = parse_search(level, {}, query.encode())
    return index.count_after(search.query, scope, search.page)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting may take as long as it takes on a machine that does much else."""
    monkeypatch.setattr("pacs_server.index.queries._COUNT_SECONDS", 30.0)


@pytest.mark.usefixtures("patience")
def test_what_follows_a_page_is_counted(index: QueryIndex) -> None:
    assert [after(index, f"limit={limit}") for limit in (0, 1, 6, 7, 8)] == [7, 6, 1, 0, 0]
    assert after(index, "limit=2&offset=3") == 2
    assert after(index, "limit=1&PatientName=Abel*") == 1
    assert after(index, "limit=1&orderby=-StudyDate&PatientName=Mo*", level=Level.IMAGE) == 1
    assert after(index, "limit=1", Scope(patients=(("P1", ""), ("P2", ""), ("P5", "")))) == 2
    # Python matches fuzzily, so the database cannot count.
    assert after(index, "limit=1&PatientName=Abel&fuzzymatching=true") is None


@pytest.mark.usefixtures("patience")
def test_very_many_matches_are_not_counted(index: QueryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs_server.index.queries._MOST_COUNTED", 5)
    assert [after(index, f"limit={limit}") for limit in (1, 2)] == [None, 5]


def test_what_takes_too_long_is_stopped(database: Database) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert database.soon(endless, (), 0.05) is None
    # The connection is as before: statements may take long again.
    assert database.soon("SELECT 1 WHERE ? = '1'", ("1",), 10) == (1,)
    many = endless.replace("FROM n)", "FROM n WHERE i < 300000)")
    with database.rows(many, (), few=True) as rows:
        assert next(rows) == (300000,)
    with pytest.raises(IndexUnavailable):
        database.soon("SELECT nothing", (), 10)
