"""A disk with an archive on it that loses power, with every mix of what was kept."""

import os
import random
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import schema
from commits import Commits, Kept, RecordingDatabase
from nodes import Faults, Killed, Node, check, faulty
from power import Change, Disk, synced_only
from pydicom.dataset import Dataset

from pacs_server.audit.recorder import Recorder
from pacs_server.index.deletions import DeletionIndex
from pacs_server.services.deletion import DeletionService
from pacs_server.storage.filesystem import slots

STEPS = range(1, 200)
# With this variable of the environment every loss is tried at every step.
EVERY_STEP = "PACS_SERVER_TESTS_EVERY_STEP"


@contextmanager
def few_slots() -> Iterator[None]:
    """Processes make a few slots at a time, so that their steps are few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "_TO_BEGIN_WITH", 2)
        patch.setattr(slots, "_READY", 3)
        yield


def synced(disk: Disk, _seed: int) -> None:
    """No name is there that was not synced."""
    disk.lose_power(synced_only)


def in_order(disk: Disk, _seed: int) -> None:
    """A journal of the file system keeps the order of names: what came before the last one that was synced is there."""
    last = disk.last_synced()
    disk.lose_power(lambda number, _: number <= last)


def at_random(disk: Disk, seed: int) -> None:
    """Any name may be there, and any bytes of a file that were not synced."""
    choices = random.Random(seed)

    def survives(_number: int, _change: Change) -> bool:
        return choices.random() < 0.5

    def torn(synced: bytes, now: bytes) -> bytes:
        half = len(now) // 2
        if not synced:
            return choices.choice([b"", now, now[:half], now[:half] + bytes(len(now) - half), bytes(len(now))])
        # What was synced once is written over in its head only, and that write may be torn.
        cut = choices.randrange(1024)
        return choices.choice([synced, now, now[:cut] + synced[cut:], synced[:cut] + now[cut:]])

    disk.lose_power(survives, torn)


def everything(disk: Disk, _seed: int) -> None:
    """All names and bytes are there, as after a kill."""
    disk.lose_power(lambda _, __: True, lambda _, now: now)


def killed(_disk: Disk, _seed: int) -> None:
    """The process alone is gone: all it did is there, and no more of it synced than was."""


@dataclass(frozen=True)
class Loss:
    """What is lost of names and bytes; `kept` says which commits are there that were not synced: none, some, all."""

    names: Callable[[Disk, int], None]
    kept: str = "none"

    def __str__(self) -> str:
        return f"{self.names.__name__}-{self.kept}"

    def steps(self, hardest: int = 1) -> range:
        """The steps to try, but all in `make soak`: each `hardest` one if nothing is kept that was not synced."""
        if os.environ.get(EVERY_STEP):
            return STEPS
        stride = hardest if self == Loss(synced) else 3 if self in FEW_LOSSES or self == KILLED else 7
        return STEPS[zlib.crc32(str(self).encode()) % stride :: stride]

    def commits(self, seed: int) -> Kept:
        """How many of so many commits are kept."""
        choose: dict[str, Kept] = {
            "none": lambda number: 0,
            "some": lambda number: random.Random(seed).randint(0, number),
            "all": lambda number: number,
        }
        return choose[self.kept]


LOSSES = [Loss(names, kept) for names, kept in product((synced, in_order, at_random), ("none", "some", "all"))]
KILLED = Loss(killed, "all")
# Names and commits that were not synced are gone, or the commits are there and the names are not, or anything.
FEW_LOSSES = [Loss(synced), Loss(synced, "all"), Loss(at_random, "some")]


class Scene:
    """An archive on a disk, and its database; `at` tells it from other scenes."""

    def __init__(self, directory: Path, at: str, *, slots: bool, policy: str = "replace") -> None:
        self.base = directory / at / "disk"
        self.root = self.base / "data" / "archive"
        self.base.mkdir(parents=True)
        self.disk = Disk(self.base)
        self.file = directory / at / "pacs.db"
        schema.prepare(self.file)
        self.commits = Commits(self.file)
        self.slots, self.policy = slots, policy

    def copy(self, directory: Path, at: str) -> "Scene":
        """The same disk and database once more, all of it synced; nobody has them open."""
        other = Scene(directory, at, slots=self.slots, policy=self.policy)
        # Hard links stay hard links.
        subprocess.run(["cp", "-a", f"{self.base}/.", other.base], check=True)
        shutil.copy(self.file, other.file)
        other.disk.all_is_synced()
        other.commits.all_is_synced()
        return other

    def node(self, policy: str | None = None) -> Node:
        """A process on the archive."""
        database = RecordingDatabase(self.commits)
        return Node(self.root, "", policy or self.policy, migrated=True, slots=self.slots, database=database)

    def lose(self, loss: Loss, seed: int) -> None:
        """Let power fail; every process is dead by now."""
        loss.names(self.disk, seed)
        if loss.names is not killed:
            self.commits.lose_power(loss.commits(seed))


@contextmanager
def cut_off(faults: Faults, node: Node) -> Iterator[None]:
    """Steps are counted and one of them kills; each commit is one too."""
    assert isinstance(node.database, RecordingDatabase)
    node.database.after_commit = lambda: faults.step(lambda: None)
    try:
        with faulty(faults, node):
            yield
    finally:
        node.database.after_commit = lambda: None


def interrupted(scene: Scene, ds: Dataset, policy: str = "reject") -> None:
    """A process that was killed when the file of `ds` was durable and its row was not written."""
    node = scene.node(policy)
    with pytest.MonkeyPatch.context() as patch:
        for write in ("add", "replace"):
            patch.setattr(node.index, write, lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            node.store(ds)
    node.die()


def assert_recovers(scene: Scene, acknowledged: dict[str, str]) -> Node:
    """A process after the loss, and that all is well there."""
    node = scene.node()
    node.recover()
    assert node.left() == []
    check(node, acknowledged)
    assert node.recover() == {}
    return node


def deleting(node: Node) -> DeletionService:
    recorder = Recorder(node.trail, lambda: "PACS")
    return DeletionService(DeletionIndex(node.database), node.files, node.archive.checkpoints, recorder)
