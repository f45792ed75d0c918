"""Smoothed keys: a shift that the softmax does not see, and what 8 bits gain from it."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.execution import Question, int8_round_trip, mean_key, smoothed_attend
from kvattn.masks import Causal
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.no_peer("execution/smoothing", "SageAttention's kernels need Triton and a GPU")
@pytest.mark.by_hand("execution/smoothing")
@given(questions(softcaps=(None,)))
def test_it_equals_the_answer_by_hand(question: Question) -> None:
    assert distance_by_hand(smoothed_attend(question), question) <= 1


@pytest.mark.law("execution/smoothing", "an offset of all keys changes nothing", "bound")
@given(questions(softcaps=(None,)), st.integers(0, 99))
def test_an_offset_of_all_keys_changes_nothing(question: Question, seed: int) -> None:
    """A score, and what moves the lse back, are off by e <= (2 D + 40)·u·(scale·Σ|q|(|k| + |μ|) + |lse| + 10) on
    either side; a weight by the factor 1 ± 2e, so out by 2e times the largest |v|."""
    if not question.k.shape[2]:
        return
    mu = np.random.default_rng(seed).normal(size=(*question.k.shape[:2], question.k.shape[3])) * 2
    found, wanted = smoothed_attend(question, mu), question.attend()
    seen = np.isfinite(wanted.lse)
    scale = 1 / math.sqrt(5) if question.scale is None else question.scale
    larger = (np.abs(question.k) + np.abs(mu)[:, :, None]).repeat(question.q.shape[1] // question.k.shape[1], 1)
    reach = scale * np.einsum("bhtd,bhsd->bhts", np.abs(question.q), larger).max()
    unit = float(np.finfo(question.q.dtype).eps) / 2
    e = (2 * 5 + 40) * unit * (reach + np.abs(wanted.lse[seen]).max(initial=0.0) + 10)
    assert np.abs(found.out - wanted.out).max() <= 4 * e * np.abs(question.v).max()
    assert (np.isfinite(found.lse) == seen).all()
    assert np.abs(found.lse[seen] - wanted.lse[seen]).max(initial=0.0) <= 2 * e


def test_the_mean_is_over_the_keys_that_somebody_sees() -> None:
    """By hand, with GQA: keys 0 to 2 are seen; the hidden one is NaN."""
    random = np.random.default_rng(2)
    q, k = random.normal(size=(1, 4, 2, 3)), random.normal(size=(1, 2, 4, 3))
    k[:, :, 3] = np.nan
    v = np.where(np.isnan(k), 7.0, k)
    question = Question(q, k, v, mask=Causal(), q_positions=np.array([1, 2]))
    for head in range(2):
        for d in range(3):
            total = 0.0
            for s in range(3):
                total += k[0, head, s, d]
            assert mean_key(question)[0, head, d] == pytest.approx(total / 3, rel=1e-15)
    clean = question.part(keys=slice(0, 3))
    assert distance(smoothed_attend(question), clean, parts=4) <= 1


def test_eight_bits_gain_from_it() -> None:
    """Keys with an offset of 30 in one channel of 16: per-row int8 loses the others' bits, unless it is taken off."""
    random = np.random.default_rng(7)
    q, k, v = (random.normal(size=(1, 1, 64, 16)) for _ in range(3))
    k[..., 3] += 30.0
    question = Question(q, k, v)
    exact = question.attend().out
    mu = mean_key(question)[:, :, None]
    raw = Question(q, int8_round_trip(k), v).attend().out
    smooth = Question(q, int8_round_trip(k - mu), v).attend().out
    assert np.abs(raw - exact).mean() > 5 * np.abs(smooth - exact).mean()
    assert np.abs(smooth - exact).max() < 0.05


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6))
def test_a_round_trip_moves_by_half_a_step_at_most(row: list[float]) -> None:
    held = int8_round_trip(np.array([row]))[0]
    step = max(map(abs, row)) / 127
    for x, y in zip(row, held.tolist(), strict=True):
        assert abs(x - y) <= step / 2 * (1 + 1e-12) + 5e-324


def test_what_sees_a_shift_is_refused() -> None:
    x = np.ones((1, 1, 2, 3))
    with pytest.raises(ArgumentError, match=r"^softcap must be None, as it sees a shift of the scores, got 2\.0$"):
        smoothed_attend(Question(x, x, x, softcap=2))
    with pytest.raises(ArgumentError, match=r"^offset must have shape \[B, Hkv, D\] = \(1, 1, 3\), got \(3,\)$"):
        smoothed_attend(Question(x, x, x), np.ones(3))
