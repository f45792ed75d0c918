"""The loops of `kvattn.testing.heads_by_hand` against numbers worked out on paper."""

import math
from types import SimpleNamespace

import numpy as np

from kvattn.positions import Rotary
from kvattn.testing.balls import Ball, given
from kvattn.testing.heads_by_hand import (
    Heads,
    cut,
    drawn,
    drawn_projections,
    layer_by_hand,
    layer_norm,
    mix,
    rms,
    root,
    sigmoid,
    softmax,
    times,
    turn,
)


def values(row: list[Ball]) -> list[float]:
    return [ball.value for ball in row]


def test_rows_times_matrices_and_heads_out_of_columns() -> None:
    assert values(times(given(np.array([1.0, 2.0])), np.array([[1.0, 0.0], [3.0, 1.0]]))) == [7.0, 2.0]
    assert [values(head) for head in cut(given(np.arange(4.0)), 2)] == [[0.0, 1.0], [2.0, 3.0]]


def test_norms() -> None:
    assert values(rms(given(np.array([3.0, -3.0])), [1.0, 2.0], 7.0)) == [0.75, -1.5]
    assert values(rms(given(np.array([3.0, -3.0])), None, 7.0)) == [0.75, -0.75]
    assert values(layer_norm(given(np.array([2.0, 8.0])), [1.0, 2.0], None, 7.0)) == [-0.75, 1.5]
    assert values(layer_norm(given(np.array([2.0, 8.0])), [1.0, 2.0], [1.0, 1.0], 7.0)) == [0.25, 2.5]
    assert root(Ball(9.0)).value == 3.0
    assert math.isclose(sigmoid(Ball(math.log(3.0))).value, 0.75, rel_tol=1e-15)


def test_turning_starts_where_the_rotation_says() -> None:
    quarter = Rotary((math.pi / 2,), magnitude=2.0, start=-2)
    assert [round(a, 12) for a in values(turn(given(np.array([5.0, 1.0, 0.0])), 1, quarter))] == [5.0, 0.0, 2.0]
    adjacent = Rotary((0.0, math.pi), layout="adjacent")
    assert [round(a, 12) for a in values(turn(given(np.arange(1.0, 5.0)), 1, adjacent))] == [1.0, 2.0, -3.0, -4.0]


def test_a_sink_takes_its_share() -> None:
    weights, lse = softmax(given(np.zeros(2)), Ball(math.log(2.0)))
    assert [round(a, 15) for a in values(weights)] == [0.25, 0.25]
    assert math.isclose(lse.value, math.log(4.0), rel_tol=1e-15)


def test_a_mix_weighs_values_by_scores() -> None:
    keys, kept = given(np.array([[1.0], [0.0]])), given(np.array([[8.0, 0.0], [0.0, 4.0]]))
    assert [round(a, 12) for a in values(mix([Ball(1.0)], keys, kept, math.log(3.0))[0])] == [6.0, 1.0]


def test_a_layer_bends_finishes_and_reads_what_lies_beside() -> None:
    one = np.ones((1, 1))
    w = SimpleNamespace(query=np.ones((1, 2)), key=one, value=one, output=np.ones((2, 1)), heads=2, kv_heads=1)
    x = np.array([[[1.0], [3.0]]])
    assert layer_by_hand(w, x, scale=0.0)[0][0][1][0].value == 4.0
    assert layer_by_hand(w, x, scale=0.0, sees=lambda i, j: i == j)[0][0][1][0].value == 6.0
    doubled = layer_by_hand(w, x, scale=0.0, values=lambda j, heads: [[a * 2.0 for a in row] for row in heads])
    assert doubled[0][0][1][0].value == 8.0
    first = layer_by_hand(w, x, scale=0.0, finish=lambda i, row, heads: [heads[0], row])
    assert first[0][0][1][0].value == 2.0 + 3.0
    beside = layer_by_hand(w, x, scale=0.0, beside=lambda b: ([[[Ball(0.0)]]], [[[Ball(8.0)]]]))
    assert beside[0][0][0][0].value == 9.0
    lse = layer_by_hand(w, x, sinks=[math.log(2.0), 0.0], scale=0.0)[1]
    assert [round(math.exp(ball.value), 12) for ball in lse[0][0]] == [3.0, 4.0]
    again = layer_by_hand(w, layer_by_hand(w, x, scale=0.0)[0], scale=0.0)
    assert again[0][0][1][0].value == 2.0 * (2.0 + 4.0) / 2.0
    asked: list[int] = []

    def noted(position: int, heads: Heads) -> Heads:
        asked.append(position)
        return heads

    layer_by_hand(w, x, queries=noted, scale=0.0)
    layer_by_hand(w, x, keys=noted, scale=0.0)
    assert asked == [0, 1, 0, 1]


def test_what_is_drawn_has_sizes_that_differ() -> None:
    assert np.array_equal(drawn(2, 3, seed=1), drawn(2, 3, seed=1))
    w = drawn_projections(4, 2, dtype=np.float32)
    assert w.dtype == np.float32
    assert (w.heads, w.kv_heads, w.hidden, w.width, w.value_width) == (4, 2, 6, 4, 3)
    assert not np.array_equal(w.query[:, :8], w.key)
