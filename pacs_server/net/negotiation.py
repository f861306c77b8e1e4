"""Association negotiation: proposals and answers as values, and our answer to a proposal (PS3.8 7.1, PS3.7 D.3)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
# Characters (PS3.5 9.1).
_MAX_UID = 64

# User-Identity-Type of PS3.7 Table D.3-14.
USERNAME, USERNAME_AND_PASSCODE, KERBEROS, SAML, JWT = range(1, 6)

# Result of a presentation context (PS3.8 Table 9-18).
ACCEPTANCE, USER_REJECTION, NO_REASON, ABSTRACT_SYNTAX, TRANSFER_SYNTAXES = range(5)


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as proposed: an odd ID, an abstract syntax, and the transfer syntaxes on offer.

    `extended` is what we ask of the service by extended negotiation (PS3.7 D.3.3.5), empty for nothing.
    """

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    extended: bytes = b""


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """An accepted presentation context, and whether we may be the SCU and the SCP on it."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The User Identity that a requestor sends (PS3.7 D.3.3.7.1). Its secrets are left out of the repr.

    `primary` is the user name, the ticket or the token; `secondary` is the passcode.
    """

    kind: int
    positive_response: bool
    primary: bytes = field(repr=False)
    secondary: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class UserInformation:
    """The user information item of a proposal or an answer (PS3.7 D.3.3).

    `max_pdu_size` 0 means no limit. `roles` maps SOP Class UIDs to (SCU role, SCP role); `extended`
    maps them to service class application information. `identity` is in proposals only, the server
    response `identity_response` in answers only.
    """

    max_pdu_size: int = 0
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    async_operations: tuple[int, int] | None = None
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    extended: Mapping[str, bytes] = field(default_factory=dict)
    identity: UserIdentity | None = None
    identity_response: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Proposal:
    """An A-ASSOCIATE-RQ."""

    calling_ae: str
    called_ae: str
    contexts: tuple[ProposedContext, ...]
    user: UserInformation
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """An A-ASSOCIATE-AC: (context ID, result, transfer syntax) for each proposed context."""

    results: tuple[tuple[int, int, str], ...]
    user: UserInformation


@dataclass(frozen=True, slots=True)
class Support:
    """What we accept for an abstract syntax.

    `transfer_syntaxes` are in our order of preference; with `proposer_prefers` the order of the proposal
    decides instead. `extended` is the most that we agree to of the application information. `window` is how many
    requests the peer may send before the first of them is answered.
    """

    transfer_syntaxes: tuple[str, ...]
    proposer_prefers: bool = False
    as_scu: bool = False
    extended: bytes | None = None
    window: int = 1


def negotiate(proposal: Proposal, supports: Callable[[str], Support | None]) -> tuple[Answer, list[AcceptedContext]]:
    """Answer a proposal as the acceptor. The caller adds the maximum PDU size and our implementation's name.

    Every context gets a result of its own; an unknown one does not cost the association (PS3.8 9.3.3.2).
    """
    results: list[tuple[int, int, str]] = []
    accepted: list[AcceptedContext] = []
    roles: dict[str, tuple[bool, bool]] = {}
    extended: dict[str, bytes] = {}
    for context in proposal.contexts:
        # A name too long for a UID is no SOP class.
        support = supports(context.abstract_syntax) if len(context.abstract_syntax) <= _MAX_UID else None
        chosen = _choose(context.transfer_syntaxes, support) if support else None
        if support is None or chosen is None:
            result = ABSTRACT_SYNTAX if support is None else TRANSFER_SYNTAXES
            # PS3.8 9.3.3.2: the transfer syntax of a rejected context is not significant, but must be present.
            results.append((context.context_id, result, context.transfer_syntaxes[0]))
            continue
        name = context.abstract_syntax
        # PS3.7 D.3.3.4: without role selection the requestor is the SCU and we are the SCP.
        their_scu, their_scp = proposal.user.roles.get(name, (True, False))
        if name in proposal.user.roles:
            their_scp = their_scp and support.as_scu
            roles[name] = (their_scu, their_scp)
        if not their_scu and not their_scp:
            results.append((context.context_id, NO_REASON, chosen))
            continue
        if name in proposal.user.extended and support.extended is not None:
            extended[name] = _agree(proposal.user.extended[name], support.extended)
        results.append((context.context_id, ACCEPTANCE, chosen))
        accepted.append(AcceptedContext(context.context_id, name, chosen, as_scu=their_scp, as_scp=their_scu))
    user = UserInformation(
        async_operations=_window(proposal.user.async_operations, accepted, supports),
        roles=roles,
        extended=extended,
    )
    return Answer(tuple(results), user), accepted


def _choose(proposed: tuple[str, ...], support: Support) -> str | None:
    first, second = proposed, support.transfer_syntaxes
    if not support.proposer_prefers:
        first, second = second, first
    return next((uid for uid in first if uid in second), None)


def _window(
    proposed: tuple[int, int] | None, accepted: Sequence[AcceptedContext], supports: Callable[[str], Support | None]
) -> tuple[int, int] | None:
    """The numbers of operations that the peer and we may have outstanding: as few as any accepted context allows.

    PS3.7 D.3.3.3: 0 is proposed for any number, and what was not proposed is not answered. We invoke one at a time.
    """
    if proposed is None:
        return None
    found = (supports(context.abstract_syntax) for context in accepted)
    allowed = min((support.window for support in found if support is not None), default=1)
    return min(proposed[0] or allowed, allowed), 1


def _agree(proposed: bytes, offered: bytes) -> bytes:
    """The lesser of each pair of bytes, which is what both sides support."""
    return bytes(map(min, proposed, offered))
