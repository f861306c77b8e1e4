"""The application entity: serves a connection from its first to its last byte and logs one line about it."""

import logging
import socket
import ssl
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from pacs_server.config.tls import peer_names, reason
from pacs_server.dicom.caller import Caller, Door
from pacs_server.index.peers import ACCEPTED
from pacs_server.kit.logs import Sparingly, event
from pacs_server.kit.metrics import Metrics
from pacs_server.net.acceptor import Acceptor, Admitted, Rejected, Rejection, Terms
from pacs_server.net.association import Association, PeerReleased
from pacs_server.net.limits import PenaltyQueue
from pacs_server.net.listener import Connection
from pacs_server.net.negotiation import Proposal
from pacs_server.net.pdu import AbortReason, PDUType, PeerAborted, ProtocolError, encode_abort
from pacs_server.net.transport import AssociationEnded, ConnectionLost, Transport, farewell, handshake, pause
from pacs_server.scp.admission import Admission
from pacs_server.scp.auditing import AssociationAuditor
from pacs_server.scp.dispatch import Dispatcher
from pacs_server.scp.rejections import TEMPORARY_CONGESTION
from pacs_server.services.associations import RecentAssociations, Traffic
from pacs_server.services.peers import PeersSeenService

log = logging.getLogger(__name__)

# How long a peer that connects too often may take to propose an association, so that it can be rejected.
_TURN_AWAY_SECONDS = 1.0
_ASSOCIATE_RQ = bytes((PDUType.ASSOCIATE_RQ,))


@dataclass(frozen=True, slots=True)
class EntitySettings:
    """The settings of new connections; a reload replaces the whole value."""

    acceptor: Acceptor
    tls: ssl.SSLContext | None = None

    @property
    def terms(self) -> Terms:
        """The terms on which associations are accepted."""
        return self.acceptor.terms

    @property
    def tick(self) -> float:
        """The longest single wait in seconds, which is the shortest deadline."""
        terms = self.acceptor.terms
        return min(terms.association_timeout, terms.timeouts.idle, terms.timeouts.network)


class ApplicationEntity:
    """Serves accepted connections."""

    def __init__(  # noqa: PLR0913 - what an association needs of the server
        self,
        settings: EntitySettings,
        admission: Admission,
        dispatcher: Dispatcher,
        metrics: Metrics,
        established: Callable[[Connection, Association], None],
        *,
        peers: PeersSeenService,
        auditor: AssociationAuditor,
        recent: RecentAssociations,
        transport: Callable[..., Transport] = Transport,
    ) -> None:
        """`established` is called for every connection that becomes an association; `peers` hears of every proposal.

        `recent` hears how every connection ended. `transport` makes the transport of a connection.
        """
        self.settings = settings
        self._admission = admission
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._established = established
        self._peers = peers
        self._auditor = auditor
        self._recent = recent
        self._transport = transport
        self._sparingly = Sparingly(log)
        self._penalties = PenaltyQueue()

    def serve(self, connection: Connection) -> None:
        """Serve one connection to its end; nothing that a peer does raises an exception here."""
        settings, before = self.settings, time.thread_time()
        try:
            wait = self._penalties.delay(connection.address)
            if wait:
                pause(connection.socket, wait)
            self._serve_now(connection, settings)
        except ConnectionLost:
            self._metrics.rejected("connection")
        if not connection.useful:
            self._penalties.penalise(connection.address, time.thread_time() - before)

    def _serve_now(self, connection: Connection, settings: EntitySettings) -> None:
        if self._admission.comes_too_often(connection.address):
            self._turn_away(connection, settings)
            return
        try:
            _secure(connection, settings)
            connection.transport = transport = self._transport(connection.socket, tick=settings.tick)
        except (OSError, ConnectionLost) as error:
            reason_name = "tls_handshake" if connection.tls else "connection"
            self._metrics.rejected(reason_name)
            self._recent.refused(connection.address, reason_name, tls=connection.tls)
            self._sparingly.log(logging.INFO, "connection failed", connection.address, _why(error))
            if connection.tls:
                self._auditor.handshake_failed(connection.address, _why(error))
            if isinstance(error, ssl.SSLError):
                # In TLS 1.3 the peer has sent its proposal by now, and closing the socket would discard the alert.
                farewell(connection.socket)
            return
        self._associate(connection, transport, settings)
        self._metrics.traffic(transport.bytes_in, transport.bytes_out)
        if connection.tls:
            transport.close()

    def _turn_away(self, connection: Connection, settings: EntitySettings) -> None:
        """Reject a connection from an address that connects too often; with TLS, close it before the handshake."""
        self._metrics.rejected(TEMPORARY_CONGESTION.name)
        titles = {} if connection.tls else _reject_for_rate(connection, settings)
        self._recent.refused(connection.address, TEMPORARY_CONGESTION.name, tls=connection.tls, **titles)
        self._sparingly.log(logging.INFO, "no association", connection.address, TEMPORARY_CONGESTION.name, **titles)

    def _associate(self, connection: Connection, transport: Transport, settings: EntitySettings) -> None:
        # The caller whose association was admitted, and how many contexts were proposed.
        held: list[tuple[Caller, int]] = []

        def admit(proposal: Proposal) -> Rejection | Admitted:
            caller, user = _caller(proposal, connection), proposal.user
            admitted = self._admission.admit(caller, user.identity)
            outcome = ACCEPTED if isinstance(admitted, Admitted) else admitted.name
            self._peers.saw(caller, outcome, implementation_version_name=user.implementation_version_name or "")
            if isinstance(admitted, Admitted):
                held.append((admitted.caller, len(proposal.contexts)))
                self._auditor.admitted(admitted.caller)
            else:
                self._auditor.rejected(caller, user.identity, admitted)
            return admitted

        def leave() -> None:
            self._admission.leave(held.pop()[0])

        try:
            association = settings.acceptor.accept(transport, _patience(connection, settings.terms), admit=admit)
            association.releasing = leave
            self._metrics.association()
            self._established(connection, association)
            self._serve(association, connection, held[0][1])
        except AssociationEnded as ended:
            self._not_established(transport, connection, ended)
        finally:
            if held:
                leave()

    def _not_established(self, transport: Transport, connection: Connection, ended: AssociationEnded) -> None:
        why = "timeout"
        titles: dict[str, str] = {}
        if isinstance(ended, Rejected):
            why, titles = ended.rejection.name, _titles(ended)
            transport.finish()
        elif isinstance(ended, ProtocolError):
            why = "protocol"
            _send_abort(transport, ended.reason)
        elif isinstance(ended, ConnectionLost | PeerAborted):
            why = "lost"
        if why != "lost":
            self._metrics.rejected(why)
        self._recent.refused(connection.address, why, tls=connection.tls, **titles)
        self._sparingly.log(logging.INFO, "no association", connection.address, why, ended=ended.how, **titles)

    def _serve(self, association: Association, connection: Connection, proposed: int) -> None:
        operations = connection.operations
        how = "internal error"
        try:
            self._dispatcher.serve(association, operations)
        except AssociationEnded as ended:
            how = ended.how
            connection.useful = association.useful or isinstance(ended, PeerReleased)
            _end(association, ended)
        finally:
            traffic = _traffic(association, connection)
            self._recent.ended(association.caller, how, operations, traffic, association.refusals)
            if log.isEnabledFor(logging.INFO):
                event(log, logging.INFO, "association", _summary(association, connection, proposed, operations, how))


def _reject_for_rate(connection: Connection, settings: EntitySettings) -> dict[str, str]:
    """Wait a moment for a proposal and reject it; returns the AE titles in it, none if nothing was proposed in time."""
    patience = min(settings.terms.association_timeout, _TURN_AWAY_SECONDS)
    try:
        connection.transport = transport = Transport(connection.socket, tick=min(settings.tick, patience))
        settings.acceptor.accept(transport, patience, admit=lambda proposal: TEMPORARY_CONGESTION)
    except Rejected as rejected:
        transport.finish()
        return _titles(rejected)
    except (OSError, AssociationEnded):
        pass
    return {}


def _titles(rejected: Rejected) -> dict[str, str]:
    """The AE titles of a rejected proposal, for the log."""
    proposal = rejected.proposal
    return {} if proposal is None else {"calling_ae": proposal.calling_ae, "called_ae": proposal.called_ae}


def _secure(connection: Connection, settings: EntitySettings) -> None:
    """Do the TLS handshake, if the connection is for TLS. Raises OSError."""
    if not connection.tls:
        return
    if settings.tls is None:
        raise OSError("there is no certificate for TLS")
    # One deadline for the whole handshake; it runs in the thread of this connection.
    deadline = time.monotonic() + settings.terms.association_timeout
    connection.socket.settimeout(settings.terms.association_timeout)
    if connection.socket.recv(1, socket.MSG_PEEK) == _ASSOCIATE_RQ:
        raise OSError("plain DICOM on the TLS port?")
    sock = settings.tls.wrap_socket(connection.socket, server_side=True, do_handshake_on_connect=False)
    # The TLS socket has taken the descriptor over, so another thread that ends the connection has to shut it down.
    connection.socket = sock
    handshake(sock, deadline - time.monotonic())


def _patience(connection: Connection, terms: Terms) -> float:
    """How long to wait for a proposal, in seconds, less the time that the TLS handshake took."""
    if not connection.tls:
        return terms.association_timeout
    return max(connection.opened + terms.association_timeout - time.monotonic(), _TURN_AWAY_SECONDS)


def _why(error: OSError | ConnectionLost) -> str:
    return error.how if isinstance(error, ConnectionLost) else reason(error)


def _caller(proposal: Proposal, connection: Connection) -> Caller:
    """The caller as far as the proposal and the connection tell: no user and no rule yet."""
    sock = connection.socket
    return Caller(
        Door.DIMSE,
        connection.address,
        proposal.calling_ae,
        proposal.called_ae,
        tls=connection.tls,
        certificate=peer_names(sock) if isinstance(sock, ssl.SSLSocket) else (),
    )


def _end(association: Association, ended: AssociationEnded) -> None:
    """Abort the association if the server ends it."""
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


def _traffic(association: Association, connection: Connection) -> Traffic:
    transport = association.transport
    return Traffic(transport.bytes_in, transport.bytes_out, round(time.monotonic() - connection.opened, 3))


def _summary(
    association: Association, connection: Connection, proposed: int, operations: MutableMapping[str, int], how: str
) -> dict[str, object]:
    transport = association.transport
    return {
        "peer": association.peer,
        "calling_ae": association.calling_ae,
        "called_ae": association.called_ae,
        **({} if association.caller.user is None else {"user": association.caller.user}),
        "contexts": f"{len(association.contexts)}/{proposed}",
        "operations": " ".join(f"{name}:{count}" for name, count in sorted(operations.items())) or "none",
        "bytes_in": transport.bytes_in,
        "bytes_out": transport.bytes_out,
        "seconds": round(time.monotonic() - connection.opened, 3),
        "ended": how,
    }
