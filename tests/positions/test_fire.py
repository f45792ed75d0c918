"""FIRE: the network of the quotient against the layer by hand; what it does and does not depend on."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.positions.fire import Fire
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, drawn, example

FIRE = Fire(
    drawn(3, seed=1), drawn(3, seed=2), drawn(4, 3, seed=3), drawn(4, seed=4), rate=0.7, threshold=2.5, epsilon=1e-6
)


def by_hand(pair: Pair) -> Ball:
    """ψ of the distance over ψ of the reach, through a hidden layer."""
    reach = math.log(0.7 * max(2.5, pair.i) + 1) + 1e-6
    share = math.log(0.7 * (pair.i - pair.j) + 1) / reach
    hidden = [max(0.0, w * share + b) for w, b in zip(FIRE.inner, FIRE.inner_bias, strict=True)]
    terms = [float(FIRE.outer_bias[pair.h])] + [float(w * h) for w, h in zip(FIRE.outer[pair.h], hidden, strict=True)]
    return pair.product + pair.told(math.fsum(terms), 10 * max(map(abs, terms)))


@pytest.mark.by_hand("positions/fire")
@pytest.mark.no_peer("positions/fire", "no implementation on a CPU was found on the package index")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    assert example(FIRE, by_hand, dtype).gap() <= 1


@pytest.mark.parametrize(
    "mutant",
    [
        replace(FIRE, threshold=512.0),
        replace(FIRE, rate=0.1),
        replace(FIRE, epsilon=0.0),
        replace(FIRE, outer=FIRE.outer[::-1]),
        replace(FIRE, inner_bias=np.zeros(3)),
        lambda scores, place: FIRE(
            scores, place._replace(q_positions=place.q_positions + 1, k_positions=place.k_positions + 1)
        ),
    ],
    ids=["threshold", "rate", "epsilon", "heads reversed", "no bias inside", "counted from 1"],
)
def test_a_wrong_network_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand).gap() > 2


@pytest.mark.law("positions/fire", "the bias depends on the pair and not on the length of the call", "bits")
def test_a_row_does_not_depend_on_later_rows() -> None:
    whole = bent(FIRE, range(12), range(12), 4)
    for i in range(12):
        assert np.array_equal(whole[:, i : i + 1], bent(FIRE, [i], range(12), 4))


def test_below_the_threshold_only_the_distance_matters() -> None:
    fire = replace(FIRE, threshold=100.0)
    assert np.array_equal(bent(fire, [9], [3], 4), bent(fire, [90], [84], 4))
    assert not np.array_equal(bent(fire, [109], [103], 4), bent(fire, [190], [184], 4))


def test_the_first_key_is_as_far_as_a_query_can_look() -> None:
    one, zero = np.ones(1), np.zeros(1)
    fire = Fire(one, zero, one[None], zero, rate=0.3, threshold=4.0)
    assert bent(fire, [4, 9, 1000], [0]).ravel().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"inner": [[1.0]]}, ShapeError, r"^inner must have shape \[W\], none of them 0, got \(1, 1\)$"),
        ({"inner_bias": [1.0]}, ShapeError, r"^inner_bias must have shape \(3,\), got \(1,\)$"),
        ({"outer_bias": [1.0]}, ShapeError, r"^outer_bias must have shape \(4,\), got \(1,\)$"),
        ({"outer": [[1j] * 3]}, DtypeError, r"^outer must be an array of real numbers, got complex128$"),
        ({"inner": [1.0, math.inf, 0.0]}, ArgumentError, r"^inner must be finite, got inf$"),
        ({"rate": 0.0}, ArgumentError, r"^rate must be a finite number above 0, got 0\.0$"),
        ({"threshold": -1}, ArgumentError, r"^threshold must be a finite number above 0, got -1$"),
        ({"epsilon": -1}, ArgumentError, r"^epsilon must be a finite number >= 0, got -1$"),
    ],
    ids=range(8),
)
def test_a_bad_argument_is_named(change: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        replace(FIRE, **change)


def test_a_head_without_a_row_raises() -> None:
    with pytest.raises(ArgumentError, match=r"^outer must cover every query head, got 4 and head 4$"):
        bent(FIRE, [0], [0], 5)


def test_a_pair_costs_a_logarithm_and_five_for_each_hidden_unit() -> None:
    assert added_cost(example(FIRE, by_hand).layer) == Tally(arithmetic=22 * PAIRS, transcendental=PAIRS)
