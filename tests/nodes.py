"""One process on an archive, as far as files and index know, whose steps can be made to go wrong."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schema
from datasets import data_set_bytes, make_ct
from pydicom.dataset import Dataset
from rawpeer import Instance
from sqlalchemy import select

from pacs_server.archive.archive import Archive, StoreOutcome
from pacs_server.audit.events import Event
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.errors import IndexUnavailable
from pacs_server.index import models
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex
from pacs_server.services.store import StoreRequest, StoreService
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.filesystem.spool import FileSystemSpool
from pacs_server.upkeep.recovery import recover

CALLS = ("open", "write", "pwrite", "fdatasync", "link", "mkdir", "fsync", "unlink", "rename", "rmdir")
ORIGIN = Origin("CT1", "PACS", "192.0.2.7", Door.DIMSE)


class Killed(BaseException):
    """The process is no more."""


class Trail:
    """An audit trail in memory."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, *, durable: bool = True) -> None:
        self.events.append(event)


@dataclass
class Faults:
    """Lets one of the steps of a store go wrong: number `at`, from 1; `how` is what happens then."""

    at: int = 0
    how: str = "nothing"
    steps: int = 0
    dead: bool = False

    def step(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps != self.at:
            return real(*args, **kwargs)
        if self.how == "fail":
            raise OSError(errno.EIO, "Input/output error")
        if self.how == "killed after":
            real(*args, **kwargs)
        self.dead = True
        raise Killed


class FaultyIndex(InstanceIndex):
    """An index whose writes are steps; a commit may fail, or its answer be lost."""

    faults = Faults()
    lose_the_answer = False
    relaxes_without_sync = False

    @property
    def relaxes(self) -> bool:
        return self.relaxes_without_sync or super().relaxes

    def _step(self, write: Callable[..., None], *args: Any, **options: bool) -> None:
        try:
            self.faults.step(write, *args, **options)
        except OSError as error:
            raise IndexUnavailable("down") from error
        if self.lose_the_answer:
            raise IndexUnavailable("lost at COMMIT", uncertain=True)

    def add(self, *arrival: Any, **options: Any) -> None:
        self._step(super().add, *arrival, **options)

    def make_durable(self) -> None:
        self._step(super().make_durable)

    def replace(self, *arrival: Any, **options: Any) -> None:
        self._step(super().replace, *arrival, **options)


class Node:
    """One process on an archive, as far as files and index know."""

    def __init__(
        self,
        directory: Path,
        url: str,
        policy: str = "reject",
        naming: str = "hierarchical",
        *,
        migrated: bool = False,
        slots: bool = False,
        database: Database | None = None,
    ) -> None:
        """With `migrated` the database is up to date, which takes its time to find out.

        With `slots` rows wait for the checkpoint too, whether or not the database syncs anything.
        """
        self.root = directory
        self.files = archive_directory(directory, slots=slots)
        self.storage, self.spool = self.files.storage, self.files.spool
        self.spool.prepare()
        # A process finds out when it first stores something; no fault comes before.
        assert self.spool.slots == slots
        self.database = database or Database(url, fsync=False)
        if not migrated:
            self.database.migrate()
        self.index = FaultyIndex(self.database)
        self.index.relaxes_without_sync = slots
        self.archive = Archive(self.storage, self.spool, self.index, naming=naming, duplicate_policy=policy)
        self.trail = Trail()

    def store(self, ds: Dataset) -> StoreOutcome:
        instance = Instance.of(ds)
        request = StoreRequest(
            instance.sop_class_uid, instance.sop_instance_uid, str(ds.file_meta.TransferSyntaxUID), ORIGIN
        )
        return StoreService(self.archive).store(request, [instance.data])

    def recover(self) -> dict[str, int]:
        found = recover(self.archive, self.files, Recorder(self.trail, lambda: "PACS"))
        return {outcome.value: count for outcome, count in found.items()}

    def die(self) -> None:
        """Let the lock go as the kernel does."""
        assert isinstance(self.spool, FileSystemSpool)
        if self.spool._journal._lock >= 0:
            os.close(self.spool._journal._lock)
        self.database.close()

    def rows(self) -> dict[str, tuple[str, str]]:
        """Path and digest by SOP Instance UID."""
        columns = models.instance.c
        with self.database.connect() as connection:
            rows = connection.execute(select(columns.sop_instance_uid, columns.path, columns.digest))
            return {row.sop_instance_uid: (row.path, row.digest) for row in rows}

    def entries(self) -> list[str]:
        return [path.name for path in (self.root / "incoming").iterdir()]

    def left(self) -> list[str]:
        """What is in `incoming/` beside the lock and the empty slots of this process."""
        assert isinstance(self.spool, FileSystemSpool)
        own, free = f"{self.spool._journal._owner}.lock", {Path(path).name for path in self.spool._slots._free}
        return [name for name in self.entries() if name != own and name not in free]


def digest(ds: Dataset) -> str:
    return hashlib.sha256(Instance.of(ds).data).hexdigest()


def digest_at(path: Path) -> str:
    return hashlib.sha256(data_set_bytes(path)[1]).hexdigest()


def check(node: Node, acknowledged: dict[str, str]) -> None:
    """Each acknowledged instance (digest by UID) is there, no row lacks its file, and no file is half."""
    rows = node.rows()
    assert acknowledged.items() <= {uid: sha for uid, (_, sha) in rows.items()}.items()
    for path, sha in rows.values():
        assert digest_at(node.root / path) == sha
    for path in node.storage.list():
        assert len(data_set_bytes(node.root / path)[1]) > 100


def orphans(node: Node) -> list[str]:
    """The files that have no row, and are no older version of one that has."""
    current = {_plain(path): path for path, _ in node.rows().values()}
    return [path for path in node.storage.list() if _version(path) > _version(current.get(_plain(path), ".v0.dcm"))]


def _plain(path: str) -> str:
    return path.removesuffix(".dcm").partition(".v")[0]


def _version(path: str) -> int:
    return int(path.removesuffix(".dcm").partition(".v")[2] or 1)


@contextmanager
def faulty(faults: Faults, node: Node) -> Iterator[None]:
    """Steps are counted, and one of them goes wrong."""
    node.index.faults = faults
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            real = getattr(os, name)
            patch.setattr(os, name, lambda *a, _real=real, **k: faults.step(_real, *a, **k))
        try:
            yield
        finally:
            node.index.faults = Faults()


def other_bytes(ds: Dataset) -> Dataset:
    return make_ct(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, PatientComments="changed")


def sqlite(directory: Path) -> Callable[[int], str]:
    """URLs of databases by number, with all tables and no rows."""

    def url(number: int) -> str:
        schema.prepare(directory / f"{number}.db")
        return f"sqlite:///{directory}/{number}.db"

    return url


def interrupted(
    directory: Path,
    url: str,
    ds: Dataset,
    policy: str = "reject",
    naming: str = "hierarchical",
    *,
    slots: bool = False,
) -> None:
    """A process that was killed when the file of `ds` was durable and its row was not written."""
    node = Node(directory, url, policy, naming, slots=slots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.index, "_step", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            node.store(ds)
    node.die()
