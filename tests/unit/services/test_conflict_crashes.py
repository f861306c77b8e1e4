"""A merge that is killed at any step is made as a whole at the next start, or was never begun."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from patients import Desk, assert_counters_exact, decisions_in
from sqlalchemy import event

from pacs_server.audit.events import EventID
from pacs_server.index.database import Database
from pacs_server.storage.filesystem.decision_log import FileDecisionLog

# Steps before the line in the journal is whole; a number is one of the statements that change the index.
NEVER_BEGUN = ("nothing written", "half a line")
BEGUN = ("a line", 4, "all but the commit", "all")


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arrange_death(desk: Desk, step: str | int) -> None:
    pwrite, statements, engine = os.pwrite, 0, desk.database.engine

    def half(descriptor: int, data: bytes, at: int) -> int:
        pwrite(descriptor, data[: len(data) // 2], at)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal statements
        statements += statement.startswith(("INSERT", "UPDATE", "DELETE"))
        if statements == step:
            _die()

    if step == "nothing written":
        FileDecisionLog._write_at = _die  # type: ignore[method-assign]
    elif step == "half a line":
        os.pwrite = half
    elif step == "a line":
        desk.trail.write = _die  # type: ignore[method-assign]
    elif step == "all but the commit":
        event.listen(engine, "commit", _die)
    else:
        event.listen(engine, "before_cursor_execute", count)


def _merge_and_die(url: str, directory: str, step: str | int) -> None:
    database = Database(url)
    desk = Desk(database, Path(directory))
    _arrange_death(desk, step)
    desk.merge("P1", into="P2")
    _die()


@pytest.mark.slow
@pytest.mark.parametrize("step", [*NEVER_BEGUN, *BEGUN])
def test_a_merge_that_is_killed(database_url: str, tmp_path: Path, step: str | int) -> None:
    (tmp_path / "archive").mkdir()
    database = Database(database_url)
    database.migrate()
    desk = Desk(database, tmp_path / "archive")
    desk.add("1.0", patient_id="P1")
    desk.add("1.1", study="1.2", patient_id="P1")
    desk.add("2.0", patient_id="P2")
    before = desk.state()
    arguments = (database_url, str(desk.directory), step)
    process = multiprocessing.get_context("spawn").Process(target=_merge_and_die, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    if step != "all":
        assert desk.state() == before
        assert desk.service.catch_up() == (step in BEGUN)
        assert len(desk.trail.of(EventID.PATIENT_RECORD)) == (2 if step in BEGUN else 0)
    if step in NEVER_BEGUN:
        desk.merge("P1", into="P2")
    assert desk.people() == [("P2", "", 3)]
    assert len(decisions_in(desk.directory)) == 1
    assert desk.service.catch_up() == 0
    assert_counters_exact(database)
    database.close()
