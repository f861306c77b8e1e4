"""What the log says of a query."""

import pytest

from pacs_server.scp.matches import keys_used


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ({}, "none"),
        ({"PatientID": "P1"}, "PatientID"),
        ({"StudyDate": "20260105", "PatientName": "A*"}, "StudyDate,PatientName"),
        ({f"K{number}": "x" for number in range(22)}, ",".join(f"K{number}" for number in range(20)) + " and 2 more"),
    ],
)
def test_the_keys_of_a_query_are_named_without_their_values(texts: dict[str, str], shown: str) -> None:
    assert keys_used(texts) == shown
