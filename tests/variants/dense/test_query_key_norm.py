"""Norms of queries and keys, each placement and width against loops over balls, before and after rotation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.positions import Rotary
from kvattn.testing.balls import Ball, agree, given
from kvattn.testing.heads_by_hand import (
    Bend,
    Heads,
    cut,
    drawn,
    drawn_projections,
    layer_by_hand,
    layer_norm,
    rms,
    turn,
)
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended, QueryKey
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.query_key_norm import FullRmsNorm, HeadLayerNorm, HeadRmsNorm, weights_of

T, M, HEADS, KV_HEADS, D = 5, 6, 4, 2, 4
TURN = Rotary.of(D)


def gains(*shape: int, seed: int, dtype: Any = np.float64) -> Any:
    return (1 + 0.5 * drawn(*shape, seed=seed)).astype(dtype)


EPS = 0.25
"""Large enough that its place shows."""

RMS = HeadRmsNorm(gains(D, seed=1), gains(D, seed=2), EPS)
EACH = HeadRmsNorm(gains(HEADS, D, seed=1), gains(KV_HEADS, D, seed=2), EPS)
FULL = FullRmsNorm(gains(HEADS * D, seed=1), gains(KV_HEADS * D, seed=2), EPS)
LAYER = HeadLayerNorm(gains(HEADS, D, seed=1), gains(KV_HEADS, D, seed=2), eps=EPS)
SHIFTED = HeadLayerNorm(RMS.query, RMS.key, drawn(D, seed=3), drawn(D, seed=4), EPS)  # type: ignore[arg-type]


def each(weight: Any, heads: int) -> Any:
    """A row of weights for each head, or None for each."""
    if weight is None:
        return [None] * heads
    return weight if weight.ndim == 2 else [weight] * heads


def normed(norm: Any, side: str) -> Bend:
    """The norm in loops, on all heads of one token."""
    weight, bias = getattr(norm, side), getattr(norm, f"{side}_bias", None)

    def bend(_: int, heads: Heads) -> Heads:
        if isinstance(norm, FullRmsNorm):
            return cut(rms([a for head in heads for a in head], weight, norm.eps), len(heads))
        pairs = zip(heads, each(weight, len(heads)), each(bias, len(heads)), strict=True)
        if isinstance(norm, HeadRmsNorm):
            return [rms(head, one, norm.eps) for head, one, _ in pairs]
        return [layer_norm(head, one, more, norm.eps) for head, one, more in pairs]

    return bend


def in_order(query_key: tuple[QueryKey, ...], side: str) -> Bend:
    def bend(position: int, heads: Heads) -> Heads:
        for part in query_key:
            turned = isinstance(part, Rotary)
            heads = [turn(head, position, TURN) for head in heads] if turned else normed(part, side)(position, heads)
        return heads

    return bend


@dataclass(frozen=True, eq=False)
class Example:
    """What is done to queries and keys, in order."""

    query_key: tuple[Any, ...]
    dtype: Any = np.float64

    @property
    def layer(self) -> Grouped:
        return Grouped(drawn_projections(HEADS, KV_HEADS, dtype=self.dtype), query_key=self.query_key, page=2)

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.dtype)

    def gap(self, found: Attended) -> float:
        bends: dict[str, Bend] = {
            "queries": in_order(self.query_key, "query"),
            "keys": in_order(self.query_key, "key"),
        }
        out, lse = layer_by_hand(self.layer.projections, self.x, **bends)  # type: ignore[arg-type]
        return max(agree(found.out, out), agree(found.lse, lse))


SINGLE = HeadRmsNorm(gains(D, seed=1, dtype=np.float32), gains(D, seed=2, dtype=np.float32), EPS)
EXAMPLES = {
    "no rotation": Example((RMS,)),
    "before": Example((RMS, TURN)),
    "after": Example((TURN, RMS)),
    "without weights": Example((TURN, HeadRmsNorm(eps=EPS))),
    "keys alone weighted": Example((HeadRmsNorm(None, RMS.key, EPS), TURN)),
    "a row for each head": Example((EACH, TURN)),
    "full width": Example((FULL, TURN)),
    "layer norm": Example((LAYER, TURN)),
    "layer norm with bias": Example((SHIFTED, TURN)),
    "twice": Example((LAYER, TURN, RMS)),
    "float32": Example((SINGLE, TURN), np.float32),
}


@pytest.mark.by_hand("variants/dense/query_key_norm")
@pytest.mark.parametrize("cuts", [None, (), (1, 2, 3, 4), (2, 2)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str, cuts: tuple[int, ...] | None) -> None:
    example = EXAMPLES[name]
    layer, x = example.layer, example.x
    found = layer.definition(x, np.arange(T)) if cuts is None else stepped(layer, x, cuts)[0]
    assert found.out.dtype == x.dtype
    assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_12() -> None:
    example = EXAMPLES["twice"]
    found = example.layer.definition(example.x, np.arange(T))
    assert example.gap(found._replace(out=found.out * (1 + 1e-12))) > 1


class OverAllHeads(HeadRmsNorm):
    """Mutant: one mean square for all heads."""

    def queries(self, q: Array, positions: Any) -> Array:
        size = np.sqrt((q * q).mean((1, 3), keepdims=True) + self.eps)
        return np.asarray(q / size * self.query)


class RootFirst(HeadRmsNorm):
    """Mutant: ε outside of the root."""

    def keys(self, k: Array, positions: Any) -> Array:
        return np.asarray(k / (np.sqrt((k * k).mean(-1, keepdims=True)) + self.eps) * self.key)


class SumForMean(HeadRmsNorm):
    """Mutant: the length in place of the root mean square."""

    def queries(self, q: Array, positions: Any) -> Array:
        return super().queries(q, positions) / math.sqrt(D)


class NotCentred(HeadLayerNorm):
    """Mutant: a LayerNorm that forgets the mean."""

    def queries(self, q: Array, positions: Any) -> Array:
        return HeadRmsNorm(self.query, self.key, self.eps).queries(q, positions)


def one_less(norm: HeadRmsNorm) -> HeadRmsNorm:
    assert norm.query is not None
    assert norm.key is not None
    return replace(norm, query=norm.query - 1, key=norm.key - 1)


MUTANTS: dict[str, tuple[str, Callable[[], tuple[QueryKey, ...]]]] = {
    "after for before": ("before", lambda: (TURN, RMS)),
    "before for after": ("after", lambda: (RMS, TURN)),
    "weights less one": ("before", lambda: (one_less(RMS), TURN)),
    "weights exchanged": ("before", lambda: (replace(RMS, query=RMS.key, key=RMS.query), TURN)),
    "head for full width": (
        "full width",
        lambda: (HeadRmsNorm(FULL.query.reshape(HEADS, D), FULL.key.reshape(KV_HEADS, D), EPS), TURN),
    ),
    "full width for head": ("before", lambda: (OverAllHeads(RMS.query, RMS.key, EPS), TURN)),
    "epsilon outside": ("before", lambda: (RootFirst(RMS.query, RMS.key, EPS), TURN)),
    "sum for mean": ("without weights", lambda: (TURN, SumForMean(eps=EPS))),
    "not centred": ("layer norm", lambda: (NotCentred(LAYER.query, LAYER.key, eps=EPS), TURN)),
    "no bias": ("layer norm with bias", lambda: (replace(SHIFTED, query_bias=None), TURN)),
    "heads shifted": (
        "a row for each head",
        lambda: (replace(EACH, query=np.roll(gains(HEADS, D, seed=1), 1, 0)), TURN),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_norms_are_rejected(name: str) -> None:
    example, query_key = EXAMPLES[MUTANTS[name][0]], MUTANTS[name][1]()
    wrong = replace(example.layer, query_key=query_key)
    assert example.gap(wrong.definition(example.x, np.arange(T))) > 2
    assert example.gap(stepped(wrong, example.x, (2,))[0]) > 2


def test_zero_centred_weights_are_one_more() -> None:
    assert RMS.query is not None
    stored = HeadRmsNorm.zero_centred(drawn(D, seed=5, dtype=np.float32), drawn(D, seed=6, dtype=np.float32), EPS)
    assert stored.eps == EPS
    assert stored.query is not None
    assert stored.query.dtype == np.float32
    assert agree(stored.query, [Ball(float(a), 0.0, 2.0**-24) + 1.0 for a in drawn(D, seed=5, dtype=np.float32)]) <= 1


def scores(query_key: tuple[QueryKey, ...], i: int, j: int) -> Any:
    """Products of one query and one key at two positions."""
    q, k = drawn(1, 1, 1, D, seed=1), drawn(1, 1, 1, D, seed=2)
    for part in query_key:
        q, k = part.queries(q, np.full((1, 1, 1), i)), part.keys(k, np.full((1, 1, 1), j))
    return float((q * k).sum())


@pytest.mark.law("variants/dense/query_key_norm", "scores depend on the distance alone", "bound")
def test_weights_behind_the_rotation_make_scores_depend_on_more_than_the_distance() -> None:
    """A norm without weights commutes with turning; weights that differ inside a pair do not."""
    for query_key in ((RMS, TURN), (TURN, HeadRmsNorm(eps=EPS))):
        assert math.isclose(scores(query_key, 3, 1), scores(query_key, 10, 8), rel_tol=1e-12)
    assert abs(scores((TURN, RMS), 3, 1) - scores((TURN, RMS), 10, 8)) > 0.01


def test_each_norm_costs_what_it_counts() -> None:
    for norm in (RMS, HeadRmsNorm(), EACH, FULL, LAYER, SHIFTED):
        with counting() as tally:
            norm.queries(drawn(3, HEADS, 2, D, seed=0), np.zeros((3, 1, 2), int))
            counted = tally.tally
        assert counted == norm.queries_cost(tokens=6, heads=HEADS, width=D)
        with counting() as tally:
            norm.keys(drawn(3, KV_HEADS, 2, D, seed=0), np.zeros((3, 1, 2), int))
            counted = tally.tally
        assert counted == norm.keys_cost(tokens=6, heads=KV_HEADS, width=D)


def test_weights_are_copied() -> None:
    mine = gains(D, seed=1).copy()
    norm = HeadRmsNorm(mine)
    mine += 1
    assert norm.query is not None
    assert np.array_equal(norm.query, gains(D, seed=1))
    with pytest.raises(ValueError, match="read-only"):
        norm.query[0] = 0.0


ROWS, AT = drawn(1, HEADS, 1, D, seed=0), np.zeros((1, 1, 1), int)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rank": (
        lambda: FullRmsNorm(np.ones((2, 2)), np.ones(2)),
        ShapeError,
        r"^query must be a non-empty array of rank 1, got shape \(2, 2\)$",
    ),
    "key": (
        lambda: HeadLayerNorm(np.ones(2), np.ones(0)),
        ShapeError,
        r"^key must be a non-empty array of rank 1 or 2, got shape \(0,\)$",
    ),
    "integers": (lambda: HeadRmsNorm(np.array([1, 2])), DtypeError, r"^query must be float64 or float32, got int64$"),
    "nothing": (lambda: HeadLayerNorm(None, np.ones(2)), DtypeError, r"^query must be float64 or float32, got object$"),  # type: ignore[arg-type]
    "eps": (lambda: HeadRmsNorm(eps=-1.0), ArgumentError, r"^eps must be a finite number >= 0, got -1\.0$"),
    "width": (
        lambda: HeadRmsNorm(np.ones(3)).queries(ROWS, AT),
        ShapeError,
        r"^query must have shape \(4,\) for rows of shape \(1, 4, 1, 4\), got \(3,\)$",
    ),
    "heads": (
        lambda: HeadRmsNorm(key=np.ones((3, 4))).keys(ROWS, AT),
        ShapeError,
        r"^key must have shape \(4, 4\) for rows of shape \(1, 4, 1, 4\), got \(3, 4\)$",
    ),
    "full": (
        lambda: FullRmsNorm(np.ones(4), np.ones(4)).queries(ROWS, AT),
        ShapeError,
        r"^query must have shape \(16,\) for rows of shape \(1, 4, 1, 4\), got \(4,\)$",
    ),
    "dtype": (
        lambda: HeadRmsNorm(np.ones(4, np.float32)).queries(ROWS, AT),
        DtypeError,
        r"^query must have the dtype of the rows that it norms, float64, got float32$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_weights_are_read_as_they_come() -> None:
    assert weights_of("query", [1.5], 1).tolist() == [1.5]
    assert given(weights_of("query", np.ones(1, np.float32), 1))[0].unit == 2.0**-24
