"""What is fetched of what a remote names, depending on what is known, what is here and what the remote says."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from pacs_server.index.remote_studies import RemoteStudy
from pacs_server.index.remote_studies import RemoteStudyState as State
from pacs_server.index.task_values import Priority
from pacs_server.services.polling import Finder, Named, decided, first_day, studies_of, with_earlier_part

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
POLLING = Finder("WS1", "polling WS1", "WS1")
PREFETCH = Finder("WS1", "prefetch for worklist item 1", "WS1", Priority.HIGH, deadline=NOW + timedelta(days=1))
NAMED = Named("1.2", ("P1",), "20260301", "CT", 2, 10)
KNOWN = replace(
    decided(POLLING, NAMED, None, 0, NOW - timedelta(hours=3)),
    **{"state": State.COMPLETE, "completed_at": NOW - timedelta(hours=2), "listed_instances": 10},
)


def match(uid: str, patient: str = "P1", **counts: str) -> dict[str, Any]:
    tags = {"series": "00201206", "instances": "00201208"}
    told = {tags[name]: {"vr": "IS", "Value": [value]} for name, value in counts.items()}
    return {"0020000D": {"vr": "UI", "Value": [uid]}, "00100020": {"vr": "LO", "Value": [patient]}, **told}


# ------------------------------------------------------------------------------------ answers


def test_each_study_of_an_answer_is_there_once() -> None:
    answer = [match("1.2", series="1", instances="10"), match("no UID"), {}, match("1.3"), match("1.2", "P2")]
    assert studies_of(answer) == [Named("1.2", ("P1", "P2"), "", "", 1, 10), Named("1.3", ("P1",))]


@pytest.mark.parametrize("count", ["", "-1", "ten", "1.5", "²", "9" * 13, "9" * 5000])
def test_a_count_that_is_no_number_is_none(count: str) -> None:
    assert studies_of([match("1.2", instances=count)]) == [Named("1.2", ("P1",))]


def test_a_count_that_is_too_high_is_the_highest_one_that_the_index_takes() -> None:
    """With a higher one PostgreSQL would refuse all studies of the same part of the answer, again and again."""
    found = studies_of([match("1.2", instances="2147483648"), match("1.3", instances="2147483647")])
    assert [each.instances for each in found] == [2**31 - 1] * 2
    (both,) = studies_of([match("1.2", instances="2000000000"), match("1.2", "P2", instances="2000000000")])
    assert both.instances == 2**31 - 1


def test_the_counts_of_a_study_of_two_patients_are_those_of_both_and_an_answer_given_twice_counts_once() -> None:
    two = studies_of([match("1.2", instances="10"), match("1.2", "P2", instances="5")])
    assert two == [Named("1.2", ("P1", "P2"), instances=15)]
    assert studies_of([match("1.2", instances="10")] * 2) == [Named("1.2", ("P1",), instances=10)]


def test_the_other_patient_may_come_in_a_later_part_of_an_answer() -> None:
    began = NOW - timedelta(minutes=1)
    seen = replace(KNOWN, seen_at=NOW)
    other = replace(NAMED, patients=("P2",), series=1, instances=5)
    assert with_earlier_part(other, seen, began) == replace(NAMED, patients=("P1", "P2"), series=3, instances=15)
    assert with_earlier_part(other, replace(KNOWN, seen_at=began - timedelta(seconds=1)), began) == other
    assert with_earlier_part(NAMED, seen, began) == NAMED
    assert with_earlier_part(NAMED, None, began) == NAMED


@pytest.mark.parametrize(
    ("answered", "first"),
    [
        (None, "20260227"),
        (datetime(2026, 3, 2, 11, tzinfo=UTC), "20260227"),
        # Ten days without an answer: late series of studies that were in the last window come too.
        (datetime(2026, 2, 20, 12, tzinfo=UTC), "20260217"),
        # The clock was set back.
        (datetime(2026, 4, 1, 12, tzinfo=UTC), "20260227"),
    ],
)
def test_windows_overlap_also_after_a_long_silence(answered: datetime | None, first: str) -> None:
    assert f"{first_day(date(2026, 3, 2), 2 * 86_400, answered):%Y%m%d}" == first


# ------------------------------------------------------------------------------------ decisions


CACHING = replace(POLLING, is_cache=True)


def test_a_new_study_is_fetched_and_is_cache_only_if_nothing_of_it_was_here() -> None:
    assert decided(CACHING, NAMED, None, 0, NOW).is_cache
    known = decided(CACHING, NAMED, None, 1, NOW)
    assert (known.state, known.is_cache, known.remote_instances) == (State.FOUND, False, 10)


GROWN = replace(NAMED, instances=12)
SHRUNK = replace(NAMED, instances=8)
SILENT = replace(NAMED, series=None, instances=None)


@pytest.mark.parametrize(
    ("changes", "named", "here", "hours", "state"),
    [
        ({}, NAMED, 10, 0, State.COMPLETE),
        ({}, GROWN, 10, 0, State.FOUND),
        ({}, replace(NAMED, series=3), 10, 0, State.FOUND),
        ({}, SHRUNK, 10, 0, State.FOUND),
        # Without counts, once an hour; with them, once a day.
        ({"remote_series": None, "remote_instances": None}, SILENT, 10, -1.5, State.COMPLETE),
        ({"remote_series": None, "remote_instances": None}, SILENT, 10, 0, State.FOUND),
        ({}, NAMED, 10, 21, State.COMPLETE),
        ({}, NAMED, 10, 23, State.FOUND),
        # What was deleted here stays deleted; if only a part was, what is added comes.
        ({}, NAMED, 0, 23, State.COMPLETE),
        ({}, GROWN, 0, 23, State.COMPLETE),
        ({}, NAMED, 9, 23, State.COMPLETE),
        ({}, GROWN, 9, 0, State.FOUND),
        # The same if the remote never named its instances.
        ({"listed_instances": None}, NAMED, 0, 23, State.COMPLETE),
        ({"listed_instances": None}, GROWN, 0, 23, State.COMPLETE),
        # All of what is here would come again, so it has to have grown.
        ({"listed_instances": None}, NAMED, 10, 1000, State.COMPLETE),
        ({"listed_instances": None}, GROWN, 10, 0, State.FOUND),
        # What failed is tried again after a day, or when it has changed.
        ({"state": State.FAILED}, NAMED, 3, 20, State.FAILED),
        ({"state": State.FAILED}, NAMED, 3, 22, State.FOUND),
        ({"state": State.FAILED}, GROWN, 3, 0, State.FOUND),
        # What waits or is being fetched is left alone.
        ({"state": State.FOUND}, GROWN, 0, 1000, State.FOUND),
        ({"state": State.FETCHING}, GROWN, 0, 1000, State.FETCHING),
        # The clock was set back, and nobody knows how long ago that was; but clocks of two servers differ a little.
        ({}, NAMED, 10, -1000, State.FOUND),
        ({"remote_series": None, "remote_instances": None}, SILENT, 10, -2.5, State.FOUND),
        ({"remote_series": None, "remote_instances": None}, SILENT, 10, -2.01, State.COMPLETE),
        ({"state": State.FAILED}, NAMED, 3, -1000, State.FOUND),
        ({}, NAMED, 9, -1000, State.COMPLETE),
    ],
)
def test_what_becomes_of_a_known_study(
    changes: dict[str, Any], named: Named, here: int, hours: float, state: State
) -> None:
    """It was complete two hours before, and changed three hours before `NOW`; the remote names it `hours` after."""
    now = NOW + timedelta(hours=hours)
    after = decided(POLLING, named, replace(KNOWN, **changes), here, now)
    assert after.state is state
    assert (after.seen_at, after.remote_instances) == (now, named.instances)
    if state is State.FOUND and changes.get("state") is not State.FOUND:
        assert after.changed_at == now


@pytest.mark.parametrize(
    ("finder", "named", "here", "state", "is_cache"),
    [
        # It is fetched again if it grows, or for somebody who wants it to stay.
        (CACHING, NAMED, 0, State.DROPPED, True),
        (CACHING, GROWN, 0, State.FOUND, True),
        (POLLING, NAMED, 0, State.FOUND, False),
        # What is here now came otherwise.
        (CACHING, GROWN, 3, State.FOUND, False),
    ],
)
def test_what_becomes_of_a_study_that_was_dropped(
    finder: Finder, named: Named, here: int, state: State, is_cache: bool
) -> None:
    dropped = replace(KNOWN, state=State.DROPPED, is_cache=True)
    after = decided(finder, named, dropped, here, NOW + timedelta(days=40))
    assert (after.state, after.is_cache) == (state, is_cache)


@pytest.mark.parametrize("state", [State.FOUND, State.FETCHING, State.COMPLETE, State.FAILED])
def test_what_one_of_two_entries_wants_to_stay_is_no_cache(state: State) -> None:
    known = replace(KNOWN, state=state, is_cache=True)
    assert decided(CACHING, NAMED, known, 10, NOW).is_cache
    assert not decided(POLLING, NAMED, known, 10, NOW).is_cache
    assert not decided(CACHING, NAMED, replace(known, is_cache=False), 10, NOW).is_cache


def test_what_failed_while_the_remote_was_away_is_tried_again_when_it_answers() -> None:
    """It failed three hours ago. Of several patients it stays."""
    failed = replace(KNOWN, state=State.FAILED, last_error="no answer within 60 s")
    for hours, state in ((4, State.FOUND), (2, State.FAILED)):
        back = replace(POLLING, away_since=NOW - timedelta(hours=hours))
        assert decided(back, NAMED, failed, 0, NOW).state is state
    back = replace(POLLING, away_since=NOW - timedelta(hours=4))
    assert decided(back, NAMED, replace(failed, patient_id="P1\\P2"), 0, NOW).state is State.FAILED


@pytest.mark.parametrize("state", list(State))
def test_a_study_of_several_patients_is_not_fetched_and_says_why(state: State) -> None:
    after = decided(POLLING, replace(GROWN, patients=("P1", "P2")), replace(KNOWN, state=state), 10, NOW)
    assert (after.state, after.patient_id) == (State.FAILED, "P1\\P2")
    assert after.last_error == "WS1 has it under several patients: P1, P2"


def test_one_of_several_patients_alone_is_no_reason_to_fetch_until_a_day_later() -> None:
    """As in the first part of an answer whose second part names the other patient."""
    both = decided(POLLING, replace(NAMED, patients=("P1", "P2"), instances=20), KNOWN, 0, NOW)
    assert decided(POLLING, NAMED, both, 0, NOW).state is State.FAILED
    assert decided(POLLING, NAMED, both, 0, NOW + timedelta(hours=25)).state is State.FOUND


def test_who_needs_a_study_by_a_time_gets_it_although_it_was_dropped_or_has_failed() -> None:
    for state in (State.DROPPED, State.FAILED):
        after = decided(PREFETCH, NAMED, replace(KNOWN, state=state, is_cache=True), 0, NOW)
        assert (after.state, after.priority, after.found_by) == (State.FOUND, Priority.HIGH, PREFETCH.name)
        assert after.deadline == PREFETCH.deadline
        # It was cache for the polling; the prefetch wants it to stay.
        assert not after.is_cache
    # What a person has deleted here is wanted by nobody.
    assert decided(PREFETCH, NAMED, KNOWN, 0, NOW).state is State.COMPLETE


def test_the_later_appointment_and_the_higher_priority_count() -> None:
    waits = replace(KNOWN, state=State.FOUND, priority=Priority.LOW)
    sooner = decided(PREFETCH, NAMED, waits, 0, NOW)
    assert (sooner.state, sooner.priority, sooner.changed_at) == (State.FOUND, Priority.HIGH, waits.changed_at)
    assert sooner.deadline == PREFETCH.deadline
    assert decided(POLLING, NAMED, sooner, 0, NOW).priority is Priority.HIGH
    assert decided(replace(PREFETCH, deadline=NOW), NAMED, sooner, 0, NOW).deadline == PREFETCH.deadline


def test_what_is_routed_for_one_stays_routed() -> None:
    known: RemoteStudy = replace(KNOWN, is_routed=False)
    assert decided(replace(POLLING, is_routed=True), GROWN, known, 10, NOW).is_routed
    assert decided(POLLING, GROWN, replace(known, is_routed=True), 10, NOW).is_routed
