"""Every reading of every question, with a pencil: fractions, cosines of small angles, and tables in loops."""

from itertools import combinations
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvattn.testing import disagreements
from kvattn.testing.disagreements import DISAGREEMENTS, Disagreement, Reading

C, S = math.cos(1.0), math.sin(1.0)


def turned(a: float, b: float, angle: float) -> list[float]:
    pair = complex(a, b) * complex(math.cos(angle), math.sin(angle))
    return [pair.real, pair.imag]


def window(before: int, after: int) -> list[list[float]]:
    rows = [[float(i - before <= j <= i + after) for j in range(6)] for i in range(6)]
    return [[seen / sum(row) for seen in row] for row in rows]


def softmax(*scores: float) -> list[float]:
    shares = [math.exp(score) for score in scores]
    return [share / sum(shares) for share in shares]


def yarn(low: float, high: float) -> list[float]:
    """Eight pairs of base 10,000, four times the trained length; the ramp between two pairs."""
    found = []
    for k in range(8):
        ramp = min(1.0, max(0.0, (k - low) / (high - low)))
        found.append(10000 ** (-k / 8) * (ramp / 4 + (1 - ramp)))
    return found


def border(turns: float) -> float:
    """The pair that turns so often in a trained length of 64."""
    return 16 * math.log(64 / (2 * math.pi * turns)) / (2 * math.log(10000))


LEAK = math.exp(-2)
A1, B1 = turned(1, 3, 1.0)
A2, B2 = turned(2, 5, 0.1)
P1, P2 = turned(1, 2, 1.0)
Q1, Q2 = turned(3, 5, 0.1)
L1, L2 = turned(3, 5, 1.0)

BY_HAND: dict[str, list[Any]] = {
    "softcap_and_mask": [[[0.5, 0.5, 0.0]], [[1 / (2 + LEAK), 1 / (2 + LEAK), LEAK / (2 + LEAK)]]],
    "causal_corner": [[[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]], [[1, 0, 0], [1 / 2, 1 / 2, 0]]],
    "empty_row": [[[0, 0, 0]], [[1 / 3, 1 / 3, 1 / 3]], [[math.nan] * 3]],
    "mask_polarity": [[[0, 1, 0]], [[1 / 2, 0, 1 / 2]]],
    "head_map": [[0, 0, 1, 1], [0, 1, 0, 1]],
    "scale": [[softmax(1, 0)], [softmax(4, 0)], [softmax(0.25, 0)]],
    "log_base": [[math.log(2)], [1]],
    "window_end": [window(1, 0), window(2, 0)],
    "window_sides": [window(2, 2), window(4, 4)],
    "sink_positions": [softmax(math.cos(3), math.cos(0.75), 1), softmax(math.cos(1.5), math.cos(0.75), 1)],
    "rotary_pairs": [[[A1, A2, B1, B2]], [[P1, P2, Q1, Q2]]],
    "part_that_turns": [[[P1, P2, 3, 5]], [[1, 2, L1, L2]], [[A1, 2, B1, 5]]],
    "sections": [[[C, C, math.cos(2), math.cos(3)]], [[C, math.cos(2), math.cos(3), C]]],
    "sine_order": [[[S, C, math.sin(0.01), math.cos(0.01)]], [[S, math.sin(0.01), C, math.cos(0.01)]]],
    "norm_place": [
        [[[[-8 / math.sqrt(52), 6 / math.sqrt(52)]]]],
        [[[[-4 / math.sqrt(52), 12 / math.sqrt(52)]]]],
    ],
    "norm_width": [[[[[1]], [[1]]]], [[[[3 / math.sqrt(12.5)]], [[4 / math.sqrt(12.5)]]]]],
    "norm_weights": [[[[[0.5, 0.5]]]], [[[[1.5, 1.5]]]]],
    "slopes_of_six": [
        [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
        [2 ** (-8 * h / 6) for h in range(1, 7)],
    ],
    # 64 positions make fewer than 32 turns in any pair: the ramp begins at pair 0 and ends behind the pair of one turn
    "yarn_borders": [yarn(0, math.ceil(border(1))), yarn(0, border(1))],
    "longrope_list": [[1, 0.01], [0.5, 0.005]],
    "temperature_step": [[1, 1 + math.log(2), 1 + math.log(2)], [1, 1, 1 + math.log(2)]],
    "sine_exponent": [[1, 10000 ** (-1 / 3), 10000 ** (-2 / 3)], [1, 0.01, 0.0001]],
    "axes_of_patches": [[1, 0.01, 1, 0.01], [1, 0.01, 0.1, 0.001]],
    "pair_of_heads": [[-1, -4], [-3, -6]],
    "slope_scale": [[-1], [-0.25]],
    "slope_from": [[math.log(1 + math.exp(-0.5))], [math.log(math.exp(1) + math.exp(1.5))]],
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_every_reading_is_what_a_pencil_finds(name: str) -> None:
    readings = DISAGREEMENTS[name]().readings
    assert len(readings) == len(BY_HAND[name])
    for reading, wanted in zip(readings, BY_HAND[name], strict=True):
        # a dozen roundings of numbers up to 10
        np.testing.assert_allclose(reading.result, np.array(wanted, np.float64), rtol=0, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_readings_can_be_told_apart(name: str) -> None:
    case = DISAGREEMENTS[name]()
    for one, other in combinations(case.readings, 2):
        assert one.result.shape == other.result.shape
        assert not np.allclose(one.result, other.result, rtol=0, atol=0.01, equal_nan=True)
    assert [case.told(reading.result) for reading in case.readings] == [reading.says for reading in case.readings]
    assert all(reading.who for reading in case.readings)
    assert case.question.endswith("?")


def test_a_result_between_the_readings_is_none_of_them() -> None:
    case = DISAGREEMENTS["scale"]()
    assert case.told(case.readings[0].result + 0.01) == ""
    assert case.told(case.readings[0].result[0]) == ""


def test_every_question_is_about_a_file_and_has_its_pencil() -> None:
    assert BY_HAND.keys() == DISAGREEMENTS.keys()
    root = Path(disagreements.__file__).parents[2]
    assert all((root / f"{question().row}.py").is_file() for question in DISAGREEMENTS.values())


def test_a_reading_that_differs_too_little_would_be_noticed() -> None:
    """Mutant: two readings of one result."""
    case = Disagreement("Same?", "core/merge", {}, (Reading("a", ("x",), np.ones(2)), Reading("b", ("y",), np.ones(2))))
    assert case.told(case.readings[1].result) == "a"
