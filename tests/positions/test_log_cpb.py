"""Biases on a grid: offsets looked up and log-CPB's network, in the layer by hand."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions.log_cpb import GridBias, log_cpb, log_spaced
from tests.positions.scored import DTYPES, Ball, Pair, bent, drawn, example

TABLE = drawn(4, 3, 5, seed=1)  # 2 rows of 3
INNER, SHIFT, OUTER = drawn(2, 5, seed=2), drawn(5, seed=3), drawn(5, 4, seed=4)
LEARNED, MADE = GridBias(TABLE), log_cpb((2, 3), INNER, SHIFT, OUTER)


def offsets(pair: Pair) -> tuple[int, int]:
    (a, b), (c, d) = divmod(pair.i, 3), divmod(pair.j, 3)
    return a - c, b - d


def by_hand_learned(pair: Pair) -> Ball:
    y, x = offsets(pair)
    return pair.product + pair.told(float(TABLE[pair.h, y + 1, x + 2]))


def network(h: int, y: float, x: float) -> float:
    """Offsets already divided by rows - 1 and columns - 1."""
    y, x = (math.copysign(math.log(1 + 8 * abs(t), 8), t) for t in (y, x))
    hidden = [max(0.0, float(SHIFT[n] + INNER[0, n] * y + INNER[1, n] * x)) for n in range(5)]
    total = math.fsum(float(OUTER[n, h]) * hidden[n] for n in range(5))
    return 16 / (1 + math.exp(-total))


def by_hand_made(pair: Pair) -> Ball:
    y, x = offsets(pair)
    return pair.product + pair.told(network(pair.h, y / 1, x / 2), 100.0)


@pytest.mark.by_hand("positions/log_cpb: learned")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_learned_table_equals_by_hand(dtype: Any) -> None:
    assert example(LEARNED, by_hand_learned, dtype).gap() <= 1


@pytest.mark.by_hand("positions/log_cpb: log-CPB")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_made_table_equals_by_hand(dtype: Any) -> None:
    assert example(MADE, by_hand_made, dtype).gap() <= 1


@pytest.mark.parametrize(
    "mutant",
    [
        GridBias(TABLE[::-1]),
        GridBias(TABLE[:, ::-1]),
        GridBias(TABLE[:, :, ::-1]),
        GridBias(np.ascontiguousarray(TABLE.reshape(4, 5, 3))),
    ],
    ids=["heads reversed", "rows reversed", "columns reversed", "3 rows of 2"],
)
def test_a_wrong_table_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand_learned).gap() > 2


@pytest.mark.parametrize(
    "mutant",
    [
        log_cpb((2, 3), INNER[::-1], SHIFT, OUTER),
        log_cpb((2, 3), INNER, np.zeros(5), OUTER),
        log_cpb((2, 3), INNER, SHIFT, OUTER, trained=(3, 3)),
        log_cpb((2, 3), INNER, SHIFT, OUTER[:, ::-1]),
        replace(MADE, table=MADE.table / 16),
        LEARNED,
    ],
    ids=["rows and columns exchanged", "no bias", "another grid", "heads reversed", "not 16", "learned"],
)
def test_a_wrong_network_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand_made).gap() > 2


def test_a_network_can_be_read_at_another_grid() -> None:
    small, large = log_cpb((3, 3), INNER, SHIFT, OUTER), log_cpb((5, 5), INNER, SHIFT, OUTER, trained=(3, 3))
    assert np.array_equal(large.table[:, 2:7, 2:7], small.table)
    assert np.allclose(large.table[1, 0, 8], network(1, -4 / 2, 4 / 2), rtol=1e-13)


def test_a_side_of_one_has_no_offsets() -> None:
    assert np.allclose(log_cpb((1, 3), INNER, SHIFT, OUTER).table[2, 0], [network(2, 0, x / 2) for x in range(-2, 3)])


def test_a_wild_network_saturates_in_silence() -> None:
    table = log_cpb((1, 2), [[0.0], [1e4]], [0.0], [[1e4, -1e4]]).table
    assert table[:, 0, 2].tolist() == [16.0, 0.0]


def test_eight_times_an_offset_is_logged_in_base_two() -> None:
    assert log_spaced(np.array([7 / 8, -7 / 8, 0.0])).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: GridBias(np.zeros((1, 2, 3))),
            ShapeError,
            r"^table must have odd sides, an entry for each offset, got",
        ),
        (lambda: GridBias(np.zeros((3, 3))), ShapeError, r"^table must have shape \[H, 2·rows-1, 2·columns-1\], none"),
        (lambda: GridBias([[["a"]]]), DtypeError, r"^table must be an array of real numbers, got <U1$"),  # type: ignore[arg-type]
        (lambda: log_cpb((2,), INNER, SHIFT, OUTER), ArgumentError, r"^grid must be two integers, rows and columns"),  # type: ignore[arg-type]
        (lambda: log_cpb((0, 2), INNER, SHIFT, OUTER), ArgumentError, r"^grid\[0\] must be an integer >= 1, got 0$"),
        (
            lambda: log_cpb((2, 2), INNER, SHIFT[:2], OUTER),
            ShapeError,
            r"^inner and inner_bias must have shapes \(2, 5\) and \(5,\), got \(2, 5\) and \(2,\)$",
        ),
        (
            lambda: bent(LEARNED, [5], [6], 4),
            PositionError,
            r"^positions must lie in a grid of 2 rows and 3 columns, got 6$",
        ),
        (lambda: bent(LEARNED, [-1], [0], 4), PositionError, r"^positions must lie in a grid .*, got -1$"),
        (lambda: bent(LEARNED, [0], [0], 5), ArgumentError, r"^table must cover every query head, got 4 and head 4$"),
    ],
    ids=range(9),
)
def test_a_bad_argument_is_named(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
