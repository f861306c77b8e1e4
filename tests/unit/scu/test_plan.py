"""Presentation contexts for retrieval."""

import time
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
)

from pacs_server.net.negotiation import ProposedContext
from pacs_server.scu.plan import choose, plan

BOTH = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


def contexts_of(*kinds: tuple[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    [association] = plan(kinds)
    assert [context.context_id for context in association.contexts] == list(range(1, 2 * len(association.contexts), 2))
    assert association.kinds == set(kinds)
    return [(context.abstract_syntax, context.transfer_syntaxes) for context in association.contexts]


def test_contexts_are_numbered() -> None:
    assert plan([(CTImageStorage, BOTH[0])])[0].contexts == (
        ProposedContext(1, CTImageStorage, BOTH),
        ProposedContext(3, CTImageStorage, BOTH[:1]),
    )


def test_only_allowed_transfer_syntaxes_are_proposed() -> None:
    kinds = [(CTImageStorage, JPEG2000Lossless), (MRImageStorage, BOTH[0])]
    (explicit_only,) = plan(kinds, BOTH[:1])
    assert [(each.abstract_syntax, each.transfer_syntaxes) for each in explicit_only.contexts] == [
        (CTImageStorage, BOTH[:1]),
        (MRImageStorage, BOTH[:1]),
    ]
    assert explicit_only.kinds == set(kinds)
    (nothing_fits,) = plan(kinds, [JPEGLSLossless])
    assert nothing_fits.contexts == ()


@pytest.mark.parametrize("stored", [*BOTH, JPEG2000Lossless, ExplicitVRBigEndian])
def test_one_transfer_syntax_is_first_in_the_context_of_its_sop_class_and_has_one_of_its_own(stored: str) -> None:
    others = tuple(uid for uid in BOTH if uid != stored)
    assert contexts_of((CTImageStorage, stored)) == [(CTImageStorage, (stored, *others)), (CTImageStorage, (stored,))]


def test_of_several_transfer_syntaxes_the_first_context_has_what_all_can_be_sent_in() -> None:
    kinds = [(str(CTImageStorage), str(syntax)) for syntax in (*BOTH, JPEG2000Lossless, JPEGLSLossless)]
    assert contexts_of(*kinds) == [
        (CTImageStorage, BOTH),
        (CTImageStorage, (BOTH[1],)),
        (CTImageStorage, (JPEGLSLossless,)),
        (CTImageStorage, (JPEG2000Lossless,)),
    ]


def test_explicit_alone_is_proposed_last_and_for_all_sop_classes() -> None:
    assert contexts_of((MRImageStorage, JPEG2000Lossless), (CTImageStorage, BOTH[0])) == [
        (CTImageStorage, BOTH),
        (MRImageStorage, (JPEG2000Lossless, *BOTH)),
        (MRImageStorage, (JPEG2000Lossless,)),
        (CTImageStorage, BOTH[:1]),
        (MRImageStorage, BOTH[:1]),
    ]


def test_explicit_alone_is_not_proposed_beside_something_stored_in_implicit() -> None:
    assert contexts_of((MRImageStorage, BOTH[1]), (CTImageStorage, BOTH[0])) == [
        (CTImageStorage, BOTH),
        (MRImageStorage, BOTH[::-1]),
        (MRImageStorage, BOTH[1:]),
    ]


# Acceptors: they are given the proposed contexts in order, and return the accepted transfer syntaxes by context ID.
Acceptor = Callable[[Sequence[ProposedContext]], dict[int, str]]


def by_own_order(*wanted: str) -> Acceptor:
    """Decides about each context on its own, as storescp, Orthanc and GDCM do."""

    def accept(contexts: Sequence[ProposedContext]) -> dict[int, str]:
        found = ((c.context_id, [uid for uid in wanted if uid in c.transfer_syntaxes]) for c in contexts)
        return {context_id: syntaxes[0] for context_id, syntaxes in found if syntaxes}

    return accept


def by_our_order(*wanted: str) -> Acceptor:
    """Decides about each context on its own, and takes the first transfer syntax of ours that it knows."""

    def accept(contexts: Sequence[ProposedContext]) -> dict[int, str]:
        found = ((c.context_id, [uid for uid in c.transfer_syntaxes if uid in wanted]) for c in contexts)
        return {context_id: syntaxes[0] for context_id, syntaxes in found if syntaxes}

    return accept


def first_of_a_sop_class(accept: Acceptor) -> Acceptor:
    """Looks at the first context of a SOP class only."""

    def accept_first(contexts: Sequence[ProposedContext]) -> dict[int, str]:
        first = {context.abstract_syntax: context for context in reversed(contexts)}
        return accept(list(reversed(first.values())))

    return accept_first


def one_of_a_sop_class(accept: Acceptor) -> Acceptor:
    """Accepts one context of a SOP class only, the first that it can."""

    def accept_one(contexts: Sequence[ProposedContext]) -> dict[int, str]:
        classes = {context.context_id: context.abstract_syntax for context in contexts}
        one: dict[str, int] = {}
        accepted = accept(contexts)
        for context_id in accepted:
            one.setdefault(classes[context_id], context_id)
        return {context_id: accepted[context_id] for context_id in one.values()}

    return accept_one


def sent(kinds: Iterable[tuple[str, str]], acceptor: Acceptor) -> dict[tuple[str, str], str | None]:
    """The transfer syntax that each kind is sent in."""
    found: dict[tuple[str, str], str | None] = {}
    for association in plan(kinds):
        classes = {context.context_id: context.abstract_syntax for context in association.contexts}
        answers = acceptor(association.contexts)
        accepted = {(classes[context_id], syntax): context_id for context_id, syntax in answers.items()}
        for kind in association.kinds:
            choice = choose(accepted, *kind)
            found[kind] = None if choice is None else choice[1]
    return found


COMPRESSED = st.integers(1, 4).map(lambda n: f"1.3.{n}")
KINDS = st.lists(st.tuples(st.sampled_from(["1.2.1", "1.2.2"]), st.sampled_from(BOTH) | COMPRESSED), max_size=9)
EVERYTHING = (*BOTH, "1.3.1", "1.3.2", "1.3.3", "1.3.4")


@given(KINDS, st.permutations(EVERYTHING), st.integers(1, len(EVERYTHING)))
def test_what_the_receiver_takes_is_sent_as_it_is_stored(
    kinds: list[tuple[str, str]], order: list[str], number: int
) -> None:
    """Only Explicit is not, beside something stored in Implicit, for a receiver that likes Implicit better."""
    wanted = order[:number]
    mixed = BOTH[1] in wanted and BOTH[1] in {stored for _, stored in kinds}
    for acceptor in (by_own_order(*wanted), by_our_order(*wanted)):
        for (_, stored), syntax in sent(kinds, acceptor).items():
            if stored in wanted:
                assert syntax == stored or (stored == BOTH[0] and mixed and syntax == BOTH[1])


@given(KINDS, st.permutations(EVERYTHING), st.integers(1, len(EVERYTHING)))
def test_a_receiver_that_takes_one_context_of_a_sop_class_gets_everything(
    kinds: list[tuple[str, str]], order: list[str], number: int
) -> None:
    wanted = [*order[:number], BOTH[1]]
    for acceptor in (by_own_order(*wanted), by_our_order(*wanted)):
        for simple in (first_of_a_sop_class(acceptor), one_of_a_sop_class(acceptor)):
            assert None not in sent(kinds, simple).values()


@given(KINDS)
def test_a_receiver_that_remembers_the_last_accepted_context_only_decodes_everything(
    kinds: list[tuple[str, str]],
) -> None:
    """GDCM takes Implicit, or Explicit if there is no Implicit, and decodes by what it has accepted last."""
    gdcm = by_own_order(BOTH[1], BOTH[0])
    for association in plan(kinds):
        last = list(gdcm(association.contexts).values())[-1]
        assert set(sent(association.kinds, gdcm).values()) == {last}


def test_nothing_to_send_needs_no_association() -> None:
    assert plan([]) == []


UIDS = st.integers(1, 200).map(lambda n: f"1.2.{n}")
SYNTAXES = st.one_of(st.sampled_from(BOTH), st.integers(1, 6).map(lambda n: f"1.3.{n}"))


@given(st.lists(st.tuples(UIDS, SYNTAXES), max_size=400))
def test_every_kind_is_in_one_association_of_at_most_128_contexts(kinds: list[tuple[str, str]]) -> None:
    plans = plan(kinds)
    assert sorted(kind for association in plans for kind in association.kinds) == sorted(set(kinds))
    for association in plans:
        ids = [context.context_id for context in association.contexts]
        assert len(ids) <= 128
        assert len(set(ids)) == len(ids)
        assert all(1 <= i <= 255 and i % 2 == 1 for i in ids)
        proposed = {(context.abstract_syntax, context.transfer_syntaxes) for context in association.contexts}
        for sop_class, syntax in association.kinds:
            assert (sop_class, (syntax,)) in proposed or syntax == BOTH[0]
            assert any(name == sop_class and set(BOTH) <= set(syntaxes) for name, syntaxes in proposed)


@pytest.mark.slow
@given(st.integers(1, 600), st.integers(1, 7))
def test_associations_are_filled_before_another_is_opened(number: int, syntaxes: int) -> None:
    kinds = [(f"1.2.{n // syntaxes}", f"1.3.{n % syntaxes}") for n in range(number)]
    assert all(len(association.contexts) >= 127 for association in plan(kinds)[:-1])


def test_the_stored_syntax_is_preferred_then_explicit_then_implicit() -> None:
    accepted = {
        (str(CTImageStorage), str(JPEG2000Lossless)): 1,
        (str(CTImageStorage), BOTH[1]): 3,
        (str(CTImageStorage), BOTH[0]): 5,
        (str(MRImageStorage), BOTH[1]): 7,
    }
    assert choose(accepted, CTImageStorage, JPEG2000Lossless) == (1, JPEG2000Lossless)
    assert choose(accepted, CTImageStorage, JPEGLSLossless) == (5, BOTH[0])
    assert choose(accepted, MRImageStorage, JPEGLSLossless) == (7, BOTH[1])
    assert choose(accepted, "1.2.3", JPEGLSLossless) is None
    assert choose({}, CTImageStorage, BOTH[0]) is None


@pytest.mark.slow
def test_a_hundred_thousand_instances_are_planned_at_once() -> None:
    kinds = [(f"1.2.{n % 150}", JPEG2000Lossless) for n in range(100_000)]
    start = time.process_time()
    plans = plan(kinds)
    assert time.process_time() - start < 2
    assert [len(association.kinds) for association in plans] == [64, 64, 22]
