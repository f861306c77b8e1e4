"""Studies fetched from another pacs-server: in the stored transfer syntax, over both services, and cancelled."""

from pathlib import Path

import pytest
from datasets import make_study, pydicom_test_files
from pairs import stored, two
from servers import eventually

from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.index.task_values import TaskState
from pacs_server.outbox import fetch

pytestmark = pytest.mark.slow


def test_a_study_comes_as_it_is_stored_there(tmp_path: Path, database_url: str) -> None:
    (compressed,) = [path for path in pydicom_test_files() if path.name == "MR_small_RLE.dcm"]
    with two(tmp_path, database_url) as both:
        both.store_file(compressed)
        (original,) = both.there.archive.retrieve.select(RetrieveKeys(Level.STUDY))
        number = both.fetch(original.uids.study)
        assert eventually(lambda: both.task(number).state == TaskState.DONE)
        (copy,) = stored(both.here, original.uids.study)
        assert (copy.uids, copy.transfer_syntax_uid) == (original.uids, original.transfer_syntax_uid)
        with both.here.archive.retrieve.open(copy) as one, both.there.archive.retrieve.open(original) as other:
            assert one.read(0, one.size) == other.read(0, other.size)


def test_a_remote_that_does_not_allow_c_get_sends_by_c_move(tmp_path: Path) -> None:
    study = make_study(2, 2)
    with two(tmp_path, allow=("find", "move")) as both:
        both.store(study)
        number = both.fetch(study[0].StudyInstanceUID)
        assert eventually(lambda: both.task(number).state == TaskState.DONE)
        assert len(stored(both.here, study[0].StudyInstanceUID)) == 4


def test_one_that_cannot_be_searched_is_believed(tmp_path: Path) -> None:
    study = make_study(2, 2)
    with two(tmp_path, allow=("get",)) as both:
        both.store(study)
        number = both.fetch(study[0].StudyInstanceUID)
        assert eventually(lambda: both.task(number).state == TaskState.DONE)
        assert len(stored(both.here, study[0].StudyInstanceUID)) == 4


@pytest.mark.parametrize("allow", [("find", "get"), ("find", "move")])
def test_a_task_that_is_cancelled_ends_the_retrieval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow: tuple[str, ...]
) -> None:
    monkeypatch.setattr(fetch, "_TOLD_SECONDS", 0.05)
    study = make_study(1, 30, rows=64, columns=64)
    with two(tmp_path, allow=allow, max_data_rate=20_000) as both:
        both.store(study)
        uid = study[0].StudyInstanceUID
        number = both.fetch(uid)
        assert eventually(lambda: stored(both.here, uid))
        assert both.here.archive.tasks.cancel(number)
        pool = both.here._runtime.pool
        assert eventually(lambda: not +pool._counts)
        assert both.task(number).state == TaskState.CANCELLED
        assert len(stored(both.here, uid)) < 30


def test_one_that_breaks_off_leaves_what_came_and_the_rest_is_named(tmp_path: Path) -> None:
    study = make_study(1, 12, rows=64, columns=64)
    with two(tmp_path, max_data_rate=20_000) as both:
        both.store(study)
        uid = study[0].StudyInstanceUID
        number = both.fetch(uid)
        assert eventually(lambda: len(stored(both.here, uid)) >= 2)
        both.there._runtime.connections.kill(0)
        assert eventually(lambda: both.task(number).attempts)
        task = both.task(number)
        missing = {each.SOPInstanceUID for each in study} - {each.uids.sop for each in stored(both.here, uid)}
        assert task.state == TaskState.READY
        assert f"{len(missing)} of 12 are missing: there: " in task.last_error
        assert set(task.progress["missing"]) == missing
        assert all(each in task.last_error for each in missing)


def test_the_progress_tells_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TOLD_SECONDS", 0.05)
    study = make_study(1, 8, rows=64, columns=64)
    with two(tmp_path, max_data_rate=20_000) as both:
        both.store(study)
        number = both.fetch(study[0].StudyInstanceUID)
        assert eventually(lambda: 0 < both.task(number).progress.get("here", 0) < 8)
        progress = both.task(number).progress
        assert progress["expected"] == 8
        assert len(progress["missing"]) == 8 - progress["here"]
        both.here.archive.tasks.cancel(number)
