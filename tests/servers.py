"""A server in this process, and the peers that talk to it: raw ones that misbehave, and a Storage SCP that collects."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import schema
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_role, evt
from pynetdicom.association import Association as RequestedAssociation
from pynetdicom.sop_class import CTImageStorage, Verification

from benchmarks import server_process
from pacs_server.app.server import PacsServer
from pacs_server.config import (
    AccessControlConfig,
    AuditConfig,
    Config,
    DatabaseConfig,
    MonitoringConfig,
    RemoteAEConfig,
    ServerConfig,
    StorageConfig,
    WebConfig,
)
from pacs_server.net.associate import decode_accept, encode_request
from pacs_server.net.listener import WAITING_THREADS
from pacs_server.net.message import Command, CommandField, decode_command, encode_message
from pacs_server.net.negotiation import Answer, Proposal, ProposedContext, UserInformation
from pacs_server.net.pdu import HEADER, LAST, PDV_HEADER, RELEASE_RQ, PDUType
from pacs_server.storage.keys import RESERVED

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"),
    *("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
)
VERIFICATION, CT = str(Verification), str(CTImageStorage)
STUDY_FIND, STUDY_MOVE, STUDY_GET = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 2, 3))
# How long whatever comes in the end may take on a machine that is busy with other tests.
PATIENT_SECONDS = 60.0


def config(
    directory: Path,
    *,
    storage: dict[str, Any] | None = None,
    allowed: Sequence[str] = ("*",),
    remote_aes: Sequence[RemoteAEConfig] = (),
    web: bool = False,
    **server: Any,
) -> Config:
    """A configuration below `directory` on free ports; `server` overrides settings of that section."""
    return Config(
        server=ServerConfig(
            **{"port": 0, "association_timeout": 5.0, "network_timeout": 5.0, "shutdown_timeout": 5.0} | server
        ),
        storage=StorageConfig(
            **{"directory": directory / "archive", "min_free_space": 0, "fsync": False} | (storage or {})
        ),
        database=DatabaseConfig(path=directory / "pacs.db"),
        monitoring=MonitoringConfig(enabled=False, metrics_port=0),
        access_control=AccessControlConfig(allowed_ae_titles=tuple(allowed)),
        audit=AuditConfig(directory=directory / "audit"),
        web=WebConfig(enabled=web, port=0),
        remote_aes=tuple(remote_aes),
    )


@contextmanager
def running(settings: Config, reload: Callable[[], Config] | None = None) -> Iterator[PacsServer]:
    """Serve; at the end nothing of it may be left: no thread and no half-received file."""
    if settings.database.url is None:
        schema.prepare(settings.database.path)
    with PacsServer(settings, reload=reload) as pacs:
        yield pacs
    assert eventually(lambda: server_threads() == [])
    assert leftovers(settings) == []


def leftovers(settings: Config) -> list[str]:
    """The names of the files that are still being received, or were when their process died."""
    entries = (settings.storage.directory / "incoming").iterdir()
    return [path.name for path in entries if path.suffix != ".lock"]


def stored_files(pacs: PacsServer) -> list[Path]:
    """Every file in the archive."""
    directory = pacs.config.storage.directory
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path for path in files if path.relative_to(directory).parts[0] not in RESERVED)


# The threads that serve connections while there are none.
AT_REST = ["listener"] * WAITING_THREADS


def server_threads() -> list[str]:
    """The threads that serve connections."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("peer-", "listener"))]


def open_sockets() -> int:
    """How many sockets this process has; files are those of the database, of which threads open some when needed."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


def eventually(condition: Callable[[], object], seconds: float = PATIENT_SECONDS) -> bool:
    """Whether `condition` becomes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def free_port() -> int:
    """A port where nobody listens, and which nobody else is given."""
    return server_process.free_port()


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as one:
        other, _ = listener.accept()
        with other:
            yield one, other


# ------------------------------------------------------------------------------------ raw peers


def pdv(context_id: int, control: int, value: bytes = b"") -> bytes:
    """One presentation data value."""
    return PDV_HEADER.pack(len(value) + 2, context_id, control) + value


def p_data(*values: bytes) -> bytes:
    """A P-DATA-TF PDU of presentation data values."""
    body = b"".join(values)
    return HEADER.pack(PDUType.P_DATA, len(body)) + body


def message(context_id: int, command: Command, data: bytes | None = None, max_pdu: int = 16384) -> bytes:
    """A whole DIMSE message on the wire."""
    return b"".join(encode_message(context_id, command, data, max_pdu))


def proposal(*contexts: tuple[str, Sequence[str]], calling: str = "RAW", called: str = "PACS", **user: Any) -> Proposal:
    """A proposal of contexts (abstract syntax, transfer syntaxes) with ids 1, 3, 5..."""
    proposed = tuple(
        ProposedContext(2 * number + 1, abstract, tuple(syntaxes))
        for number, (abstract, syntaxes) in enumerate(contexts)
    )
    user = {"max_pdu_size": 16384, "implementation_class_uid": "1.2.3"} | user
    return Proposal(calling, called, proposed, UserInformation(**user))


def echo_request(message_id: int = 1) -> Command:
    return Command(command_field=CommandField.C_ECHO, message_id=message_id, affected_sop_class_uid=VERIFICATION)


def store_request(sop: str, message_id: int = 1, sop_class: str = CT) -> Command:
    return Command(
        command_field=CommandField.C_STORE,
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid=sop,
        priority=0,
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that came in."""

    context_id: int
    command: Command
    data: bytes


class RawPeer:
    """A socket that says what it is told to, byte by byte."""

    def __init__(self, address: tuple[str, int], timeout: float = PATIENT_SECONDS, *, source: str = "") -> None:
        self.socket = socket.create_connection(address, timeout, (source, 0) if source else None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def associated(cls, address: tuple[str, int], *contexts: tuple[str, Sequence[str]], **proposed: Any) -> Self:
        """A peer with an association about `contexts`; Verification and CT if there are none."""
        peer = cls(address)
        peer.associate(proposal(*(contexts or ((VERIFICATION, [IMPLICIT]), (CT, [EXPLICIT]))), **proposed))
        return peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def associate(self, proposed: Proposal) -> Answer:
        """Propose and return what was accepted."""
        self.send(encode_request(proposed))
        kind, body = self.read_pdu()
        assert kind == PDUType.ASSOCIATE_AC, (kind, body)
        return decode_accept(body)

    def echo(self, message_id: int = 1) -> int | None:
        """Ask for an answer on context 1 and return its status."""
        self.send(message(1, echo_request(message_id)))
        reply = self.read_message()
        assert reply.command.message_id_being_responded_to == message_id
        return reply.command.status

    def release(self) -> None:
        """Release and expect the connection to be closed after the answer."""
        self.send(RELEASE_RQ)
        assert self.read_pdu() == (PDUType.RELEASE_RP, bytes(4))
        assert self.ending() == "closed"

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU; raises EOFError at the end of the stream."""
        kind, length = HEADER.unpack(self._read(HEADER.size))
        return kind, self._read(length)

    def read_message(self) -> Reply:
        """The next DIMSE message."""
        parts = {1: b"", 0: b""}
        done: set[int] = set()
        while True:
            kind, body = self.read_pdu()
            assert kind == PDUType.P_DATA, (kind, body)
            while body:
                length, context_id, control = PDV_HEADER.unpack_from(body)
                parts[control & 1] += body[6 : 4 + length]
                body = body[4 + length :]
                if control & LAST:
                    done.add(control & 1)
            if 1 in done:
                command = decode_command(parts[1])
                if not command.has_data_set or 0 in done:
                    return Reply(context_id, command, parts[0])

    def skip(self, size: int) -> None:
        """Read so many bytes and look at nothing; raises EOFError at the end of the stream."""
        while size:
            size -= len(self._read(min(size, 65536)))

    def ending(self) -> str:
        """Read to the end: `abort S R` with source and reason, or `closed`."""
        try:
            while True:
                kind, body = self.read_pdu()
                if kind == PDUType.ABORT:
                    return f"abort {body[2]} {body[3]}"
        except EOFError:
            return "closed"

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError
            data += more
        return data


# ------------------------------------------------------------------------------------ pynetdicom peers


@contextmanager
def associated(
    pacs: PacsServer, *contexts: Any, calling: str = "SCU", held: bool = True, **options: Any
) -> Iterator[RequestedAssociation]:
    """An association by pynetdicom; `contexts` are SOP classes, or pairs of one with transfer syntaxes.

    Its reactor is held back if `held`, so that it sees nothing that the server sends by itself.
    """
    ae = AE(ae_title=calling)
    ae.dimse_timeout = ae.acse_timeout = ae.network_timeout = PATIENT_SECONDS
    for context in contexts:
        if isinstance(context, tuple):
            ae.add_requested_context(*context)
        else:
            ae.add_requested_context(context)
    association = ae.associate(*pacs.address, **options)
    assert association.is_established
    try:
        with held_back(association) if held else nullcontext():
            yield association
    finally:
        if association.is_established:
            association.release()
        association.join(PATIENT_SECONDS)


@contextmanager
def held_back(association: RequestedAssociation) -> Iterator[None]:
    """Hold back the reactor: pynetdicom's may take an answer before the sender looks for it."""
    checkpoint = association._reactor_checkpoint
    checkpoint.clear()
    assert eventually(lambda: checkpoint._cond._waiters or not association.is_alive())
    checkpoint.set = lambda: None
    try:
        yield
    finally:
        del checkpoint.set
        checkpoint.set()


def store(pacs: PacsServer, *instances: Dataset) -> list[int]:
    """Store instances over one association and return the statuses."""
    kinds = {(ds.SOPClassUID, str(ds.file_meta.TransferSyntaxUID)) for ds in instances}
    with associated(pacs, *kinds, calling="MODALITY") as association:
        return [association.send_c_store(ds).Status for ds in instances]


def get(
    pacs: PacsServer,
    keys: Dataset,
    *,
    answers: Callable[[int], int] = lambda number: 0,
    syntaxes: Sequence[str] = (EXPLICIT, IMPLICIT),
    role: bool = True,
) -> tuple[list[tuple[Dataset, Dataset | None]], list[tuple[str, bytes]]]:
    """Responses of a C-GET, and the instances that came as (SOP Instance UID, bytes)."""
    got: list[tuple[str, bytes]] = []

    def handle(event: evt.Event) -> int:
        got.append((str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()))
        return answers(len(got))

    roles = [build_role(CT, scp_role=True)] if role else []
    handlers = [(evt.EVT_C_STORE, handle)]
    contexts = (STUDY_GET, (CT, list(syntaxes)))
    with associated(pacs, *contexts, ext_neg=roles, evt_handlers=handlers) as association:
        return list(association.send_c_get(keys, STUDY_GET)), got


@dataclass(frozen=True, slots=True)
class Collected:
    """An instance as a Storage SCP got it."""

    sop_instance_uid: str
    transfer_syntax: str
    data: bytes
    originator: tuple[str, int] | None


Answers = Callable[[evt.Event, int], int]


@dataclass(slots=True)
class Collector:
    """A Storage SCP that keeps what it gets; answers event number n with `answers(event, n)`."""

    remote: RemoteAEConfig
    instances: list[Collected] = field(default_factory=list)
    answers: Answers = lambda event, number: 0

    def take(self, event: evt.Event, numbers: "itertools.count[int]") -> int:
        status = self.answers(event, next(numbers))
        if status != 0 and status & 0xF000 != 0xB000:
            return status
        request = event.request
        originator = request.MoveOriginatorApplicationEntityTitle
        self.instances.append(
            Collected(
                str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax),
                request.DataSet.getvalue(),
                (originator.strip(), request.MoveOriginatorMessageID) if originator else None,
            )
        )
        return status


@contextmanager
def collecting(
    title: str = "DEST",
    *,
    answers: Answers = lambda event, number: 0,
    syntaxes: Sequence[str] = tuple(ALL_TRANSFER_SYNTAXES),
    response_timeout: float = PATIENT_SECONDS,
    require_calling: Sequence[str] = (),
) -> Iterator[Collector]:
    """A destination for C-MOVE that collects CT images, on a free port."""
    ae = AE(ae_title=title)
    ae.require_calling_aet = list(require_calling)
    ae.add_supported_context(CTImageStorage, list(syntaxes))
    collected: list[Collector] = []
    numbers = itertools.count(1)

    def handle(event: evt.Event) -> int:
        return collected[0].take(event, numbers)

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, handle)])
    remote = RemoteAEConfig(
        ae_title=title,
        host="127.0.0.1",
        port=server.server_address[1],
        connect_timeout=2.0,
        response_timeout=response_timeout,
    )
    collected.append(Collector(remote, answers=answers))
    try:
        yield collected[0]
    finally:
        server.shutdown()
