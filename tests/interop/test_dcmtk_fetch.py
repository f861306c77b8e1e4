"""Studies fetched from DCMTK's dcmqrscp: by C-GET or C-MOVE, compared with what it has, and what is missing named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dcmtk
import pytest
from datasets import make_study
from outgoing import outgoing, pool, remote
from pydicom import dcmread
from pydicom.dataset import Dataset
from servers import config, eventually, free_port, running
from trails import Kept

from pacs_server.app.server import PacsServer
from pacs_server.audit.events import EventID
from pacs_server.config import RemoteAEConfig
from pacs_server.config.sections.polling import PollingConfig
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.remote_studies import RemoteStudyFilter
from pacs_server.index.task_values import Task, TaskState
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.services.fetching import Fetching

pytestmark = pytest.mark.interop


@contextmanager
def serving(
    tmp_path: Path, study: list[Dataset], *options: str, polling: tuple[PollingConfig, ...] = (), **settings: Any
) -> Iterator[tuple[PacsServer, Path]]:
    """A server that knows a dcmqrscp with a study, and the directory of the dcmqrscp."""
    ours = free_port()
    archive = dcmtk.DcmQRSCP(tmp_path / "archive", *options, peers=(("PACS_SERVER", ours),))
    with archive as scp, pool() as sending:
        with DIMSESender(sending, remote(scp.port, scp.ae_title)) as sender:
            assert {sender.send(outgoing(each)).status for each in study} == {0}
        there = RemoteAEConfig(name="old", ae_title=scp.ae_title, host="127.0.0.1", port=scp.port, **settings)
        settings_of = config(tmp_path / "pacs", remote_aes=[there], port=ours)
        with running(settings_of.model_copy(update={"polling": polling})) as pacs:
            yield pacs, scp.directory


def ended(pacs: PacsServer, wanted: Fetching, *, attempts: int = 1) -> Task:
    """The fetch task after it is over, or has failed so often."""
    number = pacs.archive.fetching.fetch("old", wanted, "tester")

    def task() -> Task:
        found = pacs.archive.tasks.find(number)
        assert found is not None
        return found

    assert eventually(lambda: task().state not in ("ready", "running") or task().attempts >= attempts)
    return task()


def stored(pacs: PacsServer, study: str) -> list[str]:
    keys = RetrieveKeys(Level.STUDY, study_instance_uids=(study,))
    return sorted(each.uids.sop for each in pacs.archive.retrieve.select(keys))


def uids(study: list[Dataset]) -> list[str]:
    return sorted(each.SOPInstanceUID for each in study)


@pytest.mark.parametrize("options", [(), ("--disable-get",)])
def test_a_study_is_fetched_by_c_get_or_c_move(
    tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = Kept()
    monkeypatch.setattr("pacs_server.app.assembly.open_trail", lambda settings: trail)
    study = make_study(2, 3)
    with serving(tmp_path, study, *options) as (pacs, _):
        task = ended(pacs, Fetching(study[0].StudyInstanceUID))
        assert (task.state, task.last_error) == (TaskState.DONE, "")
        assert task.progress == {"expected": 6, "here": 6, "missing": []}
        assert stored(pacs, study[0].StudyInstanceUID) == uids(study)
        (found, *_) = pacs.archive.retrieve.select(RetrieveKeys(Level.STUDY))
        with pacs.archive.archive.open(found) as source:
            assert b"DCMQRSCP" in source.read(0, 1024)
        # Nothing is missing now, so that nothing is sent again.
        assert ended(pacs, Fetching(study[0].StudyInstanceUID)).state == TaskState.DONE
    queries = trail.of(EventID.QUERY)
    assert [each.detail for each in queries] == ["6 instances"] * 2
    assert [one.user_id for one in queries[0].participants] == ["PACS_SERVER", "old", "tester"]
    # One that begins, and one with the counts, whoever opened the association.
    assert [each.event_id for each in trail.events if each.subjects] == [
        EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED,
    ]  # fmt: skip


def test_only_what_is_missing_is_retrieved(tmp_path: Path) -> None:
    study = make_study(2, 3)
    first = study[0]
    with serving(tmp_path, study) as (pacs, _):
        one = Fetching(first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID)
        assert ended(pacs, one).state == TaskState.DONE
        assert stored(pacs, first.StudyInstanceUID) == [first.SOPInstanceUID]
        series = Fetching(first.StudyInstanceUID, first.SeriesInstanceUID)
        assert ended(pacs, series).progress["expected"] == 3
        assert stored(pacs, first.StudyInstanceUID) == uids(study[:3])
        assert ended(pacs, Fetching(first.StudyInstanceUID)).state == TaskState.DONE
        assert stored(pacs, first.StudyInstanceUID) == uids(study)


def test_what_is_missing_is_named_and_tried_again(tmp_path: Path) -> None:
    study = make_study(1, 3)
    with serving(tmp_path, study) as (pacs, directory):
        # It has lost a file, and its index does not know.
        lost = next(path for path in directory.iterdir() if path.name != "index.dat")
        uid, content = dcmread(lost).SOPInstanceUID, lost.read_bytes()
        lost.unlink()
        task = ended(pacs, Fetching(study[0].StudyInstanceUID))
        assert task.state == TaskState.READY
        assert task.progress == {"expected": 3, "here": 2, "missing": [uid]}
        assert "1 of 3 are missing" in task.last_error
        assert uid in task.last_error
        lost.write_bytes(content)
        assert pacs.archive.tasks.retry(task)
        assert eventually(lambda: stored(pacs, study[0].StudyInstanceUID) == uids(study))


def test_what_is_not_there_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, make_study(1, 1)) as (pacs, _):
        task = ended(pacs, Fetching("1.2.3.4"))
        assert (task.state, task.last_error) == (TaskState.DEAD, "old has nothing of that")
        with pytest.raises(NotFound, match="no remote new"):
            pacs.archive.fetching.fetch("new", Fetching("1.2.3"), "tester")
        with pytest.raises(InvalidRequest, match="no UID"):
            pacs.archive.fetching.fetch("old", Fetching("1.2.x"), "tester")


def test_a_remote_that_cannot_be_reached_is_waited_for(tmp_path: Path) -> None:
    there = RemoteAEConfig(name="old", ae_title="OLD", host="127.0.0.1", port=free_port())
    with running(config(tmp_path, remote_aes=[there])) as pacs:
        number = pacs.archive.fetching.fetch("old", Fetching("1.2.3"), "tester")

        def task() -> tuple[str, int, bool]:
            found = pacs.archive.tasks.find(number)
            assert found is not None
            return found.state, found.attempts, "cannot connect" in found.last_error

        assert eventually(lambda: task() == ("ready", 0, True))


def test_polling_asks_for_the_series_of_studies_whose_modalities_are_not_told(tmp_path: Path) -> None:
    wanted, other = make_study(1, 2, Modality="MR"), make_study(1, 1)
    # With one association at a time the series can be asked for only when the answer has been read.
    query = {"ModalitiesInStudy": "MR"}
    entry = PollingConfig.model_validate({"remote": "old", "every": "1s", "window": "10y", "query": query})
    with serving(tmp_path, wanted + other, polling=(entry,), max_associations=1) as (pacs, _):
        assert eventually(lambda: stored(pacs, wanted[0].StudyInstanceUID) == uids(wanted))
        polled = pacs.archive.polling.studies(RemoteStudyFilter(), 10)
        assert [(each.study_instance_uid, each.modalities) for each in polled] == [(wanted[0].StudyInstanceUID, "MR")]
