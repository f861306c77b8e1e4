"""Choose presentation contexts: the ones to propose for a set of instances, and the accepted one for each instance.

These are pure functions. An association is planned from what is to be sent, and the context of an
instance is chosen from what the remote AE accepted.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_server.net.negotiation import ProposedContext

# PS3.8 9.3.2.2: context ids are odd numbers from 1 to 255.
_CONTEXTS_PER_ASSOCIATION = 128
# PS3.5 10.1: Implicit VR Little Endian is the one that every AE takes.
_EXPLICIT, _IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
_UNCOMPRESSED: tuple[str, ...] = (_EXPLICIT, _IMPLICIT)


@dataclass(frozen=True, slots=True)
class AssociationPlan:
    """The contexts that one association proposes, and the kinds (SOP class, transfer syntax) to send over it."""

    contexts: tuple[ProposedContext, ...]
    kinds: frozenset[tuple[str, str]]


def plan(kinds: Iterable[tuple[str, str]], allowed: Collection[str] = ()) -> list[AssociationPlan]:
    """Associations for all `kinds` (SOP class, stored transfer syntax), with at most 128 contexts each.

    If there are `allowed` transfer syntaxes, no others are proposed; then a kind may have no context.
    """
    plans: list[AssociationPlan] = []
    members: list[tuple[str, str]] = []
    for kind in sorted(set(kinds)):
        if len(_contexts([*members, kind], allowed)) > _CONTEXTS_PER_ASSOCIATION:
            plans.append(_association(members, allowed))
            members = []
        members.append(kind)
    return [*plans, _association(members, allowed)] if members else plans


def _contexts(kinds: Iterable[tuple[str, str]], allowed: Collection[str]) -> list[tuple[str, tuple[str, ...]]]:
    if not allowed:
        return _all_contexts(kinds)
    narrowed = ((name, tuple(uid for uid in syntaxes if uid in allowed)) for name, syntaxes in _all_contexts(kinds))
    # Several may be the same now.
    return list(dict.fromkeys(context for context in narrowed if context[1]))


def _all_contexts(kinds: Iterable[tuple[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """The contexts to propose for `kinds`: SOP classes, each with the transfer syntaxes to choose from.

    First each SOP class has a context that is enough to send all of its kinds, so that it does not matter if the
    remote AE takes only one context for a SOP class: the uncompressed transfer syntaxes, and the stored one before
    them if there is only one. The remote AE chooses one of these, not always the stored one. So the stored ones
    follow, each in a context of its own.

    Some receivers (GDCM) decode whatever they receive by the context that they accepted last, and like Implicit VR
    Little Endian best. So Explicit VR Little Endian alone is proposed at the very end and for all SOP classes, and not
    at all if something is stored in Implicit VR Little Endian: then they get everything in one transfer syntax.
    """
    by_class = {name: [stored for _, stored in group] for name, group in groupby(kinds, itemgetter(0))}
    alone = [(name, (uid,)) for name, stored in by_class.items() for uid in stored if uid != _EXPLICIT]
    every = {uid for stored in by_class.values() for uid in stored}
    explicit = [(name, (_EXPLICIT,)) for name in by_class] if _EXPLICIT in every and _IMPLICIT not in every else []
    return [*((name, _first(stored)) for name, stored in by_class.items()), *alone, *explicit]


def _first(stored: list[str]) -> tuple[str, ...]:
    # A remote AE that chooses one of several compressed transfer syntaxes could not get the instances in the others.
    return tuple(dict.fromkeys((*(stored if len(stored) == 1 else ()), *_UNCOMPRESSED)))


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


def _association(kinds: list[tuple[str, str]], allowed: Collection[str]) -> AssociationPlan:
    proposed = (ProposedContext(2 * n + 1, *context) for n, context in enumerate(_contexts(kinds, allowed)))
    return AssociationPlan(tuple(proposed), frozenset(kinds))
