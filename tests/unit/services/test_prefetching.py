"""Which earlier studies are chosen for an examination, by rule, patient, and what is here and at remotes."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from pacs_server.config.sections.polling import PrefetchConfig
from pacs_server.index.prefetching import Prior
from pacs_server.services.polling import Named
from pacs_server.services.prefetching import Patient, appointment_of, chosen, keys_of, of_patient, studies_at

TODAY = date(2026, 3, 2)
PATIENT = Patient(7, "P1", "19700101", "CT", "1.9", datetime(2026, 3, 3, 9, tzinfo=UTC))


def rule(**settings: Any) -> PrefetchConfig:
    return PrefetchConfig.model_validate({"from": ["WS1", "WS2"], "within": "365d", **settings})


def named(uid: str, day: str = "20260101", modalities: str = "CT", instances: int | None = 10) -> Named:
    return Named(uid, ("P1",), day, modalities, 1, instances)


def match(patient: str, birth_date: str = "", uid: str = "1.2") -> dict[str, Any]:
    values = {"0020000D": uid, "00100020": patient, "00100030": birth_date}
    return {tag: {"vr": "LO", "Value": [value]} for tag, value in values.items() if value}


def uids(priors: list[Prior]) -> list[tuple[str, str]]:
    return [(each.study_instance_uid, each.remote) for each in priors]


def test_the_newest_first_and_none_that_is_too_old_or_the_examination_itself() -> None:
    there = [
        *(("WS1", named("1.1", "20250301")), ("WS1", named("1.2", "20250302")), ("WS1", named("1.3", "20260301"))),
        *(("WS1", named("1.9", "20260302")), ("WS1", named("1.4", "20260303")), ("WS1", named("1.5", ""))),
    ]
    assert uids(chosen(rule(), PATIENT, TODAY, [], there)) == [("1.3", "WS1"), ("1.2", "WS1")]


@pytest.mark.parametrize(
    ("here", "first", "second", "remote"),
    [
        # What is here in full is here; one that is not, or whose remote has more, is fetched.
        (10, 10, None, ""),
        (10, None, None, ""),
        (10, 8, None, ""),
        (8, 10, None, "WS1"),
        (None, 10, None, "WS1"),
        (None, None, None, "WS1"),
        # Of two remotes the first, unless the second has more.
        (None, 10, 10, "WS1"),
        (None, 8, 10, "WS2"),
        (8, 8, 10, "WS2"),
        (10, 8, 10, ""),
    ],
)
def test_from_where_a_study_is_taken(here: int | None, first: int | None, second: int | None, remote: str) -> None:
    mine = [] if here is None else [named("1.1", instances=here)]
    there = [("WS1", named("1.1", instances=first))]
    there += [] if second is None else [("WS2", named("1.1", instances=second))]
    assert uids(chosen(rule(), PATIENT, TODAY, mine, there)) == [("1.1", remote)]


@pytest.mark.parametrize(
    ("wanted", "modality", "modalities", "fits"),
    [
        ("same", "CT", "CT", True),
        ("same", "CT", "MR\\CT", True),
        ("same", "CT", "MR", False),
        ("same", "", "MR", True),
        ("same", "CT", "", True),
        ("any", "CT", "MR", True),
        (["MR", "PT"], "CT", "PT", True),
        (["MR", "PT"], "CT", "CT", False),
    ],
)
def test_modalities(wanted: Any, modality: str, modalities: str, fits: bool) -> None:
    patient = replace(PATIENT, modality=modality)
    there = [("WS1", named("1.1", modalities=modalities))]
    assert bool(chosen(rule(modalities=wanted), patient, TODAY, [], there)) is fits


def test_a_remote_is_asked_for_one_modality_and_judged_here_for_several() -> None:
    dates = {"PatientID": "P1", "StudyDate": "20250302-20260302"}
    assert keys_of(rule(), PATIENT, TODAY) == dates | {"ModalitiesInStudy": "CT"}
    assert keys_of(rule(modalities=["CT", "MR"]), PATIENT, TODAY) == dates
    assert keys_of(rule(modalities="any"), PATIENT, TODAY) == dates


def test_another_id_or_birth_date_is_another_patient() -> None:
    own = [match("P1", "19700101"), match("P1"), match("P1", "1970")]
    assert of_patient([*own, match("P1", "19990909"), match("P10"), match("p1"), match("")], PATIENT) == own


def test_a_study_of_several_patients_in_an_answer_is_left_out() -> None:
    answer = [match("P1", uid="1.1"), match("P1", uid="1.2"), match("P2", uid="1.2")]
    assert [each.study_instance_uid for _, each in studies_at("WS1", answer)] == ["1.1"]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("093015", (9, 30, 15)),
        ("093015.123456", (9, 30, 15)),
        ("0930", (9, 30, 0)),
        ("09", (9, 0, 0)),
        ("", (0, 0, 0)),
        ("2500", (0, 0, 0)),
        ("9:30", (0, 0, 0)),
    ],
)
def test_the_time_of_an_appointment(time: str, expected: tuple[int, int, int]) -> None:
    assert appointment_of("20260303", time) == datetime(2026, 3, 3, *expected).astimezone(UTC)


@pytest.mark.parametrize("day", ["", "2026", "20261399", "2026-03-03"])
def test_an_appointment_without_a_day_is_over(day: str) -> None:
    assert appointment_of(day, "0930") < datetime(2000, 1, 1, tzinfo=UTC)
