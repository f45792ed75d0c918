"""The short causal convolution, against sums in Python floats."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import Tally, counting
from kvattn.errors import ShapeError
from kvattn.variants.recurrent.short_convolution import convolve, convolve_cost


def numbers(seed: Any, *shape: Any, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def by_hand(carried: Any, x: Any, taps: Any) -> Any:
    """y_t = Σ_i taps_i x_{t - c + 1 + i}, one number at a time."""
    batch, length, channels = x.shape
    count = taps.shape[1]
    y = np.zeros(x.shape)
    for b in range(batch):
        for n in range(channels):
            line = [float(z) for z in carried[b, :, n]] + [float(z) for z in x[b, :, n]]
            for t in range(length):
                y[b, t, n] = sum(float(taps[n, i]) * line[t + i] for i in range(count))
    return y


@pytest.mark.by_hand("variants/recurrent/short_convolution")
@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_every_output_is_the_weighted_sum_of_the_last_inputs(taps: Any, length: Any) -> None:
    carried, x, weights = numbers(1, 2, taps - 1, 3), numbers(2, 2, length, 3), numbers(3, 3, taps)
    y, rows = convolve(carried, x, weights)
    np.testing.assert_allclose(y, by_hand(carried, x, weights), rtol=0, atol=1e-14)
    assert np.array_equal(rows, np.concatenate([carried, x], axis=1))


@pytest.mark.law("variants/recurrent/short_convolution", "joined pieces equal the whole", "bits")
@given(st.sampled_from([np.float64, np.float32]), st.integers(1, 5), st.lists(st.integers(0, 4), max_size=5))
def test_joined_pieces_have_the_bits_of_the_whole(dtype: Any, taps: Any, pieces: Any) -> None:
    x, weights = numbers(4, 2, sum(pieces), 3, dtype=dtype), numbers(5, 3, taps, dtype=dtype)
    blank = np.zeros((2, taps - 1, 3), dtype)
    whole, _ = convolve(blank, x, weights)
    carried, found, start = blank, [x[:, :0]], 0
    for size in pieces:
        y, rows = convolve(carried, x[:, start : start + size], weights)
        carried, start = rows[:, size : size + taps - 1], start + size
        found.append(y)
    assert np.concatenate(found, axis=1).tobytes() == whole.tobytes()
    assert whole.dtype == dtype


def test_one_tap_of_one_changes_nothing() -> None:
    x = numbers(6, 1, 4, 3)
    y, _ = convolve(np.zeros((1, 0, 3)), x, np.ones((3, 1)))
    assert np.array_equal(y, x)


def test_cost_is_count() -> None:
    with counting() as tally:
        convolve(np.zeros((2, 3, 5)), np.zeros((2, 7, 5)), np.zeros((5, 4)))
    assert tally.tally == convolve_cost(2 * 7, 5, 4) + Tally(weights_read=5 * 4 * 8)
    assert convolve_cost(2 * 7, 5, 4) == Tally(arithmetic=(4 + 3) * 2 * 7 * 5)


@pytest.mark.parametrize(
    ("carried", "x", "taps", "words"),
    [
        ((1, 3, 2), (1, 5, 2), (2, 0), r"taps must have shape \[C, c\] with c >= 1, got \(2, 0\)"),
        ((1, 3, 2), (1, 5, 3), (2, 4), r"x must have shape \[B, T, C\] with C=2, got \(1, 5, 3\)"),
        ((1, 4, 2), (1, 5, 2), (2, 4), r"carried must have shape \[B, 3, C\] with B=1, C=2, got \(1, 4, 2\)"),
        ((2, 3, 2), (1, 5, 2), (2, 4), r"carried must have shape \[B, 3, C\] with B=1, C=2, got \(2, 3, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(carried: Any, x: Any, taps: Any, words: Any) -> None:
    with pytest.raises(ShapeError, match=words):
        convolve(np.zeros(carried), np.zeros(x), np.zeros(taps))
