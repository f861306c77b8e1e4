"""Request an association with a remote AE, and wait for responses on it."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pacs_server.config import tls
from pacs_server.dicom.implementations import Implementation
from pacs_server.net.acceptor import Rejected, Rejection, Terms
from pacs_server.net.associate import decode_accept, encode_request
from pacs_server.net.association import Association
from pacs_server.net.message import RESPONSE, Command
from pacs_server.net.negotiation import (
    ACCEPTANCE,
    AcceptedContext,
    Answer,
    Proposal,
    ProposedContext,
    UserInformation,
)
from pacs_server.net.pdu import AbortReason, PDUReader, PDUType, PeerAborted, ProtocolError
from pacs_server.net.transport import AssociationEnded, ConnectionLost, Transport
from pacs_server.scu.remote import RemoteAE


def connect(
    remote: RemoteAE,
    calling_ae: str,
    contexts: Sequence[ProposedContext],
    terms: Terms,
    roles: Mapping[str, tuple[bool, bool]] | None = None,
    *,
    opening: Callable[[Transport], object] = lambda transport: None,
) -> Association:
    """Open an association with `remote`; contexts that the remote AE did not accept are missing from the result.

    `roles` maps SOP Class UIDs to the (SCU, SCP) roles that we propose to take (PS3.7 D.3.3.4). The idle
    time-out of `terms` is replaced by the response time-out of `remote`. `opening` is given the connection before the
    remote AE is waited for.
    Raises ConnectionLost if the remote AE cannot be reached in time, Rejected, and other kinds of AssociationEnded.
    """
    terms = replace(terms, timeouts=replace(terms.timeouts, idle=remote.response_timeout))
    user = UserInformation(
        terms.max_pdu_size,
        terms.implementation_class_uid,
        terms.implementation_version_name,
        roles=roles or {},
        extended={context.abstract_syntax: context.extended for context in contexts if context.extended},
    )
    proposal = Proposal(calling_ae, remote.ae_title, tuple(contexts), user)
    tick = min(terms.association_timeout, terms.timeouts.idle, terms.timeouts.network)
    transport = Transport(_connected_socket(remote), tick=tick)
    try:
        opening(transport)
        transport.send([encode_request(proposal)], terms.timeouts.network)
        reader = PDUReader(transport, max_pdu_size=terms.max_pdu_size, pdu_timeout=terms.timeouts.network)
        answer = _read_answer(reader, terms.association_timeout)
    except AssociationEnded:
        transport.close()
        raise
    association = Association(
        transport,
        reader,
        contexts=_accepted(proposal, answer),
        max_pdu_size=answer.user.max_pdu_size,
        timeouts=terms.timeouts,
        calling_ae=calling_ae,
        called_ae=remote.ae_title,
        peer=remote.host,
        extended=dict(answer.user.extended),
    )
    association.implementation = Implementation(
        _clean(answer.user.implementation_class_uid), _clean(answer.user.implementation_version_name)
    )
    return association


def _clean(text: str) -> str:
    """What a peer says of itself, as it can be kept and printed."""
    return "".join(filter(str.isprintable, text[:64]))


def read_response(association: Association, request: Command) -> Command:
    """Wait for the response to `request` and drop its data set. Raises AssociationEnded."""
    message = association.read_message()
    association.skip_data()
    association.busy = False
    command = message.command
    wanted = (request.command_field or 0) | RESPONSE
    if command.command_field != wanted or command.message_id_being_responded_to != request.message_id:
        raise ProtocolError("response to something else than was asked", AbortReason.UNEXPECTED_PDU)
    return command


def _connected_socket(remote: RemoteAE) -> socket.socket:
    sock = None
    try:
        sock = socket.create_connection((remote.host, remote.port), remote.connect_timeout)
        return remote.tls.wrap_socket(sock, server_hostname=remote.host) if remote.tls else sock
    except (OSError, UnicodeError) as error:
        # UnicodeError is raised for a host name with a label that is empty or too long.
        if sock is not None:
            sock.close()
        reason = tls.reason(error) if isinstance(error, OSError) else str(error)
        raise ConnectionLost(f"cannot connect to {remote.host} port {remote.port}: {reason}") from error


def _read_answer(reader: PDUReader, timeout: float) -> Answer:
    kind, body = reader.read(timeout)
    if kind == PDUType.ASSOCIATE_AC:
        return decode_accept(bytes(body))
    if kind == PDUType.ASSOCIATE_RJ and len(body) >= 4:
        raise Rejected(Rejection(body[1], body[2], body[3], f"by_the_peer_({body[1]},{body[2]},{body[3]})"))
    if kind == PDUType.ABORT:
        raise PeerAborted("aborted by the peer")
    raise ProtocolError(f"{PDUType(kind).name} in answer to an A-ASSOCIATE-RQ", AbortReason.UNEXPECTED_PDU)


def _accepted(proposal: Proposal, answer: Answer) -> dict[int, AcceptedContext]:
    proposed = {context.context_id: context for context in proposal.contexts}
    accepted = {}
    for context_id, result, uid in answer.results:
        # A peer that answers with a transfer syntax that was not proposed has accepted nothing.
        if result != ACCEPTANCE or context_id not in proposed or uid not in proposed[context_id].transfer_syntaxes:
            continue
        name = proposed[context_id].abstract_syntax
        as_scu, as_scp = _roles(proposal.user.roles.get(name), answer.user.roles.get(name))
        accepted[context_id] = AcceptedContext(context_id, name, uid, as_scu=as_scu, as_scp=as_scp)
    return accepted


def _roles(proposed: tuple[bool, bool] | None, answered: tuple[bool, bool] | None) -> tuple[bool, bool]:
    """The roles that we may take, as (SCU, SCP)."""
    # PS3.7 D.3.3.4: the requestor is the SCU if no role was proposed or the answer has none.
    if proposed is None or answered is None:
        return True, False
    return proposed[0] and answered[0], proposed[1] and answered[1]
