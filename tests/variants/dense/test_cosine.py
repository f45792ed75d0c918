"""Cosine attention against loops over balls: lengths, temperatures, their bound, and rows of zeros."""

from collections.abc import Callable
from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.mods import Bias
from kvattn.positions import Rotary
from kvattn.testing.balls import Ball, agree, dot
from kvattn.testing.heads_by_hand import Heads, Row, drawn, drawn_projections, layer_by_hand, root, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended, QueryKey
from kvattn.variants.dense.cosine import LARGEST, Cosine
from kvattn.variants.dense.grouped import Grouped

T, M, HEADS, KV_HEADS, D = 5, 6, 4, 2, 4
STORED = np.array([math.log(3.0), 9.0, 0.0, -1.0])
"""Logarithms of temperatures; the second is above the bound."""
TAU = (3.0, 100.0, 1.0, math.exp(-1.0))


def unit(row: Row, eps: float) -> Row:
    square = dot(row, row)
    length = root(square) if square.value > eps * eps else Ball(eps, 0.0, square.unit)
    return [a / length for a in row]


def by_hand(x: Any, tau: tuple[float, ...], eps: float = 1e-12, turned: bool = False, scale: float = 1.0) -> Any:
    def placed(position: int, row: Row) -> Row:
        return turn(row, position, Rotary.of(D)) if turned else row

    def queries(i: int, heads: Heads) -> Heads:
        # a stored temperature is rounded once behind the exponential: 8 units cover both
        hot = [Ball(t, 8 * row[0].unit * t, row[0].unit) for t, row in zip(tau, heads, strict=True)]
        return [[a * t for a in placed(i, unit(row, eps))] for t, row in zip(hot, heads, strict=True)]

    def keys(j: int, heads: Heads) -> Heads:
        return [placed(j, unit(row, eps)) for row in heads]

    w = drawn_projections(HEADS, KV_HEADS, dtype=x.dtype)
    return layer_by_hand(w, x, queries=queries, keys=keys, scale=scale)


def layer(*query_key: QueryKey, dtype: Any = np.float64, scale: float = 1.0) -> Grouped:
    return Grouped(drawn_projections(HEADS, KV_HEADS, dtype=dtype), query_key=query_key, scale=scale, page=2)


def states(dtype: Any = np.float64) -> Any:
    x = drawn(2, T, M, seed=9, dtype=dtype)
    x[1, 2] = 0.0  # its query and its key are 0: no length to divide by
    return x


def gap(found: Attended, wanted: Any) -> float:
    return max(agree(found.out, wanted[0]), agree(found.lse, wanted[1]))


LEARNED = Cosine.learned(STORED)
EXAMPLES: dict[str, tuple[Grouped, dict[str, Any]]] = {
    "learned": (layer(LEARNED), {"tau": TAU}),
    "turned after": (layer(LEARNED, Rotary.of(D)), {"tau": TAU, "turned": True}),
    "fixed": (layer(Cosine(), scale=10.0), {"tau": (1.0,) * 4, "scale": 10.0}),
    "least length": (layer(Cosine(np.array(TAU), eps=1.5)), {"tau": TAU, "eps": 1.5}),
    "float32": (layer(Cosine.learned(STORED.astype(np.float32)), dtype=np.float32), {"tau": TAU}),
}


@pytest.mark.by_hand("variants/dense/cosine")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    ours, said = EXAMPLES[name]
    x = states(ours.projections.dtype)
    wanted = by_hand(x, **said)
    for found in (ours.definition(x, np.arange(T)), *(stepped(ours, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == x.dtype
        assert gap(found, wanted) <= 1


def test_the_bound_sees_an_error_of_1e_11() -> None:
    ours, said = EXAMPLES["learned"]
    found = ours.definition(states(), np.arange(T))
    assert gap(found._replace(out=found.out * (1 + 1e-11)), by_hand(states(), **said)) > 1


class PlusEps(Cosine):
    """Mutant: ε beside the length, not below it."""

    def keys(self, k: Array, positions: Any) -> Array:
        return np.asarray(k / (np.sqrt((k * k).sum(-1, keepdims=True)) + self.eps))


class HotKeys(Cosine):
    """Mutant: temperatures on keys too."""

    def keys(self, k: Array, positions: Any) -> Array:
        return super().keys(k, positions) * 3.0


class MeanForSum(Cosine):
    """Mutant: the root mean square in place of the length."""

    def keys(self, k: Array, positions: Any) -> Array:
        return super().keys(k, positions) * math.sqrt(k.shape[-1])


MUTANTS: dict[str, tuple[str, Callable[[], Grouped]]] = {
    "no bound on the temperature": ("learned", lambda: layer(Cosine(np.exp(STORED)))),
    "heads shifted": ("learned", lambda: layer(Cosine.learned(np.roll(STORED, 1)))),
    "logarithms for temperatures": ("learned", lambda: layer(Cosine(STORED))),
    "the plain scale on top": ("learned", lambda: replace(layer(LEARNED), scale=None)),
    "keys left long": ("fixed", lambda: layer(scale=10.0)),
    "epsilon added": ("least length", lambda: layer(PlusEps(np.array(TAU), eps=1.5))),
    "temperature twice": ("learned", lambda: layer(HotKeys(LEARNED.temperature))),
    "root mean square": ("learned", lambda: layer(MeanForSum(LEARNED.temperature))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(name: str) -> None:
    example, mutant = MUTANTS[name]
    assert gap(stepped(mutant(), states(), (2,))[0], by_hand(states(), **EXAMPLES[example][1])) > 2


@pytest.mark.law("variants/dense/cosine", "the length of a hidden state does not matter", "bound")
def test_how_long_a_state_is_changes_no_score() -> None:
    """Only values grow with x; with one key, lse is the score."""
    x = drawn(1, 1, M, seed=4)
    one, two = (layer(LEARNED).definition(part, np.arange(1)).lse for part in (x, 1000.0 * x))
    np.testing.assert_allclose(one, two, rtol=1e-12)
    assert np.abs(one[0, :, 0]).max() <= 100.0


def test_a_bias_comes_behind_the_temperature() -> None:
    bias = drawn(HEADS, T, T, seed=7)
    ours, x = layer(LEARNED), drawn(1, T, M, seed=9)
    with_bias = replace(ours, mods=(Bias(bias[None]),))
    first = with_bias.definition(x, np.arange(T)).lse[0, :, 0]
    plain = ours.definition(x, np.arange(T)).lse[0, :, 0]
    np.testing.assert_allclose(first, plain + bias[:, 0, 0], rtol=1e-12)


def test_temperatures_are_rounded_once() -> None:
    stored = STORED.astype(np.float32)
    wanted = [np.float32(math.exp(min(float(a), math.log(100.0)))) for a in stored]
    found = Cosine.learned(stored).temperature
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == wanted
    assert math.isclose(LARGEST, 4.605170185988092)
    free = Cosine.learned(STORED, most=20.0).temperature
    assert free is not None
    assert math.isclose(free[1], math.exp(9.0), rel_tol=1e-15)


def test_it_costs_what_it_counts() -> None:
    for scheme in (Cosine(), LEARNED):
        for verb, heads in (("queries", HEADS), ("keys", KV_HEADS)):
            with counting() as tally:
                getattr(scheme, verb)(drawn(3, heads, 2, D, seed=0), np.zeros((3, 1, 2), int))
                counted = tally.tally
            assert counted == getattr(scheme, f"{verb}_cost")(tokens=6, heads=heads, width=D)


ROWS, AT = np.ones((1, 3, 1, 2)), np.zeros((1, 1, 1), int)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "heads": (
        lambda: LEARNED.queries(ROWS, AT),
        ShapeError,
        r"^temperature must have shape \[Hq\] with Hq=3, got \(4,\)$",
    ),
    "dtype": (
        lambda: Cosine(np.ones(3, np.float32)).queries(ROWS, AT),
        DtypeError,
        r"^temperature must have the dtype of the queries, float64, got float32$",
    ),
    "rank": (
        lambda: Cosine(np.ones((3, 1, 1))),
        ShapeError,
        r"^temperature must be a non-empty array of rank 1, got shape \(3, 1, 1\)$",
    ),
    "infinite": (
        lambda: Cosine(np.array([1.0, np.inf])),
        ArgumentError,
        r"^temperature must be finite for every head, got \[1\.0, inf\]$",
    ),
    "eps": (lambda: Cosine(eps=0.0), ArgumentError, r"^eps must be a finite number above 0, got 0\.0$"),
    "most": (lambda: Cosine.learned(STORED, most=math.inf), ArgumentError, r"^most must be a finite number, got inf$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
