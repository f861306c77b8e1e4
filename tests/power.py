"""A disk that loses power: what of a directory is there afterwards, by what was synced before.

The file system calls of this process are written down. A name is sure to be there when its directory was synced
after it was made, and the bytes of a file are when the file was. Everything else may be there or not.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pacs_server.storage import durable_files

_ROOT = 0


@dataclass
class Change:
    """Names of one moment: in which directory, what, and which file or directory it names from then on, None for no."""

    names: list[tuple[int, str, int | None]]
    synced: bool = False


Survives = Callable[[int, Change], bool]


def synced_only(_number: int, _change: Change) -> bool:
    """Nothing is there that was not synced, as the weakest file system may have it."""
    return False


Torn = Callable[[bytes, bytes], bytes]


def as_synced(synced: bytes, _now: bytes) -> bytes:
    """A file has the bytes that it had when it was synced, none if it never was."""
    return synced


class Disk:
    """What lies below the directory `base`; what is there at first is on the disk."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._numbers = itertools.count(1)
        self.all_is_synced()

    def all_is_synced(self) -> None:
        """What is there now is on the disk."""
        self.changes: list[Change] = []
        self._now: dict[int, dict[str, int]] = {_ROOT: {}}
        self._synced: dict[int, bytes] = {}
        for entry in sorted(self.base.rglob("*")):
            number = self._known(entry)
            if entry.is_dir():
                self._now[number] = {}
            else:
                self._synced[number] = entry.read_bytes()
            self._change((entry, number))
        for change in self.changes:
            change.synced = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Write down what is done; syncs do nothing else here."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", self._open(os.open))
            patch.setattr(os, "mkdir", self._made(os.mkdir))
            patch.setattr(os, "link", self._link(os.link))
            for name in ("rename", "replace"):
                patch.setattr(os, name, self._rename(getattr(os, name)))
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, self._gone(getattr(os, name)))
            for name in ("fsync", "fdatasync"):
                patch.setattr(os, name, self._sync)
            patch.setattr(durable_files, "sync_file_system", self._sync_all)
            yield

    def lose_power(self, survives: Survives = synced_only, torn: Torn = as_synced) -> None:
        """Leave below `base` what was synced, and what else `survives`.

        `torn` tells what is left of a file that was written since: it is given what was synced, and what was there.
        """
        names: dict[int, dict[str, int]] = {_ROOT: {}}
        for number, change in enumerate(self.changes):
            if change.synced or survives(number, change):
                for folder, name, node in change.names:
                    _set(names.setdefault(folder, {}), name, node)
        bytes_of = {node: path.read_bytes() for node, path in self._files(_ROOT, self.base)}
        for entry in self.base.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        written: dict[int, Path] = {}
        for path, node in self._tree(names, _ROOT, self.base):
            if node in self._now:
                path.mkdir(mode=0o700)
            elif node in written:
                os.link(written[node], path)
            else:
                written[node] = path
                synced = self._synced.get(node, b"")
                # A file that has no name any more is written no more.
                now = bytes_of.get(node, synced)
                path.write_bytes(synced if now == synced else torn(synced, now))
        self.all_is_synced()

    def last_synced(self) -> int:
        """The number of the last change that was synced, -1 if none was."""
        return max((number for number, change in enumerate(self.changes) if change.synced), default=-1)

    # ---------------------------------------------------------------- what is done

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def act(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            new = flags & os.O_CREAT and not os.path.lexists(path)
            descriptor = real(path, flags, *args, **kwargs)
            if new:
                self._change((path, next(self._numbers)))
            return descriptor

        return act

    def _made(self, real: Callable[..., None]) -> Callable[..., None]:
        def act(path: Any, *args: Any, **kwargs: Any) -> None:
            real(path, *args, **kwargs)
            self._now[number := next(self._numbers)] = {}
            self._change((path, number))

        return act

    def _link(self, real: Callable[..., None]) -> Callable[..., None]:
        def act(source: Any, target: Any) -> None:
            real(source, target)
            self._change((target, self._node(source)))

        return act

    def _rename(self, real: Callable[..., None]) -> Callable[..., None]:
        def act(source: Any, target: Any) -> None:
            real(source, target)
            self._change((target, self._node(source)), (source, None))

        return act

    def _gone(self, real: Callable[..., None]) -> Callable[..., None]:
        def act(path: Any, *, dir_fd: int | None = None) -> None:
            real(path, dir_fd=dir_fd)
            self._change((path if dir_fd is None else os.path.join(_path_of(dir_fd), path), None))

        return act

    def _sync(self, descriptor: int) -> None:
        path = _path_of(descriptor)
        node = self._node(path)
        if node in self._now:
            for change in self.changes:
                change.synced |= any(folder == node for folder, _, _ in change.names)
        elif node is not None:
            self._synced[node] = Path(path).read_bytes()

    def _sync_all(self, _folder: Path) -> None:
        """Sync the file system: every name, and every file that still has one."""
        for change in self.changes:
            change.synced = True
        self._synced |= {node: path.read_bytes() for node, path in self._files(_ROOT, self.base)}

    # ---------------------------------------------------------------- names

    def _change(self, *names: tuple[Any, int | None]) -> None:
        found = []
        for path, node in names:
            folder = self._node(os.path.dirname(path))
            if folder is not None:
                found.append((folder, os.path.basename(path), node))
                _set(self._now[folder], os.path.basename(path), node)
        if found:
            self.changes.append(Change(found))

    def _node(self, path: Any) -> int | None:
        """The file or directory at a path; None if it is not below `base`."""
        relative = os.path.relpath(os.path.abspath(path), self.base)
        node: int | None = _ROOT
        for part in [] if relative == "." else relative.split("/"):
            node = None if node is None else self._now.get(node, {}).get(part)
        return node

    def _files(self, folder: int, path: Path) -> Iterator[tuple[int, Path]]:
        return ((node, at) for at, node in self._tree(self._now, folder, path) if node not in self._now)

    def _tree(self, names: dict[int, dict[str, int]], folder: int, path: Path) -> Iterator[tuple[Path, int]]:
        for name, node in names.get(folder, {}).items():
            yield path / name, node
            yield from self._tree(names, node, path / name)

    def _known(self, entry: Path) -> int:
        """The number of a file that has another name already, else a new one."""
        if entry.is_file() and entry.stat().st_nlink > 1:
            for node, path in self._files(_ROOT, self.base):
                if path.samefile(entry):
                    return node
        return next(self._numbers)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _set(names: dict[str, int], name: str, node: int | None) -> None:
    names.pop(name, None)
    if node is not None:
        names[name] = node
