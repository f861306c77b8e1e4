"""The implementations of the contracts of storage/, on file systems of several kinds and in memory."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from memory_archive import memory_archive

from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import Storage
from pacs_server.storage.filesystem.archive_directory import archive_directory

ARCHIVES = ("filesystem", "filesystem without hard links", "filesystem without fsync", "memory")
STORAGES = (*ARCHIVES, "side files", "side files in memory")


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)


def make_archive(kind: str, directory: Path) -> ArchiveFiles:
    if "memory" in kind:
        return memory_archive()
    files = archive_directory(directory, fsync=kind != "filesystem without fsync")
    files.spool.prepare()
    return files


@dataclass(frozen=True)
class Implementation:
    """A storage under test; `prefix` is what its keys have to begin with."""

    storage: Storage
    prefix: str

    def at(self, key: str) -> str:
        """A key of this storage."""
        return self.prefix + key
