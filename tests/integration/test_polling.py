"""A remote that is polled: what it has comes here, what is added comes, and nothing comes twice."""

from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct, make_study, write_part10
from pairs import Two, stored, two
from pydicom.dataset import Dataset
from servers import eventually

from pacs_server.config.sections.polling import CacheConfig, PollingConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.errors import StorageUnavailable
from pacs_server.index.remote_studies import RemoteStudyFilter, RemoteStudyState
from pacs_server.outbox.cache import CacheKeeper

pytestmark = pytest.mark.slow
TESTER = Caller(Door.COMMAND, "", user="tester")


def polled(**entry: Any) -> dict[str, Any]:
    return {"polling": (PollingConfig.model_validate({"remote": "there", "every": "1s", "window": "10y", **entry}),)}


def states(both: Two) -> dict[str, RemoteStudyState]:
    return {each.study_instance_uid: each.state for each in both.here.archive.polling.studies(RemoteStudyFilter(), 100)}


def store_here(both: Two, dataset: Dataset) -> None:
    path = write_part10(dataset, both.directory / "here.dcm")
    both.here.archive.store.store_file(path, Origin("CT1", "HERE", "10.0.0.7", Door.DIMSE))


def test_what_a_remote_has_comes_and_what_is_added_to_it(tmp_path: Path, database_url: str) -> None:
    with two(tmp_path, database_url, settings=polled()) as both:
        first, second = make_study(1, 3), make_study(1, 2)
        both.store(first[:2])
        both.store(second)
        uids = {str(each[0].StudyInstanceUID) for each in (first, second)}
        assert eventually(lambda: states(both) == dict.fromkeys(uids, RemoteStudyState.COMPLETE))
        assert len(stored(both.here, str(first[0].StudyInstanceUID))) == 2
        both.store(first[2:])
        assert eventually(lambda: len(stored(both.here, str(first[0].StudyInstanceUID))) == 3)
        assert eventually(lambda: states(both) == dict.fromkeys(uids, RemoteStudyState.COMPLETE))


def keeper(both: Two, **cache: Any) -> CacheKeeper:
    archive, settings = both.here.archive, CacheConfig.model_validate(cache)
    asked = both.here._runtime.senders.remotes
    return CacheKeeper(
        lambda: settings, asked, archive.polling, retrieve=archive.retrieve, deletions=archive.deletions,
        own=archive.audit.own, clock=archive.tasks.now,
    )  # fmt: skip


def test_cache_goes_while_its_source_has_it_and_nothing_else(tmp_path: Path, database_url: str) -> None:
    """One study is cache, of one something came another way, one was here before, and one the source has lost."""
    with two(tmp_path, database_url, settings=polled(cache=True)) as both:
        _, mixed, before, lost = studies = [make_study(1, 2) for _ in range(4)]
        store_here(both, before[0])
        for study in studies:
            both.store(study)
        uids = [str(each[0].StudyInstanceUID) for each in studies]
        assert eventually(lambda: states(both) == dict.fromkeys(uids, RemoteStudyState.COMPLETE))
        store_here(both, make_ct(mixed[0].StudyInstanceUID, mixed[0].SeriesInstanceUID))
        both.there.archive.deletions.delete(Level.IMAGE, str(lost[0].SOPInstanceUID), "a test")
        keeper(both, ttl="1h").look()
        keeper(both, max_size="1GB").look()
        assert set(states(both).values()) == {RemoteStudyState.COMPLETE}
        keeper(both, max_size="1B").look()
        assert [len(stored(both.here, uid)) for uid in uids] == [0, 3, 2, 2]
        assert states(both)[uids[0]] is RemoteStudyState.DROPPED
        assert both.here.archive.deletions.contents() == []
        # What was dropped is not fetched again; what grows is.
        both.store([make_ct(mixed[0].StudyInstanceUID, mixed[0].SeriesInstanceUID)])
        assert eventually(lambda: len(stored(both.here, uids[1])) == 4)
        assert not stored(both.here, uids[0])


def test_a_cached_study_that_cannot_be_deleted_stays_cache(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two(tmp_path, database_url, settings=polled(cache=True)) as both:
        study = make_study(1, 2)
        uid = str(study[0].StudyInstanceUID)
        both.store(study)
        assert eventually(lambda: states(both) == {uid: RemoteStudyState.COMPLETE})
        deletions, during = both.here.archive.deletions, list[RemoteStudyState]()
        delete = deletions.delete

        def refuse(*args: object) -> None:
            during.append(states(both)[uid])
            raise StorageUnavailable("no disk")

        def more_comes(*args: Any) -> Any:
            store_here(both, make_ct(uid, study[0].SeriesInstanceUID))
            return delete(*args)

        monkeypatch.setattr(deletions, "delete", refuse)
        keeper(both, max_size="1B").look()
        assert during == [RemoteStudyState.DROPPED], "if the server dies now, nothing is gone and taken for complete"
        assert (states(both), len(stored(both.here, uid))) == ({uid: RemoteStudyState.COMPLETE}, 2)
        monkeypatch.setattr(deletions, "delete", more_comes)
        keeper(both, max_size="1B").look()
        assert (states(both), len(stored(both.here, uid))) == ({uid: RemoteStudyState.COMPLETE}, 3)


@pytest.mark.parametrize("when", ["while the remote is asked", "while it is deleted"])
def test_a_cached_study_that_somebody_needs_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A study that waits to be sent when it is listed is left out; this one is sent a moment later."""
    with two(tmp_path, settings=polled(cache=True)) as both:
        study = make_study(1, 2)
        uid = str(study[0].StudyInstanceUID)
        both.store(study)
        assert eventually(lambda: states(both) == {uid: RemoteStudyState.COMPLETE})
        archive, keeping = both.here.archive, keeper(both, max_size="1B")
        archive.breakers.pause("there", TESTER)
        place, name = (archive.deletions, "delete") if when == "while it is deleted" else (archive.retrieve, "select")
        original = getattr(place, name)

        def sent(*arguments: Any) -> Any:
            monkeypatch.undo()
            archive.forwarding.forward(RetrieveKeys(Level.STUDY, study_instance_uids=(uid,)), ["there"], TESTER)
            return original(*arguments)

        monkeypatch.setattr(place, name, sent)
        keeping.look()
        assert (states(both), len(stored(both.here, uid))) == ({uid: RemoteStudyState.COMPLETE}, 2)
        assert archive.deletions.contents() == []


def test_a_cached_study_that_cannot_be_deleted_keeps_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two(tmp_path, settings=polled(cache=True)) as both:
        uids = list[str]()
        for _ in range(3):
            study = make_study(1, 2)
            both.store(study)
            uids.append(str(study[0].StudyInstanceUID))
            assert eventually(lambda: states(both) == dict.fromkeys(uids, RemoteStudyState.COMPLETE))
        deletions = both.here.archive.deletions
        delete = deletions.delete

        def refuse_the_first(level: Level, uid: str, *rest: Any) -> Any:
            if uid == uids[0]:
                raise StorageUnavailable("it changes all the time")
            return delete(level, uid, *rest)

        monkeypatch.setattr(deletions, "delete", refuse_the_first)
        keeper(both, max_size="1B").look()
        kept, dropped = RemoteStudyState.COMPLETE, RemoteStudyState.DROPPED
        assert [states(both)[uid] for uid in uids] == [kept, dropped, dropped]
        assert [len(stored(both.here, uid)) for uid in uids] == [2, 0, 0]


def test_what_a_person_fetches_stays_although_it_was_cache(tmp_path: Path) -> None:
    with two(tmp_path, settings=polled(cache=True)) as both:
        study = make_study(1, 2)
        uid = str(study[0].StudyInstanceUID)
        both.store(study)
        assert eventually(lambda: states(both) == {uid: RemoteStudyState.COMPLETE})
        number = both.fetch(uid)
        assert eventually(lambda: both.task(number).state == "done")
        keeper(both, max_size="1B").look()
        assert (states(both), len(stored(both.here, uid))) == ({uid: RemoteStudyState.COMPLETE}, 2)
