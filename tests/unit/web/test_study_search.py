"""What the address of the list of studies means."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from pacs_server.web.pages.study_search import StudySearch

TODAY = date(2026, 3, 31)


def search(query: str) -> StudySearch:
    return StudySearch(QueryParams(query), TODAY)


def asked(query: str) -> dict[str, Any]:
    return {name: value for name, value in search(query).asked().items() if value}


def test_an_address_without_a_query_lists_all_the_newest_first() -> None:
    assert asked("") == {"sort": "date"}
    assert (search("").sort, search("").ascending) == ("date", False)


@pytest.mark.parametrize(
    ("word", "first", "last"),
    [
        ("today", "20260331", "20260331"),
        ("yesterday", "20260330", "20260330"),
        ("7days", "20260325", "20260331"),
        ("30days", "20260302", "20260331"),
        ("month", "20260301", "20260331"),
        ("year", "20260101", "20260331"),
    ],
)
def test_words_for_days(word: str, first: str, last: str) -> None:
    assert asked(f"date={word}") == {"sort": "date", "date_from": first, "date_to": last}


def test_a_range_of_days_counts_where_there_is_no_word() -> None:
    assert asked("from=2026-03-01")["date_from"] == "20260301"
    assert asked("to=2026-03-02")["date_to"] == "20260302"
    assert asked("date=today&from=2020-01-01")["date_from"] == "20260331"


def test_received_is_from_one_moment_to_another_where_the_server_is() -> None:
    today = StudySearch(QueryParams("received=today")).asked()
    since = datetime.fromisoformat(today["received_from"])
    assert (since.hour, since.utcoffset() is not None, today["received_to"]) == (0, True, "")
    yesterday = StudySearch(QueryParams("received=yesterday")).asked()
    assert datetime.fromisoformat(yesterday["received_to"]) - since == timedelta(0)
    assert datetime.fromisoformat(yesterday["received_from"]) < since


def test_what_makes_no_sense_is_left_out() -> None:
    assert asked("date=never&from=1&received=x&sort=; DROP&dir=up&reading=&modality=" + "x" * 65) == {"sort": "date"}


def test_links_keep_the_rest() -> None:
    found = search("q=doe&modality=CT&modality=MR&sort=name&dir=asc&after=x")
    assert found.query() == "q=doe&modality=CT&modality=MR&sort=name&dir=asc"
    assert found.query(after="y z") == "q=doe&modality=CT&modality=MR&sort=name&dir=asc&after=y+z"
    assert found.sorted_by("name").endswith("sort=name&dir=desc")
    assert found.sorted_by("received").endswith("sort=received&dir=desc")
    assert found.sorted_by("images").endswith("sort=images&dir=desc")
    assert [(chip.value, chip.without) for chip in found.chips()] == [
        ("CT", "q=doe&modality=MR&sort=name&dir=asc"),
        ("MR", "q=doe&modality=CT&sort=name&dir=asc"),
    ]
    assert search("date=today").chips()[0].without == ""
