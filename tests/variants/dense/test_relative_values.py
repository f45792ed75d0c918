"""Relative values against the layer by hand: distances, their sign, and where they are cut."""

from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Softmax
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.testing.balls import Ball, dot, given
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, by_hand, gap, sigmoid, small, softmax
from kvattn.variants.dense.relative_values import RelativeValues
from kvattn.variants.dense.sigmoid import Sigmoid
from kvattn.variants.dense.weighed import Weighed

W, X = small()
TABLE = np.random.default_rng(5).normal(size=(5, 3))  # K = 2


def shares(asked: Asked) -> tuple[list[list[Ball]], list[Ball]]:
    rows = [softmax(scores) for scores in asked.scores]
    return [weights for weights, _ in rows], [lse for _, lse in rows]


def further(table: Any, reach: int, sign: int = -1, off: int = 0) -> Any:
    embeddings = given(table)

    def mixed(asked: Asked, weights: list[list[Ball]]) -> list[list[Ball]]:
        rows = [max(-reach, min(reach, sign * distance + off)) + reach for distance in asked.distances]
        return [[dot(row, [embeddings[n][d] for n in rows]) for d in range(3)] for row in weights]

    return mixed


@pytest.mark.by_hand("variants/dense/relative_values")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("reach", [0, 2, 9])
def test_definition_and_steps_equal_by_hand(reach: int, dtype: Any) -> None:
    w, x = small(dtype=dtype)
    table = np.random.default_rng(reach).normal(size=(2 * reach + 1, 3)).astype(dtype)
    layer = Weighed(w, beside=[RelativeValues(table)], page=2)
    wanted = by_hand(w, x, shares, further=further(table, reach))
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


def test_keys_ahead_have_embeddings_of_their_own() -> None:
    layer = Weighed(W, mask=None, beside=(RelativeValues(TABLE),))
    wanted = by_hand(W, X, shares, further=further(TABLE, 2), sees=lambda i, j: True)
    assert gap(layer.definition(X, np.arange(6)), wanted) <= 1
    assert gap(stepped(layer, X, ())[0], wanted) <= 1


def test_any_weights_will_do() -> None:
    layer = Weighed(W, Sigmoid(-1.0), beside=(RelativeValues(TABLE), RelativeValues(TABLE)), page=2)

    def sigmoids(asked: Asked) -> tuple[list[list[Ball]], None]:
        return [[sigmoid(score - 1.0) for score in row] for row in asked.scores], None

    wanted = by_hand(W, X, sigmoids, further=further(2 * TABLE, 2))
    assert gap(layer.definition(X, np.arange(6)), wanted) <= 1
    assert gap(stepped(layer, X, (3,))[0], wanted) <= 1


MUTANTS = {
    "i - j in place of j - i": further(TABLE, 2, sign=1),
    "one off": further(TABLE, 2, off=1),
    "cut one too early": further(TABLE[1:-1], 1),
    "not there": lambda asked, weights: [[Ball(0.0)] * 3 for _ in weights],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_tables_are_rejected(name: str) -> None:
    found = stepped(Weighed(W, beside=(RelativeValues(TABLE),)), X, ())[0]
    assert gap(found, by_hand(W, X, shares, further=MUTANTS[name])) > 1e9


def test_one_embedding_adds_itself_where_weights_sum_to_1() -> None:
    same = np.repeat([[1.0, -2.0, 0.5]], 5, axis=0)
    plain, moved = (stepped(Weighed(W, beside=b), X, ())[0].out for b in ((), (RelativeValues(same),)))
    assert np.allclose(moved - plain, np.tile(same[0], 4) @ W.output, rtol=1e-12, atol=1e-12)


def test_far_positions_are_cut_not_wrapped() -> None:
    place = NOWHERE._replace(q_positions=np.array([[[2**40]]]), k_positions=np.arange(256)[None, None])
    weights = np.full((1, 1, 256), 1 / 256)
    assert np.allclose(RelativeValues(TABLE).mix(weights, place)[0, 0], TABLE[0], rtol=1e-15)


def test_bad_arguments_are_named() -> None:
    for make, error, words in (
        (lambda: RelativeValues(np.ones((4, 3))), ShapeError, r"^table must have 2·K \+ 1 rows, an odd number, got 4$"),
        (lambda: RelativeValues(np.ones(3)), ShapeError, r"^table must have shape \[rows, Dv\], got \(3,\)$"),
        (
            lambda: Weighed(W, beside=(RelativeValues(np.ones((3, 4))),)),
            ShapeError,
            r"^table must have shape \[rows, 3\], got \(3, 4\)$",
        ),
        (
            lambda: Weighed(W, beside=(RelativeValues(TABLE.astype("f4")),)),
            DtypeError,
            r"^table must have the dtype of the projections, float64, got float32$",
        ),
        (
            lambda: Weighed(W, beside=RelativeValues),  # type: ignore[arg-type]
            ArgumentError,
            r"^beside must be a sequence of what is mixed besides values, got <class ",
        ),
        (
            lambda: Weighed(W, beside=(Softmax(),)),  # type: ignore[arg-type]
            ArgumentError,
            r"^beside must be a sequence of what is mixed besides values, got \(Softmax\(\),\)$",
        ),
    ):
        with pytest.raises(error, match=words):
            make()
