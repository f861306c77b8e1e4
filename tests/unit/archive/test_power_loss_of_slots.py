"""What only slots keep until a checkpoint: power fails at any step, with every mix of what the disk kept."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct
from nodes import Faults, Killed, Node, check, digest, orphans
from pydicom.dataset import Dataset
from scenes import (
    FEW_LOSSES,
    LOSSES,
    Loss,
    Scene,
    assert_recovers,
    cut_off,
    deleting,
    few_slots,
    interrupted,
    synced,
)

from pacs_server.dicom.levels import Level
from pacs_server.errors import IndexUnavailable
from pacs_server.services.deletion import DeletionService

every_loss = pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, id=str(loss), marks=() if loss in FEW_LOSSES else pytest.mark.soak) for loss in LOSSES],
)
# Each tries the loss at many steps.
pytestmark = pytest.mark.slow
SECRET = "not to be seen again"


@pytest.fixture(autouse=True)
def _few_slots() -> Iterator[None]:
    with few_slots():
        yield


def stored(node: Node, *instances: Dataset) -> dict[str, str]:
    """Store instances; returns what was acknowledged."""
    for ds in instances:
        node.store(ds)
    return {ds.SOPInstanceUID: digest(ds) for ds in instances}


# ------------------------------------------------------------------------------------ checkpoints


@every_loss
def test_power_fails_at_any_step_of_a_checkpoint(tmp_path: Path, loss: Loss) -> None:
    """And then at that step of the next one."""
    for at in loss.steps():
        scene, first = Scene(tmp_path, str(at), slots=True), make_ct()
        beside = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID)
        with scene.disk.watched():
            node = scene.node()
            acknowledged = stored(node, first)
            node.archive.checkpoints.take()
            acknowledged |= stored(node, beside, make_ct())
            faults = take_until(at, node)
        scene.lose(loss, at)
        with scene.disk.watched():
            node = assert_recovers(scene, acknowledged)
            acknowledged |= stored(node, make_ct(), make_ct(first.StudyInstanceUID))
            take_until(at, node)
        scene.lose(loss, at + 1000)
        node = assert_recovers(scene, acknowledged)
        assert (set(node.rows()), orphans(node)) == (set(acknowledged), [])
        node.die()
        if faults.steps < at:
            assert at > 5
            break


def take_until(at: int, node: Node) -> Faults:
    """A checkpoint whose process is killed after step `at`, or after the checkpoint."""
    faults = Faults(at, "killed after")
    with suppress(Killed), cut_off(faults, node):
        node.archive.checkpoints.take()
    node.die()
    return faults


@every_loss
@pytest.mark.parametrize("server", ["alive", "dead"])
def test_power_fails_at_any_step_of_a_checkpoint_for_another_process(tmp_path: Path, loss: Loss, server: str) -> None:
    for at in loss.steps():
        scene, faults = Scene(tmp_path, str(at), slots=True), Faults(at, "killed after")
        with scene.disk.watched():
            one = scene.node()
            acknowledged = stored(one, make_ct(), make_ct())
            if server == "dead":
                one.die()
            other = scene.node()
            acknowledged |= stored(other, make_ct())
            with suppress(Killed), cut_off(faults, other):
                other.archive.checkpoints.take_everywhere()
            other.die()
            if server == "alive":
                acknowledged |= stored(one, make_ct())
                if at % 2:
                    one.archive.checkpoints.take()
                one.die()
        scene.lose(loss, at)
        node = assert_recovers(scene, acknowledged)
        assert (set(node.rows()), orphans(node)) == (set(acknowledged), [])
        node.die()
        if faults.steps < at:
            assert at > 5
            break


def test_a_checkpoint_leaves_to_recovery_what_has_no_row_of_its_own(tmp_path: Path) -> None:
    """A process died before it had an answer; its instance has the UID of another one."""
    for number, loss in enumerate(LOSSES):
        scene, ds = Scene(tmp_path, str(number), slots=True, policy="reject"), make_ct()
        with scene.disk.watched():
            node = scene.node()
            stored(node, ds)
            interrupted(scene, make_ct(sop=ds.SOPInstanceUID))
            node.archive.checkpoints.take_everywhere()
            node.die()
        scene.lose(loss, number)
        node = assert_recovers(scene, {ds.SOPInstanceUID: digest(ds)})
        assert orphans(node) == []
        assert node.files.quarantine.count() == 1
        node.die()


# ------------------------------------------------------------------------------------ deleted and purged


@every_loss
@pytest.mark.parametrize("by", ["its own process", "another process", "the next process"])
def test_nothing_deleted_or_purged_returns(tmp_path: Path, loss: Loss, by: str) -> None:
    """Neither what was stored nor what was refused."""
    for at in loss.steps():
        scene, faults = Scene(tmp_path, str(at), slots=True, policy="ignore"), Faults(at, "killed after")
        ds, steps = make_ct(PatientComments=SECRET), []
        with scene.disk.watched():
            node = server = scene.node()
            acknowledged = stored(server, make_ct())
            stored(server, ds, again(ds))
            if by == "the next process":
                server.die()
            if by != "its own process":
                node = scene.node()
            with suppress(Killed), cut_off(faults, node):
                deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test")
                steps.append("deleted")
                deleting(node).empty(timedelta(0))
                steps.append("purged")
            node.die()
            if by == "another process":
                acknowledged |= stored(server, make_ct())
                server.die()
        scene.lose(loss, at)
        node = assert_is_gone(scene, acknowledged, ds, steps)
        assert orphans(node) == []
        node.die()
        if faults.steps < at:
            assert at > 20
            break


def again(ds: Dataset) -> Dataset:
    """Other bytes of an instance that are not to be seen again either."""
    return make_ct(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, rows=8, PatientComments=SECRET)


def assert_is_gone(scene: Scene, acknowledged: dict[str, str], ds: Dataset, steps: list[str]) -> Node:
    """A process that recovers; what was deleted has no row in it, and what was purged is nowhere."""
    node = scene.node()
    with deleting(node).settled():
        node.recover()
    assert node.left() == []
    check(node, acknowledged)
    assert node.recover() == {}
    if "deleted" in steps:
        assert ds.SOPInstanceUID not in node.rows()
    if "purged" in steps:
        assert not [path for path in scene.root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    return node


def test_what_comes_while_it_is_deleted_does_not_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance of the study is stored after the first checkpoint of its deletion, and deleted with it."""
    for number, loss in enumerate(LOSSES):
        scene, ds = Scene(tmp_path, str(number), slots=True), make_ct(PatientComments=SECRET)
        late = make_ct(ds.StudyInstanceUID, PatientComments=SECRET)
        with scene.disk.watched():
            node = scene.node()
            stored(node, ds)
            service, real = deleting(node), DeletionService._document

            def document(*arguments: Any, node: Node = node, late: Dataset = late, real: Any = real) -> Any:
                stored(node, late)
                return real(*arguments)

            monkeypatch.setattr(DeletionService, "_document", document)
            assert service.delete(Level.STUDY, ds.StudyInstanceUID, "a test").instances == 2
            monkeypatch.undo()
            if number % 2:
                service.empty(timedelta(0))
            node.die()
        scene.lose(loss, number)
        node = assert_is_gone(scene, {}, late, ["deleted", *(["purged"] if number % 2 else [])])
        assert node.rows() == {}
        node.die()


@pytest.mark.parametrize("first", ["replaced", "without an answer"])
def test_an_earlier_version_is_deleted_too(tmp_path: Path, first: str) -> None:
    """Also one whose process died before it had a row."""
    scene, ds = Scene(tmp_path, "1", slots=True), make_ct(PatientComments=SECRET)
    with scene.disk.watched():
        if first == "without an answer":
            interrupted(scene, ds)
        node = scene.node()
        stored(node, *([ds] if first == "replaced" else []), again(ds))
        deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test")
        deleting(node).empty(timedelta(0))
        node.die()
    scene.lose(Loss(synced), 1)
    node = assert_is_gone(scene, {}, ds, ["deleted", "purged"])
    assert [*node.storage.list()] == []
    node.die()


@pytest.mark.parametrize("by", ["its own process", "another process", "the next process"])
def test_what_was_in_doubt_and_is_deleted_does_not_return(tmp_path: Path, by: str) -> None:
    """Its sender was refused because nobody knew whether its row was committed, and it was."""
    for number, loss in enumerate(LOSSES):
        scene, ds = Scene(tmp_path, str(number), slots=True), make_ct(PatientComments=SECRET)
        with scene.disk.watched():
            node = server = scene.node()
            server.index.lose_the_answer = True
            with pytest.raises(IndexUnavailable):
                server.store(ds)
            server.index.lose_the_answer = False
            if by == "the next process":
                server.die()
            if by != "its own process":
                node = scene.node()
            deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test")
            deleting(node).empty(timedelta(0))
            for each in {node, server} if by == "another process" else {node}:
                each.die()
        scene.lose(loss, number)
        assert_is_gone(scene, {}, ds, ["deleted", "purged"]).die()


def test_a_command_deletes_what_a_power_loss_took_the_name_of(tmp_path: Path) -> None:
    """It recovers first, and then it all goes into the trash, and does not come back by itself."""
    for number, loss in enumerate(LOSSES):
        scene, ds = Scene(tmp_path, str(number), slots=True), make_ct(PatientComments=SECRET)
        with scene.disk.watched():
            node = scene.node()
            stored(node, ds)
            node.die()
        scene.lose(loss, number)
        with scene.disk.watched():
            node = scene.node()
            with deleting(node).settled():
                node.recover()
            folder = deleting(node).delete(Level.STUDY, ds.StudyInstanceUID, "a test").folder
            node.die()
        scene.lose(loss, number)
        node = assert_is_gone(scene, {}, ds, ["deleted"])
        assert deleting(node).restore(folder).instances == 1
        check(node, {ds.SOPInstanceUID: digest(ds)})
        node.die()
