"""Promise 1 under load: a server that is killed again and again keeps all that it acknowledged."""

import os
from pathlib import Path

import pytest
from crashes import crash_rounds

ROUNDS = int(os.environ.get("PACS_TEST_CRASH_ROUNDS", "3"))


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_however_often_it_is_killed(database_url: str, tmp_path: Path) -> None:
    report = crash_rounds(tmp_path / "pacs", database_url, ROUNDS)
    print(report)
    assert report.rounds == ROUNDS
    assert report.acknowledged > 10 * ROUNDS
    assert report.repeated > 0
    assert report.replaced > 0
