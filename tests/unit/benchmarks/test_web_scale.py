"""The benchmark of searches with a large index asks for what the server knows."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from starlette.datastructures import QueryParams

from benchmarks.filling import study
from benchmarks.web_scale import _later, _pages, _rows
from pacs_server.dicom.levels import Level
from pacs_server.dicom.web_query import parse_search
from pacs_server.web.pages.study_search import StudySearch

STUDIES = 1000
LEVELS = {"studies": Level.STUDY, "series": Level.SERIES, "instances": Level.IMAGE}


@pytest.mark.parametrize("path", _rows(STUDIES).values(), ids=list(_rows(STUDIES)))
def test_every_row_is_a_search_without_a_warning(path: Callable[[int], str]) -> None:
    for number in (1, 2, 17, STUDIES):
        url = urlsplit(path(number))
        level = LEVELS[url.path.rsplit("/", 1)[-1]]
        above = {Level.STUDY: url.path.split("/")[2]} if url.path.count("/") > 1 else {}
        search = parse_search(level, above, url.query.encode())
        assert not search.warnings


def test_pages_ask_for_what_the_list_of_studies_knows() -> None:
    lists = [url for path in _pages().values() if (url := urlsplit(path(1))).path == "/studies"]
    assert lists
    for url in lists:
        asked = QueryParams(url.query)
        search = StudySearch(asked)
        known = {name: search.one(name) for name in search.given}
        order = {"sort": search.sort, "dir": "asc" if search.ascending else "desc"}
        assert known | {name: value for name, value in order.items() if name in asked} == dict(asked)


def test_ten_days_begin_at_a_study() -> None:
    for number in range(1, 300):
        first, last = study(number).date, _later(number)
        assert first <= last <= f"{first[:6]}31"
