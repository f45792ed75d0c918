"""T5 buckets: borders by fractions, the bias in the layer by hand, and where float32 puts a border elsewhere."""

from fractions import Fraction
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions.t5_buckets import BothWays, BucketBias, OneWay, borders
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, drawn, example

TABLE = drawn(4, 4, seed=1)


def bucket_by_hand(n: int, count: int, farthest: int) -> int:
    """One way: how many of the powers (F/E)^m the distance has reached, in fractions."""
    exact = count // 2
    if n < exact:
        return max(n, 0)
    rest, m = count - exact, 0
    while m + 1 < rest and Fraction(n, exact) ** rest >= Fraction(farthest, exact) ** (m + 1):
        m += 1
    return exact + m


def by_hand(pair: Pair) -> Ball:
    return pair.product + pair.told(float(TABLE[bucket_by_hand(pair.i - pair.j, 4, 5), pair.h]))


@pytest.mark.by_hand("positions/t5_buckets")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    assert example(BucketBias(TABLE, OneWay(4, 5)), by_hand, dtype).gap() <= 1


@pytest.mark.parametrize(
    "mutant",
    [
        BucketBias(TABLE[::-1], OneWay(4, 5)),
        BucketBias(TABLE[:, ::-1], OneWay(4, 5)),
        BucketBias(TABLE, OneWay(4, 20)),
        BucketBias(TABLE, BothWays(4, 5)),
        lambda scores, place: BucketBias(TABLE, OneWay(4, 5))(
            scores, place._replace(q_positions=place.k_positions, k_positions=place.q_positions)
        ),
    ],
    ids=["buckets reversed", "heads reversed", "another distance", "both ways", "query and key exchanged"],
)
def test_a_wrong_bias_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand).gap() > 2


@pytest.mark.parametrize(
    ("count", "farthest"), [(32, 128), (2, 2), (2, 9), (3, 7), (5, 3), (16, 128), (16, 9), (48, 81), (64, 1000)]
)
def test_every_distance_is_in_the_bucket_of_the_paper(count: int, farthest: int) -> None:
    apart = np.arange(-5, 1100)
    assert OneWay(count, farthest)(apart).tolist() == [bucket_by_hand(n, count, farthest) for n in apart.tolist()]
    both = BothWays(2 * count, farthest)(np.concatenate([-apart, apart]))
    near = [bucket_by_hand(abs(n), count, farthest) for n in apart.tolist()]
    wanted = [n + count * (a > 0) for n, a in zip(near, apart.tolist(), strict=True)]
    assert both[: len(apart)].tolist() == wanted
    assert both[len(apart) :].tolist() == [n + count * (a < 0) for n, a in zip(near, apart.tolist(), strict=True)]


def in_float(n: int, count: int, farthest: int, dtype: Any) -> int:
    """The usual program: a logarithm, a quotient, a product, rounded each, and cut."""
    exact = count // 2
    if n < exact:
        return n
    ratio = np.log(dtype(n) / dtype(exact)) / dtype(math.log(farthest / exact)) * dtype(count - exact)
    return min(exact + int(ratio), count - 1)


@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (16, 128)])
def test_t5s_own_borders_survive_float32(count: int, farthest: int) -> None:
    """32 buckets and 128, one way and for each side of both ways: no border moves up to 1000."""
    wanted = OneWay(count, farthest)(np.arange(1001)).tolist()
    for dtype in (np.float32, np.float64):
        assert [in_float(n, count, farthest, dtype) for n in range(1001)] == wanted


def test_float32_moves_a_border_elsewhere() -> None:
    """48 buckets and 81: (36/24) ** 24 = (81/24) ** 8 exactly, so 36 begins bucket 32; float32 leaves it in 31."""
    assert Fraction(36, 24) ** 24 == Fraction(81, 24) ** 8
    assert borders(48, 81)[32] == 36
    assert in_float(36, 48, 81, np.float32) == 31


def test_a_bucket_begins_where_the_one_before_ends() -> None:
    """T5's list, which is printed in the page."""
    wide = (16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)
    assert borders(32, 128) == (*range(16), *wide)


def test_ahead_of_the_query_one_way_is_bucket_0() -> None:
    table = np.arange(4.0)[:, None]
    assert bent(BucketBias(table, OneWay(4, 8)), [3], [3, 4, 9]).ravel().tolist() == [0.0, 0.0, 0.0]
    assert bent(BucketBias(table, BothWays(4, 8)), [3], [3, 4, 9]).ravel().tolist() == [0.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: OneWay(1, 8), ArgumentError, r"^count must be an integer >= 2, got 1$"),
        (lambda: OneWay(8, 4), ArgumentError, r"^farthest must be an integer >= 5, got 4$"),
        (lambda: BothWays(7, 8), ArgumentError, r"^count must be even, got 7$"),
        (lambda: BothWays(2, 8), ArgumentError, r"^count must be an integer >= 4, got 2$"),
        (lambda: BucketBias(TABLE), ShapeError, r"^table must have shape \[N=32, H\], got \(4, 4\)$"),
        (lambda: BucketBias(TABLE[0]), ShapeError, r"^table must have shape \[N, H\], none of them 0, got \(4,\)$"),
        (lambda: BucketBias(TABLE, 4), ArgumentError, r"^buckets must be a rule with a count, got 4$"),  # type: ignore[arg-type]
        (
            lambda: bent(BucketBias(TABLE, OneWay(4, 8)), [0], [0], 5),
            ArgumentError,
            r"^table must cover every query head, got 4 and head 4$",
        ),
    ],
    ids=range(8),
)
def test_a_bad_argument_is_named(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_pair_costs_a_difference_and_an_addition() -> None:
    assert added_cost(example(BucketBias(TABLE, OneWay(4, 5)), by_hand).layer) == Tally(arithmetic=2 * PAIRS)
