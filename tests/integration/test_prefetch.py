"""Earlier studies come from a remote when an examination is planned: as many as wanted, the newest, of the patient."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from datasets import make_study
from pairs import Two, stored, two
from servers import eventually
from sqlalchemy import update
from worklists import numbered

from pacs_server.config.sections.polling import PrefetchConfig
from pacs_server.dicom.levels import Level
from pacs_server.errors import RemoteUnreachable
from pacs_server.index.fetching_models import remote_study
from pacs_server.index.prefetching import Prior
from pacs_server.index.remote_studies import RemoteStudyFilter
from pacs_server.outbox.prefetch import PREFETCH, PrefetchHandler, look
from pacs_server.services.polling import Finder

pytestmark = pytest.mark.slow
ALL = RemoteStudyFilter()


def prefetching(**rule: Any) -> dict[str, Any]:
    return {"prefetch": (PrefetchConfig.model_validate({"from": ["there"], "priors": 2, **rule}),)}


def study_match(uid: str, patient: str) -> dict[str, Any]:
    return {tag: {"vr": "LO", "Value": [value]} for tag, value in (("0020000D", uid), ("00100020", patient))}


def planned(both: Two, days: int = 1, **patient: str) -> int:
    """A CT of a patient that is planned for tomorrow, or in so many days; its id."""
    day = f"{date.today() + timedelta(days=days):%Y%m%d}"
    item = numbered(7, {"ScheduledProcedureStepStartDate": day, "Modality": "CT"}, **patient)
    both.here.archive.worklist.put([item])
    row = both.here.archive.worklist.get(item.accession_number)
    assert row is not None
    look(both.here.archive.prefetching, both.here.archive.tasks)
    return row.id


def test_the_newest_earlier_studies_of_the_patient_come(tmp_path: Path, database_url: str) -> None:
    with two(tmp_path, database_url, settings=prefetching()) as both:
        days = ("20200105", "20240105", "20250105", "20260105")
        mine = [make_study(1, 2, PatientID="P1", StudyDate=day) for day in days]
        other = make_study(1, 1, PatientID="P2", StudyDate="20260105")
        magnetic = make_study(1, 1, PatientID="P1", StudyDate="20260205", Modality="MR")
        for study in (*mine, other, magnetic):
            both.store(study)
        item = planned(both, PatientID="P1")
        counts = both.here.archive.prefetching.counts
        assert eventually(lambda: (found := counts([item]).get(item)) is not None and found.wanted == found.here == 2)
        for study, expected in ((mine[3], 2), (mine[2], 2), (mine[1], 0), (other, 0), (magnetic, 0)):
            assert len(stored(both.here, str(study[0].StudyInstanceUID))) == expected
        priors = both.here.archive.prefetching.priors(item)
        assert [(each.study_date, each.remote, each.is_here) for each in priors] == [
            ("20260105", "there", True),
            ("20250105", "there", True),
        ]


def test_what_is_here_counts_and_another_person_of_the_same_id_does_not(tmp_path: Path) -> None:
    with two(tmp_path, settings=prefetching(modalities="any")) as both:
        here = make_study(1, 1, PatientID="P1", StudyDate="20260105", PatientBirthDate="19700101")
        both.store(here)
        number = both.fetch(str(here[0].StudyInstanceUID))
        assert eventually(lambda: both.task(number).state == "done")
        stranger = make_study(1, 1, PatientID="P1", StudyDate="20260205", PatientBirthDate="19990909")
        both.store(stranger)
        older = make_study(1, 1, PatientID="P1", StudyDate="20250105")
        both.store(older)
        item = planned(both, PatientID="P1", PatientBirthDate="19700101")
        counts = both.here.archive.prefetching.counts
        assert eventually(lambda: (found := counts([item]).get(item)) is not None and found.wanted == found.here)
        priors = both.here.archive.prefetching.priors(item)
        # The IDs are the same, the birth dates are not.
        assert [(each.study_date, each.remote) for each in priors] == [("20260105", ""), ("20250105", "there")]
        assert not stored(both.here, str(stranger[0].StudyInstanceUID))


def test_what_was_dropped_comes_for_an_appointment_and_a_study_of_two_patients_does_not(tmp_path: Path) -> None:
    """The remote answers a question about one patient without the other one, so it is asked for the study alone."""
    with two(tmp_path, settings=prefetching(cache=True)) as both:
        mine = make_study(1, 1, PatientID="P1", StudyDate="20260105")
        older = make_study(1, 1, PatientID="P1", StudyDate="20250105")
        mixed = make_study(1, 2, PatientID="P1", StudyDate="20260205")
        mixed[1].PatientID = "P2"
        for study in (mine, older, mixed):
            both.store(study)
        archive = both.here.archive
        uid = str(mine[0].StudyInstanceUID)
        archive.polling.take(Finder("there", "polling there", "THERE", is_cache=True), [study_match(uid, "P1")])
        archive.polling.start_waiting("there")
        assert eventually(lambda: [each.state for each in archive.polling.studies(ALL, 9)] == ["complete"])
        archive.deletions.delete(Level.STUDY, uid, "a test")
        with archive.database.begin() as connection:
            connection.execute(update(remote_study).values(state="dropped"))
        item = planned(both, PatientID="P1")
        counts = archive.prefetching.counts
        assert eventually(lambda: (found := counts([item]).get(item)) is not None and found.wanted == found.here == 2)
        assert len(stored(both.here, uid)) == 1
        assert not stored(both.here, str(mixed[0].StudyInstanceUID))


def test_a_study_is_not_fetched_before_the_remote_has_said_that_it_is_of_one_patient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two(tmp_path, settings=prefetching()) as both:
        study = make_study(1, 1, PatientID="P1", StudyDate="20260105")
        both.store(study)
        is_of_one, refused = PrefetchHandler._is_of_one, list[str]()

        def busy(handler: PrefetchHandler, prior: Prior) -> bool:
            refused.append(prior.study_instance_uid)
            raise RemoteUnreachable("there: it is busy")

        monkeypatch.setattr(PrefetchHandler, "_is_of_one", busy)
        archive = both.here.archive
        item = planned(both, PatientID="P1")
        assert eventually(
            lambda: (found := archive.prefetching.counts([item]).get(item)) is not None and found.last_error != ""
        )
        counted = archive.prefetching.counts([item])[item]
        assert (counted.wanted, counted.here, archive.polling.studies(ALL, 9)) == (1, 0, []), "wanted, and not begun"
        monkeypatch.setattr(PrefetchHandler, "_is_of_one", is_of_one)
        archive.tasks.hasten(f"{PREFETCH}:{item}")
        assert eventually(lambda: len(stored(both.here, str(study[0].StudyInstanceUID))) == 1)


def test_a_patient_that_is_corrected_while_the_remote_is_asked_is_asked_for_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The appointment is far, so the remote is not asked again for days unless the item changes."""
    with two(tmp_path, settings=prefetching()) as both:
        wrong, right = (make_study(1, 1, PatientID=each, StudyDate="20260105") for each in ("P1", "P2"))
        for study in (wrong, right):
            both.store(study)
        ask, asked = PrefetchHandler._ask, list[str]()

        def corrected(handler: PrefetchHandler, *arguments: Any) -> Any:
            asked.append(arguments[2].patient_id)
            if asked == ["P1"]:
                assert planned(both, days=9, PatientID="P2") == item
            return ask(handler, *arguments)

        monkeypatch.setattr(PrefetchHandler, "_ask", corrected)
        item = planned(both, days=9, PatientID="P1")
        assert eventually(lambda: len(stored(both.here, str(right[0].StudyInstanceUID))) == 1)
        assert asked == ["P1", "P2"]
        priors = both.here.archive.prefetching.priors(item)
        assert [each.study_instance_uid for each in priors] == [str(right[0].StudyInstanceUID)]
