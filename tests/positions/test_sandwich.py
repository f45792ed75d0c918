"""Sandwich: the sum of cosines against products of sinusoidal embeddings, in the layer by hand."""

import math
from typing import Any

import pytest

from kvattn.errors import ArgumentError
from kvattn.positions.sandwich import Sandwich, compression
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, example

WIDTH, BASE = 6, 100.0
MOD = Sandwich.of(4, WIDTH, BASE)


def embedding(position: int) -> list[float]:
    angles = [position / BASE ** (2 * n / WIDTH) for n in range(WIDTH // 2)]
    return [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]


def by_hand(pair: Pair) -> Ball:
    """Two embeddings multiplied, as the paper's program does, divided by 8 (h + 1) / H."""
    product = math.fsum(a * b for a, b in zip(embedding(pair.i), embedding(pair.j), strict=True))
    ratio = 8 * (pair.h + 1) / 4
    return pair.product + pair.told(product / ratio, WIDTH / ratio)


@pytest.mark.by_hand("positions/sandwich")
@pytest.mark.no_peer("positions/sandwich", "attn_gym's version needs a compiler for its kernels and is not packaged")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    assert example(MOD, by_hand, dtype).gap() <= 1


@pytest.mark.parametrize(
    "mutant",
    [
        Sandwich(MOD.slopes[::-1], MOD.frequencies),
        Sandwich(tuple(1 / slope for slope in MOD.slopes), MOD.frequencies),
        Sandwich(MOD.slopes, MOD.frequencies[:-1]),
        Sandwich.of(4, WIDTH, 10.0),
        Sandwich.of(4, WIDTH + 2, BASE),
        lambda scores, place: MOD(scores, place._replace(q_positions=place.q_positions + 1)),
    ],
    ids=["heads reversed", "ratio upside down", "a wave lost", "another base", "another width", "one too far"],
)
def test_a_wrong_sum_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand).gap() > 2


def test_at_distance_0_it_is_half_the_width_times_the_slope() -> None:
    for heads in (1, 3, 12):
        found = bent(Sandwich.of(heads), [40], [40], heads)[:, 0, 0]
        assert found.tolist() == [64 * slope for slope in compression(heads)]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Sandwich.of(0), r"^heads must be an integer >= 1, got 0$"),
        (lambda: Sandwich.of(2, width=3), r"^width must be even, got 3$"),
        (lambda: Sandwich((), (1.0,)), r"^slopes must be a non-empty sequence of finite numbers, got \(\)$"),
        (lambda: bent(MOD, [0], [0], 5), r"^slopes must cover every query head, got 4 and head 4$"),
    ],
    ids=range(4),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_a_pair_costs_a_cosine_for_each_wave() -> None:
    assert added_cost(example(MOD, by_hand).layer) == Tally(arithmetic=9 * PAIRS, transcendental=3 * PAIRS)
