"""A remote that is polled: what it has comes here, what is added comes, and nothing comes twice."""

from pathlib import Path
from typing import Any

import pytest
from datasets import make_study
from pairs import Two, stored, two
from servers import eventually

from pacs_server.config.sections.polling import PollingConfig
from pacs_server.index.remote_studies import RemoteStudyFilter, RemoteStudyState

pytestmark = pytest.mark.slow


def polled(**entry: Any) -> dict[str, Any]:
    return {"polling": (PollingConfig.model_validate({"remote": "there", "every": "1s", "window": "10y", **entry}),)}


def states(both: Two) -> dict[str, RemoteStudyState]:
    return {each.study_instance_uid: each.state for each in both.here.archive.polling.studies(RemoteStudyFilter(), 100)}


def test_what_a_remote_has_comes_and_what_is_added_to_it(tmp_path: Path, database_url: str) -> None:
    with two(tmp_path, database_url, settings=polled()) as both:
        first, second = make_study(1, 3), make_study(1, 2)
        both.store(first[:2])
        both.store(second)
        uids = {str(each[0].StudyInstanceUID) for each in (first, second)}
        eventually(lambda: states(both) == dict.fromkeys(uids, RemoteStudyState.COMPLETE))
        assert len(stored(both.here, str(first[0].StudyInstanceUID))) == 2
        both.store(first[2:])
        eventually(lambda: len(stored(both.here, str(first[0].StudyInstanceUID))) == 3)
        eventually(lambda: states(both) == dict.fromkeys(uids, RemoteStudyState.COMPLETE))
