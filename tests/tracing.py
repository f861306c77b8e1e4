"""System calls of the real server: strace writes them down, and they are counted between two moments."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# A line of `strace -f -ttt`: thread, seconds since 1970, and the call, its beginning, or the rest of it.
_LINE = re.compile(r"^(\d+) +(\d+\.\d+) (.*)$")
_BEGINNING = re.compile(r"^(\w+)\((.*)$")
_REST = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
# One buffer or several: a write to the network all the same, `send` where calls are counted.
SENDS = frozenset({"sendto", "sendmsg"})
_RETURNED = re.compile(r"\) += (\d+)")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call, or the end of one that waited (`resumed`); `text` is its arguments and what it returned."""

    thread: int
    at: float
    name: str
    text: str
    resumed: bool

    @property
    def returned(self) -> int:
        """The number that it returned; 0 after an error, or while it has not."""
        found = _RETURNED.search(self.text)
        return int(found[1]) if found else 0


@dataclass(slots=True)
class Window:
    """A stretch of time in which `operations` were done."""

    operations: int
    began: float = 0.0
    ended: float = 0.0


@dataclass(slots=True)
class Trace:
    """What strace writes to `file`; complete when the server has ended.

    `only` names the calls, if not all; of texts it shows so many bytes.
    """

    strace: str
    file: Path
    only: str = ""
    shown: int = 24
    _calls: list[Call] = field(default_factory=list)

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command to run the server under."""
        options = ["-f", "-qq", "-ttt", "-y", "-yy", "-s", str(self.shown), "-e", "signal=none"]
        if self.only:
            options += ["-e", f"trace={self.only}"]
        return (self.strace, *options, "-o", str(self.file))

    @contextmanager
    def window(self, operations: int = 1) -> Iterator[Window]:
        """Note when something began and ended."""
        window = Window(operations, time.time())
        yield window
        window.ended = time.time()

    def quiet(self) -> bool:
        """Whether the server calls nothing for a twentieth of a second."""
        before = self.file.stat().st_size
        time.sleep(0.05)
        return self.file.stat().st_size == before

    def all(self) -> list[Call]:
        """Every call that began, or came back."""
        if not self._calls:
            lines = self.file.read_text(errors="replace").splitlines()
            self._calls = [call for line in lines for call in _parsed(line)]
        return self._calls

    def calls(self, window: Window) -> list[Call]:
        """Every call that began, or came back, within a window."""
        return [call for call in self.all() if window.began <= call.at < window.ended]

    def per_operation(self, window: Window, who: str = "") -> dict[str, int]:
        """How many calls of each name an operation needs, rounded; with `who` in threads that make calls of that name.

        What is left of the operation before the window, and rare work like SQLite's checkpoints, rounds to nothing.
        Locks are left out: whether a thread has to wait for one is chance.
        """
        calls = self.calls(window)
        if who:
            threads = {call.thread for call in calls if call.name == who}
            calls = [call for call in calls if call.thread in threads]
        begun = [call.name for call in calls if not call.resumed and call.name != "futex"]
        counted = Counter("send" if name in SENDS else name for name in begun)
        each = {name: round(count / window.operations) for name, count in counted.items()}
        return {name: count for name, count in sorted(each.items()) if count}


def _parsed(line: str) -> Iterator[Call]:
    if (found := _LINE.match(line)) is None:
        return
    thread, at, text = int(found[1]), float(found[2]), found[3]
    if (rest := _REST.match(text)) is not None:
        yield Call(thread, at, rest[1], rest[2], resumed=True)
    elif (beginning := _BEGINNING.match(text)) is not None:
        yield Call(thread, at, beginning[1], beginning[2], resumed=False)
