"""Directories and files that only the server's own user may read, whatever the umask; what exists is left as it is."""

import os
from pathlib import Path


def make_directory(directory: Path, *, durable: bool = False) -> None:
    """Make a directory and those above it that are missing, with mode 0700; raises OSError.

    With `durable` each of them is synced in the one above it.
    """
    missing = [folder for folder in (directory, *directory.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        if durable:
            sync_directory(folder.parent)


def sync_directory(directory: Path | str) -> None:
    """Make the names in a directory durable; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: a file that is new gets mode 0600; raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
