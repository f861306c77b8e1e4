"""Accept or reject an association: read the A-ASSOCIATE-RQ, answer it, return the association (PS3.8 7.1)."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pacs_server.dicom.caller import Caller
from pacs_server.net.associate import decode_request, encode_accept
from pacs_server.net.association import Association, Timeouts
from pacs_server.net.negotiation import (
    APPLICATION_CONTEXT,
    AcceptedContext,
    Answer,
    Proposal,
    Support,
    negotiate,
)
from pacs_server.net.pdu import AbortReason, PDUReader, PDUType, PeerAborted, ProtocolError, encode_reject
from pacs_server.net.transport import AssociationEnded, DeadlineExpired, Transport


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ with the result, source and reason of PS3.8 Table 9-21. `name` is its label in metrics."""

    result: int
    source: int
    reason: int
    name: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The caller of an association that was let in.

    `identity_response` is the server response of the User Identity answer (PS3.7 D.3.3.7), None if none was asked for.
    """

    caller: Caller
    identity_response: bytes | None = None


class Rejected(AssociationEnded):
    """The association was rejected, by the peer, or by us; then `proposal` is what the peer proposed."""

    def __init__(self, rejection: Rejection, proposal: Proposal | None = None) -> None:
        super().__init__(f"rejected: {rejection.name.replace('_', ' ')}")
        self.rejection = rejection
        self.proposal = proposal


# How many answers are cached, and for proposals of how many bytes at most: modalities send the same ones each time.
_MOST_CACHED, _LONGEST_CACHED = 64, 16 * 1024

APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2, "application_context")
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2, "protocol_version")


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of our associations, and the implementation that we name in them. Sizes in bytes, times in seconds."""

    max_pdu_size: int
    association_timeout: float
    timeouts: Timeouts
    implementation_class_uid: str
    implementation_version_name: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """A proposal and our answer to it, for any caller that is admitted."""

    proposal: Proposal
    answer: Answer
    contexts: Mapping[int, AcceptedContext]
    encoded: bytes


class Acceptor:
    """Answers proposals on these terms. `supports` returns what we accept for an abstract syntax."""

    def __init__(self, terms: Terms, supports: Callable[[str], Support | None]) -> None:
        self.terms = terms
        self._supports = supports
        self._lock = threading.Lock()
        # By the bytes of the A-ASSOCIATE-RQ, the one used last at the end. Admission is decided each time.
        self._cache: OrderedDict[bytes, Negotiated] = OrderedDict()

    def accept(
        self,
        transport: Transport,
        timeout: float,
        *,
        admit: Callable[[Proposal], Rejection | Admitted],
    ) -> Association:
        """Wait `timeout` seconds for an A-ASSOCIATE-RQ and answer it; `admit` decides who is let in.

        Raises Rejected after the A-ASSOCIATE-RJ has been sent, and the other kinds of AssociationEnded.
        """
        terms = self.terms
        network = terms.timeouts.network
        reader = PDUReader(transport, max_pdu_size=terms.max_pdu_size, pdu_timeout=network)
        body = _read_request(reader, timeout)
        negotiated = self._cached(body)
        proposal = decode_request(body) if negotiated is None else negotiated.proposal
        admitted = _check_protocol(proposal) or admit(proposal)
        if isinstance(admitted, Rejection):
            transport.send([encode_reject(admitted.result, admitted.source, admitted.reason)], network)
            raise Rejected(admitted, proposal)
        if negotiated is None:
            negotiated = self._negotiate(proposal, body, admitted)
        transport.send([negotiated.encoded], network)
        operations = negotiated.answer.user.async_operations
        return Association(
            transport,
            reader,
            contexts=negotiated.contexts,
            max_pdu_size=proposal.user.max_pdu_size,
            timeouts=terms.timeouts,
            calling_ae=proposal.calling_ae,
            called_ae=proposal.called_ae,
            peer=admitted.caller.address,
            caller=admitted.caller,
            extended=negotiated.answer.user.extended,
            window=1 if operations is None else operations[0],
        )

    def _cached(self, body: bytes) -> Negotiated | None:
        with self._lock:
            found = self._cache.get(body)
            if found is not None:
                self._cache.move_to_end(body)
            return found

    def _negotiate(self, proposal: Proposal, body: bytes, admitted: Admitted) -> Negotiated:
        answer, contexts = negotiate(proposal, self._supports)
        user = replace(
            answer.user,
            max_pdu_size=self.terms.max_pdu_size,
            implementation_class_uid=self.terms.implementation_class_uid,
            implementation_version_name=self.terms.implementation_version_name,
            identity_response=admitted.identity_response,
        )
        answer = replace(answer, user=user)
        accepted = {context.context_id: context for context in contexts}
        negotiated = Negotiated(proposal, answer, accepted, encode_accept(proposal, answer))
        # A proposal with a user identity holds a password, and its answer depends on the user.
        if proposal.user.identity is None and len(body) <= _LONGEST_CACHED:
            with self._lock:
                self._cache[body] = negotiated
                if len(self._cache) > _MOST_CACHED:
                    self._cache.popitem(last=False)
        return negotiated


def _read_request(reader: PDUReader, timeout: float) -> bytes:
    try:
        # PS3.8 9.1.5: the ARTIM timer runs until the A-ASSOCIATE-RQ has arrived.
        kind, body = reader.read(timeout)
    except DeadlineExpired:
        raise DeadlineExpired("no A-ASSOCIATE-RQ in time") from None
    if kind == PDUType.ABORT:
        raise PeerAborted("aborted by the peer")
    if kind != PDUType.ASSOCIATE_RQ:
        raise ProtocolError(f"{PDUType(kind).name} before an association", AbortReason.UNEXPECTED_PDU)
    return bytes(body)


def _check_protocol(proposal: Proposal) -> Rejection | None:
    # PS3.8 9.3.2: only bit 0 of the protocol version is tested.
    if not proposal.protocol_version & 1:
        return PROTOCOL_VERSION_NOT_SUPPORTED
    if proposal.application_context != APPLICATION_CONTEXT:
        return APPLICATION_CONTEXT_NOT_SUPPORTED
    return None
