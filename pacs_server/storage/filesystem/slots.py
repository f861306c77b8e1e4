"""Names in `incoming/` that are made and synced ahead of need, so that a file that is written there needs one sync.

A slot is an empty file. Who takes it writes one file into it; once it was linked, it is never written again, because it
is the stored file then.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pacs_server.kit.private_files import sync_directory
from pacs_server.storage.filesystem.incoming_journal import IncomingJournal

# How many empty slots there are after a checkpoint: enough for what several senders need until the next one.
_READY: Final = 128
_TO_BEGIN_WITH: Final = 16


class Slots:
    """The empty slots of one process; shared by all threads."""

    def __init__(self, journal: IncomingJournal) -> None:
        self._journal = journal
        self._free: deque[str] = deque()
        self._making = threading.Lock()
        self._wanted = _TO_BEGIN_WITH

    def take(self) -> tuple[str, int]:
        """The path of a slot, and a descriptor of the empty file. Raises OSError, StorageUnavailable."""
        while True:
            try:
                path = self._free.popleft()
            except IndexError:
                self._make_more()
                continue
            with suppress(FileNotFoundError):  # somebody has tidied up: its name may not be durable any more
                return path, os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def renew(self, retire: Callable[[], None] = lambda: None) -> None:
        """Make what is missing, have `retire` remove names, and sync the directory once for both. Raises OSError."""
        with self._making:
            new = [self._journal.entry() for _ in range(self._wanted - len(self._free))]
            try:
                for path in new:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                retire()
                sync_directory(self._journal.directory)
            except OSError:
                _remove(new)
                raise
            self._free.extend(new)

    def close(self) -> None:
        """Remove the empty slots."""
        with self._making:
            free, self._free = self._free, deque()
            _remove(free)

    def _make_more(self) -> None:
        with self._making:
            if self._free:
                return
        self.renew()
        # Whoever stores one instance and ends needs few; who has used them up will need more.
        self._wanted = _READY


def _remove(paths: "list[str] | deque[str]") -> None:
    for path in paths:
        with suppress(OSError):
            os.unlink(path)
