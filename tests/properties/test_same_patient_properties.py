"""Whatever arrives in whatever order: people are never mixed, and the counters add up."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import examples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patients import Desk, adds_in_one_batch, assert_counters_exact, header, rows
from sqlalchemy import delete, select

from pacs_server.dicom.original_attributes import earlier
from pacs_server.dicom.same_patient import Identity, combined_name, compatible
from pacs_server.errors import PatientError
from pacs_server.index import archive_models, models
from pacs_server.index.database import Database

NAMES = st.sampled_from(["", "^", "Doe", "DOE^", "Doe^Jane", "Roe", "Doe=A", "Doe=B", "=A", "Roe=A=C", "Doe\\Roe"])
ARRIVALS = st.lists(
    st.fixed_dictionaries(
        {
            "patient_id": st.sampled_from(["", "P1", "P2"]),
            "issuer_of_patient_id": st.sampled_from(["", "A"]),
            "patient_name": NAMES,
            "patient_birth_date": st.sampled_from(["", "19700101", "1970.01.01", "19800101"]),
            "study": st.sampled_from(["1.1", "1.2"]),
            "series": st.sampled_from(["1.1.1", "1.1.2"]),
        }
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def desk(database_url: str, tmp_path: Path) -> Iterator[Desk]:
    database = Database(database_url, fsync=False)
    database.migrate()
    (tmp_path / "archive").mkdir()
    yield Desk(database, tmp_path / "archive")
    database.close()


def start_anew(desk: Desk) -> None:
    (desk.directory / "changes/changes.jsonl").unlink(missing_ok=True)
    with desk.database.begin() as connection:
        for table in (*reversed(models.TABLES.values()), models.patient_alias, archive_models.archive_state):
            connection.execute(delete(table))


def where(desk: Desk) -> dict[str, tuple[int, int, str, str]]:
    """For each instance the keys of its patient and study, and the UIDs it is indexed under."""
    _, study, series, instance = models.TABLES.values()
    columns = (study.c.patient_fk, study.c.id, study.c.study_instance_uid, series.c.series_instance_uid)
    joined = instance.join(series).join(study)
    with desk.database.connect() as connection:
        found = connection.execute(select(instance.c.sop_instance_uid, *columns).select_from(joined))
        return {uid: tuple(place) for uid, *place in found}


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(40))
@given(arrivals=ARRIVALS, batch=st.sampled_from([1, 3, 12]))
def test_no_patient_ever_holds_two_people(desk: Desk, arrivals: list[dict[str, str]], batch: int):
    start_anew(desk)
    headers = [header(sop=f"9.{number}", **values) for number, values in enumerate(arrivals)]
    for start in range(0, len(headers), batch):
        assert set(adds_in_one_batch(desk.index, headers[start : start + batch])) == {None}
    held: dict[int, list[Identity]] = defaultdict(list)
    places = where(desk)
    for one in headers:
        patient_key, _, study_uid, series_uid = places[one.uids.sop]
        held[patient_key].append(Identity.of(one.values))
        assert (study_uid, series_uid) == (one.uids.study, one.uids.series)
    for identities in held.values():
        assert all(compatible(a, b) for a, b in combinations(identities, 2))
    # Without an ID only the study tells one nobody from another.
    studies_of_nobody = [key for key, identities in held.items() if not identities[0].patient_id]
    for key in studies_of_nobody:
        assert len({place[1] for place in places.values() if place[0] == key}) == 1
    assert_counters_exact(desk.database)


DECISIONS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["merge", "reassign", "back"])), max_size=5
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples.of(40))
@given(arrivals=ARRIVALS, between=ARRIVALS, decisions=DECISIONS)
def test_whatever_is_decided_later_arrivals_follow_and_everybody_is_told_of(
    desk: Desk, arrivals: list[dict[str, str]], between: list[dict[str, str]], decisions: list[tuple[int, int, str]]
):
    start_anew(desk)
    sent: dict[str, dict[str, str]] = {}

    def arrive(values: dict[str, str]) -> str:
        sop = f"9.{len(sent)}"
        desk.add(sop, **values)
        sent[sop] = values
        return sop

    for values in arrivals:
        arrive(values)
    for number, decision in enumerate(decisions):
        _decide(desk, *decision)
        arrive(between[number % len(between)])
        assert_counters_exact(desk.database)
    _assert_nobody_is_mixed_silently(desk, sent)
    places = where(desk)
    for sop, values in list(sent.items()):
        again = arrive(values)
        # Of two studies of one UID nobody can say which one was decided about.
        settled = len({place[1] for place in places.values() if place[2] == values["study"]}) == 1
        if settled and not _ambiguous(Identity.of(values), map(Identity.of, sent.values())):
            assert where(desk)[again][:2] == places[sop][:2], values
    _assert_nobody_is_mixed_silently(desk, sent)
    assert_counters_exact(desk.database)


def _decide(desk: Desk, source: int, target: int, how: str) -> None:
    """What an operator might do, or nothing if there is no occasion."""
    people = [desk.person(key) for key in keys(desk)]
    one, other = people[source % len(people)], people[target % len(people)]
    studies = desk.service.studies_of(one)
    uid = studies[0].study_instance_uid
    with suppress(PatientError):
        if how == "merge":
            desk.service.merge(one, other, "test")
        elif how == "reassign":
            desk.service.reassign(studies[0], other, "test")
        elif before := [person for person in desk.service.people_of(uid) if person.merged]:
            desk.service.reassign(studies[0], before[target % len(before)], "test")


def _ambiguous(one: Identity, everybody: Iterable[Identity]) -> bool:
    """Whether people who cannot be the same may each be this one."""
    fitting = [each for each in everybody if compatible(one, each)]
    return not all(compatible(a, b) for a, b in combinations(fitting, 2))


def _assert_nobody_is_mixed_silently(desk: Desk, sent: dict[str, dict[str, str]]) -> None:
    """Whoever is in a study under another name is in its Original Attributes Sequence."""
    people = {row["id"]: row for row in rows(desk.database, models.patient)}
    studies = {row["id"]: row for row in rows(desk.database, models.study)}
    for sop, (patient_key, study_key, *_) in where(desk).items():
        who, now = Identity.of(sent[sop]), Identity.of(people[patient_key])
        items = json.loads(studies[study_key]["original_attributes_sequence"] or "[]")
        told = {now} | earlier(items, now)
        assert any(compatible(who, each) for each in told), (who, told)


def keys(desk: Desk) -> list[int]:
    with desk.database.connect() as connection:
        return list(connection.scalars(select(models.patient.c.id).order_by(models.patient.c.id)))


@given(one=NAMES, other=NAMES, third=NAMES)
def test_a_completed_name_speaks_for_all_that_completed_it(one: str, other: str, third: str):
    if not compatible(Identity(patient_name=one), Identity(patient_name=other)):
        return
    both = combined_name(one, other)
    assert compatible(Identity(patient_name=one), Identity(patient_name=both))
    assert compatible(Identity(patient_name=other), Identity(patient_name=both))
    for_both = [compatible(Identity(patient_name=each), Identity(patient_name=third)) for each in (one, other)]
    assert compatible(Identity(patient_name=both), Identity(patient_name=third)) == all(for_both)
