"""Kept metadata: read once from the file, right after everything that happens to an instance, and never in the way."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import feeds
import pytest
from sqlalchemy import func, select, text

from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.errors import StorageUnavailable
from pacs_server.index.archive_models import instance_metadata
from pacs_server.index.instances import StoredInstance
from pacs_server.index.metadata import FORMAT, MetadataIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.services.metadata import KeptFrameMaps, MetadataService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.upkeep.metadata_keeper import CONSUMER, MetadataKeeper


class Archive(feeds.Place):
    """An archive with the service of metadata, and with how often files are read."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root, url)
        self.reads = 0
        self.broken: set[str] = set()
        self.retrieve = RetrieveService(self.archive, QueryIndex(self.database))
        self.service = self.fresh_service()
        self.keeper = MetadataKeeper(self.service, self.feed, self.state)

    def fresh_service(self) -> MetadataService:
        opened = self.retrieve.open

        def counted(stored: StoredInstance) -> Any:
            self.reads += 1
            if stored.uids.sop in self.broken:
                raise StorageUnavailable("the disk is broken")
            return opened(stored)

        self.retrieve.open = counted  # type: ignore[method-assign]
        return MetadataService(self.retrieve, MetadataIndex(self.database))

    def metadata(self, study: str) -> list[dict[str, Any]]:
        """The metadata of a study, as values."""
        instances = self.retrieve.select(RetrieveKeys(Level.STUDY, (), (study,)))
        found = self.service.json(instances, lambda stored: f"http://x/{stored.uids.sop}")
        return [json.loads(b"".join(pieces)) for _, pieces in found]

    def kept(self) -> int:
        with self.database.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(instance_metadata)) or 0)


@pytest.fixture
def archive(tmp_path: Path, database_url: str) -> Iterator[Archive]:
    with closing(Archive(tmp_path / "archive", database_url)) as archive:
        yield archive


def of(found: list[dict[str, Any]], tag: str) -> list[Any]:
    return [each[tag]["Value"][0] for each in found]


def test_metadata_are_read_once(archive: Archive) -> None:
    """The keeper reads each instance once, in order, and requests get what it kept."""
    for number in (3, 1, 2):
        archive.store("1.1", "1.1.1", f"1.{number}", InstanceNumber=number)
    assert archive.keeper.catch_up() == 3
    assert (archive.kept(), archive.reads) == (3, 3)
    found = archive.metadata("1.1")
    assert of(found, "00200013") == [1, 2, 3]
    assert found[1]["7FE00010"] == {"vr": "OW", "BulkDataURI": "http://x/1.2/bulkdata/7FE00010"}
    assert archive.reads == 3
    assert archive.keeper.catch_up() == 0


def test_what_is_not_kept_yet_is_read_now_and_kept(archive: Archive) -> None:
    """A request before the keeper has come gets the same, and its work is not done again."""
    for number in (1, 2):
        archive.store("1.1", "1.1.1", f"1.{number}", InstanceNumber=number)
    first = archive.metadata("1.1")
    assert (archive.kept(), archive.reads) == (0, 2)
    archive.service.keep_waiting()
    assert archive.kept() == 2
    assert archive.metadata("1.1") == first
    assert archive.keeper.catch_up() == 2
    assert archive.reads == 2


@pytest.mark.slow
def test_metadata_follow_what_happens_to_instances(archive: Archive) -> None:
    """After replacing, deleting, restoring and merging, metadata are those of the stored bytes."""
    archive.store("1.1", "1.1.1", "1.1", PatientID="P1", SeriesDescription="first")
    archive.store("1.2", "1.2.1", "1.2", PatientID="P2")
    archive.keeper.catch_up()
    archive.store("1.1", "1.1.1", "1.1", PatientID="P1", SeriesDescription="second")
    assert archive.kept() == 1
    assert of(archive.metadata("1.1"), "0008103E") == ["second"]
    archive.keeper.catch_up()
    assert archive.kept() == 2
    deletion = archive.deletions.delete(Level.STUDY, "1.1", "wrong")
    assert (archive.metadata("1.1"), archive.kept()) == ([], 1)
    archive.deletions.restore(deletion.folder)
    assert of(archive.metadata("1.1"), "0008103E") == ["second"]
    archive.keeper.catch_up()
    reads = archive.reads
    # As C-GET does, the data set is told as it was received: who was merged into whom is what queries tell.
    archive.patients.merge(archive.patients.person("P1"), archive.patients.person("P2"), "typed wrong")
    assert of(archive.metadata("1.1"), "00100020") == ["P1"]
    assert archive.reads == reads


def test_an_instance_that_goes_while_it_is_read_is_not_kept(archive: Archive) -> None:
    """What was read of an instance is kept only for that version of it."""
    archive.store("1.1", "1.1.1", "1.1", SeriesDescription="first")
    archive.store("1.1", "1.1.1", "1.2", InstanceNumber=2)
    archive.metadata("1.1")
    archive.store("1.1", "1.1.1", "1.1", SeriesDescription="second")
    archive.service.keep_waiting()
    assert archive.kept() == 1
    assert of(archive.metadata("1.1"), "0008103E") == ["second", "Series"]


def test_an_instance_that_cannot_be_read_holds_nobody_up(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    """The keeper goes on with the others and says so; a request tries again."""
    for number in (1, 2):
        archive.store("1.1", "1.1.1", f"1.{number}")
    archive.broken = {"1.1"}
    archive.keeper.catch_up()
    assert archive.kept() == 1
    assert "metadata not kept: instances cannot be read" in caplog.text
    with pytest.raises(StorageUnavailable):
        archive.metadata("1.1")
    archive.broken = set()
    assert len(archive.metadata("1.1")) == 2


def test_another_index_begins_again(archive: Archive) -> None:
    """After a rebuild, which loses what was kept and puts cursors to the end, everything is kept again."""
    archive.store("1.1", "1.1.1", "1.1")
    archive.keeper.catch_up()
    with archive.database.begin() as connection:
        connection.execute(instance_metadata.delete())
        connection.execute(text("UPDATE feed_cursor SET epoch = epoch - 1"))
    assert archive.keeper.catch_up() == 1
    assert archive.kept() == 1


def test_rows_of_another_format_are_made_anew(archive: Archive) -> None:
    """Rows that another version has written are not read, and overwritten."""
    archive.store("1.1", "1.1.1", "1.1")
    archive.keeper.catch_up()
    with archive.database.begin() as connection:
        connection.execute(instance_metadata.update().values(format=FORMAT + 1, content=b"?"))
    assert of(archive.metadata("1.1"), "00100020") == ["P1"]
    archive.service.keep_waiting()
    assert archive.reads == 2
    archive.metadata("1.1")
    assert archive.reads == 2


def test_the_thread_keeps_what_arrives_and_stops_at_once(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """New instances are kept without being asked for, and what was read for a request as well."""
    monkeypatch.setattr("pacs_server.upkeep.metadata_keeper._QUIET", 0.01)
    kept = threading.Event()
    keep = archive.service.keeping

    def told(*arguments: Any) -> Any:
        effect = keep(*arguments)
        return lambda connection: (effect(connection), kept.set())

    monkeypatch.setattr(archive.service, "keeping", told)
    archive.keeper.start()
    try:
        archive.store("1.1", "1.1.1", "1.1")
        assert kept.wait(30)
    finally:
        archive.keeper.stop()
    assert archive.kept() == 1


def test_the_places_of_frames_are_kept_beside(archive: Archive) -> None:
    """The map of the frames comes from the index, and from memory after that; what has no pixels has none."""
    archive.store("1.1", "1.1.1", "1.1")
    archive.store("1.1", "1.1.1", "1.2", InstanceNumber=2, Rows=0)
    archive.keeper.catch_up()
    image, other = archive.retrieve.select(RetrieveKeys(Level.STUDY, (), ("1.1",)))
    maps = KeptFrameMaps(archive.service)
    found = maps.get(image)
    assert found is not None
    assert (found.count, found.frame_bits) == (1, 2 * 2 * 16)
    assert maps.get(other) is None
    archive.deletions.delete(Level.STUDY, "1.1", "wrong")
    assert maps.get(image) is found


def test_many_instances_are_read_in_pieces(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the sizes, the order is that of the caller, and what is kept comes whole."""
    monkeypatch.setattr("pacs_server.index.metadata._CHUNK", 3)
    monkeypatch.setattr("pacs_server.index.metadata._TOGETHER", 1000)  # three, at the end of a chunk
    monkeypatch.setattr("pacs_server.services.metadata._PIECE", 100)
    for number in range(1, 9):
        archive.store("1.1", "1.1.1", f"1.{number}", InstanceNumber=number, ImageComments="x" * number * 500)
    archive.keeper.catch_up()
    found = archive.metadata("1.1")
    assert of(found, "00200013") == list(range(1, 9))
    assert [len(each["00204000"]["Value"][0]) for each in found] == [number * 500 for number in range(1, 9)]
    assert archive.reads == 8


def test_nothing_is_kept_for_a_consumer_that_left(archive: Archive) -> None:
    """The name of the consumer is that under which the feed forgets it."""
    archive.keeper.catch_up()
    archive.feed.leave(CONSUMER.name)
    assert archive.feed.gauges() == {}
