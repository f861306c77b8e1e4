"""Names in `incoming/` that are made and synced ahead of need, so that a file that is written there needs one sync.

A slot is an empty file. Who takes it writes one file into it. Once it was linked it is the stored file, and only its
seal may still be taken back.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
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
        # Who only retires what others have stored needs none.
        self._wanted = 0

    def take(self) -> tuple[str, int]:
        """The path of a slot, and a descriptor of the empty file. Raises OSError, StorageUnavailable."""
        while True:
            try:
                path = self._free.popleft()
            except IndexError:
                self._make_more()
                continue
            try:
                return path, os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:  # somebody has tidied up: its name may not be durable any more
                continue
            except OSError:
                self._free.appendleft(path)
                raise

    def retire(self, paths: Iterable[str]) -> None:
        """Remove names, make what slots are missing, and sync the directory once for both. Raises OSError."""
        with self._making:
            for path in paths:
                with suppress(FileNotFoundError):
                    os.unlink(path)
            # Without room for more slots, room can be made all the same; whoever needs a slot is told.
            self._make(suppress(OSError))

    def close(self) -> None:
        """Remove the empty slots."""
        with self._making:
            free, self._free = self._free, deque()
            _remove(free)

    def _make_more(self) -> None:
        with self._making:
            if not self._free:
                # Whoever stores one instance and ends needs few; who has used them up will need more.
                self._wanted = _READY if self._wanted else _TO_BEGIN_WITH
                self._make(nullcontext())

    def _make(self, errors: AbstractContextManager[None]) -> None:
        """Make what is missing, as far as `errors` lets go on without it, and sync the directory. Raises OSError."""
        new: list[str] = []
        try:
            with errors:
                for _ in range(self._wanted - len(self._free)):
                    path = self._journal.entry()
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                    new.append(path)
            sync_directory(self._journal.directory)
        except OSError:
            _remove(new)
            raise
        self._free.extend(new)


def _remove(paths: "list[str] | deque[str]") -> None:
    for path in paths:
        with suppress(OSError):
            os.unlink(path)
