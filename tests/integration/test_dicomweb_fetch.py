"""Studies fetched from DICOMweb remotes by a background task; what they have and do not send is named."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import make_ct, make_study
from httppeers import Request, answer, http_peer
from pydicom.dataset import Dataset
from servers import config, eventually, running
from webclients import RELATED, part10, related, store, url_of

from pacs_server.app.server import PacsServer
from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.index.task_values import Task, TaskState
from pacs_server.services.fetching import Fetching


@contextmanager
def knowing(directory: Path, url: str) -> Iterator[PacsServer]:
    """A server that knows the remote `web`."""
    remote = RemoteAEConfig(kind="dicomweb", name="web", url=url, response_timeout=5.0)
    with PacsServer(config(directory, remote_aes=[remote])) as pacs:
        yield pacs


def ended(pacs: PacsServer, study: str, series: str = "") -> Task:
    """The fetch task after it is over, or has failed once."""
    number = pacs.archive.fetching.fetch("web", Fetching(study, series), "ann")

    def task() -> Task:
        found = pacs.archive.tasks.find(number)
        assert found is not None
        return found

    assert eventually(lambda: task().state not in ("ready", "running") or task().attempts > 0)
    return task()


def digests(pacs: PacsServer, study: str) -> dict[str, str]:
    keys = RetrieveKeys(Level.STUDY, study_instance_uids=(study,))
    return {each.uids.sop: each.digest for each in pacs.archive.retrieve.select(keys)}


def test_a_study_is_fetched_and_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    study = make_study(2, 3)
    uid = str(study[0].StudyInstanceUID)
    with running(config(tmp_path / "there", web=True)) as there, knowing(tmp_path / "here", url_of(there)) as pacs:
        assert store(there, study).status_code == 200
        assert ended(pacs, uid, str(study[0].SeriesInstanceUID)).state is TaskState.DONE
        assert len(digests(pacs, uid)) == 3
        task = ended(pacs, uid)
        assert (task.state, task.progress) == (TaskState.DONE, {"expected": 6, "here": 6, "missing": []})
        assert digests(pacs, uid) == digests(there, uid)
        nothing = ended(pacs, "1.2.3")
        assert nothing.state is TaskState.DEAD
        assert "has nothing of that" in nothing.last_error


def test_what_a_remote_does_not_send_and_what_nobody_asked_for(tmp_path: Path) -> None:
    study = make_study(1, 3)
    stranger = make_ct(PatientID="SOMEBODY ELSE")
    uid = str(study[0].StudyInstanceUID)

    def match(ds: Dataset, **tags: str) -> dict[str, object]:
        return {tag: {"vr": "UI", "Value": [str(getattr(ds, name))]} for name, tag in tags.items()}

    def script(request: Request) -> bytes:
        if re.search("/series([?]|$)", request.target):
            return answer(body=json.dumps([match(study[0], SeriesInstanceUID="0020000E")]).encode())
        if "/instances?" in request.target:
            found = [match(ds, SOPInstanceUID="00080018", SOPClassUID="00080016") for ds in study]
            return answer(body=json.dumps(found).encode())
        # One is missing, and one is of another patient.
        return answer(body=related(map(part10, [study[0], stranger, study[1]])), content_type=RELATED)

    with http_peer(script) as peer, knowing(tmp_path, peer.url) as pacs:
        task = ended(pacs, uid)
        assert task.state is TaskState.READY
        assert task.progress == {"expected": 3, "here": 2, "missing": [str(study[2].SOPInstanceUID)]}
        assert "1 of 3 are missing" in task.last_error
        assert "another study" in task.last_error
        assert sorted(digests(pacs, uid)) == sorted(str(ds.SOPInstanceUID) for ds in study[:2])
        assert pacs.archive.archive.find(str(stranger.SOPInstanceUID)) is None
