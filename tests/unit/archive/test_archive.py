"""The archive keeps storage and index in step, whatever fails in between."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import schema
from memory_archive import MemoryQuarantine, MemorySpool

from pacs_server.archive.archive import Archive, ReceivedInstance, StoreOutcome
from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import DuplicateInstance, IndexUnavailable, StorageFull, StorageUnavailable
from pacs_server.index.database import Database
from pacs_server.index.instances import Counts, InstanceIndex
from pacs_server.storage.memory import MemorySource, MemoryStorage

ORIGIN = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


class FaultyIndex(InstanceIndex):
    """An index that fails on demand, before or after it has committed."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.fail_before = False
        self.lose_the_answer = False

    def add(self, *arrival: Any, **options: Any) -> None:
        if self.fail_before:
            raise IndexUnavailable("down")
        super().add(*arrival, **options)
        if self.lose_the_answer:
            raise IndexUnavailable("lost at COMMIT", uncertain=True)


@pytest.fixture
def index(tmp_path: Path) -> FaultyIndex:
    schema.prepare(tmp_path / "pacs.db")
    database = Database(f"sqlite:///{tmp_path}/pacs.db")
    database.migrate()
    return FaultyIndex(database)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def archive_of(storage: MemoryStorage, index: InstanceIndex, policy: str = "reject") -> Archive:
    spool = MemorySpool(storage, MemoryQuarantine(storage), min_free_space=0)
    return Archive(storage, spool, index, naming="hierarchical", duplicate_policy=policy)


def received(
    archive: Archive, data: bytes, *, series: str = "1.2.3", sop: str = "1.2.3.4", syntax: str = EXPLICIT
) -> ReceivedInstance:
    file = archive.receive()
    file.write(b"HEAD" + data)
    uids = InstanceUIDs("1.2", series, sop)
    values = {"study_instance_uid": "1.2", "series_instance_uid": series, "sop_instance_uid": sop, "modality": "CT"}
    header = Header(uids, CT, syntax, values | {"patient_id": "P1", "sop_class_uid": CT})
    return ReceivedInstance(file, header, hashlib.sha256(data).hexdigest(), 4, ORIGIN)


def in_step(storage: MemoryStorage, index: InstanceIndex, sop: str = "1.2.3.4") -> bool:
    """Whether the row's file is there and holds what the row says."""
    known = index.get(sop)
    if known is None:
        return False
    data = storage.files[known.path][known.data_set_offset :]
    return hashlib.sha256(data).hexdigest() == known.digest


def test_a_new_instance_has_its_file_and_its_row(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    assert archive.add(received(archive, b"one")) is StoreOutcome.STORED
    assert list(storage.files) == ["1.2/1.2.3/1.2.3.4.dcm"]
    assert in_step(storage, index)
    assert archive.counts() == Counts(1, 1, 1, 1)


@pytest.mark.parametrize("policy", ["reject", "replace", "ignore"])
def test_the_same_bytes_again_are_success_and_change_nothing(
    storage: MemoryStorage, index: FaultyIndex, policy: str
) -> None:
    archive = archive_of(storage, index, policy)
    archive.add(received(archive, b"one"))
    assert archive.add(received(archive, b"one")) is StoreOutcome.ALREADY_STORED
    assert archive.counts().instances == 1
    assert len(storage.files) == 1


def test_other_bytes_are_rejected_and_the_first_stay(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    archive.add(received(archive, b"one"))
    with pytest.raises(DuplicateInstance):
        archive.add(received(archive, b"two"))
    assert list(storage.files.values()) == [b"HEADone"]


def test_other_bytes_are_ignored_when_told_so(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index, "ignore")
    archive.add(received(archive, b"one"))
    assert archive.add(received(archive, b"two")) is StoreOutcome.DUPLICATE_IGNORED
    assert list(storage.files.values()) == [b"HEADone"]


# One attribute in the two VR encodings, and the same with another value.
EXPLICIT_NAME, IMPLICIT_NAME = b"\x10\0\x10\0PN\6\0Doe^Jo", b"\x10\0\x10\0\6\0\0\0Doe^Jo"
OTHER_NAME = IMPLICIT_NAME.replace(b"Jo", b"Al")


@pytest.mark.parametrize("series", ["1.2.3", "1.2.9"])
@pytest.mark.parametrize("policy", ["reject", "replace", "ignore"])
def test_the_same_values_in_another_encoding_are_success_and_change_nothing(
    storage: MemoryStorage, index: FaultyIndex, policy: str, series: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    archive = archive_of(storage, index, policy)
    archive.add(received(archive, EXPLICIT_NAME))
    stored, files = index.get("1.2.3.4"), dict(storage.files)
    again = received(archive, IMPLICIT_NAME, series=series, syntax=IMPLICIT)
    assert archive.add(again) is StoreOutcome.ALREADY_STORED
    assert (index.get("1.2.3.4"), storage.files) == (stored, files)
    [told] = [record for record in caplog.records if record.name == "pacs_server.archive.archive"]
    assert told.getMessage() == "same data set stored in another encoding"
    assert (vars(told)["transfer_syntax"], vars(told)["stored_transfer_syntax"]) == (IMPLICIT, EXPLICIT)


@pytest.mark.parametrize("policy", ["reject", "replace", "ignore"])
def test_another_value_in_another_encoding_goes_by_the_policy(
    storage: MemoryStorage, index: FaultyIndex, policy: str
) -> None:
    archive = archive_of(storage, index, policy)
    archive.add(received(archive, EXPLICIT_NAME))
    other = received(archive, OTHER_NAME, syntax=IMPLICIT)
    if policy == "reject":
        with pytest.raises(DuplicateInstance):
            archive.add(other)
    else:
        outcomes = {"replace": StoreOutcome.REPLACED, "ignore": StoreOutcome.DUPLICATE_IGNORED}
        assert archive.add(other) is outcomes[policy]


@pytest.mark.parametrize("damage", ["lost", "unreadable", "changed", "cut"])
def test_a_stored_file_that_is_lost_or_damaged_is_not_the_same(
    storage: MemoryStorage, index: FaultyIndex, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(storage, index, "replace")
    archive.add(received(archive, EXPLICIT_NAME))
    [path] = storage.files
    match damage:
        case "lost":
            del storage.files[path]
        case "unreadable":
            monkeypatch.setattr(MemorySource, "read", unreadable)
        case "changed":
            storage.files[path] = storage.files[path].replace(b"Jo", b"Jx")
        case "cut":
            storage.files[path] = storage.files[path][:-1]
    assert archive.add(received(archive, IMPLICIT_NAME, syntax=IMPLICIT)) is StoreOutcome.REPLACED
    monkeypatch.undo()
    assert in_step(storage, index)


def unreadable(*_: object) -> bytes:
    raise StorageUnavailable("Input/output error")


def test_only_other_bytes_under_a_known_uid_are_compared(
    storage: MemoryStorage, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[object] = []
    opened: list[str] = []
    really = storage.open
    monkeypatch.setattr("pacs_server.archive.archive.same_data_set", lambda *both: compared.append(both))
    monkeypatch.setattr(storage, "open", lambda key: (opened.append(key), really(key))[1])
    archive = archive_of(storage, index, "ignore")
    archive.add(received(archive, EXPLICIT_NAME))
    archive.add(received(archive, EXPLICIT_NAME, sop="1.2.3.5"))
    assert (compared, opened) == ([], [])
    archive.add(received(archive, EXPLICIT_NAME))
    assert (compared, len(opened)) == ([], 1)
    archive.add(received(archive, IMPLICIT_NAME, syntax=IMPLICIT))
    assert (len(compared), len(opened)) == (1, 2)


def test_a_replaced_version_is_kept_beside_the_new_one(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index, "replace")
    archive.add(received(archive, b"one"))
    assert archive.add(received(archive, b"two")) is StoreOutcome.REPLACED
    assert archive.add(received(archive, b"three")) is StoreOutcome.REPLACED
    assert storage.files == {
        "1.2/1.2.3/1.2.3.4.dcm": b"HEADone",
        "1.2/1.2.3/1.2.3.4.v2.dcm": b"HEADtwo",
        "1.2/1.2.3/1.2.3.4.v3.dcm": b"HEADthree",
    }
    assert in_step(storage, index)
    assert archive.counts().instances == 1


@pytest.mark.parametrize("policy", ["reject", "replace", "ignore"])
def test_a_uid_known_in_another_series(storage: MemoryStorage, index: FaultyIndex, policy: str) -> None:
    archive = archive_of(storage, index, policy)
    archive.add(received(archive, b"one"))
    assert archive.add(received(archive, b"one", series="1.2.9")) is StoreOutcome.ALREADY_STORED
    other = received(archive, b"two", series="1.2.9")
    if policy == "reject":
        with pytest.raises(DuplicateInstance):
            archive.add(other)
    else:
        archive.add(other)
    assert in_step(storage, index)
    assert len(storage.files) == (2 if policy == "replace" else 1)


def test_nothing_stays_when_the_index_is_down(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    index.fail_before = True
    with pytest.raises(IndexUnavailable):
        archive.add(received(archive, b"one"))
    assert storage.files == {}


def test_the_file_stays_when_nobody_knows_what_became_of_the_row(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    index.lose_the_answer = True
    with pytest.raises(IndexUnavailable):
        archive.add(received(archive, b"one"))
    assert in_step(storage, index)


def test_a_file_without_a_row_is_taken_for_what_a_crash_left(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    storage.files["1.2/1.2.3/1.2.3.4.dcm"] = b"HEADhal"
    assert archive.add(received(archive, b"one")) is StoreOutcome.STORED
    assert in_step(storage, index)


def test_a_lost_file_comes_back_from_its_sender(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    archive.add(received(archive, b"one"))
    storage.files.clear()
    archive.add(received(archive, b"one"))
    assert in_step(storage, index)


@pytest.mark.parametrize("policy", ["reject", "replace", "ignore"])
@pytest.mark.parametrize("rotten", [b"HEADonx", b"HEADon", b""])
def test_a_damaged_file_comes_back_from_its_sender(
    storage: MemoryStorage, index: FaultyIndex, policy: str, rotten: bytes
) -> None:
    archive = archive_of(storage, index, policy)
    archive.add(received(archive, b"one"))
    [path] = storage.files
    storage.files[path] = rotten
    assert archive.add(received(archive, b"one")) is StoreOutcome.ALREADY_STORED
    stored = archive.find("1.2.3.4")
    assert stored is not None
    assert archive.verify(stored)
    # Nothing is removed, not even what is of no use.
    assert storage.files[path] == rotten


@pytest.mark.slow
@pytest.mark.parametrize("series", ["1.2.3", "1.2.9"])
def test_a_lost_version_comes_back_too(storage: MemoryStorage, index: FaultyIndex, series: str) -> None:
    archive = archive_of(storage, index, "replace")
    archive.add(received(archive, b"one"))
    archive.add(received(archive, b"two"))
    del storage.files["1.2/1.2.3/1.2.3.4.v2.dcm"]
    archive.add(received(archive, b"two", series=series))
    assert in_step(storage, index)


def test_no_row_without_a_file(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    storage.fail_with = StorageFull("no space left")
    with pytest.raises(StorageFull):
        archive.add(received(archive, b"one"))
    assert archive.counts().instances == 0


def test_two_senders_of_one_uid_at_once(storage: MemoryStorage, index: FaultyIndex) -> None:
    archive = archive_of(storage, index)
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def send(data: bytes) -> None:
        file = received(archive, data)
        start.wait(60)
        try:
            outcomes.append(archive.add(file).name)
        except DuplicateInstance:
            outcomes.append("REJECTED")

    threads = [threading.Thread(target=send, args=(b"one" if n % 2 else b"two",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["ALREADY_STORED"] * 3 + ["REJECTED"] * 4 + ["STORED"]
    assert in_step(storage, index)
