"""Readiness, the days that are left, and what the log is told of them."""

import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, text

from pacs_server.app import health
from pacs_server.app.health import Health, HealthLog, TimedProbe
from pacs_server.errors import IndexUnavailable
from pacs_server.index import growth, models
from pacs_server.index.database import Database
from pacs_server.index.growth import Growth
from pacs_server.kit.last_failure import LastFailure

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


def receive(database: Database, *received: tuple[timedelta, int]) -> None:
    """Instances of these sizes, received so long ago, in the order of arrival."""
    with database.begin() as connection:
        known = connection.scalar(text("SELECT count(*) FROM instance"))
        if not known:
            connection.execute(insert(models.patient).values(id=1))
            connection.execute(insert(models.study).values(id=1, patient_fk=1, study_instance_uid="1.2"))
            connection.execute(insert(models.series).values(id=1, study_fk=1, series_instance_uid="1.3"))
        for number, (ago, size) in enumerate(received, known):
            fixed = {"series_fk": 1, "data_set_offset": 0, "digest": "", "path": f"{number}.dcm"}
            row = {"sop_instance_uid": f"1.4.{number}", "size": size, "received_at": NOW - ago}
            connection.execute(insert(models.instance).values(fixed | row))


def per_day(database: Database) -> float:
    return Growth(database, now=lambda: NOW).bytes_per_day()


@pytest.mark.slow
def test_nothing_came_in(database):
    assert per_day(database) == 0


@pytest.mark.slow
def test_the_last_week_counts(database):
    receive(database, (30 * DAY, 9999), (6 * DAY, 400), (DAY, 300))
    assert per_day(database) == pytest.approx(100)


@pytest.mark.slow
def test_a_young_archive_counts_since_it_began(database):
    receive(database, (2 * DAY, 500), (DAY, 300))
    assert per_day(database) == pytest.approx(400)


def test_an_archive_of_this_morning_counts_as_a_day(database):
    receive(database, (timedelta(minutes=5), 500))
    assert per_day(database) == pytest.approx(500)


def test_many_rows_count_for_the_time_that_they_cover(database, monkeypatch):
    monkeypatch.setattr(growth, "_ROWS", 2)
    receive(database, (6 * DAY, 5000), (2 * DAY, 100), (DAY, 100))
    assert per_day(database) == pytest.approx(100)


def test_what_was_restored_from_the_trash_covers_no_time(database, monkeypatch):
    monkeypatch.setattr(growth, "_ROWS", 3)
    receive(database, (6 * DAY, 5000), (2 * DAY, 100), (30 * DAY, 700), (DAY, 100))
    assert per_day(database) == pytest.approx(100)


def test_a_clock_that_was_wrong_does_no_harm(database):
    receive(database, (-400 * DAY, 70), (9999 * DAY, 9999), (DAY, 70))
    assert per_day(database) == pytest.approx(20)


def test_it_is_asked_once_in_five_minutes(database):
    seconds = 0.0
    lately = Growth(database, clock=lambda: seconds, now=lambda: NOW)
    receive(database, (7 * DAY, 7))
    assert lately.bytes_per_day() == pytest.approx(1)
    receive(database, (DAY, 700))
    seconds = 299.0
    assert lately.bytes_per_day() == pytest.approx(1)
    seconds = 300.0
    assert lately.bytes_per_day() == pytest.approx(101)


@pytest.mark.parametrize(("free", "came", "days"), [(1500, 100, 5.0), (900, 100, 0.0), (1500, 0, None)])
def test_the_days_that_are_left_end_where_objects_are_refused(free, came, days):
    config = SimpleNamespace(storage=SimpleNamespace(min_free_space=1000))
    files = SimpleNamespace(spool=SimpleNamespace(free_bytes=lambda: free))
    archive = SimpleNamespace(files=files, database=mock.MagicMock())
    runtime: Any = SimpleNamespace(archive=archive, config=lambda: config, addresses=None)
    about = Health(runtime)
    about._growth = SimpleNamespace(bytes_per_day=lambda: float(came))  # type: ignore[assignment]
    assert about.days_left() == days


@given(st.lists(st.sampled_from(["failed", "worked", "wait"])))
def test_a_failure_is_remembered_until_it_works_and_not_for_long(events: list[str]) -> None:
    now, expected = 0.0, None
    last = LastFailure(clock=lambda: now)
    for event in events:
        if event == "wait":
            now, expected = now + 30, None
        elif event == "worked":
            last.worked()
            expected = None
        else:
            last.failed("broken")
            expected = "broken"
        assert last.reason() == expected


def test_a_database_that_hangs_is_asked_once(monkeypatch):
    monkeypatch.setattr(health, "_TIMEOUT", 0.1)
    asked: list[int] = []
    answer = threading.Event()

    def ask() -> str | None:
        asked.append(1)
        answer.wait(60)
        return None

    database = TimedProbe(ask, lambda reason: reason)
    assert [database.result(), database.result()] == ["the database has not answered for 0.1 s"] * 2
    assert len(asked) == 1
    monkeypatch.setattr(health, "_TIMEOUT", 30.0)
    answer.set()
    assert database.result() is None


def test_a_check_that_fails_tells_nothing_from_before(caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([None])
    probe = TimedProbe(lambda: next(answers), lambda reason: reason)
    assert probe.result() is None
    assert probe.result() == "internal error (StopIteration), see the server's log"
    assert [record.message for record in caplog.records] == ["check failed unexpectedly"]


class Told:
    """A server that is as healthy as it is told to be."""

    stopping = False
    reason: str | None = None
    days: float | None = None

    def not_ready(self) -> str | None:
        return self.reason

    def days_left(self) -> float | None:
        if self.days is not None and self.days < 0:
            raise IndexUnavailable("away")
        return self.days


def test_the_log_is_told_of_changes_once(caplog):
    caplog.set_level(logging.INFO, "pacs_server")
    told = Told()
    changes = HealthLog(told, stopping=lambda: told.stopping)  # type: ignore[arg-type]
    for told.reason in (None, "full", "full", "fuller", None, None):
        changes.update()
    told.stopping, told.reason = True, "shutting down"
    changes.update()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "not ready"),
        ("INFO", "ready again"),
    ]


def test_a_disk_that_will_be_full_soon_is_said_once_a_day(caplog, monkeypatch):
    told = Told()
    changes = HealthLog(told, stopping=lambda: told.stopping)  # type: ignore[arg-type]
    now = 1e6
    monkeypatch.setattr(health.time, "monotonic", lambda: now)
    for told.days in (None, 7.0, -1.0, 6.96, 5.0):
        changes.update()
    now += 86400
    changes.update()
    said = [(record.message, record.days) for record in caplog.records]
    assert said == [("the storage will be full soon", 7.0), ("the storage will be full soon", 5.0)]
