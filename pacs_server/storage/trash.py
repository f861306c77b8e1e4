"""The trash: files that were deleted, below trash/ on the same file system, each deletion in a folder of its own.

A file goes in by a second name (a hard link) and loses its first one later; it comes back the same
way. So at every moment it has at least one of them, and a file that has come to lie at the first name
meanwhile is told from it by its inode.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from pacs_server.errors import StorageUnavailable
from pacs_server.kit.private_files import opener, sync_directory
from pacs_server.storage.disk_errors import disk_errors

_DIRECTORY: Final = "trash"
_DOCUMENT: Final = "deletion.json"
_TAKEN: Final = ".taken"


class Trash:
    """The trash of the archive below `root`; every method raises StorageUnavailable, those that write StorageFull."""

    def __init__(self, root: Path, *, fsync: bool) -> None:
        self._root = root
        self._trash = root / _DIRECTORY
        self._fsync = fsync

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Work on the trash alone, in all processes; without `wait` gives False if another one does."""
        with disk_errors("use the trash"):
            # Not what is above it: an archive whose file system is gone does not begin anew without it.
            self._trash.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield _lock(descriptor, wait=wait)
        finally:
            os.close(descriptor)

    def folders(self) -> list[str]:
        """The folders there are, the oldest first."""
        with disk_errors("list the trash"):
            if not self._trash.is_dir():
                return []
            return sorted(entry.name for entry in os.scandir(self._trash) if entry.is_dir(follow_symlinks=False))

    def read(self, folder: str) -> str:
        """The text of a folder's deletion.json; raises StorageUnavailable if there is none."""
        with disk_errors(f"read trash/{folder}/{_DOCUMENT}"):
            return self._in(folder, _DOCUMENT).read_text(encoding="utf-8")

    def write(self, folder: str, text: str) -> None:
        """Write a folder's deletion.json, over one that is there; durable when this returns."""
        target = self._in(folder, _DOCUMENT)
        with disk_errors(f"write trash/{folder}/{_DOCUMENT}"):
            self._make(target.parent)
            draft = target.with_suffix(".part")
            with open(draft, "w", encoding="utf-8", opener=opener) as file:
                file.write(text)
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            os.replace(draft, target)
            self._sync_up([target.parent])

    def link_in(self, folder: str, paths: Iterable[str]) -> None:
        """Give files their second name, durable when this returns; one that is not there is no error."""
        self._link_all([(self._at(path), self._in(folder, path)) for path in paths])

    def take_away(self, folder: str, paths: Iterable[str]) -> None:
        """Take the first names away from files that have their second one, and from no others; durable at the end."""
        changed: set[Path] = set()
        with disk_errors(f"move files into trash/{folder}"):
            for path in paths:
                kept, target = self._in(folder, path), self._at(path)
                if self._take(kept, target):
                    changed.add(target.parent)
            self._sync(changed)
            for directory in changed:
                self._remove_empty(directory)

    def link_back(self, folder: str, paths: Iterable[str]) -> None:
        """Give files their first names back; durable when this returns.

        Raises FileExistsError if another file lies there, FileNotFoundError if one is not in the trash.
        """
        pairs = [(self._in(folder, path), self._at(path)) for path in paths]
        for kept, _ in pairs:
            os.stat(kept)
        self._link_all(pairs)
        for kept, target in pairs:
            if not _same(kept, target):
                raise FileExistsError(errno.EEXIST, "file exists", str(target))

    def holds(self, folder: str, path: str) -> bool:
        """Whether a file is in the trash."""
        return self._in(folder, path).is_file()

    def at_first_name(self, folder: str, path: str) -> bool:
        """Whether a file of the trash lies at its first name too."""
        return _same(self._in(folder, path), self._at(path))

    def free(self, path: str) -> bool:
        """Whether nothing lies at this path of the archive."""
        return not self._at(path).exists()

    def in_place(self, folder: str) -> bool:
        """Whether every file of a folder lies at its first name too, so that nothing is lost without the folder."""
        with disk_errors(f"look into trash/{folder}"):
            return all(self.at_first_name(folder, path) for path in self._files(folder))

    def remove(self, folder: str, paths: Iterable[str]) -> None:
        """Remove files from the trash whose first names are theirs again; others stay."""
        with disk_errors(f"remove files from trash/{folder}"):
            for path in paths:
                if self.at_first_name(folder, path):
                    self._in(folder, path).unlink()

    def drop(self, folder: str) -> None:
        """Remove a folder with all that is in it, deletion.json last; one that is not there is no error."""
        directory = self._in(folder)
        with disk_errors(f"remove trash/{folder}"), suppress(FileNotFoundError):
            for entry in list(os.scandir(directory)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.name != _DOCUMENT:
                    os.unlink(entry.path)
            (directory / _DOCUMENT).unlink(missing_ok=True)
            directory.rmdir()
            self._sync([self._trash])

    # ---------------------------------------------------------------- names

    def _at(self, path: str) -> Path:
        return _below(self._root, path)

    def _in(self, folder: str, path: str = "") -> Path:
        if PurePosixPath(folder).name != folder or folder in ("", ".", ".."):
            raise StorageUnavailable(f"{folder!r} is not the name of a folder in the trash")
        return _below(self._trash / folder, path) if path else self._trash / folder

    def _files(self, folder: str) -> Iterator[str]:
        directory = self._in(folder)
        for parent, _, names in os.walk(directory):
            for name in names:
                path = Path(parent, name).relative_to(directory).as_posix()
                if path not in (_DOCUMENT, "deletion.part"):
                    yield path

    def _take(self, kept: Path, target: Path) -> bool:
        """Take a first name away, unless it is another file's by now; whether anything was changed.

        Between a look and an unlink another file may come to lie there. So the name is moved first
        and looked at then; what was taken by mistake goes back.
        """
        taken = kept.with_name(kept.name + _TAKEN)
        found = _same(kept, target)
        if found:
            os.rename(target, taken)
        elif not taken.exists():
            return False
        if not _same(kept, taken):
            self._make(target.parent)
            os.link(taken, target)
            self._sync_up([target.parent])
        taken.unlink()
        return True

    def _link_all(self, pairs: list[tuple[Path, Path]]) -> None:
        with disk_errors("link files"):
            for source, target in pairs:
                try:
                    _link(source, target)
                except FileNotFoundError:
                    if not source.exists():
                        continue
                    self._make(target.parent)
                    _link(source, target)
            self._sync_up({target.parent for _, target in pairs if target.parent.is_dir()})

    def _make(self, folder: Path) -> None:
        """Make a directory with its parents; `_sync_up` makes them durable."""
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)

    def _remove_empty(self, folder: Path) -> None:
        with suppress(OSError):  # most often it is not empty
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def _sync_up(self, folders: Iterable[Path]) -> None:
        """Make the names in folders durable, and their own up to the root: whoever made them may have been killed."""
        every: set[Path] = set()
        for folder in folders:
            every.update({folder, *folder.parents} - set(self._root.parents))
        self._sync(every)

    def _sync(self, folders: Iterable[Path]) -> None:
        if self._fsync:
            for folder in folders:
                sync_directory(folder)


def _below(root: Path, path: str) -> Path:
    target = Path(os.path.normpath(root / path))
    if not target.is_relative_to(root) or target == root:
        raise StorageUnavailable("a path outside the archive was refused")
    return target


def _link(source: Path, target: Path) -> None:
    with suppress(FileExistsError):
        os.link(source, target)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Network file systems that cannot lock a directory are used without it.
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise StorageUnavailable(f"cannot lock the trash: {error.strerror or error}") from error
    return True
