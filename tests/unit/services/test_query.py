"""The query service gives rows with the attributes that they hold, read one by one."""

import json
from collections.abc import Generator

import pytest
from strategies import encoded, identifier

from pacs_server.dicom.identifier import Query, QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.dicom.page import WHOLE, Page
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.errors import IndexUnavailable
from pacs_server.services.query import QueryService


def asked(**keys: object) -> Query:
    data = encoded(identifier("STUDY", PatientName="", StudyInstanceUID="", **keys))
    return parse_find(data, "1.2.840.10008.1.2", InformationModel.STUDY_ROOT, QueryOptions())


ASKED = asked()


class Rows:
    """An index that gives what it is told, and remembers what was taken and whether it was closed."""

    def __init__(self, *rows: tuple[str, ...] | Exception) -> None:
        self._rows = rows
        self.taken = 0
        self.closed = False

    def find(self, query: Query, scope: Scope, page: Page) -> Generator[tuple[str, ...], None, None]:
        assert (query, scope, page) == (ASKED, EVERYTHING, WHOLE)
        try:
            for row in self._rows:
                if isinstance(row, Exception):
                    raise row
                self.taken += 1
                yield row
        finally:
            self.closed = True


def service(rows: Rows) -> QueryService:
    return QueryService(rows)  # type: ignore[arg-type]


def test_a_match_is_a_row_with_the_text_of_every_column() -> None:
    matches = service(Rows(("Doe", "1.2"), ("Röe", "1.3"))).find(ASKED)
    assert [(column.tag, column.vr) for column in matches.columns] == [(0x00100010, "PN"), (0x0020000D, "UI")]
    assert list(matches.rows) == [("Doe", "1.2"), ("Röe", "1.3")]


def test_rows_are_taken_one_by_one_and_given_back() -> None:
    rows = Rows(("A", "1"), ("B", "2"), ("C", "3"))
    found = service(rows).find(ASKED).rows
    assert rows.taken == 0
    next(found)
    assert (rows.taken, rows.closed) == (1, False)
    found.close()
    assert (rows.taken, rows.closed) == (1, True)


def test_a_failure_on_the_way_is_passed_on() -> None:
    found = service(Rows(("A", "1"), IndexUnavailable("gone"))).find(ASKED).rows
    next(found)
    with pytest.raises(IndexUnavailable):
        next(found)


def test_the_items_of_a_sequence_are_those_that_match() -> None:
    """PS3.4 C.2.2.2.6; all of them if the sequence has no key."""
    codes = [{"00080100": {"vr": "SH", "Value": [code]}} for code in ("A", "B", "A")]
    text = json.dumps(codes)
    tag = 0x00081032  # Procedure Code Sequence
    assert ASKED.answered_items(tag, text) == codes
    assert ASKED.answered_items(tag, "") == []
    narrowed = asked(ProcedureCodeSequence=[identifier("", CodeValue="A")])
    assert narrowed.answered_items(tag, text) == [codes[0], codes[2]]
