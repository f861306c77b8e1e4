"""An archive that cannot be opened leaves nothing open, and one that is open takes over what may change."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from pacs_server.app import assembly
from pacs_server.app.assembly import open_archive, start_archive
from pacs_server.config import AuditConfig, Config, DatabaseConfig, FetchingConfig, RemoteAEConfig, StorageConfig
from pacs_server.errors import (
    AuditUnavailable,
    ConfigError,
    IndexUnavailable,
    PacsError,
    SchemaError,
    StorageUnavailable,
)
from pacs_server.index.database import Database
from pacs_server.services.fetching import Fetching
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.filesystem.spool import FileSystemSpool


def settings(directory: Path) -> Config:
    return Config(
        storage=StorageConfig(directory=directory / "archive", min_free_space=0, fsync=False),
        database=DatabaseConfig(path=directory / "pacs.db"),
        audit=AuditConfig(directory=directory / "audit"),
    )


def below(directory: Path) -> list[str]:
    """The files and directories below `directory` that this process has open."""
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return [path for path in opened if path.startswith(str(directory))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (Database, "migrate", SchemaError("newer")),
        (FileSystemSpool, "prepare", StorageUnavailable("read-only")),
        (assembly, "InstanceIndex", IndexUnavailable("away")),
        (assembly, "open_trail", AuditUnavailable("damaged")),
        (assembly, "Recorder", IndexUnavailable("away")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_opened_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str, error: PacsError
) -> None:
    config = settings(tmp_path)
    with open_archive(config):
        assert below(tmp_path)
    assert below(tmp_path) == []

    def fails(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(place, name, fails)
    with pytest.raises(type(error)):
        start_archive(lambda: config)
    assert below(tmp_path) == []
    with archive_directory(config.storage.directory).lock.exclusive():
        pass


@pytest.mark.slow
def test_a_reload_reaches_storage_and_archive(tmp_path: Path) -> None:
    now = [settings(tmp_path)]
    archive = start_archive(lambda: now[0])
    try:
        changed = now[0].storage.model_copy(update={"min_free_space": 7, "duplicate_policy": "replace"})
        now[0] = now[0].model_copy(update={"storage": changed})
        archive.reload()
        assert (archive.files.spool.min_free_space, archive.archive.duplicate_policy) == (7, "replace")
    finally:
        archive.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "value", "error", "says"),
    [
        ("storage", {"directory": Path("/proc/none/x")}, StorageUnavailable, "storage.directory: cannot use /proc/n"),
        ("database", {"path": Path("/proc/none/pacs.db")}, ConfigError, "database.path: cannot make /proc/none: No "),
        ("audit", {"directory": Path("/proc/none/x")}, AuditUnavailable, "cannot use audit.directory /proc/none/x"),
    ],
)
def test_a_directory_that_cannot_be_made_is_named_by_its_key(
    tmp_path: Path, section: str, value: dict[str, Path], error: type[PacsError], says: str
) -> None:
    config = settings(tmp_path)
    changed = getattr(config, section).model_copy(update=value)
    with pytest.raises(error, match=says):
        start_archive(lambda: config.model_copy(update={section: changed}))
    assert below(tmp_path) == []


@pytest.mark.slow
def test_what_is_ordered_has_a_deadline_and_keeps_it_when_it_is_made_due(tmp_path: Path) -> None:
    remote = RemoteAEConfig(ae_title="OLD", host="127.0.0.1", port=104)
    config = settings(tmp_path).model_copy(
        update={"remote_aes": (remote,), "fetching": FetchingConfig(give_up_after=3600)}
    )
    with open_archive(config) as archive:
        task = archive.tasks.find(archive.fetching.fetch("OLD", Fetching("1.2.3"), "ann"))
        assert task is not None
        assert task.deadline == task.created + timedelta(hours=1)
        assert archive.tasks.hasten(task.dedupe_key or "")
        again = archive.tasks.find(task.id)
        assert again is not None
        assert again.deadline == task.deadline
