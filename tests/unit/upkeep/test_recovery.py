"""A crash or a failing disk at any step of a store: nothing acknowledged is lost, and recovery deals with the rest."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct
from nodes import Faults, Killed, Node, check, digest, digest_at, faulty, interrupted, other_bytes, sqlite
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT
from scenes import few_slots
from sqlalchemy import select

from pacs_server.archive import checkpoints
from pacs_server.archive.archive import StoreOutcome
from pacs_server.audit.events import EventID
from pacs_server.dicom.part10 import encode_head
from pacs_server.errors import DuplicateInstance, IndexUnavailable, PacsError, StorageUnavailable
from pacs_server.index import models
from pacs_server.upkeep.recovery import RecoveryOutcome

CT = str(CTImageStorage)
POLICIES = ("reject", "replace", "ignore")


@pytest.fixture(autouse=True)
def _few_slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And a checkpoint that has failed is tried again at once."""
    monkeypatch.setattr(checkpoints, "_PAUSE_SECONDS", 0)
    with few_slots():
        yield


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the archive is; the database may lie beside it."""
    return tmp_path / "archive"


def cases(
    directory: Path, url: Callable[[int], str], policy: str, how: str, *, slots: bool
) -> Iterator[tuple[Node, dict[str, str], Dataset]]:
    """A node after a store in which step 1, 2, 3... went wrong, what had been acknowledged, and what was being stored.

    First a new instance is stored, and then other bytes under its UID. With slots a checkpoint belongs to it.
    """
    for again in (False, True):
        for at in range(1, 100):
            node = Node(directory / f"{again}-{at}", url(100 * again + at), policy, migrated=True, slots=slots)
            acknowledged: dict[str, str] = {}
            ds = make_ct()
            if again:
                node.store(ds)
                acknowledged[ds.SOPInstanceUID] = digest(ds)
                ds = other_bytes(ds)
            faults = Faults(at, how)
            try:
                with faulty(faults, node):
                    outcome = node.store(ds)
                    if outcome is not StoreOutcome.DUPLICATE_IGNORED:
                        acknowledged[ds.SOPInstanceUID] = digest(ds)
                    node.archive.checkpoints.take()
            except DuplicateInstance:
                assert again
            except (PacsError, Killed):
                assert faults.steps >= at
            if faults.steps < at:
                assert at > 5, "nothing was done to a file"
                node.die()
                break
            yield node, acknowledged, ds
            node.database.close()


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("how", "slots"),
    [("killed before", False), ("killed after", False), ("killed after", True)],
    ids=["killed before", "killed after", "killed after, slots"],
)
def test_killed_at_any_step(tmp_path: Path, policy: str, how: str, slots: bool) -> None:
    for dead, acknowledged, ds in cases(tmp_path, sqlite(tmp_path), policy, how, slots=slots):
        # The replacement may have been committed when it was killed: then the old version is the older one.
        if dead.rows().get(ds.SOPInstanceUID, ("", ""))[1] == digest(ds):
            acknowledged[ds.SOPInstanceUID] = digest(ds)
        dead.die()
        node = Node(dead.root, str(dead.database.engine.url), policy, migrated=True, slots=slots)
        node.recover()
        assert node.left() == []
        check(node, acknowledged)
        paths = {path for path, _ in node.rows().values()}
        older = {path for path in node.storage.list() if path not in paths}
        assert all(known.replace(".v2", "") in older for known in paths if ".v2" in known)
        assert len(older) == sum(".v2" in known for known in paths)
        # The sender tries again, and all is as if nothing had happened.
        try:
            outcome = node.store(ds)
        except DuplicateInstance:
            assert policy == "reject"
            assert acknowledged
        else:
            if outcome is not StoreOutcome.DUPLICATE_IGNORED:
                acknowledged[ds.SOPInstanceUID] = digest(ds)
        check(node, acknowledged)
        assert node.archive.counts().instances == 1
        assert node.recover() == {}
        node.archive.checkpoints.stop()
        node.spool.close()
        assert node.entries() == []
        node.database.close()


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", [False, True], ids=["each", "slots"])
def test_failing_at_any_step(tmp_path: Path, policy: str, slots: bool) -> None:
    for node, acknowledged, ds in cases(tmp_path, sqlite(tmp_path), policy, "fail", slots=slots):
        check(node, acknowledged)
        rows = {path for path, _ in node.rows().values()}
        try:
            outcome = node.store(ds)
        except DuplicateInstance:
            assert policy == "reject"
        except StorageUnavailable:
            # The disk failed in a checkpoint: nothing is replaced before the process is started again.
            assert slots
            assert node.archive.checkpoints.hindrance == "the disk has failed to sync: restart the server"
        else:
            if outcome is not StoreOutcome.DUPLICATE_IGNORED:
                acknowledged[ds.SOPInstanceUID] = digest(ds)
        check(node, acknowledged)
        # One that could not be taken back stays on the list, and recovery tells what it is.
        orphans = [path for path in node.storage.list() if path not in rows and node.spool.is_in_flight(path)]
        assert len(orphans) <= 1
        node.die()
        after = Node(node.root, str(node.database.engine.url), policy, migrated=True, slots=slots)
        after.recover()
        assert after.left() == []
        check(after, acknowledged)
        after.database.close()


@pytest.mark.slow
def test_an_uncertain_commit_keeps_the_file_and_its_entry(directory: Path, database_url: str) -> None:
    node = Node(directory / "archive", database_url)
    node.index.lose_the_answer = True
    ds = make_ct()
    with pytest.raises(IndexUnavailable):
        node.store(ds)
    node.index.lose_the_answer = False
    check(node, {ds.SOPInstanceUID: digest(ds)})
    assert node.store(ds) is StoreOutcome.ALREADY_STORED
    node.spool.close()
    assert node.recover() == {"complete": 1}
    assert node.entries() == []
    node.database.close()


@pytest.mark.parametrize("naming", ["hierarchical", "date_hierarchical", "flat"])
def test_a_durable_file_is_indexed_as_it_came_in(directory: Path, database_url: str, naming: str) -> None:
    ds = make_ct()
    interrupted(directory, database_url, ds, naming=naming)
    node = Node(directory, database_url)
    assert node.rows() == {}
    assert node.recover() == {"indexed": 1}
    check(node, {ds.SOPInstanceUID: digest(ds)})
    [path] = node.storage.list()
    with node.database.connect() as connection:
        row = connection.execute(select(models.instance)).one()
    assert (row.path, row.calling_ae, row.peer, row.version) == (path, "CT1", "192.0.2.7", 1)
    assert [event.event_id for event in node.trail.events] == [
        EventID.BEGIN_TRANSFERRING,
        EventID.INSTANCES_TRANSFERRED,
    ]
    assert node.store(ds) is StoreOutcome.ALREADY_STORED
    node.database.close()


def test_without_hard_links_too(directory: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    ds = make_ct()
    interrupted(directory, database_url, ds)
    node = Node(directory, database_url)
    assert node.recover() == {"indexed": 1}
    assert node.entries() == []
    check(node, {ds.SOPInstanceUID: digest(ds)})
    node.database.close()


def test_half_received_files_go_to_quarantine_and_empty_ones_go(directory: Path, database_url: str) -> None:
    node = Node(directory, database_url)
    head = encode_head(CT, "1.2.3", EXPLICIT, "CT1")
    for data in (b"", head[:10], head[:200], head, head + b"half"):
        node.spool.receive().write(data)
    node.die()
    after = Node(directory, database_url)
    assert after.recover() == {"empty": 3, "quarantined": 1}
    assert after.entries() == []
    assert after.files.quarantine.count() == 1
    [reason] = (directory / "quarantine").glob("*.reason")
    assert reason.read_text().endswith("the transfer was not finished\n")
    assert after.rows() == {}
    after.database.close()


def test_a_placed_file_that_cannot_be_read_goes_to_quarantine(directory: Path, database_url: str) -> None:
    ds = make_ct()
    interrupted(directory, database_url, ds)
    [entry] = (directory / "incoming").glob("*.part")
    os.truncate(entry, 600)
    node = Node(directory, database_url)
    assert node.recover() == {"quarantined": 1}
    assert node.rows() == {}
    node.database.close()


@pytest.mark.slow
def test_what_was_replaced_or_deleted_since_is_left_alone(directory: Path, database_url: str) -> None:
    ds = make_ct()
    interrupted(directory, database_url, ds)
    living = Node(directory, database_url, "replace")
    assert living.store(other_bytes(ds)) is StoreOutcome.STORED
    assert len(list(living.storage.list())) == 2
    assert living.recover() == {"superseded": 1}
    assert len(list(living.storage.list())) == 2
    deleted = make_ct()
    interrupted(directory, database_url, deleted)
    [path] = [path for path in living.storage.list() if deleted.SOPInstanceUID in path]
    (directory / "trash").mkdir()
    (directory / path).rename(directory / "trash" / "x.dcm")
    assert living.recover() == {"superseded": 1}
    assert deleted.SOPInstanceUID not in living.rows()
    living.database.close()


@pytest.mark.slow
def test_a_replacement_that_was_not_committed_goes_to_quarantine(directory: Path, database_url: str) -> None:
    node = Node(directory, database_url)
    ds = make_ct()
    node.store(ds)
    interrupted(directory, database_url, other_bytes(ds), "replace")
    assert node.recover() == {"quarantined": 1}
    assert len(list(node.storage.list())) == 1
    check(node, {ds.SOPInstanceUID: digest(ds)})
    node.database.close()


def test_the_database_away_leaves_the_entries_for_the_next_time(directory: Path, database_url: str) -> None:
    interrupted(directory, database_url, make_ct())
    node = Node(directory, database_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.archive, "find", lambda uid: (_ for _ in ()).throw(IndexUnavailable("down")))
        with pytest.raises(IndexUnavailable):
            node.recover()
    assert node.recover() == {"indexed": 1}
    node.database.close()


def test_a_disk_that_fails_leaves_the_entry_for_the_next_time(directory: Path, database_url: str) -> None:
    interrupted(directory, database_url, make_ct())
    node = Node(directory, database_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.spool, "make_durable", lambda path: (_ for _ in ()).throw(StorageUnavailable("EIO")))
        assert node.recover() == {RecoveryOutcome.FAILED.value: 1}
    assert node.recover() == {"indexed": 1}
    node.database.close()


def test_the_living_are_left_alone(directory: Path, database_url: str) -> None:
    one, other = Node(directory, database_url), Node(directory, database_url)
    file = one.spool.receive()
    file.write(b"half")
    assert other.recover() == {}
    file.discard()
    one.spool.close()
    other.spool.close()
    assert one.entries() == []
    for node in (one, other):
        node.database.close()


# ------------------------------------------------------------------------------------ two nodes


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("first", ["one", "other"])
def test_two_nodes_store_one_uid_at_the_same_instant(
    directory: Path, database_url: str, policy: str, first: str
) -> None:
    """The other node's whole store comes between the placement and the commit of the one's, or the other way round."""
    one, other = Node(directory, database_url, policy), Node(directory, database_url, policy)
    ds = make_ct()
    changed = other_bytes(ds)
    acknowledged: dict[str, str] = {}
    real = one.index._step

    def meanwhile(write: Callable[..., None], *args: Any, **options: bool) -> None:
        one.index._step = real  # type: ignore[method-assign]
        if first == "other":
            attempt(other, changed)
        real(write, *args, **options)

    def attempt(node: Node, what: Dataset) -> None:
        try:
            if node.store(what) is not StoreOutcome.DUPLICATE_IGNORED:
                acknowledged[what.SOPInstanceUID] = digest(what)
        except DuplicateInstance:
            assert policy == "reject"

    one.index._step = meanwhile  # type: ignore[method-assign]
    attempt(one, ds)
    if first == "one":
        attempt(other, changed)
    check(one, acknowledged)
    assert one.archive.counts().instances == 1
    assert len(list(one.storage.list())) == (2 if policy == "replace" else 1)
    for node in (one, other):
        node.spool.close()
        node.database.close()
    assert one.entries() == []


@pytest.mark.slow
def test_two_nodes_replace_one_instance_at_the_same_instant(directory: Path, database_url: str) -> None:
    one, other = (Node(directory, database_url, "replace") for _ in range(2))
    ds = make_ct()
    one.store(ds)
    second, third = other_bytes(ds), make_ct(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, rows=8)
    real = one.index._step

    def meanwhile(write: Callable[..., None], *args: Any, **options: bool) -> None:
        one.index._step = real  # type: ignore[method-assign]
        assert other.store(third) is StoreOutcome.REPLACED
        real(write, *args, **options)

    one.index._step = meanwhile  # type: ignore[method-assign]
    assert one.store(second) is StoreOutcome.REPLACED
    check(one, {ds.SOPInstanceUID: digest(second)})
    # All three were acknowledged: all three are kept, and the last one has the highest name.
    assert sorted(digest_at(directory / path) for path in one.storage.list()) == sorted(
        map(digest, (ds, second, third))
    )
    [(path, _)] = one.rows().values()
    assert path == max(one.storage.list())
    for node in (one, other):
        node.database.close()


def test_without_leftovers_neither_index_nor_archive_is_asked(directory: Path, database_url: str) -> None:
    """So a start takes no longer when the archive grows."""
    node = Node(directory, database_url)
    node.store(make_ct())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "begin"):
            patch.setattr(node.database, name, lambda *_, **__: pytest.fail("the index was asked"))
        for name in ("list", "open", "exists"):
            patch.setattr(node.storage, name, lambda *_: pytest.fail("the archive was looked at"))
        assert node.recover() == {}
    node.database.close()
