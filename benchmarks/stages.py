"""Where the server's time goes: one C-STORE, C-FIND, C-GET and association, stage by stage.

    python -m benchmarks.stages [--count 300]

The server runs in this process, its client in another one. Functions at the borders of the stages
are wrapped with a clock; a stage's time is its own, without that of stages inside it. The clock
costs about a microsecond each time, so that the sums are a little above what is true without it.
"""

import argparse
import hashlib
import inspect
import logging
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.client import Address, Timing
from benchmarks.jobs import AssociationJob, FindJob, GetJob, StoreJob
from benchmarks.report import machine
from benchmarks.rows import LARGE, SMALL
from benchmarks.workers import Job, Workers
from pacs_server.app.logging import configure as configure_logging
from pacs_server.app.server import PacsServer
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals
from pacs_server.config import (
    AuditConfig,
    Config,
    DatabaseConfig,
    LoggingConfig,
    MonitoringConfig,
    ServerConfig,
    StorageConfig,
    WebConfig,
)
from pacs_server.dicom.response import ResponseEncoder
from pacs_server.index.group_commit import GroupCommit
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.net.acceptor import Acceptor
from pacs_server.net.association import Association
from pacs_server.net.transport import Transport
from pacs_server.scp import find
from pacs_server.scp.entity import ApplicationEntity
from pacs_server.services import store

_LIMIT = 20.0
PEER = "wait for the peer, and read"
REST = "everything else"
# (owner, attribute, stage) of every function that is timed; what a stage calls may be a stage of its own.
BORDERS: Sequence[tuple[Any, str, str]] = (
    (ApplicationEntity, "serve", REST),
    (Transport, "receive_into", PEER),
    (Transport, "send", "send"),
    (Acceptor, "accept", "negotiate"),
    (Association, "read_message", "read and decode messages"),
    (store, "header_of", "parse the header"),
    (os, "write", "write to files"),
    (os, "pread", "read files"),
    (os, "open", "open and close files"),
    (os, "close", "open and close files"),
    (os, "fdatasync", "sync the file"),
    (os, "link", "link the file"),
    (os, "fsync", "sync its directory"),
    (InstanceIndex, "get", "index: is it known"),
    (GroupCommit, "add", "index: commit"),
    (QueryIndex, "find", "index: query"),
    (QueryIndex, "select", "index: query"),
    (ResponseEncoder, "encode", "encode matches"),
    (find, "parse_find", "parse the identifier"),
    (Recorder, "write", "audit"),
    (Recorder, "note", "audit"),
    (Arrivals, "begin", "audit"),
    (Arrivals, "stored", "audit"),
    (logging.Logger, "handle", "log"),
)


class Stopwatch:
    """Adds up the seconds that each stage had for itself, over all threads."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._local = threading.local()

    def enter(self, stage: str) -> None:
        """From here on the time is this stage's."""
        stages = self._charge()
        stages.append(stage)

    def leave(self) -> None:
        """From here on it is again the stage's that was before."""
        self._charge().pop()

    def _charge(self) -> list[str]:
        now = time.perf_counter()
        stages: list[str] = self._local.__dict__.setdefault("stages", [])
        if stages:
            with self._lock:
                self.seconds[stages[-1]] += now - self._local.since
        self._local.since = now
        return stages

    def inside(self) -> bool:
        """Whether this thread serves somebody."""
        return bool(self._local.__dict__.get("stages"))

    def wrapped(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """`function` as a stage; only the first one counts in a thread that serves nobody yet."""
        generator = inspect.isgeneratorfunction(function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if stage != REST and not self.inside():
                return function(*args, **kwargs)
            self.enter(stage)
            try:
                result = function(*args, **kwargs)
            finally:
                self.leave()
            return self._each(result, stage) if generator else result

        return timed

    def _each(self, generator: Any, stage: str) -> Iterator[Any]:
        try:
            while True:
                self.enter(stage)
                try:
                    item = next(generator)
                except StopIteration:
                    return
                finally:
                    self.leave()
                yield item
        finally:
            generator.close()

    def hash(self) -> Callable[..., Any]:
        """A `hashlib.sha256` whose work is a stage."""
        sha256 = hashlib.sha256

        def begin(*args: Any) -> Any:
            digest = sha256(*args)
            return SimpleNamespace(
                update=self.wrapped(digest.update, "hash"), hexdigest=digest.hexdigest, digest=digest.digest
            )

        return begin


@contextmanager
def timed(watch: Stopwatch) -> Iterator[None]:
    """All borders wrapped, between `with` and its end."""
    patches = [
        mock.patch.object(owner, name, watch.wrapped(getattr(owner, name), stage)) for owner, name, stage in BORDERS
    ]
    patches.append(mock.patch.object(hashlib, "sha256", watch.hash()))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@dataclass(frozen=True, slots=True)
class Operation:
    """What is measured: its name, the job that does it `count` times."""

    title: str
    job: Job


def operations(address: Address, count: int) -> list[Operation]:
    """Everything that is measured, in the order in which it has to be done."""
    small, large = range(1, count + 1), range(count + 1, 2 * count + 1)
    return [
        Operation("C-STORE 10 KB", StoreJob(address, SMALL, 1, small, _LIMIT)),
        Operation("C-STORE 512 KB", StoreJob(address, LARGE, 2, large, _LIMIT)),
        Operation("C-FIND by Patient ID", FindJob(address, range(1, 2), count, _LIMIT)),
        Operation("C-GET, each instance of 512 KB", GetJob(address, 2, 1, _LIMIT)),
        Operation("association", AssociationJob(address, count, _LIMIT)),
    ]


def measure(count: int, directory: Path) -> dict[str, dict[str, float]]:
    """Microseconds of each stage of each operation."""
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(directory=directory / "archive", min_free_space=0, scrub_rate=None),
        database=DatabaseConfig(path=directory / "pacs.db"),
        monitoring=MonitoringConfig(enabled=False, metrics_port=0),
        web=WebConfig(enabled=False),
        audit=AuditConfig(directory=directory / "audit"),
    )
    watch = Stopwatch()
    with (directory / "log.txt").open("w") as log, redirect_stderr(log), Workers(1) as workers, timed(watch):
        root = logging.getLogger()
        with mock.patch.multiple(root, handlers=[], level=root.level):
            configure_logging(LoggingConfig())
            return _serve(config, workers, watch, count)


def _serve(config: Config, workers: Workers, watch: Stopwatch, count: int) -> dict[str, dict[str, float]]:
    found = {}
    with PacsServer(config) as server:
        host, port = server.address
        for operation in operations(Address("PACS_SERVER", port, host), count):
            watch.seconds.clear()
            timing = Timing.together(workers.run([operation.job]))
            found[operation.title] = {stage: 1e6 * spent / timing.count for stage, spent in watch.seconds.items()}
    return found


def markdown(found: dict[str, dict[str, float]]) -> str:
    """The table: a row for each stage, a column for each operation, in microseconds."""
    stages = list(dict.fromkeys([*(stage for _, _, stage in BORDERS if stage != REST), "hash", REST]))
    lines = ["| µs | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for stage in stages:
        spent = [operation.get(stage, 0.0) for operation in found.values()]
        if max(spent) >= 1:
            lines.append(f"| {stage} | " + " | ".join(f"{value:,.0f}" if value >= 1 else "" for value in spent) + " |")
    sums = [sum(spent for stage, spent in operation.items() if stage != PEER) for operation in found.values()]
    lines.append("| sum without the wait for the peer | " + " | ".join(f"{value:,.0f}" for value in sums) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="operations of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pacs-stages-") as name:
        print(f"{machine(Path(name))}.\n\n{markdown(measure(options.count, Path(name)))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
