"""Power fails at any step: what was not synced may be gone, and nothing that was acknowledged is."""

import itertools
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from datasets import make_ct
from nodes import Faults, Killed, Node, check, digest, faulty, interrupted, orphans, other_bytes, sqlite
from patients import decisions_in
from power import Change, Disk, synced_only
from pydicom.dataset import Dataset

from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.levels import Level
from pacs_server.errors import InstanceNotFound
from pacs_server.index.deletions import DeletionIndex
from pacs_server.services.deletion import DeletionService
from pacs_server.services.patients import PatientService
from pacs_server.storage.filesystem import incoming_journal
from pacs_server.storage.filesystem.incoming_file import FileSystemIncoming

STEPS = range(1, 100)
Lose = Callable[[Disk, int], None]


def synced(disk: Disk, _at: int) -> None:
    disk.lose_power(synced_only)


def in_order(disk: Disk, _at: int) -> None:
    """A journal of the file system keeps the order of names: what came before the last one that was synced is there."""
    last = disk.last_synced()
    disk.lose_power(lambda number, _: number <= last)


def at_random(disk: Disk, at: int) -> None:
    choices = random.Random(at)

    def survives(_number: int, _change: Change) -> bool:
        return choices.random() < 0.5

    def torn(data: bytes) -> bytes:
        return choices.choice([b"", data[: len(data) // 2], bytes(len(data)), data])

    disk.lose_power(survives, torn)


def killed(_disk: Disk, _at: int) -> None:
    """The process alone is gone: all it did is there, and no more of it synced than was."""


class Scene:
    """A disk with an archive on it, and a database that outlives everything; `at` tells it from other scenes."""

    def __init__(self, directory: Path, at: str, url: str, policy: str = "replace") -> None:
        self.root = directory / at / "disk" / "data" / "archive"
        self.base = directory / at / "disk"
        self.base.mkdir(parents=True)
        self.disk = Disk(self.base)
        self.url, self.policy = url, policy

    def node(self) -> Node:
        return Node(self.root, self.url, self.policy, migrated=True)


def lost_at(scene: Scene, lose: Lose, at: int, before: list[Dataset], ds: Dataset) -> bool:
    """Whether power failed at step `at` of storing `ds`; what was acknowledged has to be there then."""
    acknowledged: dict[str, str] = {}
    faults = Faults(at, "killed after")
    with scene.disk.watched():
        dead = scene.node()
        for stored in before:
            dead.store(stored)
            acknowledged[stored.SOPInstanceUID] = digest(stored)
        try:
            with faulty(faults, dead):
                dead.store(ds)
            acknowledged[ds.SOPInstanceUID] = digest(ds)
        except Killed:
            if dead.rows().get(ds.SOPInstanceUID, ("", ""))[1] == digest(ds):
                acknowledged[ds.SOPInstanceUID] = digest(ds)
        dead.die()
    lose(scene.disk, at)
    node = assert_recovers(scene, acknowledged)
    if lose is in_order:
        assert orphans(node) == []
    node.store(ds)
    check(node, acknowledged | {ds.SOPInstanceUID: digest(ds)})
    assert node.archive.counts().instances == 1
    node.die()
    return faults.steps >= at


def assert_recovers(scene: Scene, acknowledged: dict[str, str]) -> Node:
    """A process after the loss, and that all is well there."""
    node = scene.node()
    node.recover()
    assert node.entries() == []
    check(node, acknowledged)
    assert node.recover() == {}
    return node


@pytest.mark.slow
@pytest.mark.parametrize("lose", [synced, in_order, at_random])
def test_power_fails_at_any_step_of_a_store(tmp_path: Path, lose: Lose) -> None:
    url = sqlite(tmp_path)
    for again in (False, True):
        for at in STEPS:
            ds = make_ct()
            before = [ds] if again else []
            scene = Scene(tmp_path, f"{again}-{at}", url(100 * again + at))
            if not lost_at(scene, lose, at, before, other_bytes(ds) if again else ds):
                assert at > 5
                break


@pytest.mark.slow
@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_others_may_have_made_the_directories_and_not_synced_them(tmp_path: Path, then: str) -> None:
    """The first instance of a study gets so far; another one of its series is stored whole, and then power fails."""
    url = sqlite(tmp_path)
    for at in STEPS:
        scene = Scene(tmp_path, str(at), url(at))
        first = make_ct()
        second = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID)
        with scene.disk.watched():
            node = scene.node()
            faults = Faults(at, "killed after")
            with suppress(Killed), faulty(faults, node):
                node.store(first)
            if then == "is killed":
                node.die()
                node = scene.node()
            node.store(second)
            node.die()
        synced(scene.disk, at)
        assert_recovers(scene, {second.SOPInstanceUID: digest(second)}).die()
        if not faults.dead:
            assert at > 5
            break


# ------------------------------------------------------------------------------------ while it recovers


def leftovers(scene: Scene) -> dict[str, str]:
    """Leave what a crash can leave, of each kind one; returns what has to be indexed afterwards."""
    whole, complete, replaced, refused = (make_ct() for _ in range(4))
    node = scene.node()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSystemIncoming, "settled", lambda _: None)
        node.store(complete)
    node.store(refused)
    node.spool.receive().write(b"half" * 100)
    node.spool.receive()
    node.die()
    interrupted(scene.root, scene.url, whole)
    interrupted(scene.root, scene.url, replaced)
    node = scene.node()
    node.store(later := other_bytes(replaced))
    node.die()
    interrupted(scene.root, scene.url, other_bytes(refused), "replace")
    return {ds.SOPInstanceUID: digest(ds) for ds in (whole, complete, later, refused)}


@pytest.mark.slow
@pytest.mark.parametrize("lose", [killed, synced])
def test_recovery_is_cut_off_at_any_step(tmp_path: Path, lose: Lose, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dealt with in the order in which they came to be: what comes last has nothing after it that would sync it too.
    numbers = itertools.count()
    monkeypatch.setattr(incoming_journal.secrets, "token_hex", lambda _: f"{next(numbers):08x}")
    first = Scene(tmp_path, "0", sqlite(tmp_path)(0))
    expected = leftovers(first)
    for at in STEPS:
        shutil.copy(tmp_path / "0.db", tmp_path / f"{at}.db")
        scene, faults = Scene(tmp_path, str(at), f"sqlite:///{tmp_path}/{at}.db"), Faults(at, "killed after")
        # Hard links stay hard links.
        subprocess.run(["cp", "-a", f"{first.base}/.", scene.base], check=True)
        scene.disk.all_is_synced()
        with scene.disk.watched():
            node = scene.node()
            with suppress(Killed), faulty(faults, node):
                found = node.recover()
            node.die()
        lose(scene.disk, at)
        with scene.disk.watched():
            assert_recovers(scene, expected).die()
        # What it came to is durable.
        synced(scene.disk, at)
        node = assert_recovers(scene, expected)
        assert set(node.rows()) == set(expected)
        assert orphans(node) == []
        kept = [path for path in (scene.root / "quarantine").iterdir() if path.suffix != ".reason"]
        assert len(kept) == 2
        assert all(path.with_name(f"{path.name}.reason").read_text().strip() for path in kept)
        node.die()
        if faults.steps < at:
            assert found == {"complete": 1, "indexed": 1, "quarantined": 2, "superseded": 1}
            break


@pytest.mark.slow
def test_power_fails_after_recovery_from_a_kill_at_any_step_of_a_store(tmp_path: Path) -> None:
    """A file that recovery gives a row has a durable name, whoever made the name and did not sync it."""
    url = sqlite(tmp_path)
    for at in STEPS:
        scene, ds, faults = Scene(tmp_path, str(at), url(at)), make_ct(), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            with suppress(Killed), faulty(faults, node):
                node.store(ds)
            node.die()
            node = scene.node()
            node.recover()
            indexed = {uid: sha for uid, (_, sha) in node.rows().items()}
            node.die()
        synced(scene.disk, at)
        assert_recovers(scene, indexed).die()
        if faults.steps < at:
            assert at > 5
            break


# ------------------------------------------------------------------------------------ deleted and restored


def deleting(node: Node) -> DeletionService:
    recorder = Recorder(node.trail, lambda: "PACS")
    return DeletionService(DeletionIndex(node.database), node.files, node.archive.checkpoints, recorder)


@pytest.mark.slow
def test_power_fails_at_any_step_of_deleting(tmp_path: Path) -> None:
    url = sqlite(tmp_path)
    for at in STEPS:
        scene, ds, faults = Scene(tmp_path, str(at), url(at)), make_ct(), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            node.store(ds)
            with suppress(Killed), faulty(faults, node):
                deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test")
            node.die()
        synced(scene.disk, at)
        assert_restorable(scene, ds)
        if faults.steps < at:
            assert at > 10
            break


@pytest.mark.slow
def test_directories_that_were_removed_and_made_again_are_durable_again(tmp_path: Path) -> None:
    scene, gone = Scene(tmp_path, "1", sqlite(tmp_path)(1)), make_ct()
    again = make_ct(gone.StudyInstanceUID, gone.SeriesInstanceUID)
    with scene.disk.watched():
        node = scene.node()
        node.store(gone)
        deleting(node).delete(Level.STUDY, gone.StudyInstanceUID, "a test")
        node.store(again)
        node.die()
    synced(scene.disk, 0)
    assert_recovers(scene, {again.SOPInstanceUID: digest(again)}).die()


@pytest.mark.slow
def test_power_fails_after_a_restore_that_was_killed_at_any_step_before(tmp_path: Path) -> None:
    url = sqlite(tmp_path)
    for at in STEPS:
        scene, ds, faults = Scene(tmp_path, str(at), url(at)), make_ct(), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            node.store(ds)
            folder = deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test").folder
            with suppress(Killed), faulty(faults, node):
                deleting(node).restore(folder)
            with suppress(InstanceNotFound):
                deleting(node).restore(folder)
            node.die()
        synced(scene.disk, at)
        assert_restorable(scene, ds)
        if faults.steps < at:
            assert at > 10
            break


def assert_restorable(scene: Scene, ds: Dataset) -> None:
    """It is there, or comes back from the trash."""
    node = scene.node()
    for deletion in [*(service := deleting(node)).contents()]:
        assert service.restore(deletion.folder).instances == 1
    check(node, {ds.SOPInstanceUID: digest(ds)})
    node.die()


# ------------------------------------------------------------------------------------ what lies beside the instances


@pytest.mark.slow
def test_power_fails_after_a_merge_that_was_killed_at_any_step_before(tmp_path: Path) -> None:
    """What the index has of it is written down too: else no later change had a number."""
    url = sqlite(tmp_path)
    for at in STEPS:
        scene, faults = Scene(tmp_path, str(at), url(at)), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            for patient in "123":
                node.store(make_ct(PatientID=patient))
            with suppress(Killed), faulty(faults, node):
                merge(node, "1", "2")
            identity(node).catch_up()
            node.die()
        synced(scene.disk, at)
        node = scene.node()
        written = identity(node).catch_up() + len(decisions_in(scene.root))
        merge(node, "2", "3")
        assert len(decisions_in(scene.root)) == written + 1
        node.die()
        if faults.steps < at:
            assert (at > 5, written) == (True, 1)
            break


def identity(node: Node) -> PatientService:
    return PatientService(node.database, node.files.decisions, Recorder(node.trail, lambda: "PACS"), lambda: "PACS")


def merge(node: Node, source: str, target: str) -> None:
    service = identity(node)
    service.merge(service.person(source), service.person(target), "a test")
