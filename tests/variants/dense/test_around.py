"""Projections before the heads and gates behind them: the two halves agree, and cost what they count."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Prefix
from kvattn.positions import Polar, Rotary
from kvattn.testing.balls import agree, given
from kvattn.testing.heads_by_hand import cut, drawn, drawn_projections, times, turn
from kvattn.variants.dense import around
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.sub_norm import SubNorm

T, M, HEADS, KV_HEADS, D, DV = 5, 6, 4, 2, 4, 3
TURN = Rotary.of(D)
LAYER = Grouped(drawn_projections(HEADS, KV_HEADS), query_key=(TURN,), finish=(SubNorm(np.ones(HEADS * DV)),), page=2)
X = drawn(2, T, M, seed=9)


def test_heads_of_a_token_are_its_row_times_the_matrices_turned() -> None:
    w = LAYER.projections
    found = around.whole_heads(LAYER, X, np.arange(T))
    for rows, matrix, heads, turned in ((found.q, w.query, HEADS, True), (found.v, w.value, KV_HEADS, False)):
        tokens = [
            [
                [turn(head, t, TURN) if turned else head for head in cut(times(row, matrix), heads)]
                for t, row in enumerate(sequence)
            ]
            for sequence in given(X)
        ]
        assert agree(rows.swapaxes(1, 2), tokens) <= 1
        assert agree(rows.swapaxes(1, 2)[:, ::-1], tokens) > 1e3  # mutant: another order of tokens


@pytest.mark.parametrize("cuts", [(), (2,), (1, 4)])
def test_heads_and_outputs_of_steps_are_those_of_the_whole(cuts: tuple[int, ...]) -> None:
    whole = around.whole_heads(LAYER, X, np.arange(T))
    output = around.whole_output(LAYER, whole, np.repeat(whole.v, HEADS // KV_HEADS, axis=1))
    cache = LAYER.start(2)
    for start, stop in zip((0, *cuts), (*cuts, T), strict=True):
        new = around.new_heads(LAYER, cache, X[:, start:stop])
        assert new.positions.tolist() == [list(range(start, stop))] * 2
        # products of 6 or 12 terms of size 1, a rotation and a norm: a few dozen roundings
        for one, other in ((new.q, whole.q), (new.k, whole.k), (new.v, whole.v)):
            np.testing.assert_allclose(one, other[:, :, start:stop], rtol=0, atol=1e-13)
        mixed = np.repeat(new.v, HEADS // KV_HEADS, axis=1)
        np.testing.assert_allclose(around.new_output(LAYER, new, mixed), output[:, start:stop], rtol=0, atol=1e-13)
        _, cache = LAYER.step(cache, X[:, start:stop])


def test_cost_is_count() -> None:
    with counting() as tally:
        heads = around.new_heads(LAYER, LAYER.start(2), X)
        around.new_output(LAYER, heads, np.repeat(heads.v, HEADS // KV_HEADS, axis=1))
        counted = tally.tally
    assert counted == around.cost(LAYER, 2 * T)
    assert counted != around.cost(replace(LAYER, finish=()), 2 * T)
    assert counted != around.cost(replace(LAYER, query_key=()), 2 * T)


def test_a_scheme_that_widens_rows_widens_keys_and_leaves_the_scale() -> None:
    wide = replace(LAYER, query_key=(TURN, Polar.of(D, KV_HEADS)))
    assert around.widths(wide) == [D, D, 2 * D]
    assert around.shape_of(wide, past=3, new=1, batch=2).width == 2 * D
    assert around.schema_of(wide).nbytes == KV_HEADS * (2 * D + DV) * 8
    assert around.arguments(wide)["scale"] == around.arguments(LAYER)["scale"] == 1 / math.sqrt(D)
    assert around.arguments(replace(LAYER, scale=0.3), mask=None) == around.arguments(LAYER) | {
        "scale": 0.3,
        "mask": None,
    }


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (X[0], ShapeError, r"x must have shape \[B, T, M\]"),
        (X.astype("f4"), DtypeError, "x must have the dtype of the weights, float64, got float32"),
    ],
)
def test_what_does_not_fit_is_refused(x: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        around.whole_heads(LAYER, x, np.arange(T))
    with pytest.raises(error, match=words):
        around.new_heads(LAYER, LAYER.start(2), x)


def test_a_prefix_comes_in_one_step() -> None:
    layer = replace(LAYER, mask=Causal() | Prefix(3))
    _, cache = layer.step(layer.start(2), X[:, :2])
    with pytest.raises(PositionError, match="must come in one step"):
        around.new_heads(layer, cache, X[:, 2:])
