"""DeBERTa's cross products and its log buckets: by hand, in fractions, and the side that the paper names."""

from dataclasses import replace
from fractions import Fraction
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions.disentangled import Disentangled, LogBuckets
from kvattn.positions.distance_table import DistanceTable
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, dot, drawn, example

SPAN = 2
KR, QR = drawn(4, 2 * SPAN, 4, seed=1), drawn(4, 2 * SPAN, 4, seed=2)
BOTH = Disentangled(DistanceTable(KR, SPAN), DistanceTable(QR, SPAN))


def delta(i: int, j: int) -> int:
    """The paper's, equation 3."""
    if i - j <= -SPAN:
        return 0
    if i - j >= SPAN:
        return 2 * SPAN - 1
    return i - j + SPAN


def score(keys: bool, queries: bool, paper: bool = False) -> Any:
    def by_hand(pair: Pair) -> Ball:
        found = dot(pair.query, pair.key)
        there = delta(pair.i, pair.j)
        if keys:
            found = found + dot(pair.query, pair.row(KR[pair.h, there]))
        if queries:
            found = found + dot(pair.key, pair.row(QR[pair.h, delta(pair.j, pair.i) if paper else there]))
        return found * (1 / math.sqrt((1 + keys + queries) * 4))

    return by_hand


def layer(mod: Any, by_hand: Any, dtype: Any = np.float64, terms: int = 2) -> Any:
    return example(mod, by_hand, dtype, scale=1 / math.sqrt((1 + terms) * 4))


@pytest.mark.by_hand("positions/disentangled")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    assert layer(BOTH, score(True, True), dtype).gap() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_product_alone_equals_by_hand(dtype: Any) -> None:
    assert layer(Disentangled(keys=BOTH.keys), score(True, False), dtype, terms=1).gap() <= 1
    assert layer(Disentangled(queries=BOTH.queries), score(False, True), dtype, terms=1).gap() <= 1


def test_the_papers_side_is_the_table_turned_round() -> None:
    """δ(k, q) for the third product: row for row from the end, with one row fewer for keys ahead."""
    turned = replace(BOTH, queries=DistanceTable(QR[:, ::-1], SPAN - 1))
    assert layer(turned, score(True, True, paper=True)).gap() <= 1
    assert layer(BOTH, score(True, True, paper=True)).gap() > 2


@pytest.mark.parametrize(
    "mutant",
    [
        Disentangled(BOTH.queries, BOTH.keys),
        replace(BOTH, keys=None, scale=1 / math.sqrt(12)),
        replace(BOTH, scale=1 / math.sqrt(4)),
        replace(BOTH, keys=DistanceTable(KR, SPAN - 1)),
        replace(BOTH, keys=DistanceTable(KR[::-1], SPAN)),
        lambda scores, place: BOTH(scores, place._replace(keys=place.keys[::-1])),
        lambda scores, place: BOTH(
            scores, place._replace(q_positions=place.k_positions.swapaxes(1, 2)[:, :1], k_positions=place.k_positions)
        ),
    ],
    ids=["tables exchanged", "no keys", "plain scale", "one row off", "heads reversed", "other keys", "first query"],
)
def test_a_wrong_scheme_is_rejected(mutant: Any) -> None:
    assert layer(mutant, score(True, True)).gap() > 2


def bucket_by_hand(n: int, count: int, farthest: int) -> int:
    """Version 2's bucket of a distance >= 0: the least m with (n/E)^(E-1) <= ((F-1)/E)^m, in fractions, above E."""
    middle, m = count // 2, 0
    if n <= middle:
        return n
    while Fraction(n, middle) ** (middle - 1) > Fraction(farthest - 1, middle) ** m:
        m += 1
    return middle + m


@pytest.mark.parametrize(("count", "farthest"), [(4, 4), (8, 32), (16, 40), (32, 128), (5, 9)])
def test_log_buckets_equal_fractions(count: int, farthest: int) -> None:
    apart = list(range(-2 * farthest, 2 * farthest))
    wanted = [bucket_by_hand(abs(n), count, farthest) for n in apart]
    most = 2 * (count // 2)
    wanted = [min(b, most) * (1 if n >= 0 else -1) for b, n in zip(wanted, apart, strict=True)]
    assert LogBuckets(count, farthest)(np.array(apart)).tolist() == wanted


def test_buckets_feed_the_table() -> None:
    bucket = LogBuckets(4, 12)
    table = DistanceTable(np.arange(8.0)[None, :, None], 4, bucket)
    place_rows = table.rows(np.arange(0, 40))
    assert place_rows.tolist() == [min(4 + b, 7) for b in bucket(np.arange(0, 40)).tolist()]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LogBuckets(3, 9), r"^count must be an integer >= 4, got 3$"),
        (lambda: LogBuckets(8, 5), r"^farthest must be an integer >= 6, got 5$"),
        (Disentangled, r"^keys or queries must be a DistanceTable, got None for both$"),
        (lambda: Disentangled(KR), r"^keys must be a DistanceTable or None, got an array of shape \(4, 4, 4\)$"),  # type: ignore[arg-type]
        (lambda: replace(BOTH, scale=True), r"^scale must be a finite number, got True$"),
        (lambda: bent(BOTH, [0], [0], 4), r"^place must have queries and keys for positions to meet, got no queries$"),
        (
            lambda: bent(BOTH, [0], [0], 4, queries=np.zeros((4, 1, 4))),
            r"^place must have queries and keys for positions to meet, got no keys$",
        ),
    ],
    ids=range(7),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_a_pair_costs_two_products_of_d_numbers() -> None:
    """D = 4: twice 8 FLOPs, a scaling and an addition."""
    assert added_cost(layer(BOTH, score(True, True)).layer) == Tally(matmul=16 * PAIRS, arithmetic=4 * PAIRS)
