"""Which presentation contexts a C-MOVE proposes, and on which of them an instance is sent.

Pure: an association is planned from what is to be sent, the choice is made from what was accepted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

# PS3.8 9.3.2.2: context ids are odd numbers from 1 to 255.
_CONTEXTS_PER_ASSOCIATION = 128
# PS3.5 10.1: Implicit VR Little Endian is the one that every AE takes.
_UNCOMPRESSED: tuple[str, ...] = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """One presentation context to propose: a SOP class and the transfer syntaxes on offer."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssociationPlan:
    """The contexts of one association by id, and the kinds (SOP class, transfer syntax) to send over it."""

    contexts: Mapping[int, ProposedContext]
    kinds: frozenset[tuple[str, str]]


def plan(kinds: Iterable[tuple[str, str]]) -> list[AssociationPlan]:
    """Associations for all `kinds` (SOP class, stored transfer syntax), at most 128 contexts each.

    Every stored transfer syntax has a context of its own, so that the peer cannot take another in its
    place; next to it the uncompressed ones are proposed to fall back on, in the same association.
    """
    plans: list[AssociationPlan] = []
    contexts: dict[ProposedContext, None] = {}  # a set that keeps its order
    members: list[tuple[str, str]] = []
    for kind in sorted(set(kinds)):
        wanted = dict.fromkeys(_contexts(*kind))
        if len(contexts | wanted) > _CONTEXTS_PER_ASSOCIATION:
            plans.append(_association(contexts, members))
            contexts, members = {}, []
        contexts |= wanted
        members.append(kind)
    return [*plans, _association(contexts, members)] if members else plans


def choose(
    accepted: Mapping[int, tuple[str, str]], sop_class: str, stored_transfer_syntax: str
) -> tuple[int, str] | None:
    """The context id and transfer syntax to send on, None when the peer took none that fits.

    `accepted` maps context ids to (SOP class, transfer syntax). The stored transfer syntax is best,
    then Explicit VR Little Endian, which keeps private VRs, then Implicit VR Little Endian.
    """
    by_kind = {kind: context_id for context_id, kind in accepted.items()}
    for transfer_syntax in (stored_transfer_syntax, *_UNCOMPRESSED):
        context_id = by_kind.get((sop_class, transfer_syntax))
        if context_id is not None:
            return context_id, transfer_syntax
    return None


def _contexts(sop_class: str, transfer_syntax: str) -> tuple[ProposedContext, ...]:
    fallback = tuple(uid for uid in _UNCOMPRESSED if uid != transfer_syntax)
    return ProposedContext(sop_class, (transfer_syntax,)), ProposedContext(sop_class, fallback)


def _association(contexts: Iterable[ProposedContext], kinds: Iterable[tuple[str, str]]) -> AssociationPlan:
    return AssociationPlan({2 * n + 1: context for n, context in enumerate(contexts)}, frozenset(kinds))
