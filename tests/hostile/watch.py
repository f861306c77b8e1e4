"""What a server has before and after a scenario: threads, descriptors, memory, files, rows, and what it logged."""

import contextlib
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hostile.neighbour import STUDY, Neighbour, Report
from hostile.peers import Target, destinations, is_served, settings
from hostile.scenarios import Scenario
from processes import PacsProcess, wait_for
from servers import RawPeer
from sqlalchemy import create_engine, insert

from pacs_server.index import models
from pacs_server.net.listener import WAITING_THREADS

MEBIBYTE = 1 << 20
# What a scenario may leave behind in resident memory; the allocator keeps some of what was needed for a while.
GROWTH = 64 * MEBIBYTE
# What it may take on top for the while, however many peers a scenario has.
PEAK = 160 * MEBIBYTE
# The database's connections stay open for the next one who needs them, each with three files.
_POOLED = 60
_BACK_SECONDS = 30.0
_STUDIES = 6000
_FORBIDDEN = re.compile(r"failed unexpectedly|internal error|Traceback|Exception in thread|Warning:|\x1b|\0")


@dataclass(frozen=True)
class Footprint:
    """What the server holds; `memory` is resident, in bytes."""

    threads: int
    sockets: int
    files: int
    memory: int
    instances: int

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.sockets}+{self.files} descriptors, {self.memory // MEBIBYTE} MiB"


@dataclass(frozen=True)
class Outcome:
    """How a scenario went: how many hostile acts, the server around it, the neighbour beside it."""

    acts: int
    before: Footprint
    after: Footprint
    peak: int
    neighbour: Report


class Watch:
    """A server under watch, with its neighbour."""

    def __init__(self, pacs: PacsProcess, target: Target, neighbour: Neighbour) -> None:
        self.pacs = pacs
        self.target = target
        self.neighbour = neighbour
        self._read = 0
        self._spare = 0
        self._threads, self._sockets = self._at_rest()

    def footprint(self, files: int | None = None) -> Footprint:
        """What the server holds once nobody but the neighbour is connected; fails if others do not go away.

        It waits until the server has at most so many `files` open: a query of somebody who is gone may still run.
        """
        instances = self.pacs.instances()
        wait_for(
            lambda: self.target.threads() <= self._threads + self._spare,
            "the threads of hostile peers to end",
            _BACK_SECONDS,
        )
        wait_for(lambda: self._descriptors()[0] <= self._sockets, "their sockets to be closed", _BACK_SECONDS)
        wait_for(lambda: not self.pacs.incoming(), "their half received files to be removed", _BACK_SECONDS)
        if files is not None:
            wait_for(lambda: self._descriptors()[1] <= files, "files to be closed", _BACK_SECONDS)
        sockets, held = self._descriptors()
        return Footprint(self.target.threads(), sockets, held, self.pacs.memory("VmRSS"), instances)

    def run(self, scenario: Scenario, rounds: int, seconds: float = 0.0) -> Outcome:
        """Run a scenario `rounds` times, and for `seconds` at least, beside the neighbour.

        Fails unless the server is then as it was.
        """
        before = self.footprint()
        self.pacs.reset_peak_memory()
        end = time.monotonic() + seconds
        self._spare = max(self._spare, scenario.threads)
        acts = done = 0
        self.neighbour.begin()
        try:
            while done < rounds or time.monotonic() < end:
                acts, done = acts + scenario.run(self.target), done + 1
        finally:
            report = self.neighbour.end()
        peak = self.pacs.memory()
        is_served(self.target)
        after = self.footprint(before.files + _POOLED)
        assert after.instances == before.instances + report.stored, (before, after, report)
        self.check_log()
        self.check_directory()
        return Outcome(acts, before, after, peak, report)

    def undisturbed(self, seconds: float) -> Report:
        """What the neighbour does in so many seconds with nobody beside it."""
        self.neighbour.begin()
        time.sleep(seconds)
        return self.neighbour.end()

    def check_log(self) -> None:
        """Hold that nothing was logged since the last time that a peer must not bring about."""
        assert self.pacs.running(), "the server died"
        with (self.pacs.directory / "stderr.log").open("rb") as file:
            file.seek(self._read)
            said = file.read()
        self._read += len(said)
        text = said.decode(errors="replace")
        found = _FORBIDDEN.search(text)
        assert found is None, f"logged {text[max(0, found.start() - 300) : found.start() + 2500]!r}"

    def check_directory(self) -> None:
        """Hold that no name from outside became a path: nothing lies where only a peer can have put it."""
        strangers = [path for path in self.pacs.directory.parent.rglob("*evil*")]
        assert strangers == [], strangers
        assert not Path("/etc/evil").exists()

    def _at_rest(self) -> tuple[int, int]:
        """Threads and sockets while nothing happens: the fewest within half a second."""
        seen = []
        for _ in range(50):
            seen.append((self.target.threads(), self._descriptors()[0]))
            time.sleep(0.01)
        return min(threads for threads, _ in seen), min(sockets for _, sockets in seen)

    def _descriptors(self) -> tuple[int, int]:
        sockets = files = 0
        folder = f"/proc/{self.pacs.pid}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                is_socket = os.readlink(f"{folder}/{name}").startswith("socket:")
                sockets, files = sockets + is_socket, files + (not is_socket)
        return sockets, files


@contextlib.contextmanager
def watched(directory: Path, seed: str, *, pause: float = 0.0) -> Iterator[Watch]:
    """A server under watch in `directory`; `seed` makes the scenarios' choices, `pause` rests the neighbour."""
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(destinations())
        pacs = stack.enter_context(PacsProcess(directory, settings=settings(ports)))
        _insert_studies(directory / "pacs.db")
        monitoring = urlsplit(pacs.monitoring)
        target = Target(
            *((pacs.host, pacs.port), STUDY, list(ports), lambda: _threads(pacs), random.Random(seed)),
            *(pacs.web, (str(monitoring.hostname), int(monitoring.port or 0))),
        )
        neighbour = stack.enter_context(Neighbour(target.address, pause))
        _fill_pool(target.address)
        # The first request to an HTTP port begins a thread that makes answers; it waits for more.
        is_served(target)
        watch = Watch(pacs, target, neighbour)
        is_served(target)
        yield watch
        watch.check_log()


def _fill_pool(address: tuple[str, int]) -> None:
    """As many peers at once as threads may wait afterwards, so that from now on so many do."""
    with contextlib.ExitStack() as stack:
        for _ in range(WAITING_THREADS):
            stack.enter_context(RawPeer.associated(address))


def _threads(pacs: PacsProcess) -> int:
    return len(os.listdir(f"/proc/{pacs.pid}/task"))


def _insert_studies(database: Path) -> None:
    """Studies enough for a query to fill what a network holds, put past the server."""
    engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 30})
    rows = [
        {"id": n, "patient_fk": 1, "study_instance_uid": f"1.2.77.{n}", "study_description": "x" * 1000}
        for n in range(1, _STUDIES + 1)
    ]
    with engine.begin() as connection:
        connection.execute(insert(models.patient), [{"id": 1, "patient_id": "MANY"}])
        connection.execute(insert(models.study), rows)
    engine.dispose()
