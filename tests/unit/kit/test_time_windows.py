"""Windows of time: which moments they hold, and when the next one begins."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from pacs_server.kit.time_windows import TimeWindow, is_open, next_opening


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


@pytest.mark.parametrize(
    ("window", "moment", "opened"),
    [
        ("22:00-06:00", "2026-03-01 21:59", False),
        ("22:00-06:00", "2026-03-01 22:00", True),
        ("22:00-06:00", "2026-03-02 05:59", True),
        ("22:00-06:00", "2026-03-02 06:00", False),
        ("8:30 - 12:00", "2026-03-02 08:30", True),
        ("8:30 - 12:00", "2026-03-02 12:00", False),
        ("18:00-24:00", "2026-03-02 23:59", True),
    ],
)
def test_what_a_window_holds(window: str, moment: str, opened: bool) -> None:
    assert is_open([window], at(moment)) == opened


def test_without_windows_it_is_always_open() -> None:
    assert is_open([], at("2026-03-01 21:59"))
    assert next_opening([], at("2026-03-01 21:59")) == at("2026-03-01 21:59")


@pytest.mark.parametrize(
    ("now", "opening"),
    [
        ("2026-03-01 21:00", "2026-03-01 22:00"),
        ("2026-03-01 23:00", "2026-03-01 23:00"),
        ("2026-03-02 07:00", "2026-03-02 12:00"),
        ("2026-03-02 13:00", "2026-03-02 22:00"),
        # The clocks go forward in the night to the 29th.
        ("2026-03-28 13:00", "2026-03-28 22:00"),
    ],
)
def test_when_the_next_one_begins(now: str, opening: str) -> None:
    assert next_opening(["22:00-06:00", "12:00-13:00"], at(now)) == at(opening)


def test_a_start_on_the_next_day_moves_with_the_clock() -> None:
    found = next_opening(["05:00-06:00"], at("2026-03-28 13:00"))
    assert found == at("2026-03-29 05:00")
    assert (found - at("2026-03-28 13:00")).total_seconds() == 15 * 3600


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "25:00-26:00", "24:00-06:00", "06:00-06:00", "23:00-24:30"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match="window"):
        TimeWindow.parse(text)
