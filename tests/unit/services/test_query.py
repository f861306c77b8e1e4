from collections.abc import Generator
from io import BytesIO

import pytest
from pydicom.filereader import read_dataset
from strategies import encoded, identifier

from pacs_server.dicom.identifier import Query, QueryOptions, parse_find
from pacs_server.dicom.levels import InformationModel
from pacs_server.errors import IndexUnavailable
from pacs_server.services.query import QueryService

EXPLICIT = "1.2.840.10008.1.2.1"
ASKED = parse_find(
    encoded(identifier("STUDY", PatientName="", StudyInstanceUID="")),
    "1.2.840.10008.1.2",
    InformationModel.STUDY_ROOT,
    QueryOptions(),
)


class Rows:
    """An index that gives what it is told, and remembers what was taken and whether it was closed."""

    def __init__(self, *rows: tuple[str, ...] | Exception) -> None:
        self._rows = rows
        self.taken = 0
        self.closed = False

    def find(self, query: Query) -> Generator[tuple[str, ...], None, None]:
        assert query is ASKED
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


def test_each_match_is_a_response_identifier() -> None:
    found = service(Rows(("Doe", "1.2"), ("Röe", "1.3"))).find(ASKED, EXPLICIT, "PACS")
    first, second = (read_dataset(BytesIO(data), False, True) for data in found)
    assert (str(first.PatientName), first.StudyInstanceUID, first.RetrieveAETitle) == ("Doe", "1.2", "PACS")
    assert (str(second.PatientName), second.SpecificCharacterSet) == ("Röe", "ISO_IR 192")


def test_rows_are_taken_one_by_one_and_given_back() -> None:
    rows = Rows(("A", "1"), ("B", "2"), ("C", "3"))
    found = service(rows).find(ASKED, EXPLICIT, "PACS")
    next(found)
    assert (rows.taken, rows.closed) == (1, False)
    found.close()
    assert (rows.taken, rows.closed) == (1, True)


def test_a_failure_on_the_way_is_passed_on() -> None:
    found = service(Rows(("A", "1"), IndexUnavailable("gone"))).find(ASKED, EXPLICIT, "PACS")
    next(found)
    with pytest.raises(IndexUnavailable):
        next(found)
