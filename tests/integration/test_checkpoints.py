"""The server says how instances are synced, and counts its checkpoints."""

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import servers
from datasets import make_ct
from servers import eventually, running, store

from pacs_server.app.server import PacsServer
from pacs_server.storage.filesystem.archive_directory import archive_directory

NO_WAL = "the database has no write-ahead log"
NO_LINKS = "the file system of the archive has no hard links"
SHARED = "another process stores in this archive"


def synced(pacs: PacsServer) -> tuple[Any, Any]:
    """How instances are synced, and why it is not as the configuration says."""
    storage: dict[str, Any] = pacs.status()["storage"]  # type: ignore[assignment]
    return storage["fsync"], storage["fsync_reason"]


def metric(pacs: PacsServer, name: str) -> float:
    return float(pacs.metrics.render().decode().partition(f"\n{name} ")[2].partition("\n")[0] or 0)


@pytest.mark.parametrize("fsync", ["slots", "each", "off"])
def test_as_configured(serve, fsync):
    assert synced(serve(storage={"fsync": fsync})) == (fsync, None)


def test_without_a_write_ahead_log_each_instance_is_synced(tmp_path):
    settings = servers.config(tmp_path, storage={"fsync": "slots"})
    changed = settings.database.model_copy(update={"wal_mode": False})
    with running(settings.model_copy(update={"database": changed})) as pacs:
        assert synced(pacs) == ("each", NO_WAL)
        assert store(pacs, make_ct()) == [0]
        assert metric(pacs, "pacs_checkpoint_waiting") == 0


def test_without_hard_links_each_instance_is_synced(serve, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    pacs = serve(storage={"fsync": "slots"})
    assert synced(pacs) == ("each", NO_LINKS)
    assert store(pacs, make_ct()) == [0]


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_while_another_process_stores_each_instance_is_synced(tmp_path: Path, database_url: str) -> None:
    settings = servers.config(tmp_path, storage={"fsync": "slots"})
    settings = settings.model_copy(update={"database": settings.database.model_copy(update={"url": database_url})})
    with running(settings) as pacs:
        assert synced(pacs) == ("slots", None)
        other = archive_directory(settings.storage.directory).spool
        with closing(other):
            other.receive().discard()
            # A checkpoint looks whether there is another process.
            assert store(pacs, make_ct()) == [0]
            assert eventually(lambda: synced(pacs) == ("each", SHARED))
            assert store(pacs, make_ct()) == [0]


def test_checkpoints_are_counted(serve):
    pacs = serve(storage={"fsync": "slots"})
    assert [store(pacs, make_ct()) for _ in range(3)] == [[0]] * 3
    assert eventually(lambda: metric(pacs, "pacs_checkpoint_waiting") == 0)
    assert metric(pacs, 'pacs_checkpoints_total{outcome="done"}') >= 1
    assert metric(pacs, 'pacs_checkpoints_total{outcome="failed"}') == 0
