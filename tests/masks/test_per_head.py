"""PerHead gives every query head its own mask."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.masks import Causal, Explicit, PerHead, Sink, Strided, Window
from kvattn.testing.laws import LawError, same_bits, stepped
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Attended, Span
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse.sinks import KeptSinks

DUO = PerHead((Causal(), Causal() & (Sink(2) | Window(3)), Causal(), Causal() & (Sink(2) | Window(3))))


@pytest.mark.by_hand("masks/per_head: duo attention")
def test_streaming_heads_see_sinks_and_window_and_retrieval_heads_all() -> None:
    def rule(b: int, h: int, q: int, k: int) -> bool:
        return k <= q and (h in (0, 2) or k < 2 or q - k < 3)

    check_rule(DUO, rule, range(11), range(11), heads=4)
    check_pairs(DUO, range(7), range(7), heads=4)
    check_blocks(DUO, range(11), range(11), heads=4)


@pytest.mark.by_hand("masks/per_head: sparse transformer strided")
@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_strided_pattern_of_the_sparse_transformer(length: int) -> None:
    """arXiv 1904.10509 §4.3: head 0 from q - l to q, head 1 every l-th back from q."""
    mask = PerHead((Window(length + 1), Strided(length)))

    def rule(b: int, h: int, q: int, k: int) -> bool:
        return k in (range(max(0, q - length), q + 1) if h == 0 else range(q, -1, -length))

    check_rule(mask, rule, range(11), range(11), heads=2)
    check_blocks(mask, range(11), range(11), heads=2)
    if length > 1:
        for other in (PerHead((Window(length), Strided(length))), PerHead((Strided(length), Window(length + 1)))):
            with pytest.raises(AssertionError, match="but the rule"):
                check_rule(other, rule, range(11), range(11), heads=2)


def test_a_mask_inside_is_asked_for_its_own_head_and_sequence() -> None:
    table = np.random.default_rng(0).random((2, 3, 4, 4)) < 0.5
    mask = PerHead((Causal(), Explicit(table), Explicit(table)))

    def rule(b: int, h: int, q: int, k: int) -> bool:
        return k <= q if h == 0 else bool(table[b, h, q, k])

    check_rule(mask, rule, range(4), range(4), batch=2, heads=3)
    check_blocks(mask, range(4), range(4), batch=2, heads=3)


def test_one_mask_serves_every_head() -> None:
    check_rule(PerHead([Causal()]), lambda b, h, q, k: k <= q, range(4), range(4), heads=3)


def head_parts(sinks: int, window: int) -> tuple[Grouped, Grouped, KeptSinks]:
    """DuoAttention over two key/value heads, and the same as two layers, of which one forgets.

    The output matrix is the identity, so that a layer's output is its heads side by side, exactly.
    """
    rng = np.random.default_rng(2)
    query, key, value = (rng.normal(size=(12, n * 3)) for n in (4, 2, 2))
    mask = PerHead([Causal()] * 2 + [Causal() & (Sink(2) | Window(3))] * 2)
    whole = Grouped(Projections(query, key, value, np.eye(12), heads=4, kv_heads=2), mask)
    one, two = (
        Projections(query[:, 6 * n : 6 * n + 6], key[:, keys], value[:, keys], np.eye(12)[6 * n : 6 * n + 6], 2, 1)
        for n, keys in enumerate((slice(0, 3), slice(3, 6)))
    )
    return whole, Grouped(one), KeptSinks(two, sinks, window, page=1)


@pytest.mark.law("masks/per_head: duo attention", "eviction per head is invisible", "bits")
@pytest.mark.parametrize(("length", "cuts"), [(9, tuple(range(1, 9))), (14, (5, 6, 11)), (300, (250, 258, 299))])
def test_what_streaming_heads_forget_is_invisible(length: int, cuts: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=(2, length, 12))
    whole, retrieval, streaming = head_parts(2, 3)
    together, _ = stepped(whole, x, cuts)

    def apart(layer: KeptSinks) -> Attended:
        kept, _ = stepped(retrieval, x, cuts)
        evicting, cache = stepped(layer, x, cuts)
        assert len(cache.remembered(0)) < length
        return Attended(kept.out + evicting.out, np.concatenate([kept.lse, evicting.lse], axis=1))

    same_bits("eviction per head is invisible", together, apart(streaming))
    for sinks, window in ((1, 3), (2, 2)):
        with pytest.raises(LawError, match="eviction per head"):
            same_bits("eviction per head is invisible", together, apart(head_parts(sinks, window)[2]))


@dataclass(frozen=True, repr=False)
class Cyclic(PerHead):
    """Mutant: heads go round."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return super().__call__(b, (np.asarray(h) + 1) % len(self.masks), q_positions, k_positions)


@dataclass(frozen=True, repr=False)
class Everyone(PerHead):
    """Mutant: what one head sees all see."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        heads = range(len(self.masks))
        parts = [super(Everyone, self).__call__(b, np.full_like(h, n), q_positions, k_positions) for n in heads]
        return np.logical_or.reduce(parts)


@pytest.mark.parametrize("mutant", [Cyclic, Everyone])
def test_other_heads_are_rejected(mutant: type[PerHead]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(
            mutant((Causal(), Window(1))), lambda b, h, q, k: k <= q and (h == 0 or k == q), range(4), range(4), heads=2
        )


@dataclass(frozen=True, repr=False)
class FirstHead(PerHead):
    """Mutant: answers for head 0."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.masks[0].block(b, q, k)


@dataclass(frozen=True, repr=False)
class Hopeful(PerHead):
    """Mutant: ALL where one head sees all."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        answers = {mask.block(b, q, k) for mask in self.masks}
        return Answer.ALL if Answer.ALL in answers else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [FirstHead, Hopeful])
def test_wrong_block_answers_are_rejected(mutant: type[PerHead]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant((Window(2), Causal())), range(6), range(6), heads=2)


@pytest.mark.parametrize("masks", [(), [], Causal(), None, [Causal(), None], [Causal], "ab"])
def test_bad_masks_are_named(masks: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^masks must be a non-empty sequence of masks, got "):
        PerHead(masks)


def test_a_head_without_a_mask_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"^h must be from 0 to 1 for an array of that size, got 2$"):
        PerHead((Causal(), Window(1)))(0, np.arange(3)[:, None, None], np.array([[0]]), np.array([0]))


def test_it_reads_as_it_is_written_and_is_a_value() -> None:
    assert repr(PerHead([Causal(), Window(2)])) == "PerHead((Causal(), Window(2)))"
    assert PerHead([Causal(), Window(2)]) == PerHead((Causal(), Window(2)))
    assert hash(PerHead([Causal()])) == hash(PerHead((Causal(),)))
