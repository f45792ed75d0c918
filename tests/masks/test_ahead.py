"""A cut behind which an earlier query would have seen further is refused; every other is exact to the bit."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import PositionError
from kvattn.masks import (
    BlockWise,
    Causal,
    Chunked,
    Columns,
    Document,
    Everything,
    Explicit,
    KeysAt,
    Neighbourhood,
    Padding,
    PerHead,
    Prefix,
    QueriesAt,
    Sink,
    Strided,
    Window,
)
from kvattn.masks.ahead import check_cut, first_ahead
from kvattn.testing.laws import stepped
from kvattn.typing import Answer, Mask, Span
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

LENGTH = 12

CAUSAL: list[Mask] = [
    Causal(),
    Causal() & Window(3),
    Causal() & (Window(2) | Sink(3)),
    Strided(3),
    Causal() & ~Chunked(2),
    Causal() & Document([0] * 5 + [1] * 9),
    PerHead((Strided(2), Causal() & Columns(4, 3))),
    Causal() & BlockWise(2, Window(2) | Columns(4, 1)),
    Causal() | (Window(1, ahead=2) & ~Window(3, ahead=2)),  # no block answer is certain, no pair is ahead
]
AHEAD: list[tuple[Mask, set[int]]] = [
    (Causal() | Prefix(5), {0, *range(5, LENGTH + 1)}),
    (Sink(3), {0, *range(3, LENGTH + 1)}),
    (BlockWise(4, Causal()), {0, 4, 8, 12}),
    (BlockWise(5, Causal()), {0, 5, 10, 12}),
    (Chunked(3), {0, 3, 6, 9, 12}),
    (Window(3, ahead=2), {0, 12}),
    (Causal() | QueriesAt([4]), {0, 1, 2, 3, 4, 12}),
    (Causal() | KeysAt([4]), {0, *range(5, LENGTH + 1)}),
    (Neighbourhood([LENGTH], [3]), {0, 12}),
    (Document([0] * 5 + [1] * 7), {0, 5, 12}),
    (PerHead((Causal(), BlockWise(6, Causal()))), {0, 6, 12}),
    (Causal() | Padding([2]), {0, *range(2, LENGTH + 1)}),
    (~Causal() | Window(1), {0, 12}),
]


def layer_of(mask: Any) -> Grouped:
    rng = np.random.default_rng(4)
    shapes = (5, 8), (5, 4), (5, 4), (8, 5)
    query, key, value, output = (rng.normal(size=shape) for shape in shapes)
    return Grouped(Projections(query, key, value, output, heads=2, kv_heads=1), mask, page=3)


X = np.random.default_rng(5).normal(size=(1, LENGTH, 5))


def legal_by_hand(mask: Mask, cut: int) -> bool:
    """No query before the cut sees a key behind it, asked pair by pair."""
    heads = np.arange(2)[:, None, None]
    return not any(
        np.any(mask(0, heads, np.array([[q]]), np.array([k]))) for q in range(cut) for k in range(cut, LENGTH)
    )


@pytest.mark.by_hand("masks/ahead")
@pytest.mark.no_peer("masks/ahead", "no library was found that refuses such a step")
@pytest.mark.law("masks/ahead", "legal cuts equal one step, others raise", "bits")
@pytest.mark.parametrize(("mask", "legal"), [*((m, set(range(LENGTH + 1))) for m in CAUSAL), *AHEAD], ids=repr)
def test_legal_cuts_are_exact_and_others_are_refused(mask: Mask, legal: set[int]) -> None:
    layer = layer_of(mask)
    whole, _ = stepped(layer, X, ())
    for cut in range(LENGTH + 1):
        assert legal_by_hand(mask, cut) == (cut in legal)
        if cut in legal:
            found, _ = stepped(layer, X, (cut,))
            assert all(a.tobytes() == b.tobytes() for a, b in zip(found, whole, strict=True))
        else:
            with pytest.raises(PositionError, match=r"^x must begin where no earlier token sees further, but "):
                stepped(layer, X, (cut,))


@given(st.integers(0, 2**20), st.lists(st.integers(0, LENGTH), max_size=4).map(sorted))
@example(0, [0, LENGTH])
def test_any_table_and_any_cuts(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    at = np.arange(LENGTH)
    table = rng.random((2, LENGTH, LENGTH)) < rng.choice([0.01, 0.1])
    mask = Causal() | Explicit(table[None])
    layer = layer_of(mask)
    whole, _ = stepped(layer, X, ())
    if all((~table[:, :cut, cut:] | (at[:cut, None] >= at[cut:])).all() for cut in cuts):
        found, _ = stepped(layer, X, cuts)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found, whole, strict=True))
    else:
        with pytest.raises(PositionError, match=r"must come in one step"):
            stepped(layer, X, cuts)


def test_what_is_not_refused_would_have_been_wrong() -> None:
    """The guard taken away: the joined steps differ from one step."""
    mask = Causal() | Prefix(4)

    class Silent:
        def __call__(self, b: Any, h: Any, q: Any, k: Any) -> Any:
            return mask(b, h, q, k)

        def block(self, b: int, q: Span, k: Span) -> Answer:
            return Answer.NONE if q.high < k.low and q.low == 0 and k.high == LENGTH - 1 else mask.block(b, q, k)

    whole, _ = stepped(layer_of(mask), X, ())
    found, _ = stepped(layer_of(Silent()), X, (2,))
    assert not np.allclose(found.out[:, :2], whole.out[:, :2])


def test_no_mask_and_everything_mean_every_key_held() -> None:
    for mask in (None, Everything()):
        found, cache = stepped(layer_of(mask), X, (5,))
        assert cache.length == LENGTH
        alone, _ = stepped(layer_of(mask), X[:, :5], ())
        assert np.array_equal(found.out[:, :5], alone.out)


def test_each_sequence_is_asked_at_its_own_length() -> None:
    layer = layer_of(Causal() | Padding([2, 6]))
    first = layer.step(layer.start(2), np.repeat(X[:, :3], 2, 0))[1]
    with pytest.raises(PositionError, match=r"shows position 5 to position 0: positions 0 to 5 must .* begins at 3$"):
        layer.step(first, np.repeat(X[:, 3:], 2, 0))
    check_cut(layer.mask, [3, 6], 5, heads=2)
    check_cut(layer.mask, [3, 0], 5, heads=2)


def test_a_rolled_back_block_may_come_again() -> None:
    """Block diffusion: a tentative block is appended, rolled back, and appended until it is final."""
    layer = layer_of(BlockWise(4, Causal()))
    whole, _ = stepped(layer, X[:, :8], ())
    cache = layer.step(layer.start(), X[:, :4])[1]
    for noise in (3.0, -1.0, 0.5):
        tentative = layer.step(cache, X[:, 4:8] + noise)[1]
        with pytest.raises(PositionError, match=r"begins at 6$"):
            layer.step(tentative.truncate(6), X[:, 6:8])
        cache = tentative.truncate(4)
    final = layer.step(cache, X[:, 4:8])[0]
    assert final.out.tobytes() == np.ascontiguousarray(whole.out[:, 4:]).tobytes()


def test_it_names_the_first_query_and_the_last_key() -> None:
    assert first_ahead(Causal() | Prefix(5), 0, 2, 9, heads=1) == (0, 4)
    assert first_ahead(Causal() | Prefix(5), 0, 2, 1, heads=1) == (0, 2)
    assert first_ahead(PerHead((Causal(), Window(1, ahead=3))), 0, 6, 9, heads=2) == (3, 6)
    assert first_ahead(PerHead((Causal(), Window(1, ahead=3))), 0, 6, 9, heads=1) is None
    assert first_ahead(Causal(), 0, 6, 0, heads=1) is None
    with pytest.raises(PositionError) as raised:
        stepped(layer_of(Causal() | Prefix(5)), X, (2,))
    assert str(raised.value) == (
        "x must begin where no earlier token sees further, but Causal() | Prefix(5) shows position 4 to position 0: "
        "positions 0 to 4 must come in one step, got a step that begins at 2"
    )


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 599), st.integers(0, 599))
def test_pairs_far_from_the_corner_are_found(past: int, new: int, q: int, more: int) -> None:
    """Tiles of 256 on both sides."""
    query, key = min(q, past - 1), past + min(more, new - 1)
    mask = QueriesAt([query]) & KeysAt([key])
    assert first_ahead(mask, 0, past, new, heads=1) == (query, key)
    twice = mask | (QueriesAt([query]) & KeysAt([past]))
    assert first_ahead(twice, 0, past, new, heads=1) == (query, key)


def test_a_causal_mask_costs_one_answer() -> None:
    asked: list[Span] = []

    class Watched:
        def __call__(self, b: Any, h: Any, q: Any, k: Any) -> Any:
            raise AssertionError("looked at pairs")

        def block(self, b: int, q: Span, k: Span) -> Answer:
            asked.append(q)
            return Causal().block(b, q, k)

    watched: Any = Watched()
    check_cut(watched, [10**9], 1, heads=1)
    assert asked == [Span(0, 10**9 - 1)]


def refuses(mask: Mask, past: int, new: int) -> bool:
    return first_ahead(mask, 0, past, new, heads=2) is not None


def last_query_only(mask: Mask, past: int, new: int) -> bool:
    heads = np.arange(2)[:, None, None]
    return past > 0 and bool(np.any(mask(0, heads, np.array([[past - 1]]), np.arange(past, past + new))))


def first_key_only(mask: Mask, past: int, new: int) -> bool:
    heads = np.arange(2)[:, None, None]
    return new > 0 and bool(np.any(mask(0, heads, np.arange(past)[:, None], np.array([past]))))


def first_head_only(mask: Mask, past: int, new: int) -> bool:
    return first_ahead(mask, 0, past, new, heads=1) is not None


def unsure_is_no(mask: Mask, past: int, new: int) -> bool:
    spans = Span(0, past - 1), Span(past, past + new - 1)
    return past > 0 and new > 0 and mask.block(0, *spans) is not Answer.NONE


def new_queries(mask: Mask, past: int, new: int) -> bool:
    """Looks ahead from the step, behind its end: refuses every encoder, whose window always reaches further."""
    heads, q = np.arange(2)[:, None, None], np.arange(past, past + new)[:, None]
    return new > 0 and bool(np.any(mask(0, heads, q, np.arange(past + new, past + new + 5))))


TOLD = [*((mask, set(range(LENGTH + 1))) for mask in CAUSAL), *AHEAD]
BOUNDED = (Neighbourhood, Document)
"""Masks that know no key behind the text."""


@pytest.mark.parametrize("guard", [last_query_only, first_key_only, first_head_only, unsure_is_no, new_queries])
def test_a_wrong_guard_is_rejected(guard: Any) -> None:
    told = [(m, legal) for m, legal in TOLD if not isinstance(m, BOUNDED) and "Document" not in repr(m)]

    def right(check: Any) -> bool:
        return all(
            check(mask, cut, LENGTH - cut) == (cut not in legal) for mask, legal in told for cut in range(LENGTH + 1)
        )

    assert right(refuses)
    assert not right(guard)
