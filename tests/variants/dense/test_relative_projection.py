"""Relative projection: the layer by hand, wrong ones rejected, and what its arguments change."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import DtypeError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.positions import Alibi, Rotary
from kvattn.positions.relative_projection import RelativeProjection
from kvattn.testing.heads_by_hand import drawn, drawn_projections, times
from kvattn.testing.laws import stepped
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.relative_projection import RelativeProjected
from tests.positions.scored import DTYPES, Ball, Example, Pair, T, dot

R, EXTENT = 4, 3
CURVES = drawn(R, EXTENT, seed=7)
W_R = drawn(6, 4 * R, seed=8) / 2


def by_hand(relative: Any = W_R) -> Any:
    def score(pair: Pair) -> Ball:
        """r of the query's token, head by head, times the curves' column for the distance."""
        apart = pair.i - pair.j
        if apart >= EXTENT:
            return pair.product
        r = times(pair.x[pair.i], relative[:, pair.h * R : (pair.h + 1) * R])
        return pair.product + dot(r, pair.row(CURVES[:, apart]))

    return score


def layer(dtype: Any = np.float64, **change: Any) -> RelativeProjected:
    weights = drawn_projections(4, 2, dtype=dtype)
    made = RelativeProjected(weights, W_R.astype(dtype), RelativeProjection(CURVES), page=2)
    return replace(made, **change)


@pytest.mark.by_hand("variants/dense/relative_projection")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    made = layer(dtype)
    assert Example(made, by_hand(made.relative)).gap() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"relative": np.ascontiguousarray(W_R.reshape(6, R, 4).swapaxes(1, 2).reshape(6, -1))},
        {"curves": RelativeProjection(CURVES[:, ::-1])},
        {"curves": RelativeProjection(np.roll(CURVES, 1, axis=1))},
        {"curves": RelativeProjection(CURVES[:, :2])},
        {"curves": RelativeProjection(np.concatenate([CURVES, CURVES[:, -1:]], axis=1))},
        {"relative_key": (Rotary.of(R),)},
        {"scale": 1 / 4},
    ],
    ids=["heads inside", "reversed", "off by one", "too short", "too long", "r turned", "other scale"],
)
def test_a_wrong_layer_is_rejected(change: Any) -> None:
    assert Example(layer(), by_hand()).gap(layer(**change)) > 2


FULL = layer(
    relative_key=(Rotary.of(R),),
    query_key=(Rotary.of(4),),
    mods=(Alibi.of(4),),
    mask=Window(4),
    softcap=2.0,
    sinks=np.ones(4),
    scale=0.25,
)


@pytest.mark.parametrize(
    "change",
    [
        {"relative": W_R * 2},
        {"curves": RelativeProjection(CURVES * 2)},
        {"relative_key": ()},
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


def test_r_is_counted_and_not_cached() -> None:
    plain = Grouped(drawn_projections(4, 2), page=2)
    x = drawn(1, T, 6, seed=9)
    with counting() as tally:
        _, cache = stepped(layer(), x, ())
        counted = tally.tally
    assert cache.nbytes == stepped(plain, x, ())[1].nbytes
    pairs = 4 * T * T
    assert counted.matmul - plain.cost(past=0, new=T).matmul == 2 * T * 6 * 4 * R + 2 * R * pairs
    assert counted.arithmetic - plain.cost(past=0, new=T).arithmetic == pairs


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"relative": W_R[:, :3]}, ShapeError, r"^relative must have shape \[6, 16\], got \(6, 3\)$"),
        (
            {"relative": W_R.astype("f4")},
            DtypeError,
            r"^relative must have the dtype of the weights, float64, got float32$",
        ),
    ],
    ids=range(2),
)
def test_a_bad_argument_is_named(change: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        layer(**change)
