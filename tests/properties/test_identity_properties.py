"""Whatever arrives in whatever order: people are never mixed, and the counters add up."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patients import Desk, adds_in_one_batch, assert_counters_exact, header
from sqlalchemy import delete, select

from pacs_server.dicom.identity import Identity, combined_name, compatible
from pacs_server.index import archive_models, models
from pacs_server.index.database import Database
from pacs_server.services.identity import read_changes

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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    arrivals=ARRIVALS, decisions=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=4)
)
def test_after_any_decisions_later_arrivals_follow_them_and_counters_add_up(
    desk: Desk, arrivals: list[dict[str, str]], decisions: list[tuple[int, int, bool]]
):
    start_anew(desk)
    for number, values in enumerate(arrivals):
        desk.add(f"9.{number}", **values)
    moves: list[tuple[str, Identity, Identity]] = []
    for source, target, whole in decisions:
        people = [p for p in (desk.service.person(f"@{key}") for key in keys(desk)) if p.identity.patient_id]
        if len(people) < 2:
            break
        one, other = people[source % len(people)], people[target % len(people)]
        if one == other:
            continue
        theirs = {study.study_instance_uid for study in desk.service.studies_of(other)}
        if whole:
            desk.service.merge(one, other, "test")
        else:
            desk.service.reassign(desk.service.studies_of(one)[0], other, "test")
        assert_counters_exact(desk.database)
        moved = read_changes(desk.directory)[-1]
        back = [move for move in moves if move[0] == moved.studies[0] and _is_back(move, one.identity, other.identity)]
        moves = [move for move in moves if move not in back]
        if back and not whole:
            # It is where it came from, and of the one who had it for a while nothing was decided.
            continue
        moves += [(uid, one.identity, other.identity) for uid in moved.studies if uid not in theirs]
        desk.add(f"8.{moved.number}", study=moved.studies[0], series="7.7", **moved.source)
        assert where(desk)[f"8.{moved.number}"][0] == other.key
    assert_counters_exact(desk.database)


def _is_back(move: tuple[str, Identity, Identity], source: Identity, target: Identity) -> bool:
    return compatible(move[1], target) and compatible(move[2], source)


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
