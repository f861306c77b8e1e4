"""Checkpoints of a server: what peers are told when one fails, and that all goes on by itself afterwards."""

from collections.abc import Callable
from typing import Any

import pytest
import servers
from datasets import make_ct
from servers import CT, EXPLICIT, associated, eventually, store

from pacs_server.app.server import PacsServer
from pacs_server.errors import IndexUnavailable, StorageUnavailable

OUT_OF_RESOURCES = 0xA700
SLOTS = {"fsync": "slots"}


def kept(pacs: PacsServer) -> int:
    """How many instances slots keep."""
    incoming = pacs.config.storage.directory / "incoming"
    return sum(1 for path in incoming.iterdir() if path.exists() and path.stat().st_size)


@pytest.mark.parametrize(
    ("part", "step", "error"),
    [
        ("_index", "make_durable", IndexUnavailable("the database failed: no space")),
        ("_spool", "retire", StorageUnavailable("no space left on the storage")),
    ],
    ids=["index", "storage"],
)
def test_nothing_is_stored_after_a_checkpoint_that_failed(
    serve: Callable[..., PacsServer], monkeypatch: pytest.MonkeyPatch, part: str, step: str, error: Exception
) -> None:
    pacs = serve(storage=SLOTS)
    assert store(pacs, make_ct()) == [0]
    checkpoints = pacs.archive.archive.checkpoints
    assert eventually(lambda: kept(pacs) == 0)

    def fail(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(getattr(checkpoints, part), step, fail)
        first = make_ct()
        assert store(pacs, first) == [0]
        assert eventually(lambda: checkpoints._failed is not None)
        refused = make_ct()
        with associated(pacs, (CT, EXPLICIT)) as association:
            answers = [association.send_c_store(refused) for _ in range(2)]
        assert [answer.Status for answer in answers] == [OUT_OF_RESOURCES] * 2
        assert {answer.ErrorComment for answer in answers} == {str(error)}
        # What was acknowledged is kept.
        assert kept(pacs) == 1
        assert pacs.status()["counts"]["instances"] == 2
    assert eventually(lambda: store(pacs, refused) == [0])
    assert eventually(lambda: kept(pacs) == 0)
    assert pacs.status()["counts"]["instances"] == len(servers.stored_files(pacs)) == 3


def test_a_file_system_without_hard_links_has_no_slots(
    serve: Callable[..., PacsServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def link(*paths: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    caplog.set_level("INFO")
    monkeypatch.setattr("os.link", link)
    pacs = serve(storage=SLOTS)
    assert "without hard links there are no slots: every name and row is synced by itself" in caplog.text
    assert store(pacs, make_ct()) == [0]
    # Nothing waits for a checkpoint.
    assert kept(pacs) == 0
    assert not pacs.archive.archive.checkpoints.relaxed()


def test_slots_whose_names_somebody_removes_do_no_harm(serve: Callable[..., PacsServer]) -> None:
    pacs = serve(storage=SLOTS)
    for number in range(3):
        assert store(pacs, make_ct()) == [0]
        for path in (pacs.config.storage.directory / "incoming").glob("*.part"):
            path.unlink(missing_ok=True)
        assert pacs.status()["counts"]["instances"] == number + 1
    assert eventually(lambda: not pacs.archive.archive.checkpoints._kept)
    assert len(servers.stored_files(pacs)) == 3
    assert pacs.archive.archive.checkpoints._failed is None
