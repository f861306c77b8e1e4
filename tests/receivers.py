"""A receiver of what the server sends, instances and reports, that answers each as a script says."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import servers
from servers import RawPeer, message

from pacs_server.config import RemoteAEConfig
from pacs_server.net.associate import decode_request, encode_accept
from pacs_server.net.message import RESPONSE, Command
from pacs_server.net.negotiation import Answer, Proposal, UserInformation
from pacs_server.net.pdu import RELEASE_RP, RELEASE_RQ, PDUType

ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
# How long the server waits for an answer that comes too late, or never.
TIMEOUT = 0.4


@dataclass(frozen=True)
class Received:
    """One request that a receiver got: its number over all links, counted from 1, and where to answer."""

    number: int
    link: RawPeer
    context_id: int
    command: Command

    def answer(
        self, status: int | None = 0, *, skew: int = 0, data: bytes | None = None, **changes: str | int | None
    ) -> None:
        """Send a response; `skew` makes it one to another message, `changes` go over what it says."""
        request = self.command
        response = Command(
            command_field=(request.command_field or 0) | RESPONSE,
            message_id_being_responded_to=(request.message_id or 0) + skew,
            affected_sop_class_uid=request.affected_sop_class_uid,
            affected_sop_instance_uid=request.affected_sop_instance_uid,
            event_type_id=request.event_type_id,
            status=status,
        )
        self.link.send(message(self.context_id, replace(response, **changes), data))


Script = Callable[[Received], None]
Accept = Callable[[Proposal], Answer]


def accept(asked: Proposal, max_pdu: int = 16384) -> Answer:
    """Take every context with its first transfer syntax."""
    results = tuple((context.context_id, 0, context.transfer_syntaxes[0]) for context in asked.contexts)
    return Answer(results, UserInformation(max_pdu, "1.2.3"))


def answered(received: Received) -> None:
    received.answer()


class Receiver:
    """Takes one association after the other and answers each request as its script says, a release with `farewell`."""

    def __init__(self, listener: socket.socket, script: Script, accepting: Accept, farewell: bytes) -> None:
        self._listener = listener
        self._script = script
        self._accepting = accepting
        self._farewell = farewell
        self.requests = 0
        self.sizes: list[int] = []
        self.data: dict[str, bytes] = {}

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(servers.PATIENT_SECONDS)
                with sock, contextlib.suppress(OSError, EOFError):
                    self._serve(sock)

    def _serve(self, sock: socket.socket) -> None:
        link = RawPeer.__new__(RawPeer)
        link.socket = sock
        kind, body = link.read_pdu()
        assert kind == PDUType.ASSOCIATE_RQ
        asked = decode_request(body)
        link.send(encode_accept(asked, self._accepting(asked)))
        while (received := self._next(link)) is not None:
            self._script(received)
        link.send(self._farewell)
        if self._farewell != RELEASE_RP:
            link.ending()

    def _next(self, link: RawPeer) -> Received | None:
        """The next request; None when the peer releases."""
        parts = {True: b"", False: b""}
        while True:
            kind, body = link.read_pdu()
            if kind == PDUType.RELEASE_RQ:
                return None
            if kind != PDUType.P_DATA:
                raise EOFError
            self.sizes.append(len(body))
            parts[bool(body[5] & 1)] += body[6:]
            # One value to a PDU is how the server sends; all that it asks for here has a data set.
            if body[5] == 2:
                command = servers.decode_command(parts[True])
                self.data[str(command.affected_sop_instance_uid)] = parts[False]
                self.requests += 1
                return Received(self.requests, link, body[4], command)


@contextlib.contextmanager
def receiving(
    script: Script = answered,
    accepting: Accept = accept,
    farewell: bytes = RELEASE_RP,
    *,
    response_timeout: float = servers.PATIENT_SECONDS,
) -> Iterator[tuple[Receiver, RemoteAEConfig]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = Receiver(listener, script, accepting, farewell)
        thread = threading.Thread(target=receiver.serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield (
                receiver,
                RemoteAEConfig(
                    ae_title="DEST", host="127.0.0.1", port=port, connect_timeout=2, response_timeout=response_timeout
                ),
            )
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(servers.PATIENT_SECONDS)
            assert not thread.is_alive()


def on(number: int, then: Script) -> Script:
    """Answer request `number` by `then`, and all others with success."""
    return lambda received: then(received) if received.number == number else received.answer()


def status(value: int | None) -> Script:
    return lambda received: received.answer(value)


def bare(received: Received) -> None:
    """Without anything that may be left out."""
    received.answer(affected_sop_class_uid=None, affected_sop_instance_uid=None, event_type_id=None)


def of_another(received: Received) -> None:
    """A response that names another instance."""
    received.answer(affected_sop_instance_uid="1.2.3")


def with_data(received: Received) -> None:
    """A response with a data set, where none belongs."""
    received.answer(data=bytes(8))


def cut(places: list[int], then: Script) -> Script:
    """Answer, and read only as many bytes of the next request as the last of `places` says, which is used up."""

    def script(received: Received) -> None:
        received.answer()
        if places:
            received.link.skip(places.pop())
            then(received)

    return script


def twice(received: Received) -> None:
    received.answer()
    received.answer()


def out_of_order(received: Received) -> None:
    received.answer(skew=1)
    received.answer()


def never(received: Received) -> None:
    """Keep quiet until the server has had enough."""
    received.link.read_pdu()
    raise EOFError


def late(received: Received) -> None:
    time.sleep(2 * TIMEOUT)  # past the time-out is the point here
    received.answer()


def aborts(received: Received) -> None:
    received.link.send(ABORT)
    raise EOFError


def closes(_received: Received) -> None:
    raise EOFError


def resets(received: Received) -> None:
    received.link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise EOFError


def releases(received: Received) -> None:
    received.link.send(RELEASE_RQ)
    received.link.read_pdu()
    raise EOFError


def in_bytes(received: Received) -> None:
    """The response, its command in values of one byte."""
    sent: list[bytes] = []
    link, received.link.send = received.link, sent.append  # type: ignore[method-assign]
    received.answer()
    del link.send  # type: ignore[method-assign]
    whole = sent[0][12:]
    values = [servers.pdv(received.context_id, 1, whole[at : at + 1]) for at in range(len(whole) - 1)]
    for value in [*values, servers.pdv(received.context_id, 3, whole[-1:])]:
        link.send(servers.p_data(value))
