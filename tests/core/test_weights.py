"""Sums along keys in a fixed order, and the softmax made of them."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.core.weights import Softmax, check_kept, kept, row_sum, shown_scores, softmax, sums_from, without_lse
from kvattn.errors import DtypeError, ShapeError
from kvattn.testing.weighed_by_hand import NOWHERE


def drawn(*shape: int, dtype: Any = np.float64) -> Any:
    return (np.random.default_rng(0).normal(size=shape) * 3).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_blocks_of_zeros_change_no_sum(dtype: Any) -> None:
    numbers = drawn(3, 2, 768, dtype=dtype)
    for cut in (0, 256, 512, 768):
        for count in (1, 5):
            more = np.concatenate([numbers[..., :cut], np.zeros((3, 2, 256 * count), dtype), numbers[..., cut:]], -1)
            assert row_sum(more).tobytes() == row_sum(numbers).tobytes()
            found = sums_from(more)
            there = np.concatenate([found[..., :cut], found[..., cut + 256 * count :]], -1)
            assert there.tobytes() == sums_from(numbers).tobytes()


def test_a_sum_over_blocks_in_one_go_would_feel_them() -> None:
    """Mutant: NumPy's own sum over the row pairs terms by their number."""
    numbers = drawn(400, 768)
    more = np.concatenate([numbers, np.zeros((400, 1280))], -1)
    assert row_sum(more).tobytes() == row_sum(numbers).tobytes()
    assert more.sum(-1).tobytes() != numbers.sum(-1).tobytes()


def test_sums_are_right() -> None:
    numbers = drawn(2, 512)
    for row in range(2):
        assert row_sum(numbers)[row, 0] == pytest.approx(math.fsum(numbers[row]), abs=1e-11)
        assert sums_from(numbers)[row, 500] == pytest.approx(math.fsum(numbers[row, 500:]), abs=1e-12)
    assert sums_from(numbers).flags.c_contiguous


def test_hidden_scores_are_gone_whatever_they_were() -> None:
    scores = np.array([[[1.0, np.nan, np.inf, -np.inf]]], np.float32)
    found = shown_scores(scores, np.array([[[True, False, False, True]]]))
    assert found.tolist() == [[[1.0, -math.inf, -math.inf, -math.inf]]]
    assert found.dtype == np.float32


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.integers(0, 2**20 - 1))
def test_the_softmax_equals_fractions_of_a_sum(scores: list[float], bits: int) -> None:
    row, seen = np.full((1, 1, 256), np.nan), np.zeros((1, 1, 256), np.bool_)
    row[0, 0, : len(scores)] = scores
    seen[0, 0, : len(scores)] = [bool(bits >> n & 1) for n in range(len(scores))]
    chosen = [n for n in range(len(scores)) if seen[0, 0, n]]
    weights, lse = softmax(row, seen)
    other = Softmax().definition(np.nan_to_num(row), seen, NOWHERE)
    whole = math.fsum(math.exp(scores[n]) for n in chosen)
    for n in range(256):
        wanted = math.exp(scores[n]) / whole if n in chosen else 0.0
        assert weights[0, 0, n] == pytest.approx(wanted, rel=1e-13, abs=0)
        assert other.weights[0, 0, n] == pytest.approx(wanted, rel=1e-13, abs=0)
    for found in (lse, other.lse):
        assert found[0, 0] == (pytest.approx(math.log(whole), abs=1e-13, rel=1e-13) if chosen else -math.inf)


def test_no_score_overflows() -> None:
    row = np.full((1, 1, 256), 1e4)
    row[..., 1] = -1e4
    with np.errstate(over="raise", invalid="raise"):
        weights, lse = softmax(row, np.arange(256) < 2)
    assert weights[0, 0, :3].tolist() == [1.0, 0.0, 0.0]
    assert lse.item() == 1e4


def test_no_lse_is_nan_of_the_same_dtype() -> None:
    found = without_lse(np.ones((2, 3, 4), np.float32))
    assert found.lse.shape == (2, 3)
    assert found.lse.dtype == np.float32
    assert np.isnan(found.lse).all()


def test_kept_arrays_are_copies_and_are_checked() -> None:
    given_array = np.ones((2, 3), np.float32)
    held = kept("table", given_array, "P D")
    given_array[:] = 7
    assert (held == 1).all()
    assert held.dtype == np.float32
    assert not held.flags.writeable
    assert kept("table", [[1]], "P D").dtype == np.float64
    with pytest.raises(ShapeError, match=r"^table must have shape \[P, D\], got \(2,\)$"):
        kept("table", [1, 2], "P D")
    with pytest.raises(DtypeError, match=r"^table must be an array of real numbers, got dtype object$"):
        kept("table", [[None]], "P D")
    with pytest.raises(ShapeError, match=r"^table must have shape \[P, 4\], got \(2, 3\)$"):
        check_kept("table", held, "P 4", np.dtype(np.float32))
