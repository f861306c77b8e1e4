"""The acceptor's side of association establishment: one A-ASSOCIATE-RQ in, one answer out (PS3.8 7.1)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pacs_server.net.association import Association, Timeouts
from pacs_server.net.negotiation import APPLICATION_CONTEXT, Proposal, Support, decode_request, encode_accept, negotiate
from pacs_server.net.pdu import AbortReason, PDUReader, PDUType, PeerAborted, ProtocolError, encode_reject
from pacs_server.net.peer import Admitted, Caller
from pacs_server.net.transport import AssociationEnded, DeadlineExpired, Transport


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason of PS3.8 Table 9-21; `name` labels metrics."""

    result: int
    source: int
    reason: int
    name: str


class Rejected(AssociationEnded):
    """The association was rejected, by us or by the peer."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"rejected: {rejection.name.replace('_', ' ')}")
        self.rejection = rejection


APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2, "application_context")
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2, "protocol_version")


@dataclass(frozen=True, slots=True)
class Terms:
    """What we put up with and say of ourselves; sizes in bytes, times in seconds."""

    max_pdu_size: int
    association_timeout: float
    timeouts: Timeouts
    implementation_class_uid: str
    implementation_version_name: str


def accept(
    transport: Transport,
    terms: Terms,
    *,
    caller: Caller,
    admit: Callable[[Proposal, Caller], Rejection | Admitted],
    supports: Callable[[str], Support | None],
) -> Association:
    """Wait for an A-ASSOCIATE-RQ and answer it; `admit` may object, `supports` knows the abstract syntaxes.

    Raises Rejected after the A-ASSOCIATE-RJ has been sent, and the other kinds of AssociationEnded.
    """
    reader = PDUReader(transport, max_pdu_size=terms.max_pdu_size, pdu_timeout=terms.timeouts.network)
    proposal = _read_proposal(reader, terms.association_timeout)
    admitted = _check_protocol(proposal) or admit(proposal, caller)
    if isinstance(admitted, Rejection):
        transport.send([encode_reject(admitted.result, admitted.source, admitted.reason)], terms.timeouts.network)
        raise Rejected(admitted)
    answer, contexts = negotiate(proposal, supports)
    user = replace(
        answer.user,
        max_pdu_size=terms.max_pdu_size,
        implementation_class_uid=terms.implementation_class_uid,
        implementation_version_name=terms.implementation_version_name,
        identity_response=admitted.identity_response,
    )
    transport.send([encode_accept(proposal, replace(answer, user=user))], terms.timeouts.network)
    return Association(
        transport,
        reader,
        contexts={context.context_id: context for context in contexts},
        max_pdu_size=proposal.user.max_pdu_size,
        timeouts=terms.timeouts,
        calling_ae=proposal.calling_ae,
        called_ae=proposal.called_ae,
        peer=caller.address,
        caller=caller,
        admitted=admitted,
        extended=dict(user.extended),
    )


def _read_proposal(reader: PDUReader, timeout: float) -> Proposal:
    try:
        # PS3.8 9.1.5: the ARTIM timer runs until the A-ASSOCIATE-RQ is there.
        kind, body = reader.read(timeout)
    except DeadlineExpired:
        raise DeadlineExpired("no A-ASSOCIATE-RQ in time") from None
    if kind == PDUType.ABORT:
        raise PeerAborted("aborted by the peer")
    if kind != PDUType.ASSOCIATE_RQ:
        raise ProtocolError(f"{PDUType(kind).name} before an association", AbortReason.UNEXPECTED_PDU)
    return decode_request(bytes(body))


def _check_protocol(proposal: Proposal) -> Rejection | None:
    # PS3.8 9.3.2: only bit 0 of the version is tested.
    if not proposal.protocol_version & 1:
        return PROTOCOL_VERSION_NOT_SUPPORTED
    if proposal.application_context != APPLICATION_CONTEXT:
        return APPLICATION_CONTEXT_NOT_SUPPORTED
    return None
