"""Forgetting attention: the layer by hand, wrong ones rejected, and a running sum that no cut and no length spoils."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.positions import Alibi, Rotary
from kvattn.testing.balls import Ball, dot, given
from kvattn.testing.heads_by_hand import drawn, drawn_projections
from kvattn.testing.laws import stepped
from kvattn.variants.dense.forgetting import Faded, Forgetting
from kvattn.variants.dense.grouped import Grouped
from tests.positions.scored import DTYPES, Example, Pair, T, bent, total

GATE, BIAS = drawn(6, 4, seed=7), drawn(4, seed=8)


def log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))


def by_hand(layer: Forgetting) -> Any:
    gate, bias = given(layer.gate), given(layer.gate_bias)

    def score(pair: Pair) -> Ball:
        """The product, and the logarithm of every gate after the key up to the query, added."""
        kept = []
        for t in range(pair.i + 1):
            z = dot(pair.x[t], [row[pair.h] for row in gate]) + bias[pair.h]
            kept.append(z.through(log_sigmoid, 1.0))
        fade = total(kept[pair.j + 1 :]) if pair.j < pair.i else Ball(0.0, 0.0, pair.unit)
        drift = 2.0**-52 * (pair.i + 1) * sum(abs(term.value) for term in kept)  # of running sums in float64
        return pair.product + Ball(fade.value, fade.error + drift, pair.unit)

    return score


def layer(dtype: Any = np.float64, **change: Any) -> Forgetting:
    made = Forgetting(drawn_projections(4, 2, dtype=dtype), GATE.astype(dtype), BIAS.astype(dtype), page=2)
    return replace(made, **change)


def words(dtype: Any = np.float64) -> Example:
    return Example(layer(dtype), by_hand(layer(dtype)))


@pytest.mark.by_hand("variants/dense/forgetting")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    assert words(dtype).gap() <= 1


class Shifted(Forgetting):
    """Mutant: the key's own gate is in the sum too, and the query's is not."""

    def _fade(self, cache: Any, x: Any) -> Any:
        fade = super()._fade(cache, x)
        return np.concatenate([np.zeros_like(fade[:, :1]), fade[:, :-1]], axis=1)


class Decayed(Forgetting):
    """Mutant: the gate itself is added, not its logarithm."""

    def _fade(self, cache: Any, x: Any) -> Any:
        fade = super()._fade(cache, x)
        return np.exp(np.diff(fade, axis=1, prepend=0.0)).cumsum(axis=1)


@pytest.mark.parametrize("mutant", [Shifted, Decayed])
def test_a_wrong_running_sum_is_rejected(mutant: Any) -> None:
    good = words()
    wrong = mutant(good.layer.projections, GATE, BIAS, page=2)
    found, _ = stepped(wrong, good.x, ())
    right, _ = stepped(good.layer, good.x, ())
    assert good.gap() <= 1
    assert np.abs(found.lse - right.lse).max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [{"gate": -GATE}, {"gate_bias": -BIAS}, {"gate": GATE[:, ::-1].copy()}, {"mods": (Alibi.of(4),)}],
    ids=["sign of the gate", "sign of the bias", "heads reversed", "a slope besides"],
)
def test_a_wrong_layer_is_rejected(change: Any) -> None:
    assert words().gap(layer(**change)) > 2


FULL = layer(query_key=(Rotary.of(4),), mods=(Alibi.of(4),), mask=Window(4), softcap=2.0, sinks=np.ones(4), scale=0.25)


@pytest.mark.parametrize(
    "change",
    [
        {"gate": GATE * 2},
        {"gate_bias": BIAS + 1},
        {"query_key": ()},
        {"mods": ()},
        {"mask": Causal()},
        {"softcap": 1.0},
        {"sinks": np.zeros(4)},
        {"scale": 0.5},
        {"projections": drawn_projections(4, 1)},
    ],
    ids=lambda change: str(*change),
)
def test_every_argument_matters(change: Any) -> None:
    x, at, other = drawn(2, T, 6, seed=9), np.arange(T), replace(FULL, **change)
    assert not np.array_equal(FULL.definition(x, at).out, other.definition(x, at).out)
    assert not np.array_equal(stepped(FULL, x, (2,))[0].out, stepped(other, x, (2,))[0].out)


def test_with_equal_gates_it_is_alibi() -> None:
    """ln f = -slope for every token: data-dependent ALiBi without the data."""
    slopes = (0.5, 0.25, 2.0, 1.0)
    equal = layer(gate=np.zeros((6, 4)), gate_bias=np.array([-math.log(math.expm1(slope)) for slope in slopes]))
    plain = Grouped(equal.projections, mods=(Alibi(slopes),), page=2)
    x = drawn(2, T, 6, seed=9)
    for ours, theirs in zip(stepped(equal, x, (2,))[0], stepped(plain, x, (2,))[0], strict=True):
        assert np.allclose(ours, theirs, rtol=0, atol=1e-13)


def test_a_token_caches_keys_values_and_a_double_for_each_query_head() -> None:
    x = drawn(1, T, 6, seed=9, dtype=np.float32)
    with counting() as tally:
        _, cache = stepped(layer(np.float32), x, (1, 4))
    assert tally.kv_written == cache.nbytes == T * (2 * (4 + 3) * 4 + 4 * 8)
    assert cache.rows().fade.dtype == np.float64
    assert cache.rows().fade.shape == (1, 1, T, 4)


@pytest.mark.law("variants/dense/forgetting", "taking tokens back takes their running sum back", "bits")
def test_rollback_restores_the_running_sum() -> None:
    x = drawn(1, T, 6, seed=9)
    _, cache = stepped(layer(), x, ())
    _, again = stepped(layer(), x[:, 3:], (), cache.truncate(3))
    assert np.array_equal(cache.rows().fade, again.rows().fade)


@pytest.mark.law("variants/dense/forgetting", "sequences of different lengths go on from their own sums", "bits")
def test_ragged_sequences_go_on_from_their_own_sums() -> None:
    x = drawn(2, T, 6, seed=9)
    _, cache = stepped(layer(), x, ())
    together, _ = layer().step(cache.truncate([2, 5]), x[:, :3])
    for b, length in enumerate((2, 5)):
        alone, _ = layer().step(stepped(layer(), x[b : b + 1, :length], ())[1], x[b : b + 1, :3])
        assert np.array_equal(alone.out[0], together.out[b])


def test_float32_layers_keep_neighbours_apart_after_many_tokens() -> None:
    """f = 1/2: after 3,000 tokens c is about -2079, whose float32 neighbours are 2.4e-4 apart."""
    made = layer(np.float32, gate=np.zeros((6, 4), np.float32), gate_bias=np.zeros(4, np.float32))
    _, cache = stepped(made, np.zeros((1, 3000, 6), np.float32), ())
    fade = cache.rows().fade[0, 0, :, 0]
    assert np.abs(np.diff(fade) + math.log(2)).max() < 1e-12
    assert np.abs(np.diff(fade.astype(np.float32)) + math.log(2)).max() > 1e-5


def test_a_shut_gate_forgets_everything_before() -> None:
    shut = layer(gate_bias=np.full(4, -1e4))
    found = stepped(shut, drawn(1, T, 6, seed=9), (3,))[0]
    only = stepped(layer(mask=Window(1)), drawn(1, T, 6, seed=9), (3,))[0]
    assert np.allclose(found.out, only.out, rtol=1e-12, atol=1e-12)
    assert np.isfinite(found.lse).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"gate": GATE[:, :3]}, ShapeError, r"^gate must have shape \[6, 4\], got \(6, 3\)$"),
        ({"gate_bias": BIAS[:3]}, ShapeError, r"^gate_bias must have shape \[4\], got \(3,\)$"),
        ({"gate": GATE.astype("f4")}, DtypeError, r"^gate must have the dtype of the weights, float64, got float32$"),
    ],
    ids=range(3),
)
def test_a_bad_argument_is_named(change: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        layer(**change)


def test_a_caller_without_notes_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^place must have query_notes and key_notes with running sums, got None$"):
        bent(Faded(), [0], [0])
