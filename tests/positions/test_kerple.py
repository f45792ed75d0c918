"""KERPLE: both penalties against the layer by hand, wrong ones rejected."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions.alibi import Alibi
from kvattn.positions.kerple import KerpleLog, KerplePower
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, example

HEIGHT, RATE, EXPONENT = (0.5, 2.0, 1.0, 3.0), (1.0, 0.25, 4.0, 0.5), (0.5, 1.0, 1.5, 2.0)


def by_hand_log(pair: Pair) -> Ball:
    return pair.product - pair.told(HEIGHT[pair.h] * math.log(1 + RATE[pair.h] * abs(pair.i - pair.j)))


def by_hand_power(pair: Pair) -> Ball:
    return pair.product - pair.told(HEIGHT[pair.h] * abs(pair.i - pair.j) ** EXPONENT[pair.h])


LOG, POWER = KerpleLog(HEIGHT, RATE), KerplePower(HEIGHT, EXPONENT)


@pytest.mark.by_hand("positions/kerple: log")
@pytest.mark.no_peer("positions/kerple: log", "no implementation on a CPU was found on the package index")
@pytest.mark.parametrize("dtype", DTYPES)
def test_log_equals_by_hand(dtype: Any) -> None:
    assert example(LOG, by_hand_log, dtype).gap() <= 1


@pytest.mark.by_hand("positions/kerple: power")
@pytest.mark.no_peer("positions/kerple: power", "no implementation on a CPU was found on the package index")
@pytest.mark.parametrize("dtype", DTYPES)
def test_power_equals_by_hand(dtype: Any) -> None:
    assert example(POWER, by_hand_power, dtype).gap() <= 1


@pytest.mark.parametrize(
    "mutant",
    [
        KerpleLog(RATE, HEIGHT),
        KerpleLog(HEIGHT[::-1], RATE),
        lambda scores, place: 2 * scores - LOG(scores, place),
        lambda scores, place: LOG(scores, place._replace(q_positions=place.q_positions + 1)),
    ],
    ids=["parameters exchanged", "heads reversed", "a reward", "one too far"],
)
def test_a_wrong_logarithm_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand_log).gap() > 2


@pytest.mark.parametrize(
    "mutant",
    [KerplePower(EXPONENT, (*HEIGHT[:1], 2.0, 1.0, 2.0)), KerplePower(HEIGHT, EXPONENT[::-1]), LOG],
    ids=["parameters exchanged", "heads reversed", "the logarithm"],
)
def test_a_wrong_power_is_rejected(mutant: Any) -> None:
    assert example(mutant, by_hand_power).gap() > 2


def test_the_first_power_is_alibi() -> None:
    q, k = range(5, 9), range(5)
    assert np.array_equal(bent(KerplePower((0.5, 0.25), (1.0, 1.0)), q, k, 2), bent(Alibi((0.5, 0.25)), q, k, 2))


@pytest.mark.parametrize("mod", [LOG, POWER], ids=["log", "power"])
def test_both_sides_of_the_query_are_penalised_alike(mod: Any) -> None:
    assert np.array_equal(bent(mod, [7], [0, 5], 4), bent(mod, [7], [14, 9], 4))
    assert (bent(mod, [7], [7], 4) == 0).all()
    assert (bent(mod, [7], [8], 4) < 0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: KerpleLog((1.0,), (0.0,)), r"^rate\[0\] must be a finite number above 0, got 0\.0$"),
        (lambda: KerpleLog((1.0,), (1.0, 2.0)), r"^rate must have one number for each of 1 heads, got 2$"),
        (lambda: KerplePower((-1.0,), (1.0,)), r"^height\[0\] must be a finite number above 0, got -1\.0$"),
        (lambda: KerplePower((1.0,), (2.5,)), r"^exponent must be at most 2, got 2\.5$"),
        (lambda: bent(LOG, [1], [0], 5), r"^height must cover every query head, got 4 and head 4$"),
        (lambda: bent(POWER, [1], [0], 5), r"^height must cover every query head, got 4 and head 4$"),
    ],
    ids=range(6),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_a_pair_costs_a_logarithm_or_a_power() -> None:
    assert added_cost(example(LOG, by_hand_log).layer) == Tally(arithmetic=6 * PAIRS, transcendental=PAIRS)
    assert added_cost(example(POWER, by_hand_power).layer) == Tally(arithmetic=4 * PAIRS, transcendental=PAIRS)
