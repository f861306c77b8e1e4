"""Of two senders of a UID one is refused or gets no answer: the other one is kept, whatever a power loss takes."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import pytest
from datasets import make_ct
from nodes import Faults, Killed, Node, digest, digest_at, orphans, other_bytes
from pydicom.dataset import Dataset
from scenes import LOSSES, Loss, Scene, assert_recovers, cut_off, few_slots, synced

from pacs_server.archive.archive import StoreOutcome
from pacs_server.errors import DuplicateInstance, IndexUnavailable

Refusal = Callable[[Scene, Dataset], Node]
Second = Callable[[Dataset], Dataset]
POLICIES = ("reject", "ignore", "replace")
pytestmark = pytest.mark.slow
both_orders = pytest.mark.parametrize("slots", [False, True], ids=["each", "slots"])


@pytest.fixture(autouse=True)
def _few_slots() -> Iterator[None]:
    with few_slots():
        yield


# ------------------------------------------------------------------------------------ refused, and then another one


@contextmanager
def index_fails(node: Node, error: BaseException) -> Iterator[None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.index, "_step", fail)
        yield


def certainly(scene: Scene, ds: Dataset) -> Node:
    """No row was written."""
    node = scene.node()
    with index_fails(node, IndexUnavailable("down")), pytest.raises(IndexUnavailable):
        node.store(ds)
    return node


def in_doubt(scene: Scene, ds: Dataset) -> Node:
    """Nobody knows whether the row was written, and it was not."""
    node = scene.node()
    with index_fails(node, IndexUnavailable("lost", uncertain=True)), pytest.raises(IndexUnavailable):
        node.store(ds)
    return node


def not_taken_back(scene: Scene, ds: Dataset) -> Node:
    """No row was written, and the disk fails too."""
    node, unlink = scene.node(), os.unlink

    def fail(path: str, **options: int) -> None:
        if str(path).endswith(".dcm"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **options)

    with pytest.MonkeyPatch.context() as patch, index_fails(node, IndexUnavailable("down")):
        patch.setattr(os, "unlink", fail)
        with pytest.raises(IndexUnavailable):
            node.store(ds)
    return node


def without_an_answer(scene: Scene, ds: Dataset) -> Node:
    """The process is killed; another one is there, and has not recovered it."""
    node, dead = scene.node(), scene.node()
    node.spool.receive().discard()
    with index_fails(dead, Killed()), pytest.raises(Killed):
        dead.store(ds)
    dead.die()
    return node


def in_its_place(ds: Dataset) -> Dataset:
    """Other bytes of the same instance."""
    return other_bytes(ds)


def elsewhere(ds: Dataset) -> Dataset:
    """Other bytes of the UID in another study."""
    return make_ct(sop=ds.SOPInstanceUID, PatientComments="changed")


# Who died without an answer is not told from who got one, if its file lies in another study.
REFUSALS = [
    *product((certainly, in_doubt, not_taken_back), (in_its_place, elsewhere)),
    (without_an_answer, in_its_place),
]


@both_orders
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("refused", "second"), REFUSALS)
def test_what_is_acknowledged_after_a_refusal_is_kept(
    tmp_path: Path, policy: str, refused: Refusal, second: Second, slots: bool
) -> None:
    for number, loss in enumerate(LOSSES):
        scene = Scene(tmp_path, str(number), slots=slots, policy=policy)
        ds = make_ct()
        other = second(ds)
        with scene.disk.watched():
            node = refused(scene, ds)
            assert node.store(other) is StoreOutcome.STORED
            node.die()
        scene.lose(loss, number)
        node = assert_recovers(scene, {ds.SOPInstanceUID: digest(other)})
        assert node.store(other) is StoreOutcome.ALREADY_STORED
        node.die()


# ------------------------------------------------------------------------------------ acknowledged, and then cut off


@pytest.mark.parametrize("loss", [Loss(synced), Loss(synced, "all")], ids=str)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("second", [in_its_place, elsewhere])
def test_who_gets_no_answer_takes_nothing_from_who_got_one(
    tmp_path: Path, policy: str, second: Second, loss: Loss
) -> None:
    for at in loss.steps():
        scene, faults = Scene(tmp_path, str(at), slots=True, policy=policy), Faults(at, "killed after")
        ds = make_ct()
        other, kept = second(ds), digest(ds)
        with scene.disk.watched():
            node = scene.node()
            node.store(ds)
            with suppress(Killed, DuplicateInstance), cut_off(faults, node):
                node.store(other)
            if node.rows()[ds.SOPInstanceUID][1] != kept:
                kept = digest(other)
            node.die()
        scene.lose(loss, at)
        node = assert_recovers(scene, {ds.SOPInstanceUID: kept})
        if kept == digest(ds):  # else its file is an earlier version
            assert orphans(node) == []
        node.die()
        if faults.steps < at:
            break


@pytest.mark.parametrize("second", [in_its_place, elsewhere])
def test_what_was_replaced_is_kept_as_an_earlier_version(tmp_path: Path, second: Second) -> None:
    """It was acknowledged too, whether or not a checkpoint came in between."""
    for number, loss in enumerate(LOSSES):
        scene, ds = Scene(tmp_path, str(number), slots=True), make_ct()
        with scene.disk.watched():
            node = scene.node()
            node.store(ds)
            other = second(ds)
            assert node.store(other) is StoreOutcome.REPLACED
            node.die()
        scene.lose(loss, number)
        node = assert_recovers(scene, {ds.SOPInstanceUID: digest(other)})
        assert {digest_at(scene.root / path) for path in node.storage.list()} == {digest(ds), digest(other)}
        node.die()
