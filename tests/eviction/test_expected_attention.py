"""Expected attention: moments, the mean rotation and the Gaussian mean, by loops; sampled queries agree."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.eviction import expected, query_moments, rotated
from kvattn.eviction.expected_attention import Moments
from kvattn.positions import Rotary
from tests.eviction.drawn import near


def turned_by_hand(row: list[float], position: int, frequencies: tuple[float, ...], adjacent: bool) -> list[float]:
    """One row at one position, pair by pair."""
    out, half = list(row), len(frequencies)
    for pair, frequency in enumerate(frequencies):
        a, b = (2 * pair, 2 * pair + 1) if adjacent else (pair, pair + half)
        cosine, sine = math.cos(position * frequency), math.sin(position * frequency)
        out[a], out[b] = row[a] * cosine - row[b] * sine, row[a] * sine + row[b] * cosine
    return out


def by_hand(q: Any, k: Any, v: Any, rotary: Rotary, positions: range, sinks: int) -> Any:
    """One key/value head and its group's unrotated queries ``[G, T, D]``: scores in lists."""
    width, count = len(k[0]), len(positions)
    mean_turn = [[0.0] * width for _ in range(width)]  # row i: where feature i goes
    for i in range(width):
        unit = [1.0 if n == i else 0.0 for n in range(width)]
        for position in positions:
            there = turned_by_hand(unit, position, rotary.frequencies, rotary.layout == "adjacent")
            mean_turn[i] = [a + b / count for a, b in zip(mean_turn[i], there, strict=True)]
    found = [math.inf] * sinks + [0.0] * (len(k) - sinks)
    for rows in q:
        kept = rows[sinks:]
        mean = [sum(row[i] for row in kept) / len(kept) for i in range(width)]
        logits = []
        for key in k[sinks:]:
            back = [sum(mean_turn[i][j] * key[j] for j in range(width)) for i in range(width)]  # R is moved to the key
            first = sum(mean[i] * back[i] for i in range(width))
            second = sum((sum((row[i] - mean[i]) * back[i] for i in range(width))) ** 2 for row in kept) / len(kept)
            logits.append(first / math.sqrt(width) + second / width / 2)
        powers = [math.exp(logit - max(logits)) for logit in logits]
        for n, power in enumerate(powers):
            found[sinks + n] += power / sum(powers) / len(q)
    return [score if math.isinf(score) else score * math.hypot(*value) for score, value in zip(found, v, strict=True)]


@pytest.mark.by_hand("eviction/expected_attention")
@pytest.mark.parametrize("layout", ["half", "adjacent"])
@pytest.mark.parametrize("sinks", [0, 2])
def test_it_equals_by_hand(layout: Any, sinks: int) -> None:
    random = np.random.default_rng(sinks)
    q, k, v = (random.normal(size=shape) for shape in ((2, 6, 8, 4), (2, 2, 8, 4), (2, 2, 8, 3)))
    rotary, ahead = Rotary.of(4, layout=layout), range(8, 13)
    moments = rotated(query_moments(q, skip=sinks), rotary, np.array(ahead))
    found = expected(k, v, moments, sinks=sinks)
    for b, head in np.ndindex(2, 2):
        group = q[b, 3 * head : 3 * head + 3].tolist()
        wanted = by_hand(group, k[b, head].tolist(), v[b, head].tolist(), rotary, ahead, sinks)
        assert near(found[b, head, sinks:], wanted[sinks:])
        assert np.isposinf(found[b, head, :sinks]).all()


@pytest.mark.law("eviction/expected_attention", "Gaussian queries give it on average", "bound")
def test_sampled_queries_agree() -> None:
    """The formula is the mean of exp(c · k·q); 200,000 draws come within five of their standard errors."""
    random = np.random.default_rng(0)
    mean, root = random.normal(size=4), random.normal(size=(4, 4)) / 2
    draws = mean + random.normal(size=(200_000, 4)) @ root.T
    keys = random.normal(size=(3, 4))
    terms = np.exp(draws @ keys.T / 2)
    sampled, error = terms.mean(axis=0), terms.std(axis=0) / math.sqrt(len(draws))
    moments = Moments(mean[None, None], (root @ root.T)[None, None])
    shares = expected(keys[None, None], np.ones((1, 1, 3, 1)), moments)[0, 0]
    logs = keys @ mean / 2 + np.einsum("si,ij,sj->s", keys, root @ root.T, keys) / 8
    assert (np.abs(sampled - np.exp(logs)) < 5 * error).all()
    assert near(shares, np.exp(logs) / np.exp(logs).sum())


@pytest.mark.law("eviction/expected_attention", "moving keys and queries alike changes nothing", "bound")
@given(st.integers(0, 50))
def test_moving_everything_alike_changes_nothing(by: int) -> None:
    random = np.random.default_rng(1)
    q, k, v = (random.normal(size=shape) for shape in ((1, 2, 6, 4), (1, 1, 6, 4), (1, 1, 6, 3)))
    rotary, at = Rotary.of(4), np.arange(6)
    found = [
        expected(rotary.rotate(k, at + d), v, rotated(query_moments(q), rotary, np.arange(6, 10) + d)) for d in (0, by)
    ]
    assert near(found[0], found[1])


def test_one_position_is_a_rotation() -> None:
    random = np.random.default_rng(2)
    moments = query_moments(random.normal(size=(1, 2, 6, 4)))
    rotary = Rotary.of(4, layout="adjacent", magnitude=1.5)
    found = rotated(moments, rotary, np.array([9]))
    assert near(found.mean, rotary.rotate(moments.mean, np.array(9)))
    variance = (1.5**2) * np.trace(moments.covariance[0, 0])
    assert abs(np.trace(found.covariance[0, 0]) - variance) < 1e-13


def test_without_covariance_and_with_a_scale() -> None:
    keys = np.log([[1.0], [2.0], [4.0]])[None, None]
    moments = Moments(np.ones((1, 1, 1)), np.zeros((1, 1, 1, 1)))
    values = np.ones((1, 1, 3, 1))
    assert near(expected(keys, values, moments)[0, 0], [1 / 7, 2 / 7, 4 / 7])
    assert near(expected(keys, values, moments, scale=2.0)[0, 0], [1 / 21, 4 / 21, 16 / 21])
    assert near(expected(keys, values * 3, moments, epsilon=1.0)[0, 0], [24 / 7, 27 / 7, 33 / 7])


def test_more_sinks_than_keys_keep_everything() -> None:
    moments = query_moments(np.zeros((1, 2, 3, 4)))
    assert np.isposinf(expected(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)), moments, sinks=5)).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: query_moments(np.zeros((1, 1, 2, 2)), skip=2),
            ShapeError,
            r"^q must have more than skip=2 queries, got 2$",
        ),
        (
            lambda: expected(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4)), query_moments(np.zeros((1, 3, 3, 4)))),
            ShapeError,
            r"^mean must have a multiple of 2 heads, got 3$",
        ),
        (
            lambda: expected(
                np.zeros((1, 1, 3, 4)), np.zeros((1, 1, 3, 4)), query_moments(np.zeros((1, 1, 3, 4))), epsilon=-1.0
            ),
            ArgumentError,
            r"^epsilon must be a finite number >= 0, got -1\.0$",
        ),
        (
            lambda: expected(np.zeros((1, 1, 3, 4)), np.zeros((1, 1, 2, 4)), query_moments(np.zeros((1, 1, 3, 4)))),
            ShapeError,
            r"^values must have shape \[B, Hkv, S, Dv\] with B=1, Hkv=1, S=3, got ",
        ),
    ],
    ids=range(4),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
