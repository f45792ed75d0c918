"""Shaw's relative keys in the layer by hand."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.shaw import ShawKeys
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, dot, drawn, example

BEHIND = 2
SHARED, EACH = drawn(4, 4, seed=1), drawn(4, 4, 4, seed=2)  # rows for k - q = -2, -1, 0, 1


def score(vectors: Any, scale: float = 1 / math.sqrt(4)) -> Any:
    def by_hand(pair: Pair) -> Ball:
        """The key with its relative key added, as the paper writes it."""
        rows = vectors if vectors.ndim == 2 else vectors[pair.h]
        relative = pair.row(rows[min(max(pair.j - pair.i, -BEHIND), 1) + BEHIND])
        return pair.product + dot(pair.query, relative) * scale

    return by_hand


@pytest.mark.by_hand("positions/shaw")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [SHARED, EACH], ids=["shared", "a table for each head"])
def test_it_equals_by_hand(vectors: Any, dtype: Any) -> None:
    assert example(ShawKeys.of(vectors, BEHIND), score(vectors), dtype).gap() <= 1
    assert example(ShawKeys.of(vectors, BEHIND, scale=0.3), score(vectors, 0.3), dtype).gap() <= 1


GOOD = ShawKeys.of(SHARED, BEHIND)


@pytest.mark.parametrize(
    "mutant",
    [
        ShawKeys.of(SHARED[::-1], BEHIND),
        ShawKeys.of(SHARED, BEHIND - 1),
        replace(GOOD, scale=1.0),
        ShawKeys(DistanceTable(SHARED[None], BEHIND)),
        lambda scores, place: GOOD(scores, place._replace(queries=place.queries * 0.5)),
        lambda scores, place: GOOD(scores, place._replace(q_positions=place.q_positions + 1)),
    ],
    ids=["other side", "one row too far", "not scaled", "query less key", "scaled twice", "one position too far"],
)
def test_a_wrong_scheme_is_rejected(mutant: Any) -> None:
    assert example(mutant, score(SHARED)).gap() > 2


def test_a_layer_without_queries_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^place must have queries for relative keys, got None$"):
        bent(GOOD, [0], [0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ShawKeys.of(SHARED, 4), ArgumentError, r"^behind must be an integer in 0 \.\. 3, got 4$"),
        (
            lambda: ShawKeys.of(SHARED[0], 1),
            ShapeError,
            r"^vectors must have shape \[N, D\] or \[H, N, D\], got \(4,\)$",
        ),
        (lambda: ShawKeys(SHARED), ArgumentError, r"^table must be a DistanceTable, got an array of shape \(4, 4\)$"),  # type: ignore[arg-type]
        (lambda: ShawKeys.of(SHARED, 1, math.inf), ArgumentError, r"^scale must be a finite number, got inf$"),
    ],
    ids=range(4),
)
def test_a_bad_argument_is_named(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_what_is_given_is_copied() -> None:
    vectors = SHARED.copy()
    shaw = ShawKeys.of(vectors, BEHIND)
    vectors += 1
    assert np.array_equal(shaw.table.vectors[0], SHARED[::-1])


def test_a_pair_costs_a_product_of_d_numbers() -> None:
    """D = 4: 8 FLOPs, a scaling and an addition."""
    assert added_cost(example(GOOD, score(SHARED)).layer) == Tally(matmul=8 * PAIRS, arithmetic=2 * PAIRS)
