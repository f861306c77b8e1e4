"""What may be deleted because remotes have committed to it: all of a study, as it is here now, and nothing else."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feeds import Place

from pacs_server.index.remote_commitments import Promised, RemoteCommitmentIndex

LATER = datetime.now(UTC) + timedelta(days=1)


class Committing:
    """An archive whose instances remotes commit to."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.index = RemoteCommitmentIndex(place.database)
        self._count = 0

    def commit(self, remote: str, study: str, *uids: str, reason: int = 0) -> None:
        ids = {uid: key for key, uid in self.place.instances()}
        self._count += 1
        transaction = f"2.25.{self._count}"
        self.index.ask(transaction, remote, study, [Promised(ids[uid], "1.2", uid) for uid in uids], LATER)
        self.index.answer(transaction, [] if reason else uids, dict.fromkeys(uids, reason) if reason else {}, LATER)

    def deletable(self, *remotes: str, before: datetime = LATER) -> list[tuple[str, int]]:
        return self.index.deletable(remotes, before, 10)


@pytest.fixture
def committing(tmp_path: Path, database_url: str) -> Iterator[Committing]:
    with closing(Place(tmp_path / "archive", database_url)) as place:
        yield Committing(place)


def test_only_whole_studies_that_are_old_enough(committing: Committing) -> None:
    place = committing.place
    for number in (1, 2):
        place.store("1.1", "1.1.1", f"1.1.1.{number}")
    place.store("1.2", "1.2.1", "1.2.1.1")
    committing.commit("A", "1.1", "1.1.1.1")
    assert committing.deletable("A") == []
    committing.commit("A", "1.1", "1.1.1.2", reason=0x0112)
    assert committing.deletable("A") == []
    committing.commit("A", "1.1", "1.1.1.2")
    assert committing.deletable("A") == [("1.1", 2)]
    assert committing.deletable("A", before=datetime.now(UTC) - timedelta(hours=1)) == []
    assert committing.deletable("A", "B") == []
    committing.commit("B", "1.1", "1.1.1.1", "1.1.1.2")
    assert committing.deletable("A", "B") == [("1.1", 2)]


def test_another_version_is_another_promise(committing: Committing) -> None:
    committing.place.store("1.1", "1.1.1", "1.1.1.1")
    committing.commit("A", "1.1", "1.1.1.1")
    committing.place.store("1.1", "1.1.1", "1.1.1.1", StationName="NEW")
    assert committing.deletable("A") == []


def test_a_study_that_came_with_two_patients_is_one(committing: Committing) -> None:
    place = committing.place
    place.store("1.1", "1.1.1", "1.1.1.1", PatientID="P1", PatientName="A^B")
    place.store("1.1", "1.1.2", "1.1.2.1", PatientID="P2", PatientName="C^D")
    committing.commit("A", "1.1", "1.1.1.1")
    assert committing.deletable("A") == []
    committing.commit("A", "1.1", "1.1.2.1")
    assert committing.deletable("A") == [("1.1", 2)]
