"""Choose presentation contexts: the ones to propose for a set of instances, and the accepted one for each instance.

These are pure functions. An association is planned from what is to be sent, and the context of an
instance is chosen from what the remote AE accepted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_server.net.negotiation import ProposedContext

# PS3.8 9.3.2.2: context ids are odd numbers from 1 to 255.
_CONTEXTS_PER_ASSOCIATION = 128
# PS3.5 10.1: Implicit VR Little Endian is the one that every AE takes.
_UNCOMPRESSED: tuple[str, ...] = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


@dataclass(frozen=True, slots=True)
class AssociationPlan:
    """The contexts that one association proposes, and the kinds (SOP class, transfer syntax) to send over it."""

    contexts: tuple[ProposedContext, ...]
    kinds: frozenset[tuple[str, str]]


def plan(kinds: Iterable[tuple[str, str]]) -> list[AssociationPlan]:
    """Associations for all `kinds` (SOP class, stored transfer syntax), with at most 128 contexts each.

    Every stored transfer syntax has a context of its own, so that the remote AE cannot choose another
    one in its place. A second context of the same association proposes the uncompressed transfer
    syntaxes to fall back on.
    """
    plans: list[AssociationPlan] = []
    contexts: dict[tuple[str, tuple[str, ...]], None] = {}  # a set that keeps its order
    members: list[tuple[str, str]] = []
    for sop_class, transfer_syntax in sorted(set(kinds)):
        fallback = tuple(uid for uid in _UNCOMPRESSED if uid != transfer_syntax)
        wanted = dict.fromkeys(((sop_class, (transfer_syntax,)), (sop_class, fallback)))
        if len(contexts | wanted) > _CONTEXTS_PER_ASSOCIATION:
            plans.append(_association(contexts, members))
            contexts, members = {}, []
        contexts |= wanted
        members.append((sop_class, transfer_syntax))
    return [*plans, _association(contexts, members)] if members else plans


def choose(
    accepted: Mapping[tuple[str, str], int], sop_class: str, stored_transfer_syntax: str
) -> tuple[int, str] | None:
    """The context ID and the transfer syntax to send on, or None if the remote AE accepted none that fits.

    `accepted` maps (SOP class, transfer syntax) to context IDs. The stored transfer syntax is best,
    then Explicit VR Little Endian, which keeps private VRs, then Implicit VR Little Endian.
    """
    for transfer_syntax in (stored_transfer_syntax, *_UNCOMPRESSED):
        context_id = accepted.get((sop_class, transfer_syntax))
        if context_id is not None:
            return context_id, transfer_syntax
    return None


def _association(contexts: Iterable[tuple[str, tuple[str, ...]]], kinds: Iterable[tuple[str, str]]) -> AssociationPlan:
    proposed = (ProposedContext(2 * n + 1, *context) for n, context in enumerate(contexts))
    return AssociationPlan(tuple(proposed), frozenset(kinds))
