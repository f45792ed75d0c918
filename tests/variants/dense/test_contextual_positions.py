"""Contextual positions against the layer by hand: gates, what they count, and the embedding between two integers."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Softmax
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.testing.balls import Ball, dot, given, total
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, Shares, by_hand, gap, sigmoid, small, softmax
from kvattn.variants.dense.contextual_positions import ContextualPositions
from kvattn.variants.dense.weighed import Weighed

W, X = small()
TABLE = np.random.default_rng(5).normal(size=(4, 4))


def shares_of(table: Any, factor: float = 1.0, mutant: str = "") -> Shares:
    embeddings = given(table)
    most = len(embeddings) - 1

    def shares(asked: Asked) -> tuple[list[list[Ball]], list[Ball]]:
        found, logs = [], []
        for query, scores in zip(asked.queries, asked.scores, strict=True):
            gates = [sigmoid(score * factor) for score in scores]
            bent = []
            for j, score in enumerate(scores):
                counted = gates[j + 1 :] if mutant == "the key itself not counted" else gates[j:]
                counted = gates[: j + 1] if mutant == "counted from the front" else counted
                position = total(counted) if counted else Ball(0.0)
                if position.value > most:
                    end = position.value % (most + 1) if mutant == "wrapped round" else most
                    position = Ball(float(end), 0.0, score.unit)
                below = min(math.floor(position.value), most)
                above = min(below + 1, most)
                low, high = dot(query, embeddings[below]), dot(query, embeddings[above])
                share = position - float(below)
                if mutant == "rounded down":
                    share = Ball(0.0)
                if mutant == "ends exchanged":
                    low, high = high, low
                bent.append(score + low * (Ball(1.0) - share) + high * share)
            weights, lse = softmax(bent)
            found.append(weights)
            logs.append(lse)
        return found, logs

    return shares


@pytest.mark.by_hand("variants/dense/contextual_positions")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("rows", "factor"), [(4, 1.0), (2, 2.0), (9, 1.0), (1, 1.0)])
def test_definition_and_steps_equal_by_hand(rows: int, factor: float, dtype: Any) -> None:
    w, x = small(dtype=dtype)
    table = np.random.default_rng(rows).normal(size=(rows, 4)).astype(dtype)
    layer = Weighed(w, ContextualPositions(table, factor), page=2)
    wanted = by_hand(w, x, shares_of(table, factor))
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


@pytest.mark.parametrize(
    "mutant",
    ["the key itself not counted", "counted from the front", "rounded down", "ends exchanged", "wrapped round"],
)
def test_wrong_positions_are_rejected(mutant: str) -> None:
    found = stepped(Weighed(W, ContextualPositions(TABLE)), X, ())[0]
    assert gap(found, by_hand(W, X, shares_of(TABLE, mutant=mutant))) > 1e9


def test_raw_and_scaled_gates_differ_by_the_factor() -> None:
    scaled = stepped(Weighed(W, ContextualPositions(TABLE)), X, ())[0]
    raw = stepped(Weighed(W, ContextualPositions(TABLE, math.sqrt(W.width))), X, ())[0]
    assert gap(raw, by_hand(W, X, shares_of(TABLE, math.sqrt(W.width)))) <= 1
    assert gap(scaled, by_hand(W, X, shares_of(TABLE, math.sqrt(W.width)))) > 1e9


def test_hidden_keys_open_no_gate() -> None:
    layer = Weighed(W, ContextualPositions(TABLE), Causal() & Window(3), page=2)
    wanted = by_hand(W, X, shares_of(TABLE), sees=lambda i, j: 0 <= i - j < 3)
    assert gap(stepped(layer, X, (1, 4))[0], wanted) <= 1


def test_open_gates_count_tokens_and_closed_ones_none() -> None:
    """With gates wide open a position is the distance plus 1; with all shut it is 0 for every key."""
    query = np.ones((1, 1, 1))
    place = replace_queries(query)
    table = np.arange(8.0)[:, None]
    seen = np.arange(256) < 6
    ramp = ContextualPositions(table, 1e4)
    with np.errstate(under="ignore", over="ignore"):
        opened = ramp.weigh(np.full((1, 1, 256), 1.0), seen, place).weights[0, 0, :6]
        shut = ramp.weigh(np.full((1, 1, 256), -1.0), seen, place).weights[0, 0, :6]
    powers = np.exp(np.arange(6, 0, -1.0))
    assert np.allclose(opened, powers / powers.sum(), rtol=1e-14)
    assert np.allclose(shut, 1 / 6, rtol=1e-14)


def replace_queries(queries: Any) -> Any:
    return NOWHERE._replace(queries=queries)


def test_one_embedding_moves_no_weight() -> None:
    flat = np.repeat(TABLE[:1], 5, axis=0)
    with_positions = stepped(Weighed(W, ContextualPositions(flat)), X, ())[0].out
    assert np.allclose(with_positions, stepped(Weighed(W, Softmax()), X, ())[0].out, rtol=1e-12, atol=1e-13)


def test_nan_in_a_seen_key_spoils_its_row_alone() -> None:
    place = replace_queries(np.ones((1, 2, 4)))
    scores = np.zeros((1, 2, 256))
    scores[0, 1, 2] = np.nan
    with np.errstate(invalid="ignore"):
        found = ContextualPositions(TABLE).weigh(scores, np.arange(256) < 4, place).weights
    assert np.isfinite(found[0, 0]).all()
    assert np.isnan(found[0, 1, :4]).any()


def test_bad_arguments_are_named() -> None:
    for make, error, words in (
        (lambda: ContextualPositions(np.ones(3)), ShapeError, r"^table must have shape \[P, D\], got \(3,\)$"),
        (
            lambda: ContextualPositions(TABLE, math.nan),
            ArgumentError,
            r"^gate_factor must be a finite number, got nan$",
        ),
        (
            lambda: Weighed(W, ContextualPositions(np.ones((3, 5)))),
            ShapeError,
            r"^table must have shape \[P, 4\], got \(3, 5\)$",
        ),
        (
            lambda: Weighed(W, ContextualPositions(TABLE.astype("f4"))),
            DtypeError,
            r"^table must have the dtype of the projections, float64, got float32$",
        ),
        (
            lambda: ContextualPositions(TABLE).weigh(np.zeros((1, 1, 256)), np.ones((1, 1, 256), np.bool_), NOWHERE),
            ArgumentError,
            r"^place must hold the queries, got None$",
        ),
    ):
        with pytest.raises(error, match=words):
            make()


def test_the_table_is_read_once() -> None:
    table = TABLE.copy()
    layer = Weighed(W, ContextualPositions(table))
    before = layer.definition(X, np.arange(6)).out
    table += 1
    assert np.array_equal(replace(layer, page=3).definition(X, np.arange(6)).out, before)
