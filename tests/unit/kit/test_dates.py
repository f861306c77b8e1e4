"""Dates and times as people write them become those of DICOM, or are refused; nothing is guessed."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.kit.dates import clock_time_of, day_of

TODAY = date(2026, 3, 1)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-11-29", date(2026, 11, 29)),
        ("20261129", date(2026, 11, 29)),
        ("29.11.2026", date(2026, 11, 29)),
        (" 5.1.2026 ", date(2026, 1, 5)),
        ("today", date(2026, 3, 1)),
        ("Yesterday", date(2026, 2, 28)),
        ("tomorrow", date(2026, 3, 2)),
    ],
)
def test_days(text: str, day: date) -> None:
    assert day_of(text, today=TODAY) == day


@pytest.mark.parametrize(
    "text", ["", "29.11.", "29.11.26", "11/29/2026", "2026-1-5", "2026-0105", "31.02.2026", "29.13.2026", "٢٩.11.2026"]
)
def test_what_is_no_day(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        day_of(text, today=TODAY)


def test_words_are_no_days_where_nobody_knows_what_day_it_is() -> None:
    with pytest.raises(ValueError, match="not a date"):
        day_of("today")


@given(day=st.dates(min_value=date(1000, 1, 1)))
def test_every_day_in_every_form(day: date) -> None:
    for form in (day.isoformat(), f"{day:%Y%m%d}", f"{day.day}.{day.month}.{day.year}"):
        assert day_of(form) == day


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("9:30", "0930"),
        ("09:30", "0930"),
        ("0930", "0930"),
        ("9:30:05", "093005"),
        ("093005", "093005"),
        ("0:00", "0000"),
    ],
)
def test_times(text: str, time: str) -> None:
    assert clock_time_of(text) == time


@pytest.mark.parametrize("text", ["", "9", "930", "24:00", "9:60", "9:30:60", "9.30", "9:30 pm", "9:3"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a time"):
        clock_time_of(text)
