"""A week of polling two archives that grow, fail, lie and mix up patients, and a clock that is set back.

It ends complete by counts, and nothing is fetched twice.
"""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import dcmtk
import pytest
from datasets import make_ct
from orthanc import Orthanc
from outgoing import outgoing, pool, remote
from pairs import stored
from processes import PacsProcess, wait_for
from pydicom.dataset import Dataset
from servers import eventually
from weeks import Week, into, lie, weeks_of

from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.levels import Level
from pacs_server.index.instances import StoredInstance
from pacs_server.index.remote_studies import RemoteStudyState as State
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.services.retrieve import DataSetSource
from pacs_server.testing import temporary_pacs
from pacs_server.testing.temporary import TemporaryPacs

pytestmark = [pytest.mark.interop, pytest.mark.slow]

Other = dcmtk.DcmQRSCP | Orthanc
BOTH = ("there", "old")


def putting(other: Other) -> Callable[[Sequence[Dataset]], None]:
    """What sends instances to a remote that is a process of its own."""

    def put(instances: Sequence[Dataset]) -> None:
        with pool() as ours, DIMSESender(ours, remote(other.port, other.ae_title)) as sender:
            assert {sender.send(outgoing(each)).status for each in instances} == {0}

    return put


@contextmanager
def polling(tmp_path: Path, url: str, there: TemporaryPacs, old: Other) -> Iterator[Week]:
    remotes = [
        RemoteAEConfig(name="there", ae_title="THERE", host="127.0.0.1", port=there.port),
        RemoteAEConfig(name="old", ae_title=old.ae_title, host="127.0.0.1", port=old.port),
    ]
    with weeks_of(tmp_path, url, remotes, {"there": into(there), "old": putting(old)}) as week:
        yield week


def more(of: Sequence[Dataset]) -> list[Dataset]:
    """Another instance of the first series of a study."""
    first = of[0]
    return [make_ct(first.StudyInstanceUID, first.SeriesInstanceUID, StudyDate=first.StudyDate)]


def live_through(week: Week, there: TemporaryPacs) -> None:  # noqa: PLR0915 - a day after the other
    # Two remotes with studies, of which one tells no counts.
    first, other = week.study("there", 2, 2), week.study("old", 1, 3)
    week.study("there")
    week.day(*BOTH)
    assert week.missing() == {}

    # Studies grow, one of them while the remote is asked.
    week.add("old", more(other))
    with there.faults.delay("C-FIND", 0.2, times=1):
        week.add("there", more(first))
        week.here.archive.polling.ask_now("there", "there")
        week.add("there", more(first))
    week.day(*BOTH)
    assert week.missing() == {}

    # Associations are lost: while it is asked, and in the middle of instances.
    late = week.study("there", 2, 3)
    with there.faults.abort("C-FIND"):
        week.poll("there")
        assert week.here.archive.polling.state("there").failures == 1
    with (
        there.faults.drop("C-GET", after_bytes=3000, times=1) as cut,
        there.faults.abort("C-GET", times=1, skip=1) as ended,
    ):
        week.day(*BOTH)
    assert (cut.hits, ended.hits) == (1, 1)
    assert week.state(late) is State.COMPLETE

    # Counts are wrong: of a study, and of sub-operations.
    lying = week.study("there")
    lie(there, str(lying[0].StudyInstanceUID), 99)
    with there.faults.counts("C-GET", completed=7, times=1):
        week.day(*BOTH)
    assert week.state(lying) is State.COMPLETE

    # The same study under two patients: that is for a person.
    mixed = make_ct(PatientID="P1", StudyDate=lying[0].StudyDate)
    week.add("there", [mixed, make_ct(mixed.StudyInstanceUID, PatientID="P2", StudyDate=mixed.StudyDate)], wanted=False)
    week.day(*BOTH)
    assert week.state([mixed]) is State.FAILED
    assert stored(week.here, str(mixed.StudyInstanceUID)) == []

    # The clock is set back, and the polling goes on, unasked.
    week.pass_time(days=-2)
    asked = week.here.archive.polling.state("there").asked_at
    back = week.study("there")
    week.here._parts.reload()
    assert eventually(lambda: week.here.archive.polling.state("there").asked_at != asked)
    week.day(*BOTH)
    assert week.state(back) is State.COMPLETE
    week.pass_time(days=2)

    # For days a remote lets nobody in, and studies from before grow then.
    with there.faults.reject(result=2, source=3, reason=2):
        for _ in range(3):
            week.study("there")
            week.add("there", more(first))
            week.poll(*BOTH)
            week.pass_time(days=1)
        assert week.here.archive.polling.state("there").failures == 3
    # What was deleted here stays deleted.
    uid = str(lying[0].StudyInstanceUID)
    week.here.archive.deletions.delete(Level.STUDY, uid, "a test")
    del week.wanted[uid]
    for _ in range(2):
        week.day(*BOTH)
    assert stored(week.here, uid) == []
    assert week.missing() == {}
    assert week.twice() == {}
    failed = {each.study_instance_uid for each in week.studies() if each.state is not State.COMPLETE}
    assert str(mixed.StudyInstanceUID) in failed
    assert not failed & week.wanted.keys()
    counts = {
        each.study_instance_uid: (each.listed_instances, len(stored(week.here, each.study_instance_uid)))
        for each in week.studies()
        if each.study_instance_uid in week.wanted
    }
    assert {uid: (len(wanted),) * 2 for uid, wanted in week.wanted.items()} == counts


def test_a_week_of_polling(tmp_path: Path, database_url: str) -> None:
    with (
        temporary_pacs(ae_title="THERE") as there,
        dcmtk.DcmQRSCP(tmp_path / "old") as old,
        polling(tmp_path, database_url, there, old) as week,
    ):
        live_through(week, there)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="needs Orthanc")
def test_a_month_of_polling_orthanc(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "orthanc").mkdir()
    with (
        temporary_pacs(ae_title="THERE") as there,
        Orthanc(tmp_path / "orthanc") as old,
        polling(tmp_path, database_url, there, old) as week,
    ):
        for _ in range(4):
            live_through(week, there)


def test_after_a_crash_nothing_that_is_here_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_pacs(ae_title="THERE", studies=["synthetic:ct=12,images=4,size=64"]) as there:
        total, sent = sum(len(each.instances) for each in there.studies), Counter[str]()
        retrieve = there.server.archive.retrieve
        original = retrieve.open

        def opened(instance: StoredInstance) -> DataSetSource:
            sent[instance.uids.sop] += 1
            return original(instance)

        monkeypatch.setattr(retrieve, "open", opened)
        settings = {
            "remote_aes": [{"name": "there", "ae_title": "THERE", "host": there.host, "port": there.port}],
            "polling": [{"remote": "there", "every": "1s", "query": {"StudyDate": "19000101-"}, "at_once": 4}],
        }
        there.faults.delay("C-GET", 0.05)
        index = tmp_path / "here" / "pacs.db"
        # It reads each of its instances once for itself.
        wait_for(lambda: len(sent) == total, "the metadata of all instances")
        sent.clear()
        with PacsProcess(tmp_path / "here", settings=settings) as here:
            wait_for(lambda: len(rows(index, "SELECT 1 FROM instance")) >= total // 3, "a third of the instances")
            here.kill()
            was_here = rows(index, "SELECT sop_instance_uid FROM instance")
            here.start()
            complete = "SELECT 1 FROM remote_study WHERE state = 'complete'"
            wait_for(lambda: len(rows(index, complete)) == 12, "all studies")
        assert len(sent) == total > len(was_here) > 0
        assert not {uid for uid, count in sent.items() if count > 1} & set(was_here)


def rows(index: Path, query: str) -> list[str]:
    """The first column of a query, which does not disturb a server that is running."""
    with closing(sqlite3.connect(index, timeout=30)) as connection:
        return [row[0] for row in connection.execute(query)]
