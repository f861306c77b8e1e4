"""Notes of what remotes answered, kept in the background while the next instances are sent.

A commit waits for the disk, and otherwise the remote would wait for it too. It also takes the interpreter for a
millisecond, most of it once for all notes that are written together. Where the disk is quick, about two dozen answers
are not kept when the process dies, and never more than `MOST_LOST`.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from pacs_server.index.deliveries import Note

# So many are written together. While they are, so many more may wait.
_TOGETHER: Final = 24
MOST_LOST: Final = 2 * _TOGETHER
# A note waits for others so long, in seconds.
_SECONDS: Final = 0.25


class Notes:
    """The notes of one attempt at a task, for one thread; `keep` writes them, in another one."""

    def __init__(self, keep: Callable[[Sequence[Note]], None]) -> None:
        self._keep = keep
        self._waiting: list[Note] = []
        self._written = time.monotonic()
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def add(self, note: Note) -> None:
        """Keep a note, soon. Raises what `keep` has raised for earlier ones."""
        self._waiting.append(note)
        if len(self._waiting) < _TOGETHER:
            is_writing = self._writing is not None and not self._writing.done()
            if is_writing or time.monotonic() - self._written < _SECONDS:
                return
        self._settle()
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "notes")
        self._writing = self._writer.submit(self._keep, self._taken())

    def flush(self) -> None:
        """Return when all notes are kept. Raises what `keep` raises."""
        self._settle()
        if notes := self._taken():
            self._keep(notes)

    def close(self) -> None:
        """Keep all notes, and end the thread. Raises what `keep` raises."""
        try:
            self.flush()
        finally:
            if self._writer is not None:
                self._writer.shutdown()

    def _taken(self) -> list[Note]:
        notes, self._waiting, self._written = self._waiting, [], time.monotonic()
        return notes

    def _settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
