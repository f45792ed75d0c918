"""A grouped layer over a cache that is evicted several times: what it says is masked attention, whatever the policy.

The witness is by hand: every key ever written, its rotation as a complex number, and a mask in which a query sees a key
until the step in which the policy let it go.  CI draws ten lists of steps for the cut, ``KVATTN_PROFILE=deep`` 1000.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
import os
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged, placed
from kvattn.eviction import (
    MeanPool,
    accumulated,
    kept_slots,
    key_difference,
    last_query,
    negative_norms,
    probabilities,
    protect,
    recency,
    shared,
    top,
    window_votes,
)
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.positions import Rotary
from kvattn.typing import Array
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

KV_HEADS, WIDTH, VALUE_WIDTH, HIDDEN = 2, 6, 5, 7


class Held(NamedTuple):
    """What a policy may look at: rotated queries of the step, keys and values that are held, where both stand."""

    question: Question

    @property
    def shares(self) -> Array:
        """Which share of its attention each query gives to each key."""
        return probabilities(self.question)


POLICIES: dict[str, Callable[[Held], Array]] = {
    "StreamingLLM": lambda held: recency(
        held.question.k.shape[2], sinks=1, batch=held.question.k.shape[0], kv_heads=KV_HEADS
    ),
    "H2O": lambda held: protect(accumulated(held.shares, KV_HEADS), last=2),
    "SnapKV": lambda held: window_votes(held.shares, KV_HEADS, window=1, pool=MeanPool(3)),
    "TOVA": lambda held: last_query(held.shares, KV_HEADS),
    "KeyDiff": lambda held: protect(key_difference(held.question.k), last=1),
    "key norms": lambda held: protect(negative_norms(held.question.k), first=1),
}
"""What a key is worth; heads agree, since a page is forgotten for all of them."""

Evict = Callable[[Paged[KeyValue], Sequence[Any]], Paged[KeyValue]]


def layer_of(seed: int, group: int) -> Grouped:
    random = np.random.default_rng(seed)
    heads = KV_HEADS * group
    shapes = (HIDDEN, heads * WIDTH), (HIDDEN, KV_HEADS * WIDTH), (HIDDEN, KV_HEADS * VALUE_WIDTH)
    query, key, value = (random.normal(size=shape) for shape in shapes)
    output = random.normal(size=(heads * VALUE_WIDTH, HIDDEN))
    weights = Projections(query, key, value, output, heads=heads, kv_heads=KV_HEADS)
    return Grouped(weights, Causal(), query_key=(Rotary.of(WIDTH),))


class Run(NamedTuple):
    """Outputs ``[B, T, M]``, the cache at the end, and until which position each key was seen, ``[B, T]``."""

    out: Array
    cache: Paged[KeyValue]
    until: Array


def run(
    layer: Grouped,
    x: Array,
    rounds: Sequence[Sequence[int]],
    worth: Callable[[Held], Array],
    budget: int,
    *,
    page: int = 3,
    evict: Evict = Paged.evict,
) -> Run:
    """Step through rounds of so many tokens each; after every round the policy lets all but ``budget`` keys go."""
    batch, length = x.shape[:2]
    cache: Any = Paged.start(placed(layer.start().schema), batch, page)
    outs, until, done = [], np.full((batch, length), length + 1), 0
    w, rotary = layer.projections, Rotary.of(WIDTH)
    for cuts in rounds:
        begun = done
        for new in cuts:
            attended, cache = layer.step(cache, x[:, done : done + new])
            outs.append(attended.out)
            done += new
        at = np.stack([cache.positions(b) for b in range(batch)])
        asked = np.broadcast_to(np.arange(begun, done), (batch, done - begun))
        q = rotary.rotate(w.queries(x[:, begun:done]), asked[:, None])
        k, v = cache.rows()
        held = Held(Question(q, k, v, mask=Causal(), q_positions=asked, k_positions=at))
        kept = [slots[0] for slots in kept_slots(top(shared(worth(held)), budget))]
        for b, slots in enumerate(kept):
            gone = np.setdiff1d(np.arange(at.shape[1]), slots)
            until[b, at[b, gone]] = done
        cache = evict(cache, kept)
    return Run(np.concatenate(outs, axis=1), cache, until)


def by_hand(layer: Grouped, x: Array, until: Array) -> Array:
    """Every row at once, `kvattn` not used: complex rotations, a softmax over what is seen."""
    w = layer.projections
    batch, length, _ = x.shape
    group = w.heads // KV_HEADS
    q: Array = (x @ w.query).reshape(batch, length, w.heads, WIDTH)
    k: Array = (x @ w.key).reshape(batch, length, KV_HEADS, WIDTH)
    v = (x @ w.value).reshape(batch, length, KV_HEADS, VALUE_WIDTH)

    def turned(rows: Array) -> Array:
        pairs = rows[..., : WIDTH // 2] + 1j * rows[..., WIDTH // 2 :]
        angles = np.arange(length)[:, None] * 10000.0 ** (-2.0 * np.arange(WIDTH // 2) / WIDTH)
        pairs = pairs * np.exp(1j * angles)[None, :, None]
        return np.concatenate([pairs.real, pairs.imag], -1)

    q, k = turned(q), turned(k)
    out = np.zeros((batch, length, w.heads, VALUE_WIDTH))
    for b, i, h in np.ndindex(batch, length, w.heads):
        seen = np.flatnonzero(i < until[b, : i + 1])
        scores = (k[b, seen, h // group] * q[b, i, h]).sum(-1) / WIDTH**0.5
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights @ v[b, seen, h // group] / weights.sum()
    return out.reshape(batch, length, -1) @ w.output


def distance(found: Array, wanted: Array) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


BOUND = 1e-12
"""Of the largest output: some hundred additions and a matrix product in float64, and angles below 100."""

ROUNDS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=5)


@pytest.mark.law("caches/paged: evict", "a layer that forgets is masked attention on the kept set, each round", "bound")
@pytest.mark.parametrize("policy", POLICIES)
@given(
    seed=st.integers(0, 999),
    group=st.integers(1, 3),
    rounds=ROUNDS,
    budget=st.integers(3, 7),
    page=st.sampled_from([1, 3, 256]),
)
def test_several_evictions_are_masked_attention(
    policy: str, seed: int, group: int, rounds: list[list[int]], budget: int, page: int
) -> None:
    layer = layer_of(seed, group)
    x = np.random.default_rng(seed + 1).normal(size=(2, sum(map(sum, rounds)), HIDDEN))
    found = run(layer, x, rounds, POLICIES[policy], budget, page=page)
    assert distance(found.out, by_hand(layer, x, found.until)) <= BOUND
    last = x.shape[1]
    for b in range(2):
        assert found.cache.positions(b).tolist() == np.flatnonzero(found.until[b] > last).tolist()
    assert found.cache.lengths == (min(budget, last),) * 2
    assert found.cache.ends == (last, last)


@pytest.mark.law("caches/paged: evict", "between evictions, how tokens are cut into steps is invisible", "bits")
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=1000 if os.environ.get("KVATTN_PROFILE") == "deep" else 10)
@given(seed=st.integers(0, 99), rounds=ROUNDS)
def test_between_evictions_the_cut_is_invisible(policy: str, seed: int, rounds: list[list[int]]) -> None:
    layer = layer_of(seed, 3)
    x = np.random.default_rng(seed).normal(size=(2, sum(map(sum, rounds)), HIDDEN))
    one = run(layer, x, rounds, POLICIES[policy], 5)
    for other in ([[sum(cuts)] for cuts in rounds], [[1] * sum(cuts) for cuts in rounds]):
        again = run(layer, x, other, POLICIES[policy], 5)
        assert again.out.tobytes() == one.out.tobytes()
        assert np.array_equal(again.until, one.until)
        assert all(np.array_equal(x, y) for x, y in zip(again.cache.rows(), one.cache.rows(), strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_evictions_across_blocks_of_256(policy: str) -> None:
    layer = layer_of(5, 3)
    x = np.random.default_rng(6).normal(size=(2, 309, HIDDEN))
    found = run(layer, x, [[270], [30], [5, 1], [3]], POLICIES[policy], 259, page=16)
    assert distance(found.out, by_hand(layer, x, found.until)) <= BOUND


def renumbered(cache: Paged[KeyValue], kept: Sequence[Any]) -> Paged[KeyValue]:
    """Kept tokens move to the first positions, and time goes on behind them; their rotations stay."""
    less = cache.evict(kept)
    return Paged.start(cache.schema, cache.batch, cache.page).append(less.rows())


def one_off(cache: Paged[KeyValue], kept: Sequence[Any]) -> Paged[KeyValue]:
    """The slot behind each that should stay."""
    return cache.evict([np.sort((slots + 1) % cache.length) for slots in kept])


def of_the_first(cache: Paged[KeyValue], kept: Sequence[Any]) -> Paged[KeyValue]:
    """Every sequence keeps what the first one keeps."""
    return cache.evict([kept[0]] * cache.batch)


def time_stands_still(cache: Paged[KeyValue], kept: Sequence[Any]) -> Paged[KeyValue]:
    """The next token stands behind the last one that was kept."""
    less = cache.evict(kept)
    return replace(less, ends=less.lengths)


def nothing(cache: Paged[KeyValue], kept: Sequence[Any]) -> Paged[KeyValue]:
    """All stay."""
    return cache


@pytest.mark.parametrize("wrong", [renumbered, one_off, of_the_first, time_stands_still, nothing])
def test_wrong_evictions_are_rejected(wrong: Evict) -> None:
    layer = layer_of(7, 3)
    x = np.random.default_rng(8).normal(size=(2, 24, HIDDEN))
    go = partial(run, layer, x, [[9], [3, 2], [10]], POLICIES["KeyDiff"], 6)
    right = go()
    assert distance(right.out, by_hand(layer, x, right.until)) <= BOUND
    bad = go(evict=wrong)
    assert distance(bad.out, by_hand(layer, x, right.until)) > 1e6 * BOUND
