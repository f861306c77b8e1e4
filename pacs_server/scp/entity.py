"""The application entity: one connection from its first byte to its last, with one log line for what it was."""

import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pacs_server.metrics import Metrics
from pacs_server.net.acceptor import Rejected, Rejection, Terms, accept
from pacs_server.net.association import Association, PeerReleased
from pacs_server.net.listener import Connection
from pacs_server.net.negotiation import Proposal, Support
from pacs_server.net.pdu import AbortReason, PeerAborted, ProtocolError, encode_abort
from pacs_server.net.transport import AssociationEnded, ConnectionLost, Transport
from pacs_server.scp.admission import Admission
from pacs_server.scp.dispatch import Dispatcher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EntitySettings:
    """What holds for connections that begin now; a reload swaps the whole value."""

    terms: Terms
    supports: Callable[[str], Support | None]
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.tls is not None:
            # To drain we end reading, which looks like the peer's end of stream; the farewell has to go out after it.
            # DICOM knows the lengths of its PDUs, so that a stream that was cut is noticed without TLS telling.
            self.tls.options |= ssl.OP_IGNORE_UNEXPECTED_EOF

    @property
    def tick(self) -> float:
        """No wait is longer than the shortest deadline, in seconds."""
        timeouts = self.terms.timeouts
        return min(self.terms.association_timeout, timeouts.idle, timeouts.network)


class ApplicationEntity:
    """Serves accepted connections."""

    def __init__(
        self,
        settings: EntitySettings,
        admission: Admission,
        dispatcher: Dispatcher,
        metrics: Metrics,
        established: Callable[[Connection, Association], None],
    ) -> None:
        """`established` is told of every connection that has become an association."""
        self.settings = settings
        self._admission = admission
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._established = established

    def serve(self, connection: Connection) -> None:
        """Serve one connection until it is over; nothing that a peer does raises out of here."""
        settings = self.settings
        try:
            _secure(connection, settings)
            connection.transport = transport = Transport(connection.socket, tick=settings.tick)
        except (OSError, ConnectionLost) as error:
            self._metrics.rejected("tls_handshake" if settings.tls else "connection")
            log.info("connection failed", extra={"peer": connection.address, "reason": str(error)})
            return
        self._associate(connection, transport, settings)
        self._metrics.traffic(transport.bytes_in, transport.bytes_out)

    def _associate(self, connection: Connection, transport: Transport, settings: EntitySettings) -> None:
        proposed: list[Proposal] = []

        def admit(proposal: Proposal) -> Rejection | None:
            rejection = self._admission.admit(proposal)
            if rejection is None:
                proposed.append(proposal)
            return rejection

        try:
            association = accept(
                transport, settings.terms, peer=connection.address, admit=admit, supports=settings.supports
            )
            self._metrics.association()
            self._established(connection, association)
            self._serve(association, connection, len(proposed[0].contexts))
        except AssociationEnded as ended:
            self._not_established(transport, connection, ended)
        finally:
            if proposed:
                self._admission.leave()

    def _not_established(self, transport: Transport, connection: Connection, ended: AssociationEnded) -> None:
        if isinstance(ended, Rejected):
            self._metrics.rejected(ended.rejection.name)
            transport.finish()
        elif isinstance(ended, ProtocolError):
            self._metrics.rejected("protocol")
            _send_abort(transport, ended.reason)
        elif not isinstance(ended, ConnectionLost | PeerAborted):
            self._metrics.rejected("timeout")
        log.info("no association", extra={"peer": connection.address, "ended": ended.how})

    def _serve(self, association: Association, connection: Connection, proposed: int) -> None:
        operations: Counter[str] = Counter()
        how = "internal error"
        try:
            self._dispatcher.serve(association, operations)
        except AssociationEnded as ended:
            how = ended.how
            _end(association, ended)
        finally:
            log.info("association", extra=_summary(association, connection, proposed, operations) | {"ended": how})


def _secure(connection: Connection, settings: EntitySettings) -> None:
    """Do the TLS handshake if there is to be one. Raises OSError."""
    if settings.tls is None:
        return
    # One deadline for the whole handshake, in this connection's own thread.
    connection.socket.settimeout(settings.terms.association_timeout)
    sock = settings.tls.wrap_socket(connection.socket, server_side=True, do_handshake_on_connect=False)
    # From here on the connection can be cut by cutting the TLS socket: it has taken the descriptor over.
    connection.socket = sock
    sock.do_handshake()


def _end(association: Association, ended: AssociationEnded) -> None:
    """Tell the peer why, if it is our doing."""
    if isinstance(ended, ProtocolError):
        association.abort(ended.reason)
    elif not isinstance(ended, ConnectionLost | PeerAborted | PeerReleased):
        association.abort()


def _send_abort(transport: Transport, reason: AbortReason) -> None:
    try:
        transport.send([encode_abort(2, reason)], 1.0)
    except AssociationEnded:
        return
    transport.finish()


def _summary(
    association: Association, connection: Connection, proposed: int, operations: Counter[str]
) -> dict[str, object]:
    transport = association.transport
    return {
        "peer": association.peer,
        "calling_ae": association.calling_ae,
        "called_ae": association.called_ae,
        "contexts": f"{len(association.contexts)}/{proposed}",
        "operations": " ".join(f"{name}:{count}" for name, count in sorted(operations.items())) or "none",
        "bytes_in": transport.bytes_in,
        "bytes_out": transport.bytes_out,
        "seconds": round(time.monotonic() - connection.opened, 3),
    }
