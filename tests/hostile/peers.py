"""What hostile scenarios share: whom they are at, peers that come from an address of their own, and destinations."""

import contextlib
import http.client
import itertools
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from servers import (
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    RawPeer,
    message,
    proposal,
)

from pacs_server.net.associate import encode_request
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import Proposal
from pacs_server.net.pdu import HEADER, PDUType

# Neighbours come from 127.0.0.1; the limits of connections by address are the hostile peers' own.
ADDRESS = "127.0.0.2"
# The server's deadlines in seconds, short so that slow peers cost little time.
ASSOCIATION, NETWORK, MESSAGE = 1.0, 1.0, 3.0
# Nothing that a peer does takes longer to be answered or cut off, in seconds, on a busy machine too.
PATIENCE = 30.0

MPPS, COMMITMENT, WORKLIST = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.31"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
SERVICES = {
    "echo": (VERIFICATION, IMPLICIT),
    "store": (CT, EXPLICIT),
    "store deflated": (CT, DEFLATED),
    "find": (STUDY_FIND, IMPLICIT),
    "find deflated": (STUDY_FIND, DEFLATED),
    "move": (STUDY_MOVE, IMPLICIT),
    "get": (STUDY_GET, IMPLICIT),
    "worklist": (WORKLIST, EXPLICIT),
    "worklist deflated": (WORKLIST, DEFLATED),
    "mpps": (MPPS, EXPLICIT),
    "mpps deflated": (MPPS, DEFLATED),
    "commitment": (COMMITMENT, EXPLICIT),
    "commitment deflated": (COMMITMENT, DEFLATED),
}
CONTEXT = {name: 2 * number + 1 for number, name in enumerate(SERVICES)}
_PENDING = (0xFF00, 0xFF01)


def everything(calling: str = "HOSTILE") -> Proposal:
    """A proposal of all services; C-GET is proposed without the role that it needs."""
    return proposal(*((abstract, [syntax]) for abstract, syntax in SERVICES.values()), calling=calling)


REQUEST = encode_request(everything())


@dataclass
class Target:
    """The server that scenarios run against: its address, its threads, a study that it has, and destinations."""

    address: tuple[str, int]
    study: str
    destinations: Sequence[str]
    threads: Callable[[], int]
    random: random.Random
    web: tuple[str, int]
    monitoring: tuple[str, int]

    def connect(self) -> "Peer":
        """A connection on which nothing was said yet."""
        return Peer(self.address)

    def associate(self, calling: str = "HOSTILE") -> "Peer":
        """A peer with an association about everything."""
        peer = Peer(self.address)
        peer.associate(everything(calling))
        return peer


class Peer(RawPeer):
    """A raw peer from the hostile address."""

    def __init__(self, address: tuple[str, int], *, buffer: int | None = None, source: str = ADDRESS) -> None:
        sock = socket.socket()
        try:
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.settimeout(PATIENCE)
            sock.bind((source, 0))
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock

    def __enter__(self) -> Self:
        return self

    def push(self, data: bytes) -> bool:
        """Send, and say whether the server took it all."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, BrokenPipeError):
            return False
        return True

    def drip(self, data: bytes, pause: float) -> float:
        """Send byte by byte until the server has enough of it; seconds until then. Fails if it never has."""
        began = time.monotonic()
        self.socket.settimeout(pause)
        for value in itertools.cycle(data):
            assert time.monotonic() - began < PATIENCE, "a peer that drips is not cut off"
            if not self.push(bytes((value,))) or self._is_over():
                break
        return time.monotonic() - began

    def _is_over(self) -> bool:
        with contextlib.suppress(TimeoutError):
            try:
                return self.socket.recv(65536) == b""
            except ConnectionError:
                return True
        return False

    def reset(self) -> None:
        """Close with a reset instead of an end of stream."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def drain(self) -> None:
        """Read to the end of the stream and look at nothing."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 20):
                pass

    def ask(self, service: str, command: Command, data: bytes | None = None) -> int | None:
        """Send a request and return its final status, or None if the server ended the association."""
        self.push(message(CONTEXT[service], command, data))
        return self.status()

    def status(self) -> int | None:
        """The next status that is not pending, or None at the end of the association."""
        try:
            while True:
                status = self.read_message().command.status
                if status not in _PENDING:
                    return status
        except (EOFError, AssertionError):
            return None


def command(service: str, **fields: object) -> Command:
    """The request that a service takes, valid unless `fields` say otherwise."""
    name = service.partition(" ")[0]
    sop_class = SERVICES[service][0]
    of = {
        "echo": Command(CommandField.C_ECHO, affected_sop_class_uid=sop_class),
        "store": Command(CommandField.C_STORE, affected_sop_class_uid=sop_class, affected_sop_instance_uid="1.2.3.4"),
        "find": Command(CommandField.C_FIND, affected_sop_class_uid=sop_class),
        "worklist": Command(CommandField.C_FIND, affected_sop_class_uid=sop_class),
        "move": Command(CommandField.C_MOVE, affected_sop_class_uid=sop_class, move_destination="NOWHERE"),
        "get": Command(CommandField.C_GET, affected_sop_class_uid=sop_class),
        "mpps": Command(CommandField.N_CREATE, affected_sop_class_uid=sop_class),
        "commitment": Command(
            CommandField.N_ACTION,
            requested_sop_class_uid=sop_class,
            requested_sop_instance_uid=COMMITMENT_INSTANCE,
            action_type_id=1,
        ),
    }[name]
    of.message_id = 1
    for key, value in fields.items():
        setattr(of, key, value)
    return of


def is_served(target: Target, *, web: bool = True) -> None:
    """Hold that a decent peer is answered, and a decent client of the HTTP ports."""
    assert page(target.monitoring, "/healthz") == 200
    assert not web or page(target.web, "/dicom-web/studies?limit=1") == 200
    with RawPeer(target.address, PATIENCE) as peer:
        peer.associate(proposal((VERIFICATION, [IMPLICIT])))
        assert peer.echo() == 0
        peer.release()


def page(address: tuple[str, int], path: str) -> int:
    """The status with which an HTTP port answers.

    Hostile peers come from the same address: their last connections may count a moment longer than they last, and one
    more is refused then.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return _page(address, path)
        except ConnectionResetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _page(address: tuple[str, int], path: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=PATIENCE)) as client:
        client.request("GET", path)
        answer = client.getresponse()
        answer.read()
        return answer.status


# ------------------------------------------------------------------------------------ destinations of C-MOVE


def _slam(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _hang(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def _say(data: bytes) -> Callable[[socket.socket], None]:
    def say(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(data)
        _hang(sock)

    return say


def _drip(sock: socket.socket) -> None:
    sock.recv(65536)
    for value in itertools.cycle(HEADER.pack(PDUType.ASSOCIATE_AC, 5000)):
        sock.sendall(bytes((value,)))
        time.sleep(0.05)


BEHAVIOURS: dict[str, Callable[[socket.socket], None]] = {
    "SLAM": _slam,
    "HANG": _hang,
    "DRIP": _drip,
    "NONSENSE": _say(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 40),
    "HUGE": _say(HEADER.pack(PDUType.ASSOCIATE_AC, 2**32 - 1)),
    "EMPTY": _say(HEADER.pack(PDUType.ASSOCIATE_AC, 0)),
    "RELEASES": _say(HEADER.pack(PDUType.RELEASE_RQ, 4) + bytes(4)),
    "ECHOES": _say(REQUEST),
}


@contextlib.contextmanager
def destinations() -> Iterator[dict[str, int]]:
    """Storage SCPs that misbehave, each in its way; their ports by AE title."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, behaviour in BEHAVIOURS.items():
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(_shut, listener)
            threading.Thread(target=_serve, args=(listener, behaviour), daemon=True).start()
            ports[name] = listener.getsockname()[1]
        yield ports


def _shut(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, behaviour: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            sock.settimeout(PATIENCE)
            with sock, contextlib.suppress(OSError):
                behaviour(sock)


def settings(ports: dict[str, int]) -> dict[str, object]:
    """Sections of the configuration of a server that is to be tried."""
    short = {"connect_timeout": 1.0, "response_timeout": 1.0}
    return {
        "server": {
            "port": 0, "association_timeout": ASSOCIATION, "network_timeout": NETWORK, "message_timeout": MESSAGE,
            "max_associations": 100, "max_connections": 400, "max_connections_per_address": 150,
            "shutdown_timeout": 5.0,
        },
        "web": {"enabled": True},
        "remote_aes": [{"ae_title": name, "host": "127.0.0.1", "port": port, **short} for name, port in ports.items()],
    }  # fmt: skip
