"""Each step of a store goes wrong in each way: what the sender is told, what is there then, and what comes next."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct
from nodes import Node, check, digest, orphans, other_bytes, sqlite
from pydicom.dataset import Dataset
from scenes import LOSSES, Scene, assert_recovers, few_slots
from sqlalchemy import Engine, event

from pacs_server.archive import checkpoints
from pacs_server.archive.archive import StoreOutcome
from pacs_server.dicom.status import Status
from pacs_server.errors import IndexUnavailable, PacsError, StorageFull, StorageUnavailable
from pacs_server.index.prepared import Prepared
from pacs_server.scp.contexts import Service
from pacs_server.scp.status import status_of

NO_ROOM, BROKEN = errno.ENOSPC, errno.EIO
Patch = pytest.MonkeyPatch
Break = Callable[[Patch, Node], None]


@pytest.fixture(autouse=True)
def _few_slots() -> Iterator[None]:
    with few_slots():
        yield


@dataclass(frozen=True)
class After:
    """What there is after the fault, beside what was stored before: files, names in `incoming/`, rows.

    `again` is how the same instance fares then; where it replaces another one, REPLACED stands for STORED.
    """

    status: Status
    files: int = 0
    entries: int = 0
    rows: int = 0
    again: StoreOutcome = StoreOutcome.STORED


NOTHING = After(Status.OUT_OF_RESOURCES)
STORED = After(Status.SUCCESS, files=1, rows=1, again=StoreOutcome.ALREADY_STORED)
SETTLED_LATER = After(Status.SUCCESS, files=1, entries=1, rows=1, again=StoreOutcome.ALREADY_STORED)
# The sender is refused, and the file is kept for who has to find out.
UNKNOWN = After(Status.OUT_OF_RESOURCES, files=1, entries=1)
UNKNOWN_BUT_THERE = After(Status.OUT_OF_RESOURCES, files=1, entries=1, rows=1, again=StoreOutcome.ALREADY_STORED)


# ------------------------------------------------------------------------------------ what goes wrong


def fails(name: str, number: int = 1, what: int = BROKEN, where: str = "") -> Break:
    """The call of that number of a function of the operating system fails, of those whose path has `where` in it."""

    def inject(patch: Patch, _node: Node) -> None:
        real, calls = getattr(os, name), iter(range(1, 1000))

        def act(*args: Any, **kwargs: Any) -> Any:
            if where in _path(args[0]) and next(calls) == number:
                raise OSError(what, os.strerror(what))
            return real(*args, **kwargs)

        patch.setattr(os, name, act)

    return inject


def _path(argument: Any) -> str:
    return os.readlink(f"/proc/self/fd/{argument}") if isinstance(argument, int) else os.fspath(argument)


def writes_little(patch: Patch, _node: Node) -> None:
    real = os.write
    patch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:1000]))


def fills_up(patch: Patch, _node: Node) -> None:
    """A part is written, and then there is no more room."""
    real, left = os.write, [2000]

    def act(descriptor: int, data: Any) -> int:
        if not left[0]:
            raise OSError(NO_ROOM, "No space left on device")
        written = real(descriptor, bytes(data)[: left[0]])
        left[0] -= written
        return written

    patch.setattr(os, "write", act)


def statement_fails(number: int) -> Break:
    """The statement of that number of the transaction that writes fails."""

    def inject(patch: Patch, node: Node) -> None:
        calls = iter(range(1, 1000))
        run, write = Prepared.run, Prepared.write

        def count() -> None:
            if next(calls) == number:
                raise driver(node).OperationalError("disk I/O error")

        def prepared(self: Prepared, raw: Any, values: Any) -> Any:
            count()
            return run(self, raw, values)

        def written(self: Prepared, raw: Any, rows: Any) -> None:
            count()
            write(self, raw, rows)

        def executed(connection: Any, *_: object) -> None:
            if connection.get_execution_options().get("write"):
                count()

        patch.setattr(Prepared, "run", prepared)
        patch.setattr(Prepared, "write", written)
        for engine in engines(node):
            event.listen(engine, "before_cursor_execute", executed)

    return inject


def engines(node: Node) -> list[Engine]:
    """What rows are written with, in either order."""
    return [node.database.engine, node.database._engines.relaxed()]


def commits(patch: Patch, node: Node, act: Callable[[Any], None]) -> None:
    for engine in engines(node):
        patch.setattr(engine.dialect, "do_commit", act)


def driver(node: Node) -> Any:
    return node.database.engine.dialect.loaded_dbapi


def commit_fails(patch: Patch, node: Node) -> None:
    """Nothing of it is there, but that nobody knows."""

    def act(connection: Any) -> None:
        connection.rollback()
        raise driver(node).OperationalError("connection lost")

    commits(patch, node, act)


def commit_is_not_answered(patch: Patch, node: Node) -> None:
    def act(connection: Any) -> None:
        connection.commit()
        raise driver(node).OperationalError("connection lost")

    commits(patch, node, act)


def commit_has_no_room(patch: Patch, node: Node) -> None:
    def act(connection: Any) -> None:
        connection.rollback()
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    commits(patch, node, act)


def both(*faults: Break) -> Break:
    def inject(patch: Patch, node: Node) -> None:
        for fault in faults:
            fault(patch, node)

    return inject


# ------------------------------------------------------------------------------------ the table

ON_DISK: dict[str, tuple[Break, After]] = {
    "free space cannot be asked for": (fails("statvfs"), NOTHING),
    "no lock": (fails("open", where=".lock"), NOTHING),
    "the lock's name cannot be synced": (fails("fsync", where="/incoming"), NOTHING),
    "no file": (fails("open", where=".part"), NOTHING),
    "no room for a file": (fails("open", what=NO_ROOM, where=".part"), NOTHING),
    "head not written": (fails("write"), NOTHING),
    "no room for the head": (fails("write", what=NO_ROOM), NOTHING),
    "data not written": (fails("write", 2), NOTHING),
    "no room for the data": (fails("write", 2, NO_ROOM), NOTHING),
    "quota": (fails("write", 2, errno.EDQUOT), NOTHING),
    "little by little": (writes_little, STORED),
    "fills up": (fills_up, NOTHING),
    # The header is read from what came in.
    "not read back": (fails("pread"), STORED),
    "file not synced": (fails("fdatasync"), NOTHING),
    "no room at the sync": (fails("fdatasync", what=NO_ROOM), NOTHING),
    "no link": (fails("link"), NOTHING),
    "no room for the link": (fails("link", what=NO_ROOM), NOTHING),
    "no directory for the study": (fails("mkdir"), NOTHING),
    "no room for the series": (fails("mkdir", 2, NO_ROOM), NOTHING),
    "no second link": (fails("link", 2), NOTHING),
    "series not synced": (fails("fsync", where="/archive/1."), NOTHING),
    "study not synced": (fails("fsync", 2, where="/archive/1."), NOTHING),
    "root not synced": (fails("fsync", 4), NOTHING),
    "entry not removed": (fails("unlink", where=".part"), SETTLED_LATER),
    "neither stored nor removed": (
        both(fails("write", 2), fails("unlink", where=".part")),
        After(Status.OUT_OF_RESOURCES, entries=1),
    ),
    "directory not synced and name not taken back": (
        both(fails("fsync", where="/archive/1."), fails("unlink", where=".dcm")),
        UNKNOWN,
    ),
}
SYNCED_LATER = {
    "study not synced",
    "series not synced",
    "root not synced",
    "entry not removed",
    "directory not synced and name not taken back",
}
# What else there is of these when another instance of the series lies there already.
ONLY_AT_FIRST = {
    "no second link",
    "no lock",
    "the lock's name cannot be synced",
    "no directory for the study",
    "no room for the series",
    "study not synced",
    "root not synced",
}
IN_THE_INDEX: dict[str, tuple[Break, After]] = {
    **{f"statement {number}": (statement_fails(number), NOTHING) for number in range(1, 8)},
    "no commit": (commit_fails, UNKNOWN),
    "no answer to the commit": (commit_is_not_answered, UNKNOWN_BUT_THERE),
    "not taken back": (both(statement_fails(1), fails("unlink", where=".dcm")), UNKNOWN),
}


# In slots the names of the file's directories are synced later, and the name in `incoming/` stays until then.
KEPT = replace(STORED, entries=1)
IN_SLOTS: dict[str, tuple[Break, After]] = {
    **{
        fault: (inject, KEPT if after is STORED else after)
        for fault, (inject, after) in ON_DISK.items()
        if fault not in SYNCED_LATER
    },
    "the slots' names cannot be synced": (fails("fsync", 2, where="/incoming"), NOTHING),
    "no room for a second slot": (fails("open", 2, NO_ROOM, where=".part"), NOTHING),
    "seal not written": (fails("pwrite"), NOTHING),
    "neither sealed nor taken back": (both(fails("link"), fails("pwrite", 2)), NOTHING),
}


@pytest.mark.parametrize("fault", IN_SLOTS)
def test_the_disk_fails_a_new_instance_in_a_slot(tmp_path: Path, fault: str) -> None:
    url = sqlite(tmp_path)(1)
    expect(tmp_path / "archive", url, None, make_ct(), *IN_SLOTS[fault], slots=True)


@pytest.mark.parametrize("fault", IN_THE_INDEX)
def test_the_index_fails_a_new_instance_in_a_slot(tmp_path: Path, database_url: str, fault: str) -> None:
    inject, after = IN_THE_INDEX[fault]
    expect(tmp_path / "archive", database_url, None, make_ct(), inject, after, slots=True)


@pytest.mark.parametrize("fault", ON_DISK)
def test_the_disk_fails_a_new_instance(tmp_path: Path, fault: str) -> None:
    url = sqlite(tmp_path)(1)
    expect(tmp_path / "archive", url, None, make_ct(), *ON_DISK[fault])


@pytest.mark.slow
@pytest.mark.parametrize("fault", sorted(set(ON_DISK) - ONLY_AT_FIRST))
def test_the_disk_fails_a_replacement(tmp_path: Path, fault: str) -> None:
    url, ds = sqlite(tmp_path)(1), make_ct()
    expect(tmp_path / "archive", url, ds, other_bytes(ds), *ON_DISK[fault])


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_THE_INDEX)
def test_the_index_fails_a_new_instance(tmp_path: Path, database_url: str, fault: str) -> None:
    expect(tmp_path / "archive", database_url, None, make_ct(), *IN_THE_INDEX[fault])


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_THE_INDEX)
def test_the_index_fails_a_replacement(tmp_path: Path, database_url: str, fault: str) -> None:
    ds = make_ct()
    expect(tmp_path / "archive", database_url, ds, other_bytes(ds), *IN_THE_INDEX[fault])


@pytest.mark.slow
def test_the_index_has_no_room(tmp_path: Path) -> None:
    """SQLite says so before anything of it is in the file."""
    expect(tmp_path / "archive", sqlite(tmp_path)(1), None, make_ct(), commit_has_no_room, NOTHING)


def expect(
    root: Path, url: str, before: Dataset | None, ds: Dataset, inject: Break, after: After, *, slots: bool = False
) -> None:
    node = Node(root, url, "replace", migrated=url.endswith("/1.db"), slots=slots)
    acknowledged = {}
    if before is not None:
        node.store(before)
        acknowledged[before.SOPInstanceUID] = digest(before)
    stored = len(acknowledged)
    with pytest.MonkeyPatch.context() as patch:
        inject(patch, node)
        status = told(node, ds)

    assert status is after.status
    if after.rows:
        acknowledged[ds.SOPInstanceUID] = digest(ds)
    assert {uid: sha for uid, (_, sha) in node.rows().items()} == acknowledged
    check(node, acknowledged)
    assert len(list(node.storage.list())) == stored + after.files
    assert len(node.left()) == after.entries

    # The sender tries again.
    replaced = before is not None and after.again is StoreOutcome.STORED
    assert node.store(ds) is (StoreOutcome.REPLACED if replaced else after.again)
    check(node, {ds.SOPInstanceUID: digest(ds)})
    assert node.archive.counts().instances == 1

    # And the server begins anew.
    node.die()
    later = Node(root, url, "replace", migrated=True, slots=slots)
    later.recover()
    assert later.left() == []
    assert orphans(later) == []
    check(later, {ds.SOPInstanceUID: digest(ds)})
    assert later.store(ds) is StoreOutcome.ALREADY_STORED
    later.die()


def told(node: Node, ds: Dataset) -> Status:
    try:
        node.store(ds)
    except PacsError as error:
        return status_of(error, Service.STORAGE)
    return Status.SUCCESS


# ------------------------------------------------------------------------------------ checkpoints


def index_is_down(patch: Patch, node: Node) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexUnavailable("down")

    patch.setattr(node.index, "make_durable", fail)


CHECKPOINTS: dict[str, Break] = {
    "names not synced": fails("fsync", where="/archive/1."),
    "index down": index_is_down,
    "second slot not removed": fails("unlink", 2, where=".part"),
    "slots not synced": fails("fsync", where="/incoming"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", CHECKPOINTS)
@pytest.mark.parametrize("then", ["power fails", "it succeeds"])
def test_a_checkpoint_fails(tmp_path: Path, fault: str, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored until one succeeds, and nothing is lost."""
    for number, loss in enumerate(LOSSES):
        scene, instances = Scene(tmp_path, str(number), slots=True), [make_ct(), make_ct()]
        refused = make_ct()
        with scene.disk.watched():
            node = scene.node()
            for ds in instances:
                node.store(ds)
            with pytest.MonkeyPatch.context() as patch:
                CHECKPOINTS[fault](patch, node)
                with pytest.raises((StorageUnavailable, StorageFull, IndexUnavailable)):
                    node.archive.checkpoints.take()
            monkeypatch.setattr(checkpoints, "_PAUSE_SECONDS", 1000)
            assert told(node, refused) is Status.OUT_OF_RESOURCES
            monkeypatch.setattr(checkpoints, "_PAUSE_SECONDS", 0)
            if then == "it succeeds":
                node.store(refused)
                instances.append(refused)
            node.die()
        scene.lose(loss, number)
        node = assert_recovers(scene, {ds.SOPInstanceUID: digest(ds) for ds in instances})
        assert orphans(node) == []
        node.die()
