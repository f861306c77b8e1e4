"""Create directories and files that only the user of the server may read, whatever the umask.

Directories and files that exist already keep their modes.
"""

import os
from pathlib import Path


def make_directory(directory: Path, *, durable: bool = False) -> None:
    """Create a directory and its missing parents with mode 0700. Raises OSError.

    If `durable`, sync the parent of each directory that is created.
    """
    missing = [folder for folder in (directory, *directory.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        if durable:
            sync_directory(folder.parent)


def sync_directory(directory: Path | str) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: a new file gets mode 0600. Raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
