"""The servers that are measured: how each is configured, started on a free port of this machine, and ended."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from benchmarks.client import Address, open_and_release
from benchmarks.server_process import PATH, ServerProcess, find
from benchmarks.wire import ClientError
from pacs_server import __version__

_LOG_LINES = 2
_MOST_ASSOCIATIONS = 600
# DCMTK, and Orthanc which is built on it, answers in two small writes with Nagle's algorithm on, and waits
# 40 ms in between for the client's delayed acknowledgement. This is its switch to turn that off: the peers
# are measured at their best, not at the mercy of a timer.
_ENVIRONMENT = os.environ | {"TCP_NODELAY": "1"}
# The server of another checkout has to import its own package.
_ENVIRONMENT.pop("PYTHONPATH", None)
_ENVIRONMENT["PATH"] = PATH


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
        return find(self.program) is None

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
        settings: dict[str, object] = {
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
        if python == sys.executable:  # an earlier version may not know it
            settings["web"] = {"port": 0}
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


class Running(ServerProcess):
    """A peer's process, between `with` and the end of it; `address` is where it listens."""

    environment = _ENVIRONMENT

    def __init__(self, peer: Peer, directory: Path, destination: Address) -> None:
        super().__init__(directory / "log.txt")
        self.peer = peer
        self._directory = directory
        self._destination = destination

    @property
    def address(self) -> Address:
        """Where the peer listens, and its process."""
        return Address(self.peer.ae_title, self.port, process=self.pid)

    def command(self) -> list[str]:
        """The peer's command line, in a directory of its own for each port that is tried."""
        self.cwd = self._directory / str(self.port)
        self.cwd.mkdir(parents=True)
        return self.peer.command(Site(self.cwd, self.port, self._destination))

    def connect(self) -> None:
        """Raise OSError unless the peer takes an association."""
        try:
            open_and_release(self.address)
        except ClientError as error:
            raise OSError(str(error)) from error

    def last_words(self) -> str:
        """The end of what the peer has printed."""
        return " / ".join(self.output().splitlines()[-_LOG_LINES:])


def start(
    stack: ExitStack, peers: Iterable[Peer], directory: Path, destination: Address
) -> tuple[list[Running], list[str]]:
    """Start the peers below `directory` until `stack` ends; returns who runs, and who does not and why."""
    running, left_out = [], []
    for peer in peers:
        if peer.missing:
            left_out.append(f"{peer.label} is not installed")
            continue
        server = Running(peer, directory / peer.key, destination)
        try:
            running.append(stack.enter_context(server))
        except RuntimeError:
            left_out.append(f"{peer.label} did not start: {server.last_words()}")
    return running, left_out
