"""Choose presentation contexts: the ones to propose for a set of instances, and the accepted one for each instance.

These are pure functions. An association is planned from what is to be sent, and the context of an
instance is chosen from what the remote AE accepted.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

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

    The first context of a SOP class is enough to send all of its kinds, so that it does not matter if the remote AE
    takes only one context for a SOP class. It proposes the uncompressed transfer syntaxes, and the stored one
    before them if there is only one.

    The remote AE chooses one transfer syntax of that context, not always the stored one. So every stored transfer
    syntax is proposed once more in a context of its own, except Explicit VR Little Endian: some receivers decode
    whatever they receive by the last context that they accepted, and Implicit VR Little Endian, which they prefer, has
    to be that one whatever else is sent.
    """
    plans: list[AssociationPlan] = []
    contexts: list[tuple[str, tuple[str, ...]]] = []
    members: list[tuple[str, str]] = []
    for sop_class, group in groupby(sorted(set(kinds)), itemgetter(0)):
        stored = deque(transfer_syntax for _, transfer_syntax in group)
        while stored:
            if len(contexts) + 2 > _CONTEXTS_PER_ASSOCIATION:
                plans.append(_association(contexts, members))
                contexts, members = [], []
            room = _CONTEXTS_PER_ASSOCIATION - len(contexts) - 1
            taken = [stored.popleft() for _ in range(min(len(stored), room))]
            contexts += ((sop_class, proposed) for proposed in _proposed(taken))
            members += ((sop_class, transfer_syntax) for transfer_syntax in taken)
    return [*plans, _association(contexts, members)] if members else plans


def _proposed(stored: list[str]) -> Iterator[tuple[str, ...]]:
    """The transfer syntaxes of each context to propose for one SOP class."""
    # A remote AE that chooses one of several compressed transfer syntaxes could not get the instances in the others.
    first = stored if len(stored) == 1 else []
    yield tuple(dict.fromkeys((*first, *_UNCOMPRESSED)))
    for transfer_syntax in stored:
        if transfer_syntax != ExplicitVRLittleEndian:
            yield (transfer_syntax,)


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
