"""The destination of the C-MOVE rows: a storage SCP in a thread that takes everything and keeps nothing."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from benchmarks.client import Address, store_response
from benchmarks.instances import EXPLICIT_VR_LITTLE_ENDIAN
from benchmarks.wire import MAX_PDU, ClientError, Ended, Wire
from pacs_server.net.associate import decode_request, encode_accept
from pacs_server.net.negotiation import Answer, UserInformation
from pacs_server.net.pdu import RELEASE_RP, PDUType

_JOIN_SECONDS = 5.0


class Receiver:
    """Listens on a free port of this machine between `with` and the end of it; one association at a time."""

    def __init__(self, ae_title: str = "BENCHMOVE") -> None:
        self.received = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(ae_title, self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name="receiver", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(_JOIN_SECONDS)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            wire = Wire(sock)
            with suppress(ClientError, OSError):
                self._serve_association(wire)
            wire.close()

    def _serve_association(self, wire: Wire) -> None:
        kind, body = wire.read_pdu()
        if kind != PDUType.ASSOCIATE_RQ:
            return
        wire.send([accept_all(bytes(body))])
        try:
            while True:
                message = wire.read_message()
                wire.send(store_response(message.context_id, message.command))
                self.received += 1
        except Ended as end:
            if end.kind == PDUType.RELEASE_RQ:
                wire.send([RELEASE_RP])


def accept_all(request: bytes) -> bytes:
    """The A-ASSOCIATE-AC that accepts every context of a request, in Explicit VR Little Endian where it is offered."""
    proposal = decode_request(request)
    results = []
    for context in proposal.contexts:
        offered = context.transfer_syntaxes
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if EXPLICIT_VR_LITTLE_ENDIAN in offered else offered[0]
        results.append((context.context_id, 0, syntax))
    user = UserInformation(MAX_PDU, "1.2.826.0.1.3680043.8.498.7", "BENCH")
    return encode_accept(proposal, Answer(tuple(results), user))
