"""Scores held whole: the same pipeline as the running softmax, no bit from the cut, nothing from behind the mask."""

from typing import Any

import numpy as np
import pytest

from kvattn.caches.blocks import blocks_of
from kvattn.core import scored, streaming
from kvattn.core.accounting import Shape
from kvattn.core.scored import by_query, products, scored_cost
from kvattn.core.weights import Softmax, Weighing, Weights, without_lse
from kvattn.counting import Tally, counting
from kvattn.masks import Causal, Sink, Window
from kvattn.positions import Alibi
from kvattn.typing import Array, Place, Visible

B, HQ, HKV, D, DV = 2, 6, 2, 5, 3


def drawn(keys: int, queries: int, dtype: Any = np.float64) -> tuple[Any, Any, Any]:
    draws = np.random.default_rng(1)
    shapes = (B, HQ, queries, D), (B, HKV, keys, D), (B, HKV, keys, DV)
    q, k, v = (draws.normal(size=shape).astype(dtype) for shape in shapes)
    return q, k, v


def attend(q: Any, k: Any, v: Any, at: Any, weighing: Weighing = Softmax(), **options: Any) -> Any:  # noqa: B008
    held = [blocks_of(k[b], v[b], np.arange(k.shape[2])) for b in range(B)]
    positions = np.broadcast_to(at, (B, len(at)))
    return scored.attend(q, positions, held, value_width=DV, weighing=weighing, **options)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"mask": Causal()},
    "window and sinks": {"mask": Causal() & (Window(9) | Sink(2))},
    "scale, cap and bias": {"mask": Causal(), "scale": 0.7, "softcap": 1.5, "mods": (Alibi.of(HQ),)},
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("keys", "queries"), [(7, 7), (300, 4), (300, 90), (600, 1)])
def test_with_a_softmax_it_is_the_running_softmax(keys: int, queries: int, name: str, dtype: Any) -> None:
    q, k, v = drawn(keys, queries, dtype)
    at = np.arange(keys - queries, keys)
    found = attend(q, k, v, at, **OPTIONS[name])
    held = [blocks_of(k[b], v[b], np.arange(keys)) for b in range(B)]
    wanted = streaming.attend(q, np.broadcast_to(at, (B, queries)), held, value_width=DV, **OPTIONS[name])
    near = 1e-13 if dtype == np.float64 else 1e-5
    assert found.out.dtype == found.lse.dtype == dtype
    assert np.abs(found.out - wanted.out).max() < near
    assert np.abs(found.lse - wanted.lse).max() < near


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_do_not_feel_the_cut(dtype: Any) -> None:
    """Row 0's tile with 299 others, alone, and among blocks that only later rows see."""
    q, k, v = drawn(700, 300, dtype)
    whole = attend(q, k, v, np.arange(400, 700), mask=Causal())
    for start, stop in ((0, 1), (0, 5), (97, 113), (299, 300)):
        part = attend(q[:, :, start:stop], k, v, np.arange(400 + start, 400 + stop), mask=Causal())
        assert part.out.tobytes() == whole.out[:, :, start:stop].tobytes()
        assert part.lse.tobytes() == whole.lse[:, :, start:stop].tobytes()
        keys = 400 + stop
        fewer = attend(q[:, :, start:stop], k[:, :, :keys], v[:, :, :keys], np.arange(400 + start, keys), mask=Causal())
        assert fewer.out.tobytes() == part.out.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keys_and_values_behind_the_mask_cannot_matter(bad: float) -> None:
    q, k, v = drawn(300, 20)
    at = np.arange(270, 290)
    plain = attend(q, k, v, at, mask=Causal() & Window(9))
    for target in (k, v):
        target[:, :, 290:] = bad
        target[:, :, :250] = bad
    spoiled = attend(q, k, v, at, mask=Causal() & Window(9))
    assert spoiled.out.tobytes() == plain.out.tobytes()
    assert spoiled.lse.tobytes() == plain.lse.tobytes()
    v[0, 0, 275, 1] = np.nan
    found = attend(q, k, v, at, mask=Causal() & Window(9)).out
    sees = (at >= 275) & (at < 284)
    assert np.isnan(found[0, :3, :, 1][:, sees]).all()
    found[0, :3, :, 1][:, sees] = plain.out[0, :3, :, 1][:, sees]
    assert found.tobytes() == plain.out.tobytes()


class Recorded:
    """Weighs every visible key 1, and remembers what it was given."""

    def __init__(self) -> None:
        self.met: list[tuple[Array, Visible, Place]] = []

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        return self.weigh(scores, seen, place)

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        self.met.append((scores, seen, place))
        return without_lse(np.where(seen, 1.0, 0.0))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        return Tally(arithmetic=1000 * pairs + rows)


class First:
    """Mixes the first block's weights, to be seen beside the values."""

    def definition(self, weights: Array, place: Place) -> Array:
        return self.mix(weights, place)

    def mix(self, weights: Array, place: Place) -> Array:
        return np.repeat(weights[..., :256].sum(-1, keepdims=True), DV, axis=-1)

    def mix_cost(self, *, pairs: int, rows: int, value_width: int) -> Tally:
        return Tally(transcendental=pairs * value_width + rows)


def test_a_weighing_gets_all_heads_of_its_queries_and_their_places() -> None:
    q, k, v = drawn(300, 90)
    at, weighing = np.arange(210, 300), Recorded()
    found = attend(q, k, v, at, weighing, mask=Causal())
    scores = np.einsum("bhtd,bhsd->bhts", q, k.repeat(3, 1)) / np.sqrt(D)
    met = 0
    for part, seen, place in weighing.met:
        rows = slice(int(place.q_positions[0, 0, 0]) - 210, int(place.q_positions[0, -1, 0]) - 209)
        keys = part.shape[2]
        assert place.k_positions.shape == (1, 1, keys)
        assert place.heads[:, 0, 0].tolist() == list(range(HQ))
        assert place.queries is not None
        assert np.array_equal(place.queries, q[place.batch, :, rows])
        wanted = scores[place.batch, :, rows, :keys]
        count = wanted.shape[2]
        assert np.allclose(part[..., :count], wanted, rtol=1e-13, atol=1e-13)
        assert (seen[..., :count] == (np.arange(count) <= at[rows][:, None])).all()
        assert not seen[..., count:].any()
        met += part.shape[1]
    assert met == B * 90
    sums = np.einsum("ts,bhsd->bhtd", np.arange(300) <= at[:, None], v.repeat(3, 1))
    assert np.allclose(found.out, sums, rtol=1e-12, atol=1e-12)


def test_what_is_beside_gets_the_weights() -> None:
    q, k, v = drawn(20, 20)
    plain = attend(q, k, v, np.arange(20), Recorded(), mask=Causal())
    more = attend(q, k, v, np.arange(20), Recorded(), mask=Causal(), beside=(First(), First()))
    assert np.allclose(more.out - plain.out, 2.0 * np.arange(1, 21)[:, None], rtol=1e-12)


class Halved:
    """A scoring that states a cost."""

    def __call__(self, rows: Array, blocks: Any, place: Place, /) -> list[Array]:
        return [part * 0.5 for part in products(rows, blocks, place)]

    def cost(self, *, pairs: int, width: int) -> Tally:
        return Tally(arithmetic=10**6 * pairs * width)


@pytest.mark.parametrize("mask", [None, Causal(), Causal() & Window(30), Causal() & (Window(9) | Sink(2))])
@pytest.mark.parametrize(("past", "new"), [(0, 7), (300, 1), (200, 120), (600, 100)])
def test_the_closed_form_equals_the_count(past: int, new: int, mask: Any) -> None:
    q, k, v = drawn(past + new, new)
    bends: dict[str, Any] = {"mods": (Alibi.of(HQ),), "beside": (First(),), "scoring": Halved()}
    with counting() as tally:
        attend(q, k, v, np.arange(past, past + new), Recorded(), mask=mask, softcap=2.0, **bends)
    shape = Shape(HQ, HKV, D, DV, 8, past, new, B)
    assert tally.tally == scored_cost(shape, Recorded(), mask, softcap=True, **bends)
    pairs, rows = tally.pairs_computed, B * HQ * new
    assert tally.matmul == 2 * pairs * (D + DV)
    assert tally.arithmetic == pairs * (1000 + 2 + 3 + 10**6 * D) + rows * (D + 1)
    assert tally.transcendental == pairs * (1 + DV) + rows


def test_queries_without_keys_and_no_queries() -> None:
    q, k, v = drawn(3, 2)
    ahead = attend(q, k, v, np.array([-5, 1]), mask=Causal())
    assert not ahead.out[:, :, 0].any()
    assert np.isneginf(ahead.lse[:, :, 0]).all()
    nothing = scored.attend(q, np.zeros((B, 2), np.int64), [(), ()], value_width=DV, weighing=Softmax())
    assert not nothing.out.any()
    assert np.isneginf(nothing.lse).all()
    none = scored.attend(q[:, :, :0], np.zeros((B, 0), np.int64), [(), ()], value_width=DV, weighing=Softmax())
    assert none.out.shape == (B, HQ, 0, DV)


def test_rows_go_back_to_their_heads() -> None:
    rows = np.arange(2 * 16 * 3).reshape(2, 16, 3)
    found = by_query(rows, group=5, count=15)
    assert found.shape == (10, 3, 3)
    for head in range(10):
        for token in range(3):
            assert (found[head, token] == rows[head // 5, token * 5 + head % 5]).all()
