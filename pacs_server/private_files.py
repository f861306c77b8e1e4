"""Directories and files that only the server's own user may read, whatever the umask; what exists is left as it is."""

import os
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Make a directory and those above it that are missing, with mode 0700; raises OSError."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: a file that is new gets mode 0600; raises OSError."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
