"""What every spool, quarantine, trash, log of decisions, lock and restoration promises."""

from collections.abc import Callable

import pytest

from pacs_server.errors import InvalidKey, ObjectExists, ObjectNotFound, StorageFull, StorageUnavailable
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import Storage
from pacs_server.storage.keys import DECISIONS_PREFIX, trash_prefix
from pacs_server.storage.spool import IncomingFile, Leftover

Crash = Callable[[], ArchiveFiles]
KEY, OTHER = "1.2/1.3/1.4.dcm", "1.2/1.3/1.4.v2.dcm"


def received(files: ArchiveFiles, data: bytes) -> IncomingFile:
    file = files.spool.receive()
    file.write(data)
    return file


def stored(storage: Storage) -> dict[str, bytes]:
    found = {}
    for key in storage.list():
        with storage.open(key) as source:
            found[key] = source.read(0, source.size)
    return found


# ------------------------------------------------------------------------------------ files on their way in


def test_a_file_is_read_while_it_is_received(files: ArchiveFiles) -> None:
    file = received(files, b"0123")
    file.write(memoryview(b"456"))
    assert (file.size, file.read(0, 100), file.read(2, 3), file.read(5, 100), file.read(7, 1)) == (
        7, b"0123456", b"234", b"56", b""
    )  # fmt: skip
    assert stored(files.storage) == {}
    assert files.spool.count() == 1
    file.discard()
    file.discard()
    assert files.spool.count() == 0


def test_a_placed_file_is_stored_and_on_its_way_until_it_is_settled(files: ArchiveFiles) -> None:
    file = received(files, b"data")
    files.spool.place(file, KEY)
    file.discard()
    assert stored(files.storage) == {KEY: b"data"}
    assert files.spool.is_in_flight(KEY)
    assert not files.spool.is_in_flight(OTHER)
    file.settled()
    assert stored(files.storage) == {KEY: b"data"}
    assert not files.spool.is_in_flight(KEY)
    assert files.spool.count() == 0
    files.spool.make_durable(KEY)


def test_a_placement_never_overwrites(files: ArchiveFiles) -> None:
    first, second = received(files, b"old"), received(files, b"new")
    files.spool.place(first, KEY)
    first.settled()
    with pytest.raises(ObjectExists):
        files.spool.place(second, KEY)
    files.spool.place(second, OTHER)
    second.settled()
    assert stored(files.storage) == {KEY: b"old", OTHER: b"new"}
    assert files.spool.count() == 0


def test_what_is_taken_back_may_be_placed_again(files: ArchiveFiles) -> None:
    file = received(files, b"data")
    files.spool.place(file, KEY)
    files.spool.take_back(file, KEY)
    assert stored(files.storage) == {}
    files.spool.place(file, OTHER)
    assert stored(files.storage) == {OTHER: b"data"}
    files.spool.take_back(file, OTHER)
    file.discard()
    assert stored(files.storage) == {}
    assert files.spool.count() == 0


def test_what_is_no_key_is_refused(files: ArchiveFiles) -> None:
    file = received(files, b"data")
    for key in ("", "../x", "incoming/x", "/x"):
        for act in (lambda k: files.spool.place(file, k), files.spool.is_in_flight, files.spool.make_durable):
            with pytest.raises(InvalidKey):
                act(key)
    file.discard()


def test_below_the_limit_nothing_is_received(files: ArchiveFiles) -> None:
    files.spool.min_free_space = 1 << 62
    with pytest.raises(StorageFull, match=r"storage\.min_free_space"):
        files.spool.receive()
    files.spool.min_free_space = 0
    files.spool.receive().discard()


# ------------------------------------------------------------------------------------ after a crash


def left(files: ArchiveFiles) -> list[Leftover]:
    with files.spool.leftovers() as left:
        return left


def test_the_living_leave_nothing_over(files: ArchiveFiles) -> None:
    received(files, b"half")
    placed = received(files, b"whole")
    files.spool.place(placed, KEY)
    assert left(files) == []


def test_what_was_being_received_is_left_over(files: ArchiveFiles, crash: Crash) -> None:
    received(files, b"half")
    after = crash()
    [leftover] = left(after)
    assert (leftover.placed, leftover.key, leftover.size) == (False, None, 4)
    with leftover.open() as source:
        assert source.read(1, 10) == b"alf"
    assert not leftover.is_stored_as(KEY)
    assert leftover.quarantine("it is half").startswith("quarantine/")
    files.spool.retire([leftover])
    assert left(after) == []
    assert (after.quarantine.count(), after.spool.count()) == (1, 0)


def test_what_was_placed_and_not_settled_is_left_over(files: ArchiveFiles, crash: Crash) -> None:
    for number, key in enumerate((KEY, OTHER)):
        file = received(files, b"whole %d" % number)
        files.spool.place(file, key)
    file.settled()
    after = crash()
    assert after.spool.is_in_flight(KEY)
    [leftover] = left(after)
    assert leftover.placed
    assert leftover.key in (None, KEY)
    assert leftover.is_stored_as(KEY)
    assert not leftover.is_stored_as(OTHER)
    with leftover.open() as source:
        assert source.read(0, 100) == b"whole 0"
    files.spool.retire([leftover])
    assert left(after) == []
    assert stored(after.storage) == {KEY: b"whole 0", OTHER: b"whole 1"}
    assert not after.spool.is_in_flight(KEY)


def test_a_leftover_whose_object_is_another_one_by_now(files: ArchiveFiles, crash: Crash) -> None:
    file = received(files, b"whole")
    files.spool.place(file, KEY)
    after = crash()
    after.storage.remove(KEY)
    after.storage.put(KEY, [b"another"])
    [leftover] = left(after)
    if leftover.key is None:  # where files are moved, the key is all that is known
        assert not leftover.is_stored_as(KEY)
    files.spool.retire([leftover])
    assert stored(after.storage) == {KEY: b"another"}


# ------------------------------------------------------------------------------------ quarantine


def test_quarantine_takes_objects_out_of_the_storage(files: ArchiveFiles) -> None:
    assert files.quarantine.count() == 0
    names = set()
    for data in (b"one", b"two"):
        files.storage.put(KEY, [data])
        names.add(files.quarantine.add(KEY, "it is odd"))
    assert (len(names), files.quarantine.count(), stored(files.storage)) == (2, 2, {})
    for key in (KEY, "../x", "incoming/x"):
        with pytest.raises(StorageUnavailable):
            files.quarantine.add(key, "it is gone")
    assert files.quarantine.count() == 2
    files.quarantine.sync()


# ------------------------------------------------------------------------------------ trash


@pytest.fixture
def linked(files: ArchiveFiles, request: pytest.FixtureRequest) -> ArchiveFiles:
    """The files of an archive that has a trash: without hard links there is none."""
    if "without hard links" in request.node.callspec.id:
        pytest.skip("a trash needs hard links")
    return files


def test_out_and_back(linked: ArchiveFiles) -> None:
    trash, storage = linked.trash, linked.storage
    assert trash.folders() == []
    for key in (KEY, OTHER):
        storage.put(key, [key.encode()])
    trash.write("d1", "draft")
    trash.write("d1", "document")
    trash.add("d1", [KEY, OTHER, "not/there"])
    assert (trash.folders(), trash.read("d1"), trash.is_all_stored("d1")) == (["d1"], "document", True)
    assert [trash.holds("d1", key) for key in (KEY, OTHER, "not/there")] == [True, True, False]
    trash.take_away("d1", [KEY, "not/there"])
    assert stored(storage) == {OTHER: OTHER.encode()}
    assert (trash.is_all_stored("d1"), trash.is_stored("d1", KEY), trash.is_stored("d1", OTHER)) == (False, False, True)
    with trash.open("d1", KEY) as source:
        assert source.read(0, 100) == KEY.encode()
    trash.bring_back("d1", [KEY])
    assert stored(storage) == {key: key.encode() for key in (KEY, OTHER)}
    assert trash.is_all_stored("d1")
    trash.remove("d1", [KEY])
    assert (trash.holds("d1", KEY), trash.holds("d1", OTHER)) == (False, True)
    trash.drop("d1")
    trash.drop("d1")
    assert trash.folders() == []
    assert stored(storage) == {key: key.encode() for key in (KEY, OTHER)}


def test_what_came_to_have_the_key_meanwhile_is_left_alone(linked: ArchiveFiles) -> None:
    trash, storage = linked.trash, linked.storage
    storage.put(KEY, [b"deleted"])
    trash.write("d1", "document")
    trash.add("d1", [KEY])
    trash.take_away("d1", [KEY])
    storage.put(KEY, [b"deleted"])
    assert not trash.is_stored("d1", KEY)
    trash.take_away("d1", [KEY])
    trash.remove("d1", [KEY])
    assert trash.holds("d1", KEY)
    assert stored(storage) == {KEY: b"deleted"}
    with pytest.raises(ObjectExists):
        trash.bring_back("d1", [KEY])
    with pytest.raises(ObjectNotFound):
        trash.bring_back("d1", ["not/there"])


def test_names_that_lead_elsewhere(linked: ArchiveFiles) -> None:
    for folder in ("", ".", "..", "a/b"):
        with pytest.raises(StorageUnavailable):
            linked.trash.write(folder, "document")
    for key in ("../x", "/x", ".", "trash/x"):
        with pytest.raises(StorageUnavailable):
            linked.trash.add("d1", [key])
        with pytest.raises(StorageUnavailable):
            linked.trash.bring_back("d1", [key])


def test_one_at_a_time_works_on_the_trash(files: ArchiveFiles) -> None:
    with files.trash.locked() as one, files.trash.locked(wait=False) as other:
        assert (one, other) == (True, False)
    with files.trash.locked(wait=False) as one:
        assert one


def test_side_files_are_those_of_trash_and_decisions(linked: ArchiveFiles) -> None:
    linked.storage.put(KEY, [b"data"])
    linked.trash.write("d1", "document")
    linked.trash.add("d1", [KEY])
    linked.decisions.append(1, b"{}")
    side = stored(linked.side_files)
    assert side[f"{trash_prefix('d1')}{KEY}"] == b"data"
    assert sorted(key.rpartition("/")[0] + "/" for key in side if b"data" not in side[key]) == [
        DECISIONS_PREFIX,
        trash_prefix("d1"),
    ]


# ------------------------------------------------------------------------------------ decisions


def test_decisions_are_only_ever_appended(files: ArchiveFiles) -> None:
    log = files.decisions
    assert log.lines() == []
    assert log.append(1, b"one")
    assert not log.append(1, b"another one")
    assert not log.append(3, b"three")
    assert log.append(2, "zwölf".encode())
    log.sync()
    assert log.lines() == [b"one", "zwölf".encode()]
    log.take_back(1)
    assert len(log.lines()) == 2
    log.take_back(2)
    assert log.lines() == [b"one"]
    assert log.append(2, b"two")
    assert log.lines() == [b"one", b"two"]


# ------------------------------------------------------------------------------------ who works on it


def test_many_or_one_alone(files: ArchiveFiles) -> None:
    lock = files.lock
    with lock.shared(), lock.shared(), pytest.raises(StorageUnavailable, match="in use"), lock.exclusive():
        pass
    with lock.exclusive():
        for other in (lock.shared(), lock.exclusive()):
            with pytest.raises(StorageUnavailable), other:
                pass
    with lock.exclusive():
        pass


def test_nobody_works_on_a_half_restored_archive(files: ArchiveFiles) -> None:
    restoration = files.restoration
    assert restoration.is_archive_empty()
    assert restoration.unfinished() is None
    restoration.refuse_unfinished()
    restoration.begin("2026-01-01")
    (restoration.scratch / "index.db").write_bytes(b"")
    with files.storage.bulk() as writer:
        writer.put(KEY, [b"data"])
    assert restoration.unfinished() == "2026-01-01"
    assert not restoration.is_archive_empty()
    with pytest.raises(StorageUnavailable, match="unfinished"):
        restoration.refuse_unfinished()
    with pytest.raises(StorageUnavailable, match="unfinished"), files.lock.shared():
        pass
    with files.lock.exclusive():
        restoration.finish()
    assert restoration.unfinished() is None
    assert stored(files.storage) == {KEY: b"data"}
    with files.lock.shared():
        pass
