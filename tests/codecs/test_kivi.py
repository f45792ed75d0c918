"""KIVI: keys along tokens, values along channels, and which tokens stay whole."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.codecs.kivi import Kivi
from kvattn.errors import ArgumentError
from tests.codecs.cases import cut_is_invisible, drawn, within
from tests.codecs.integers import by_hand, minimum_box


@pytest.mark.by_hand("codecs/kivi")
@pytest.mark.parametrize("bits", [2, 4])
def test_keys_and_values_by_hand(bits: int) -> None:
    x = np.random.default_rng(bits).standard_normal((2, 4, 8)).astype(np.float32)
    kivi = Kivi(bits, group=4, residual=4)
    for codec, box in ((kivi.keys, (1, 4, 1)), (kivi.values, (1, 1, 4))):
        packed, scales, zeros = by_hand(minimum_box, x, bits, box, np.float16)
        found = codec.encode(x)
        assert np.array_equal(found.codes, packed)
        assert found.scales.dtype == np.float16
        assert np.array_equal(found.scales.astype(float), scales)
        assert np.array_equal(found.zeros.astype(float), zeros)


def streamed(residual: int, tokens: int) -> tuple[int, int]:
    """Settle token by token: keys when the residual is full, the oldest value when one too many is there."""
    keys = values = 0
    waiting_keys = waiting_values = 0
    for _ in range(tokens):
        waiting_keys += 1
        waiting_values += 1
        if waiting_keys == residual:
            keys, waiting_keys = keys + residual, 0
        if waiting_values > residual:
            values, waiting_values = values + 1, residual
    return keys, values


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 70))
def test_settled_tokens_are_those_of_a_stream(group: int, times: int, tokens: int) -> None:
    kivi = Kivi(2, group, group * times)
    assert (kivi.settled_keys(tokens), kivi.settled_values(tokens)) == streamed(group * times, tokens)
    assert kivi.settled_keys(tokens) % group == 0


def test_a_channel_with_outliers_keeps_its_own_scale() -> None:
    """Per channel, an outlier channel costs the others nothing; per token it does, and the bounds say so."""
    x = drawn("normal", 0, (1, 32, 32), 0, np.float64)
    x[..., 5] *= 100.0
    others = np.arange(32) != 5
    keys, values = Kivi(4, 32, 32).keys, Kivi(4, 32, 32).values
    assert within(keys, x)
    assert within(values, x)
    assert keys.error(x)[..., others].max() < 0.5
    assert np.median(values.error(x)[..., others]) > 2.0


def test_settled_keys_may_be_cut_where_groups_meet() -> None:
    x = drawn("normal", 0, (1, 12, 4), 0, np.float64)
    assert all(cut_is_invisible(Kivi(2, 4, 4).keys, x, at) for at in (0, 4, 8, 12))
    assert all(cut_is_invisible(Kivi(2, 4, 4).values, x, at) for at in range(13))


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ((3, 32, 128), "bits must be 2, 4 or 8, got 3"),
        ((2, 0, 128), "group must be an integer >= 1, got 0"),
        ((2, 32, 100), "residual must be a multiple of the group, 32, got 100"),
    ],
)
def test_wrong_sizes_are_refused(given_values: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        Kivi(*given_values)
