"""Transformer-XL's four terms in the layer by hand."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.transformer_xl import TransformerXL
from kvattn.testing.heads_by_hand import drawn_projections
from kvattn.variants.dense.grouped import Grouped
from tests.positions.scored import DTYPES, Ball, Example, Pair, bent, dot, drawn

M, H, D, FARTHEST = 6, 4, 4, 3
W_R, U, V = drawn(M, H * D, seed=1), drawn(H, D, seed=2), drawn(H, D, seed=3)
RELATIVE = TransformerXL.of(W_R, U, V, FARTHEST)


def sinusoid(n: int) -> list[float]:
    angles = [n / 10000 ** (2 * k / M) for k in range(M // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


def distance_key(h: int, n: int) -> list[float]:
    wave = sinusoid(min(n, FARTHEST))
    return [math.fsum(wave[m] * float(W_R[m, h * D + d]) for m in range(M)) for d in range(D)]


def by_hand(pair: Pair) -> Ball:
    """(q + u) · k + (q + v) · R; a bias that is added and taken away again costs its own roundings."""

    def moved(bias: Any, spare: Any) -> list[Ball]:
        sizes = 4 * pair.unit * (np.abs(bias) + np.abs(spare))
        return [a + Ball(float(b), float(size), pair.unit) for a, b, size in zip(pair.query, bias, sizes, strict=True)]

    u, v = U[pair.h], V[pair.h]
    far = [pair.told(value, 10.0) for value in distance_key(pair.h, pair.i - pair.j)]
    return (dot(moved(u, u), pair.key) + dot(moved(v, u), far)) * (1 / math.sqrt(D))


def layer(relative: Any, dtype: Any = np.float64, mod: Any = None) -> Example:
    weights = drawn_projections(H, 2, dtype=dtype)
    made = Grouped(weights, query_key=(relative,), mods=(relative if mod is None else mod,), page=2)
    return Example(made, by_hand)


@pytest.mark.by_hand("positions/transformer_xl")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    assert layer(RELATIVE, dtype).gap() <= 1


@pytest.mark.parametrize(
    "mutant",
    [
        replace(RELATIVE, content=V, position=U),
        replace(RELATIVE, position=U),
        replace(RELATIVE, scale=1.0),
        TransformerXL.of(W_R, U, V, FARTHEST + 1),
        TransformerXL.of(W_R, U, V, FARTHEST, base=100.0),
        TransformerXL.of(np.roll(W_R, M // 2, axis=0), U, V, FARTHEST),
        TransformerXL.of(W_R.reshape(M, D, H).swapaxes(1, 2).reshape(M, -1), U, V, FARTHEST),
    ],
    ids=["u and v exchanged", "u for v", "no scale", "not clamped", "another base", "cosines first", "heads inside"],
)
def test_a_wrong_scheme_is_rejected(mutant: Any) -> None:
    assert layer(mutant).gap() > 2


def test_it_is_wanted_in_both_places() -> None:
    def nothing(scores: Any, place: Any) -> Any:
        return scores

    assert layer(RELATIVE, mod=nothing).gap() > 2
    alone = replace(layer(RELATIVE).layer, query_key=())
    assert Example(alone, by_hand).gap() > 2


def test_distances_ahead_are_negative_angles() -> None:
    both = TransformerXL.of(W_R, U, V, 2, ahead=2)
    assert np.allclose(both.table.vectors[:, 2:], TransformerXL.of(W_R, U, V, 2).table.vectors, rtol=1e-14)
    wave = np.array([-a for a in sinusoid(2)[:3]] + sinusoid(2)[3:])
    assert np.allclose(both.table.vectors[:, 0].ravel(), wave @ W_R, rtol=1e-12)


def test_adding_u_is_counted() -> None:
    q = drawn(2, H, 5, D, seed=4)
    with counting() as tally:
        moved = RELATIVE.queries(q, np.zeros((2, 1, 5), np.int64))
        assert RELATIVE.keys(q, np.zeros((2, 1, 5), np.int64)) is q
        counted = tally.tally
    assert counted == RELATIVE.queries_cost(tokens=10, heads=H, width=D)
    assert counted.arithmetic == moved.size
    assert np.array_equal(moved[:, 1], q[:, 1] + U[1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: replace(RELATIVE, content=U[:2]),
            ShapeError,
            r"^content must have shape \(4, 4\) like the table's heads, got \(2, 4\)$",
        ),
        (lambda: TransformerXL(3, U, V), ArgumentError, r"^table must be a DistanceTable, got 3$"),  # type: ignore[arg-type]
        (
            lambda: TransformerXL.of(W_R[:3], U, V, 2),
            ShapeError,
            r"^projection must have shape \[M, H·D\] with H=4 and M even, got \(3, 16\)$",
        ),
        (lambda: TransformerXL.of(W_R, U, V, -1), ArgumentError, r"^farthest must be an integer >= 0, got -1$"),
        (
            lambda: bent(RELATIVE, [0], [0], 4),
            ArgumentError,
            r"^place must have queries for distances to meet, got None$",
        ),
        (
            lambda: bent(RELATIVE, [0], [0], 5, queries=np.zeros((5, 1, 4))),
            ArgumentError,
            r"^position must cover every query head, got 4 and head 4$",
        ),
    ],
    ids=range(6),
)
def test_a_bad_argument_is_named(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_table_of_learned_distances_serves_too() -> None:
    table = DistanceTable(drawn(H, 3, D, seed=5), ahead=1)
    assert TransformerXL(table, U, V).table is table
