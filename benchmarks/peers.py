"""The servers that are measured: how each is configured, started on a free port of this machine, and ended."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.client import Address, open_and_release
from benchmarks.wire import ClientError
from pacs_server import __version__

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_LOG_LINES = 2
_MOST_ASSOCIATIONS = 600
# DCMTK, and Orthanc which is built on it, answers in two small writes with Nagle's algorithm on, and waits
# 40 ms in between for the client's delayed acknowledgement. This is its switch to turn that off: the peers
# are measured at their best, not at the mercy of a timer.
_ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
# The server of another checkout has to import its own package.
_ENVIRONMENT.pop("PYTHONPATH", None)
# pynetdicom puts a storescp of its own next to our Python, which is not the one that is meant.
_ENVIRONMENT["PATH"] = os.pathsep.join(
    folder for folder in os.get_exec_path() if Path(folder) != Path(sys.executable).parent
)


class Service(Enum):
    """What a row may ask of a peer."""

    VERIFICATION = "verification"
    STORAGE = "storage"
    FIND = "C-FIND"
    GET = "C-GET"
    MOVE = "C-MOVE"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer lives while it is measured: a directory of its own, its port, and whom it may move to."""

    directory: Path
    port: int
    destination: Address


@dataclass(frozen=True, slots=True)
class Peer:
    """A kind of server: `command` writes what configuration it needs into its site and returns the command line."""

    key: str
    label: str
    ae_title: str
    program: str
    services: frozenset[Service]
    command: Callable[[Site], list[str]]

    @property
    def missing(self) -> bool:
        """Whether the program is not on this machine."""
        return shutil.which(self.program, path=_ENVIRONMENT["PATH"]) is None

    @property
    def version(self) -> str:
        """What the program says its version is."""
        if self.program == sys.executable:
            return f"pacs-server {__version__}"
        if self.key == BEFORE:
            return f"pacs-server of {self.program}"
        shown = subprocess.run(
            [self.program, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
            env=_ENVIRONMENT,
        )
        found = re.search(r"(\w+) v?(\d\S*)", shown.stdout)
        return f"{found[1]} {found[2]}" if found else self.program


# ------------------------------------------------------------------------------------ configurations


def _pacs_server(*, fsync: bool, python: str = sys.executable) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        settings = {
            "server": {
                "ae_title": "PACS_SERVER",
                "host": "127.0.0.1",
                "port": site.port,
                "max_associations": _MOST_ASSOCIATIONS,
                "max_connections_per_address": _MOST_ASSOCIATIONS,
            },
            "storage": {"directory": str(site.directory / "archive"), "fsync": fsync},
            "database": {"path": str(site.directory / "pacs.db")},
            "audit": {"directory": str(site.directory / "audit")},
            "monitoring": {"metrics_port": 0},
            "remote_aes": [{"ae_title": site.destination.ae_title, "host": "127.0.0.1", "port": site.destination.port}],
        }
        # JSON is YAML.
        config = _write(site.directory / "pacs_server.yaml", json.dumps(settings, indent=1))
        return [python, "-m", "pacs_server", "--config", str(config)]

    return command


def _orthanc(site: Site) -> list[str]:
    settings = {
        "Name": "bench",
        "StorageDirectory": str(site.directory / "storage"),
        "IndexDirectory": str(site.directory / "index"),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomServerEnabled": True,
        "DicomAet": "ORTHANC",
        "DicomPort": site.port,
        **{f"DicomAlwaysAllow{name}": True for name in ("Echo", "Store", "Find", "Get", "Move")},
        "DicomModalities": {"destination": [site.destination.ae_title, "127.0.0.1", site.destination.port]},
    }
    return ["Orthanc", str(_write(site.directory / "orthanc.json", json.dumps(settings, indent=1)))]


def _dcmqrscp(site: Site) -> list[str]:
    storage = site.directory / "storage"
    storage.mkdir()
    lines = [
        f"NetworkTCPPort = {site.port}",
        "MaxPDUSize = 131072",
        f"MaxAssociations = {_MOST_ASSOCIATIONS}",
        "HostTable BEGIN",
        f"destination = ({site.destination.ae_title}, 127.0.0.1, {site.destination.port})",
        "HostTable END",
        "VendorTable BEGIN",
        "VendorTable END",
        "AETable BEGIN",
        # 500 studies are the most that it can be told to keep.
        f"DCMQRSCP {storage} RW (500, 1024mb) ANY",
        "AETable END",
    ]
    return ["dcmqrscp", "-c", str(_write(site.directory / "dcmqrscp.cfg", "\n".join(lines) + "\n"))]


def _storescp(site: Site) -> list[str]:
    storage = site.directory / "storage"
    storage.mkdir()
    # --fork: a single process would serve one association at a time.
    return ["storescp", "--fork", "-pdu", "131072", "-aet", "STORESCP", "-od", str(storage), str(site.port)]


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


_ALL = frozenset(Service)
BEFORE = "before"
PEERS = (
    Peer("pacs-server", "pacs-server", "PACS_SERVER", sys.executable, _ALL, _pacs_server(fsync=True)),
    Peer("nofsync", "pacs-server, fsync off", "PACS_SERVER", sys.executable, _ALL, _pacs_server(fsync=False)),
    Peer("orthanc", "Orthanc", "ORTHANC", "Orthanc", _ALL, _orthanc),
    Peer("dcmqrscp", "dcmqrscp", "DCMQRSCP", "dcmqrscp", _ALL, _dcmqrscp),
    Peer(
        "storescp",
        "storescp",
        "STORESCP",
        "storescp",
        frozenset({Service.VERIFICATION, Service.STORAGE}),
        _storescp,
    ),
)


def before(checkout: Path) -> Peer:
    """This server as it is in another checkout, from that checkout's own virtual environment."""
    python = str(checkout.resolve() / ".venv" / "bin" / "python")
    return Peer(BEFORE, "pacs-server, before", "PACS_SERVER", python, _ALL, _pacs_server(fsync=True, python=python))


# ------------------------------------------------------------------------------------ processes


class Running:
    """A peer's process, between `with` and the end of it; `address` is where it listens."""

    def __init__(self, peer: Peer, directory: Path, destination: Address) -> None:
        self.peer = peer
        self._directory = directory
        self._destination = destination
        self._log = directory / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = Address(peer.ae_title, 0)

    def __enter__(self) -> Self:
        # Somebody else may take a free port before the peer does: try again on the next.
        for attempt in range(3):
            directory = self._directory / str(attempt)
            directory.mkdir(parents=True)
            self.address = Address(self.peer.ae_title, _free_port())
            command = self.peer.command(Site(directory, self.address.port, self._destination))
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=directory,
                    start_new_session=True,
                    env=_ENVIRONMENT,
                )
            self.address = replace(self.address, process=self._process.pid)
            if self._answers():
                return self
            self._stop()
        raise ClientError(f"did not start: {self.last_words()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def last_words(self) -> str:
        """The end of what the peer has printed."""
        return " / ".join(self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                open_and_release(self.address)
            except (OSError, ClientError):
                time.sleep(0.05)
            else:
                return True
        return False

    def _stop(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the peer and the children it forked, which share a process group of their own."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def start(
    stack: ExitStack, peers: Iterable[Peer], directory: Path, destination: Address
) -> tuple[list[Running], list[str]]:
    """Start the peers below `directory` until `stack` ends; returns who runs, and who does not and why."""
    running, left_out = [], []
    for peer in peers:
        if peer.missing:
            left_out.append(f"{peer.label} is not installed")
            continue
        try:
            running.append(stack.enter_context(Running(peer, directory / peer.key, destination)))
        except ClientError as error:
            left_out.append(f"{peer.label} {error}")
    return running, left_out


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
