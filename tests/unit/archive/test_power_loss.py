"""Power fails at any step: what was not synced may be gone, and nothing that was acknowledged is."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from datasets import make_ct
from nodes import Faults, Killed, Node, check, digest, orphans, other_bytes
from patients import decisions_in
from pydicom.dataset import Dataset
from scenes import (
    FEW_LOSSES,
    KILLED,
    LOSSES,
    STEPS,
    Loss,
    Scene,
    assert_recovers,
    cut_off,
    deleting,
    few_slots,
    in_order,
    interrupted,
    synced,
)

from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.levels import Level
from pacs_server.errors import InstanceNotFound
from pacs_server.services.patients import PatientService
from pacs_server.storage.filesystem import incoming_journal
from pacs_server.storage.filesystem.incoming_file import FileSystemIncoming

ORDERS = [False, True]
# In the old order every commit is synced.
EACH = [(False, loss) for loss in LOSSES if loss.kept == "none"]
OFTEN = [*EACH, (True, Loss(in_order)), *((True, loss) for loss in FEW_LOSSES)]
SELDOM = [(True, loss) for loss in LOSSES if (True, loss) not in OFTEN]
BRIEFLY = [(False, Loss(synced)), *((True, loss) for loss in FEW_LOSSES)]
by_order = pytest.mark.parametrize("slots", ORDERS, ids=["each", "slots"])


pytestmark = pytest.mark.slow


def both(losses: list[tuple[bool, Loss]], seldom: Sequence[tuple[bool, Loss]] = ()) -> pytest.MarkDecorator:
    """Each of these orders and losses."""
    cases = [pytest.param(*case, id=_name(*case)) for case in losses]
    cases += [pytest.param(*case, id=_name(*case), marks=pytest.mark.soak) for case in seldom]
    return pytest.mark.parametrize(("slots", "loss"), cases)


def _name(slots: bool, loss: Loss) -> str:
    return f"{'slots' if slots else 'each'}-{loss}"


@pytest.fixture(autouse=True)
def _few_slots() -> Iterator[None]:
    with few_slots():
        yield


def lost_at(scene: Scene, loss: Loss, at: int, before: list[Dataset], ds: Dataset) -> bool:
    """Whether power failed at step `at` of storing `ds`; what was acknowledged has to be there then."""
    acknowledged: dict[str, str] = {}
    faults = Faults(at, "killed after")
    with scene.disk.watched():
        dead = scene.node()
        for stored in before:
            dead.store(stored)
            acknowledged[stored.SOPInstanceUID] = digest(stored)
        try:
            with cut_off(faults, dead):
                dead.store(ds)
                acknowledged[ds.SOPInstanceUID] = digest(ds)
                dead.archive.checkpoints.take()
        except Killed:
            if dead.rows().get(ds.SOPInstanceUID, ("", ""))[1] == digest(ds):
                acknowledged[ds.SOPInstanceUID] = digest(ds)
        dead.die()
    scene.lose(loss, at)
    node = assert_recovers(scene, acknowledged)
    if loss.names is in_order:
        assert orphans(node) == []
    node.store(ds)
    check(node, acknowledged | {ds.SOPInstanceUID: digest(ds)})
    assert node.archive.counts().instances == 1
    node.die()
    return faults.steps >= at


@both(OFTEN, SELDOM)
def test_power_fails_at_any_step_of_a_store(tmp_path: Path, slots: bool, loss: Loss) -> None:
    """Of a checkpoint too."""
    for again in (False, True):
        for at in loss.steps():
            ds = make_ct()
            before = [ds] if again else []
            scene = Scene(tmp_path, f"{again}-{at}", slots=slots)
            if not lost_at(scene, loss, at, before, other_bytes(ds) if again else ds):
                assert at > 5
                break


@both(BRIEFLY)
@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_others_may_have_made_the_directories_and_not_synced_them(
    tmp_path: Path, then: str, slots: bool, loss: Loss
) -> None:
    """The first instance of a study gets so far; another one of its series is stored whole, and then power fails."""
    for at in loss.steps():
        scene = Scene(tmp_path, str(at), slots=slots)
        first = make_ct()
        second = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID)
        with scene.disk.watched():
            node = scene.node()
            faults = Faults(at, "killed after")
            with suppress(Killed), cut_off(faults, node):
                node.store(first)
            if then == "is killed":
                node.die()
                node = scene.node()
            node.store(second)
            if at % 2:
                node.archive.checkpoints.take()
            node.die()
        scene.lose(loss, at)
        assert_recovers(scene, {second.SOPInstanceUID: digest(second)}).die()
        if not faults.dead:
            assert at > 5
            break


# ------------------------------------------------------------------------------------ while it recovers


def leftovers(scene: Scene) -> dict[str, str]:
    """Leave what a crash can leave, of each kind one; returns what has to be indexed afterwards."""
    whole, nameless, complete, replaced, refused = (make_ct() for _ in range(5))
    node = scene.node()
    node.store(refused)
    node.die()
    interrupted(scene, other_bytes(refused), "replace")
    node = scene.node()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSystemIncoming, "settled", lambda _: None)
        node.store(complete)
    node.spool.receive().write(b"half" * 100)
    node.spool.receive()
    node.die()
    interrupted(scene, whole)
    interrupted(scene, replaced)
    if scene.slots:
        interrupted(scene, nameless)
        next(scene.root.rglob(f"{nameless.SOPInstanceUID}.dcm")).unlink()
    node = scene.node()
    node.store(later := other_bytes(replaced))
    node.die()
    left = [whole, complete, later, refused, *([nameless] if scene.slots else [])]
    return {ds.SOPInstanceUID: digest(ds) for ds in left}


@pytest.mark.parametrize("loss", [KILLED, Loss(synced)], ids=str)
@by_order
def test_recovery_is_cut_off_at_any_step(
    tmp_path: Path, slots: bool, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dealt with in the order in which they came to be: what comes last has nothing after it that would sync it too.
    numbers = itertools.count()
    monkeypatch.setattr(incoming_journal.secrets, "token_hex", lambda _: f"{next(numbers):08x}")
    first = Scene(tmp_path, "0", slots=slots)
    expected = leftovers(first)
    for at in loss.steps(hardest=3):
        scene, faults = first.copy(tmp_path, str(at)), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            with suppress(Killed), cut_off(faults, node):
                found = node.recover()
            node.die()
        scene.lose(loss, at)
        with scene.disk.watched():
            assert_recovers(scene, expected).die()
        # What it came to is durable.
        scene.lose(Loss(synced), at)
        node = assert_recovers(scene, expected)
        assert set(node.rows()) == set(expected)
        assert orphans(node) == []
        kept = [path for path in (scene.root / "quarantine").iterdir() if path.suffix != ".reason"]
        assert len(kept) == 2
        assert all(path.with_name(f"{path.name}.reason").read_text().strip() for path in kept)
        node.die()
        if faults.steps < at:
            assert found == {"complete": 1, "indexed": 1 + slots, "quarantined": 2, "superseded": 1}
            break


@both(BRIEFLY)
def test_power_fails_after_recovery_from_a_kill_at_any_step_of_a_store(tmp_path: Path, slots: bool, loss: Loss) -> None:
    """A file that recovery gives a row has a durable name, whoever made the name and did not sync it."""
    for at in loss.steps():
        scene, ds, faults = Scene(tmp_path, str(at), slots=slots), make_ct(), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            with suppress(Killed), cut_off(faults, node):
                node.store(ds)
            node.die()
            node = scene.node()
            node.recover()
            indexed = {uid: sha for uid, (_, sha) in node.rows().items()}
            node.die()
        scene.lose(loss, at)
        assert_recovers(scene, indexed).die()
        if faults.steps < at:
            assert at > 5
            break


# ------------------------------------------------------------------------------------ deleted and restored


@both(BRIEFLY)
def test_power_fails_at_any_step_of_deleting(tmp_path: Path, slots: bool, loss: Loss) -> None:
    for at in loss.steps():
        scene, ds, faults = Scene(tmp_path, str(at), slots=slots), make_ct(), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            node.store(ds)
            with suppress(Killed), cut_off(faults, node):
                deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test")
            node.die()
        scene.lose(loss, at)
        assert_restorable(scene, ds, deleted=not faults.dead)
        if faults.steps < at:
            assert at > 10
            break


@by_order
def test_directories_that_were_removed_and_made_again_are_durable_again(tmp_path: Path, slots: bool) -> None:
    scene, gone = Scene(tmp_path, "1", slots=slots), make_ct()
    again = make_ct(gone.StudyInstanceUID, gone.SeriesInstanceUID)
    with scene.disk.watched():
        node = scene.node()
        node.store(gone)
        deleting(node).delete(Level.STUDY, gone.StudyInstanceUID, "a test")
        node.store(again)
        node.archive.checkpoints.take()
        node.die()
    scene.lose(Loss(synced), 0)
    assert_recovers(scene, {again.SOPInstanceUID: digest(again)}).die()


@both(BRIEFLY)
def test_power_fails_after_a_restore_that_was_killed_at_any_step_before(
    tmp_path: Path, slots: bool, loss: Loss
) -> None:
    for at in loss.steps():
        scene, ds, faults = Scene(tmp_path, str(at), slots=slots), make_ct(), Faults(at, "killed after")
        with scene.disk.watched():
            node = scene.node()
            node.store(ds)
            folder = deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test").folder
            with suppress(Killed), cut_off(faults, node):
                deleting(node).restore(folder)
            with suppress(InstanceNotFound):
                deleting(node).restore(folder)
            node.die()
        scene.lose(loss, at)
        assert_restorable(scene, ds, deleted=False)
        if faults.steps < at:
            assert at > 10
            break


def assert_restorable(scene: Scene, ds: Dataset, *, deleted: bool) -> None:
    """It is there, or comes back from the trash; if it was `deleted`, it does not come back by itself."""
    node = scene.node()
    with deleting(node).settled():
        node.recover()
    assert node.left() == []
    contents = deleting(node).contents()
    assert contents or ds.SOPInstanceUID in node.rows()
    assert not deleted or ds.SOPInstanceUID not in node.rows()
    for deletion in contents:
        assert deleting(node).restore(deletion.folder).instances == 1
    check(node, {ds.SOPInstanceUID: digest(ds)})
    assert orphans(node) == []
    node.die()


# ------------------------------------------------------------------------------------ what lies beside the instances


@by_order
def test_power_fails_after_a_merge_that_was_killed_at_any_step_before(tmp_path: Path, slots: bool) -> None:
    """What the index has of it is written down too: else no later change had a number."""
    for at in STEPS:
        scene, faults = Scene(tmp_path, str(at), slots=slots), Faults(at, "killed after")
        stored = [make_ct(PatientID=patient) for patient in "123"]
        with scene.disk.watched():
            node = scene.node()
            for ds in stored:
                node.store(ds)
            with suppress(Killed), cut_off(faults, node):
                merge(node, "1", "2")
            identity(node).catch_up()
            node.die()
        scene.lose(Loss(synced), at)
        node = scene.node()
        written = identity(node).catch_up() + len(decisions_in(scene.root))
        node.recover()
        check(node, {ds.SOPInstanceUID: digest(ds) for ds in stored})
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
