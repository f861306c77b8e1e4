"""Where an export goes to: a directory, or one ZIP file. Both come to be as a whole or not at all."""

import errno
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from pacs_server.errors import ConfigError, Conflict
from pacs_server.kit.private_files import make_directory, opener, sync_directory


class ExportTarget(Protocol):
    """Takes the files of one export. Used as a context; if that ends with an error, nothing is left behind."""

    path: Path

    def file(self, name: str, size: int) -> AbstractContextManager[IO[bytes]]:
        """A new file to write, of `size` bytes; `name` has slashes between its components. Raises OSError."""

    def __enter__(self) -> Self:
        """Begin. Raises ConfigError if something is there already, and OSError."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish, or remove what there is if the export failed."""


class DirectoryTarget:
    """A directory, which may be there already if it is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._existed = False

    def __enter__(self) -> Self:
        self._existed = self.path.exists()
        if self._existed and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{self.path} is there already, and not an empty directory; nothing is overwritten")
        make_directory(self.path)
        return self

    @contextmanager
    def file(self, name: str, size: int) -> Iterator[IO[bytes]]:
        """See `ExportTarget.file`."""
        path = self.path / name
        make_directory(path.parent)
        with open(path, "xb", opener=opener) as file:
            yield file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        for entry in list(self.path.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not self._existed:
            self.path.rmdir()


class StagedTarget:
    """A new directory that gets its name when everything is in it and durable; nothing that is there is touched.

    Until then it is hidden, under a name with `mark`. What a crash has left under that name is removed. At the end the
    group of the directory around it may read it.
    """

    def __init__(self, path: Path, mark: str) -> None:
        self.path = path
        self._staging = path.with_name(f".{path.name}.{mark}")

    def __enter__(self) -> Self:
        if self._staging.is_dir() and not self._staging.is_symlink():
            shutil.rmtree(self._staging)
        # Fails if there is anything else, a link for example.
        self._staging.mkdir(mode=0o700)
        return self

    def file(self, name: str, size: int) -> AbstractContextManager[IO[bytes]]:
        """See `ExportTarget.file`."""
        return DirectoryTarget(self._staging).file(name, size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        finished = False
        try:
            if error is None:
                for path in [*self._staging.rglob("*"), self._staging]:
                    path.chmod(0o750 if path.is_dir() else 0o640)
                    _sync(path)
                if self.path.is_symlink() or self.path.exists():
                    raise Conflict("a folder of this name is there already, and nothing is overwritten")
                self._staging.rename(self.path)
                finished = True
                _sync(self.path.parent)
        finally:
            if not finished:
                shutil.rmtree(self._staging, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make a file durable, or the names in a directory where the file system can do that. Raises OSError."""
    if path.is_dir():
        # File systems over a network may not know how; then their server sees to it.
        try:
            sync_directory(path)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class ZipTarget:
    """A ZIP file, written from its beginning to its end in little memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()
        self._zip: zipfile.ZipFile

    def __enter__(self) -> Self:
        try:
            file = self._open.enter_context(open(self.path, "xb", opener=opener))
        except FileExistsError:
            raise ConfigError(f"{self.path} is there already; nothing is overwritten") from None
        # The fastest level: most of what can be saved at all it saves, and compressed images are not made smaller.
        self._zip = self._open.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1))
        return self

    def file(self, name: str, size: int) -> AbstractContextManager[IO[bytes]]:
        """See `ExportTarget.file`."""
        entry = zipfile.ZipInfo(name, time.localtime()[:6])
        entry.compress_type, entry.file_size, entry.external_attr = zipfile.ZIP_DEFLATED, size, 0o600 << 16
        return self._zip.open(entry, "w")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        finished = False
        try:
            self._open.close()
            finished = error is None
        finally:
            if not finished:
                self.path.unlink(missing_ok=True)
