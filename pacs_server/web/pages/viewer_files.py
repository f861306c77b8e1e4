"""Where the files of the viewer are, if this server has it, and what is sent of them.

They are made by `.ci/viewer`: what compresses well is kept compressed only, with .gz at the end of its name.
"""

import gzip
import mimetypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pacs_server.web.streams import PIECE

_PACKAGE: Final = "pacs_server_ohif"
_INDEX: Final = "index.html"
# The digest in their names changes with what is in them.
_HASHED: Final = re.compile(r"(.*\.)?[0-9a-f]{16}\.\w+")
_TYPES: Final = {".js": "text/javascript", ".wasm": "application/wasm", ".woff2": "font/woff2", ".txt": "text/plain"}


@dataclass(frozen=True, slots=True)
class ViewerFile:
    """A file of the viewer as it is kept."""

    path: Path
    media_type: str
    tag: str
    packed: bool
    for_ever: bool

    def content(self, *, packed: bool) -> Iterator[bytes]:
        """The bytes in pieces, compressed or not. A file that was not kept compressed is not compressed either."""
        unpacks = self.packed and not packed
        with gzip.open(self.path) if unpacks else self.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


def viewer_folder(configured: Path | None) -> Path | None:
    """Where the viewer is: in `web.viewer_path`, else in the package that has it; None if this server has none."""
    folder = configured or _folder_of_package()
    return folder if folder is not None and (folder / _INDEX).is_file() else None


def viewer_files(folder: Path) -> dict[str, ViewerFile]:
    """All files by their paths, read anew when the viewer was made anew."""
    return _files(folder, (folder / _INDEX).stat().st_mtime_ns)


def viewer_page(folder: Path, place: str) -> bytes:
    """The page of the viewer, whose addresses begin at this path."""
    return (folder / _INDEX).read_bytes().replace(b"@PLACE@", place.encode())


@lru_cache(maxsize=1)
def _folder_of_package() -> Path | None:
    spec = find_spec(_PACKAGE)
    return Path(spec.origin).parent / "files" if spec and spec.origin else None


@lru_cache(maxsize=2)
def _files(folder: Path, made: int) -> dict[str, ViewerFile]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != _INDEX)
    return dict(_file(path, path.relative_to(folder).as_posix(), made) for path in found)


def _file(path: Path, kept: str, made: int) -> tuple[str, ViewerFile]:
    name = kept.removesuffix(".gz")
    suffix = Path(name).suffix
    media_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    tag = f"{made:x}-{path.stat().st_size:x}"
    hashed = _HASHED.fullmatch(Path(name).name) is not None
    return name, ViewerFile(path, media_type, tag, packed=name != kept, for_ever=hashed)
