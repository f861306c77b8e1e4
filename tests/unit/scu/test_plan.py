"""Presentation contexts for retrieval."""

import time

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
)

from pacs_server.net.negotiation import ProposedContext
from pacs_server.scu.plan import choose, plan

BOTH = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


def test_a_compressed_kind_gets_its_own_context_and_the_uncompressed_to_fall_back_on() -> None:
    [association] = plan([(CTImageStorage, JPEG2000Lossless)])
    assert association.contexts == (
        ProposedContext(1, CTImageStorage, (JPEG2000Lossless,)),
        ProposedContext(3, CTImageStorage, BOTH),
    )
    assert association.kinds == {(CTImageStorage, JPEG2000Lossless)}


def test_an_uncompressed_kind_falls_back_on_the_other_one() -> None:
    [explicit] = plan([(CTImageStorage, ExplicitVRLittleEndian)])
    [implicit] = plan([(CTImageStorage, ImplicitVRLittleEndian)])
    assert [c.transfer_syntaxes for c in explicit.contexts] == [BOTH[:1], BOTH[1:]]
    assert [c.transfer_syntaxes for c in implicit.contexts] == [BOTH[1:], BOTH[:1]]


def test_no_context_is_proposed_twice() -> None:
    kinds = [(CTImageStorage, syntax) for syntax in (*BOTH, JPEG2000Lossless, JPEGLSLossless)] * 3
    [association] = plan(kinds)
    proposed = [(context.abstract_syntax, context.transfer_syntaxes) for context in association.contexts]
    assert len(proposed) == len(set(proposed)) == 5


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
            assert (sop_class, (syntax,)) in proposed
            fallback = tuple(uid for uid in BOTH if uid != syntax)
            assert (sop_class, fallback) in proposed


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


def test_a_hundred_thousand_instances_are_planned_at_once() -> None:
    kinds = [(f"1.2.{n % 150}", JPEG2000Lossless) for n in range(100_000)]
    start = time.process_time()
    plans = plan(kinds)
    assert time.process_time() - start < 2
    assert [len(association.kinds) for association in plans] == [64, 64, 22]
