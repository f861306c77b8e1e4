"""Archives and storages of every kind."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_archive import MemorySpool
from storages import ARCHIVES, STORAGES, Implementation, make_archive, refuse_links

from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.filesystem.spool import FileSystemSpool
from pacs_server.storage.keys import DECISIONS_PREFIX


@pytest.fixture(params=ARCHIVES)
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveFiles]:
    """The files of an archive of every kind."""
    if request.param == "filesystem without hard links":
        refuse_links(monkeypatch)
    files = make_archive(request.param, tmp_path / "archive")
    yield files
    files.spool.close()


@pytest.fixture
def crash(files: ArchiveFiles, tmp_path: Path) -> Callable[[], ArchiveFiles]:
    """Has the process die that works on `files`, and gives the files to the next one."""

    def die() -> ArchiveFiles:
        if isinstance(files.spool, MemorySpool):
            files.spool.crash()
            return files
        assert isinstance(files.spool, FileSystemSpool)
        if files.spool._journal._lock >= 0:
            os.close(files.spool._journal._lock)
            files.spool._journal._lock, files.spool._journal._owner = -1, None
        return archive_directory(tmp_path / "archive")

    return die


@pytest.fixture(params=STORAGES)
def make_storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Implementation]]:
    """Makes empty storages of every kind."""
    if request.param == "filesystem without hard links":
        refuse_links(monkeypatch)
    made: list[ArchiveFiles] = []

    def make() -> Implementation:
        files = make_archive(request.param, tmp_path / f"archive-{len(made)}")
        made.append(files)
        if request.param.startswith("side files"):
            return Implementation(files.side_files, DECISIONS_PREFIX)
        return Implementation(files.storage, "")

    yield make
    for files in made:
        files.spool.close()
