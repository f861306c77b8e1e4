"""Earlier studies come from a remote when an examination is planned: as many as wanted, the newest, of the patient."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from datasets import make_study
from pairs import Two, stored, two
from servers import eventually
from worklists import numbered

from pacs_server.config.sections.polling import PrefetchConfig

pytestmark = pytest.mark.slow


def prefetching(**rule: Any) -> dict[str, Any]:
    return {"prefetch": (PrefetchConfig.model_validate({"from": ["there"], "priors": 2, **rule}),)}


def planned(both: Two, **patient: str) -> int:
    """A CT of a patient that is planned for tomorrow; its id."""
    tomorrow = f"{date.today() + timedelta(days=1):%Y%m%d}"
    item = numbered(7, {"ScheduledProcedureStepStartDate": tomorrow, "Modality": "CT"}, **patient)
    both.here.archive.worklist.put([item])
    row = both.here.archive.worklist.get(item.accession_number)
    assert row is not None
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
        eventually(lambda: (found := counts([item]).get(item)) is not None and found.wanted == found.here == 2)
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
        eventually(lambda: both.task(number).state == "done")
        stranger = make_study(1, 1, PatientID="P1", StudyDate="20260205", PatientBirthDate="19990909")
        both.store(stranger)
        older = make_study(1, 1, PatientID="P1", StudyDate="20250105")
        both.store(older)
        item = planned(both, PatientID="P1", PatientBirthDate="19700101")
        counts = both.here.archive.prefetching.counts
        eventually(lambda: (found := counts([item]).get(item)) is not None and found.wanted == found.here)
        priors = both.here.archive.prefetching.priors(item)
        # The IDs are the same, the birth dates are not.
        assert [(each.study_date, each.remote) for each in priors] == [("20260105", ""), ("20250105", "there")]
        assert not stored(both.here, str(stranger[0].StudyInstanceUID))
